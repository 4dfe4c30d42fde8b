//! A real etcd cluster of the test's own, of three members.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use sluice_coordination::{EtcdKv, EtcdOptions, Kv};

const BINARY: &str = "/usr/bin/etcd";
const PATIENCE: Duration = Duration::from_secs(60);

/// Three child processes with their data in temporary directories; end with this value.
pub(crate) struct Cluster {
    members: Vec<Member>,
    initial: String,
}

struct Member {
    name: String,
    /// `None` while it is killed.
    child: Option<Child>,
    directory: tempfile::TempDir,
    client: String,
    peer: String,
}

impl Cluster {
    /// Starts three members and waits until they have a leader.
    pub(crate) async fn start() -> Self {
        assert!(
            Path::new(BINARY).exists(),
            "{BINARY} is missing, and this test needs a real etcd: run `make test`, which installs it"
        );
        // Held together until all are chosen, so that none is chosen twice.
        let listeners: Vec<_> = (0..6).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let address = |n: usize| listeners[n].local_addr().unwrap().to_string();
        let members = (0..3).map(|n| Member {
            name: format!("m{n}"),
            child: None,
            directory: tempfile::tempdir().unwrap(),
            client: address(2 * n),
            peer: address(2 * n + 1),
        });
        let members: Vec<_> = members.collect();
        drop(listeners);
        let initial: Vec<_> = members
            .iter()
            .map(|member| format!("{}=http://{}", member.name, member.peer))
            .collect();
        let mut cluster = Self { members, initial: initial.join(",") };
        for n in 0..3 {
            cluster.restart(n);
        }
        cluster.leader().await;
        cluster
    }

    /// The member that leads, as all living members see it; waits for an election.
    pub(crate) async fn leader(&self) -> usize {
        let since = tokio::time::Instant::now();
        loop {
            let living = || self.members.iter().enumerate().filter(|(_, m)| m.child.is_some());
            let states: Vec<_> = living().map(|(n, m)| (n, status(&m.client))).collect();
            let leader = states.iter().find_map(|(n, state)| {
                state.as_ref().filter(|(id, leader)| id == leader).map(|(id, _)| (*n, id.clone()))
            });
            if let Some((n, id)) = leader
                && states
                    .iter()
                    .all(|(_, state)| state.as_ref().is_some_and(|(_, seen)| *seen == id))
            {
                return n;
            }
            assert!(since.elapsed() < PATIENCE, "no leader: {states:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Kills a member, as a power cut would.
    pub(crate) fn kill(&mut self, n: usize) {
        if let Some(mut child) = self.members[n].child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Starts a member on its data; does not wait for it.
    pub(crate) fn restart(&mut self, n: usize) {
        let initial = self.initial.clone();
        let member = &mut self.members[n];
        let directory = member.directory.path();
        let log = std::fs::File::create(directory.join("log")).unwrap();
        let (client, peer) =
            (format!("http://{}", member.client), format!("http://{}", member.peer));
        let child = Command::new(BINARY)
            .args(["--name", &member.name, "--initial-cluster", &initial, "--data-dir"])
            .arg(directory.join("data"))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        member.child = Some(child);
    }

    /// How to reach all of them.
    pub(crate) fn options(&self) -> EtcdOptions {
        let endpoints = self.members.iter().map(|member| format!("http://{}", member.client));
        EtcdOptions {
            timeout: Duration::from_secs(2),
            renew_timeout: Duration::from_secs(1),
            ..EtcdOptions::new(endpoints.collect())
        }
    }

    /// Connections to all of them.
    pub(crate) async fn kv(&self) -> Arc<dyn Kv> {
        Arc::new(EtcdKv::connect(self.options()).await.unwrap())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for n in 0..self.members.len() {
            self.kill(n);
        }
    }
}

/// A member's id and the id of the leader it knows, asked of its JSON gateway.
fn status(address: &str) -> Option<(String, String)> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    let request = format!(
        "POST /v3/maintenance/status HTTP/1.1\r\nHost: {address}\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}"
    );
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let field = |name: &str| {
        let (_, rest) = answer.split_once(&format!("\"{name}\":\""))?;
        rest.split_once('"').map(|(value, _)| value.to_owned())
    };
    Some((field("member_id")?, field("leader").filter(|id| id != "0")?))
}
