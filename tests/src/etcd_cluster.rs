//! Three real etcd members that elect a leader, die, stall, and are restored from a snapshot.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use crate::{eventually, free_port, network::Host, process::http_get};

const MEMBERS: usize = 3;

/// A running cluster. Killed when dropped.
#[derive(Debug)]
pub struct Cluster {
    dir: PathBuf,
    members: Vec<Member>,
    /// How often it was restored from a snapshot.
    restored: u32,
}

#[derive(Debug)]
struct Member {
    address: Ipv4Addr,
    client: u16,
    peer: u16,
    /// Starts it where its address is.
    launcher: Vec<String>,
    child: Option<Child>,
}

/// A key of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// The key.
    pub key: String,
    /// When it was made.
    pub created: u64,
}

impl Cluster {
    /// Starts the members on this host and waits until they have a leader.
    pub async fn start(dir: &Path) -> Self {
        let member = |_| Member {
            address: Ipv4Addr::LOCALHOST,
            client: free_port(),
            peer: free_port(),
            launcher: Vec::new(),
            child: None,
        };
        Self::start_members(dir, (0..MEMBERS).map(member).collect()).await
    }

    /// Starts each member on a host of its own. Clients are served at this port, other members at
    /// the next.
    pub async fn start_on(dir: &Path, hosts: [&Host; MEMBERS], client: u16) -> Self {
        let member = |host: &Host| Member {
            address: host.address(),
            client,
            peer: client + 1,
            launcher: host.launcher(),
            child: None,
        };
        Self::start_members(dir, hosts.map(member).into()).await
    }

    async fn start_members(dir: &Path, members: Vec<Member>) -> Self {
        let mut this = Self { dir: dir.to_path_buf(), members, restored: 0 };
        for at in 0..MEMBERS {
            this.spawn(at);
        }
        this.healthy().await;
        this
    }

    /// The ports of their client doors.
    pub fn ports(&self) -> Vec<u16> {
        self.members.iter().map(|member| member.client).collect()
    }

    /// The URLs of their client doors.
    pub fn urls(&self) -> Vec<String> {
        (0..MEMBERS).map(|at| self.client_url(at)).collect()
    }

    /// Starts a member that does not run.
    pub fn spawn(&mut self, at: usize) {
        let (client, peer) = (self.client_url(at), self.peer_url(at));
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.dir.join(format!("etcd-{at}.log")))
            .unwrap();
        let etcd = program("etcd").expect("etcd is not installed; see `make setup`");
        let child = behind(&self.members[at].launcher, &etcd)
            .args(["--name", &name(at), "--initial-cluster-state", "new"])
            .arg("--data-dir")
            .arg(self.data(at))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &self.everybody()])
            .args(["--heartbeat-interval", "100", "--election-timeout", "500"])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let before = self.members[at].child.replace(child);
        assert!(before.is_none(), "etcd member {at} is already running");
    }

    /// Waits until every member serves.
    pub async fn healthy(&self) {
        for member in &self.members {
            eventually("an etcd member is healthy", || {
                let health = http_get(member.door(), "/health");
                let healthy = health.is_some_and(|answer| answer.contains("true"));
                std::future::ready(healthy.then_some(()))
            })
            .await;
        }
    }

    /// Which member leads.
    pub async fn leader(&self) -> usize {
        eventually("the etcd cluster has a leader", || {
            let leads = |at: &usize| {
                let status = self.ask(*at, "/v3/maintenance/status", &json!({}));
                let status = status.unwrap_or_default();
                let leader = status["leader"].as_str();
                leader.is_some_and(|leader| leader != "0")
                    && leader == status["header"]["member_id"].as_str()
            };
            std::future::ready((0..MEMBERS).find(leads))
        })
        .await
    }

    /// What a member that is alone with its clients does although no other member has agreed: the
    /// leases that it renews, the lease and the key that it grants. Nothing if all is well. Takes
    /// as long as it needs to refuse, up to some seconds each.
    pub fn does_alone(&self, at: usize) -> Vec<String> {
        let key = json!({ "key": BASE64_STANDARD.encode("alone"), "value": "" });
        let mut done = Vec::new();
        for (what, path, request) in [
            ("granted a lease", "/v3/lease/grant", json!({ "TTL": 60 })),
            ("wrote a key", "/v3/kv/put", key),
        ] {
            let answer = self.ask(at, path, &request).filter(|answer| answer["error"].is_null());
            done.extend(answer.map(|answer| format!("member {at} {what} alone: {answer}")));
        }
        let leases = self.ask(at, "/v3/lease/leases", &json!({})).unwrap_or_default();
        let lease = &leases["leases"][0]["ID"];
        let renewed = self.ask(at, "/v3/lease/keepalive", &json!({ "ID": lease }));
        let renewed = renewed.filter(|answer| answer["result"]["TTL"].is_string());
        done.extend(renewed.map(|answer| format!("member {at} renewed a lease alone: {answer}")));
        done
    }

    /// Ends a member with SIGKILL.
    pub fn kill(&mut self, at: usize) {
        let mut child = self.members[at].child.take().expect("the member runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// The process id of a member.
    pub fn pid(&self, at: usize) -> u32 {
        self.members[at].child.as_ref().expect("the member runs").id()
    }

    /// The keys that begin like this, in the order of their creation.
    pub fn keys(&self, prefix: &str) -> Vec<Key> {
        let mut end = prefix.as_bytes().to_vec();
        *end.last_mut().expect("a prefix") += 1;
        let request = json!({
            "key": BASE64_STANDARD.encode(prefix),
            "range_end": BASE64_STANDARD.encode(end),
            "sort_target": "CREATE",
            "sort_order": "ASCEND",
        });
        let answer = self.ask_any("/v3/kv/range", &request);
        let entries = answer["kvs"].as_array().cloned().unwrap_or_default();
        let key = |entry: &Value| {
            let key = BASE64_STANDARD.decode(entry["key"].as_str()?).ok()?;
            let created = entry["create_revision"].as_str()?.parse().ok()?;
            Some(Key { key: String::from_utf8(key).ok()?, created })
        };
        entries.iter().filter_map(key).collect()
    }

    /// Deletes a key by hand.
    pub fn delete(&self, key: &str) {
        let answer =
            self.ask_any("/v3/kv/deleterange", &json!({ "key": BASE64_STANDARD.encode(key) }));
        assert_eq!(answer["deleted"], "1", "{key} was deleted: {answer}");
    }

    /// Saves what the store holds now.
    pub fn snapshot(&self, to: &Path) {
        let saved = Command::new(program("etcdctl").expect("etcdctl is not installed"))
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &self.client_url(0), "snapshot", "save"])
            .arg(to)
            .output()
            .unwrap();
        assert!(saved.status.success(), "{}", String::from_utf8_lossy(&saved.stderr));
    }

    /// Ends every member and starts them again with what a snapshot holds.
    pub async fn restore(&mut self, snapshot: &Path) {
        for at in 0..MEMBERS {
            self.kill(at);
        }
        self.restored += 1;
        // Later versions have moved the command into a program of its own.
        let tool = program("etcdutl").or_else(|| program("etcdctl")).expect("etcdctl is there");
        for at in 0..MEMBERS {
            let restored = Command::new(&tool)
                .env("ETCDCTL_API", "3")
                .args(["snapshot", "restore"])
                .arg(snapshot)
                .args(["--name", &name(at), "--initial-cluster", &self.everybody()])
                .args(["--initial-advertise-peer-urls", &self.peer_url(at)])
                .args(["--initial-cluster-token", &format!("restored-{}", self.restored)])
                .arg("--data-dir")
                .arg(self.data(at))
                .output()
                .unwrap();
            assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
            self.spawn(at);
        }
        self.healthy().await;
    }

    fn client_url(&self, at: usize) -> String {
        format!("http://{}", self.members[at].door())
    }

    fn peer_url(&self, at: usize) -> String {
        let Member { address, peer, .. } = &self.members[at];
        format!("http://{address}:{peer}")
    }

    fn everybody(&self) -> String {
        let members = (0..MEMBERS).map(|at| format!("{}={}", name(at), self.peer_url(at)));
        members.collect::<Vec<_>>().join(",")
    }

    fn data(&self, at: usize) -> PathBuf {
        self.dir.join(format!("etcd-{at}-{}", self.restored))
    }

    fn ask_any(&self, path: &str, request: &Value) -> Value {
        let answer = (0..MEMBERS).find_map(|at| self.ask(at, path, request));
        answer.unwrap_or_else(|| panic!("no etcd member answers {path}"))
    }

    fn ask(&self, at: usize, path: &str, request: &Value) -> Option<Value> {
        let mut socket = TcpStream::connect(self.members[at].door()).ok()?;
        socket.set_read_timeout(Some(Duration::from_secs(3))).ok()?;
        let body = request.to_string();
        let head = format!(
            "POST {path} HTTP/1.0\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        socket.write_all(head.as_bytes()).ok()?;
        socket.write_all(body.as_bytes()).ok()?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        head.split(' ').nth(1).filter(|code| *code == "200")?;
        serde_json::from_str(body).ok()
    }
}

impl Member {
    fn door(&self) -> SocketAddr {
        (self.address, self.client).into()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for member in &mut self.members {
            if let Some(mut child) = member.child.take() {
                child.kill().ok();
                child.wait().ok();
            }
        }
    }
}

fn name(at: usize) -> String {
    format!("member-{at}")
}

/// A program, started by a launcher that becomes it.
fn behind(launcher: &[String], program: &Path) -> Command {
    match launcher.split_first() {
        None => Command::new(program),
        Some((first, args)) => {
            let mut command = Command::new(first);
            command.args(args).arg(program);
            command
        }
    }
}

/// A program of the distribution.
fn program(name: &str) -> Option<PathBuf> {
    let places = ["/usr/bin", "/usr/local/bin", "/usr/sbin"];
    places.iter().map(|place| Path::new(place).join(name)).find(|path| path.exists())
}
