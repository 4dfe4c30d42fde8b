//! A real etcd of the test's own.

use std::{
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use sluice_coordination::{EtcdKv, EtcdOptions, Kv};

const BINARY: &str = "/usr/bin/etcd";

/// A child process with its data in a temporary directory; ends with this value.
pub(crate) struct Etcd {
    child: Child,
    directory: tempfile::TempDir,
    client: String,
    peer: String,
}

fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

impl Etcd {
    /// Starts a server and waits until it serves.
    pub(crate) async fn start() -> Self {
        assert!(
            Path::new(BINARY).exists(),
            "{BINARY} is missing, and this test needs a real etcd: run `make test`, which installs it"
        );
        let directory = tempfile::tempdir().unwrap();
        let (client, peer) = (free_address(), free_address());
        let child = spawn(directory.path(), &client, &peer);
        let etcd = Self { child, directory, client, peer };
        etcd.ready().await;
        etcd
    }

    /// Kills the server as a power cut would, and starts it again on the same data.
    pub(crate) async fn restart(&mut self) {
        self.kill();
        self.child = spawn(self.directory.path(), &self.client, &self.peer);
        self.ready().await;
    }

    /// Kills the server.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Stops it from running without ending it, or lets it run again.
    pub(crate) fn pause(&self, paused: bool) {
        let pid = Pid::from_child(&self.child);
        let signal = if paused { Signal::STOP } else { Signal::CONT };
        kill_process(pid, signal).unwrap();
    }

    /// Connections to it.
    pub(crate) async fn kv(&self) -> Arc<dyn Kv> {
        Arc::new(EtcdKv::connect(self.options()).await.unwrap())
    }

    /// How to reach it.
    pub(crate) fn options(&self) -> EtcdOptions {
        EtcdOptions::new(vec![self.client.clone()])
    }

    async fn ready(&self) {
        let kv = self.kv().await;
        let started = tokio::time::Instant::now();
        while let Err(error) = kv.get("/ready").await {
            assert!(started.elapsed() < Duration::from_secs(30), "etcd does not start: {error}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

fn spawn(directory: &Path, client: &str, peer: &str) -> Child {
    let log = std::fs::File::create(directory.join("log")).unwrap();
    Command::new(BINARY)
        .args(["--name", "one", "--data-dir"])
        .arg(directory.join("data"))
        .args(["--listen-client-urls", client, "--advertise-client-urls", client])
        .args(["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer])
        .args(["--initial-cluster", &format!("one={peer}")])
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap()
}

impl Drop for Etcd {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
