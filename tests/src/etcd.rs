//! A real etcd member of its own, on free ports, in a directory of its own.

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use crate::{eventually, free_port, process::http_get};

/// A running etcd. Killed when dropped.
#[derive(Debug)]
pub struct Etcd {
    child: Child,
    port: u16,
}

impl Etcd {
    /// Starts one and waits until it is healthy.
    pub async fn start(dir: &Path) -> Self {
        let (client, peer) = (free_port(), free_port());
        let (client_url, peer_url) =
            (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
        let log = std::fs::File::create(dir.join("etcd.log")).unwrap();
        let child = Command::new(program())
            .args(["--name", "one", "--data-dir"])
            .arg(dir.join("etcd"))
            .args(["--listen-client-urls", &client_url, "--advertise-client-urls", &client_url])
            .args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url])
            .args(["--initial-cluster", &format!("one={peer_url}")])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let etcd = Self { child, port: client };
        let door = (Ipv4Addr::LOCALHOST, client).into();
        eventually("etcd is healthy", || {
            let healthy = http_get(door, "/health").is_some_and(|answer| answer.contains("true"));
            std::future::ready(healthy.then_some(()))
        })
        .await;
        etcd
    }

    /// The URL of its client port.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn program() -> PathBuf {
    let candidates = ["/usr/bin/etcd", "/usr/local/bin/etcd", "/usr/sbin/etcd"];
    candidates
        .iter()
        .map(PathBuf::from)
        .find(|path| path.exists())
        .expect("etcd is not installed; `make test` installs it (Debian: etcd-server)")
}
