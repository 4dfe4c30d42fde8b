//! An etcd, a coordinator, a router and two producers, each over a directory of its own that grows
//! as its node's would.

use std::{
    collections::BTreeMap,
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

use serde_json::Value;
use sluice_client::subscribe::{Item, SubscribeOptions, Subscriber};
use sluice_frame::StateDigest;
use sluice_model::{Digest, StartPosition};
use sluice_service::transport;
use sluice_tests::{
    PATIENCE,
    etcd::Etcd,
    eventually,
    process::{Process, run},
    recording,
};
use tempfile::TempDir;

pub(crate) const INGESTOR: &str = "rec-1";

/// A producer and the directory that its node writes.
pub(crate) struct Replica {
    pub(crate) process: Process,
    pub(crate) blocks: PathBuf,
}

/// Everything.
pub(crate) struct Site {
    pub(crate) one: Replica,
    pub(crate) two: Replica,
    router: Process,
    coordinator: Process,
    config: PathBuf,
    connect: Vec<String>,
    _etcd: Etcd,
    dir: TempDir,
}

/// A block of a journal: its digest and those of its stores.
pub(crate) type Stored = BTreeMap<u64, (Digest, Vec<StateDigest>)>;

impl Site {
    /// Starts everything but the second producer, with these keys for the ingestor. Returns when
    /// the first one owns it.
    pub(crate) async fn start(keys: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let etcd = Etcd::start(dir.path()).await;
        let config = |name: &str, blocks: &Path| {
            let keys = format!("feeds = \"beside\"\n{keys}");
            let store = format!("store = \"etcd\"\netcd = {{ endpoints = [\"{}\"] }}", etcd.url());
            config(dir.path(), name, blocks, &keys, &store)
        };
        let service = |name: &str, kind: &str, config: &Path| {
            Process::new(name, dir.path(), &[kind, "--config", &config.display().to_string()])
        };
        let replica = |name: &str| {
            let blocks = dir.path().join(format!("{name}-blocks"));
            std::fs::create_dir(&blocks).unwrap();
            let process = service(name, "producer", &config(name, &blocks));
            Replica { process, blocks }
        };
        let (one, two) = (replica("one"), replica("two"));
        let shared = config("shared", &one.blocks);
        let mut this = Self {
            coordinator: service("coordinator", "coordinator", &shared),
            router: service("router", "router", &shared),
            one,
            two,
            config: shared.clone(),
            connect: Vec::new(),
            _etcd: etcd,
            dir,
        };
        let peers = [("coordinator", &this.coordinator), ("router", &this.router)];
        this.connect = peers
            .iter()
            .flat_map(|(peer, at)| ["--set".to_owned(), format!("connect.{peer}={}", at.url())])
            .collect();
        this.coordinator.start(&this.connect).await;
        this.router.start(&this.connect).await;
        this.one.process.start(&this.connect).await;
        this.shows("one owns it", |own| own["state"] == "active").await;
        this.tell_clients();
        this
    }

    /// Writes where the services are into the shared file, for the command line.
    fn tell_clients(&self) {
        let text = std::fs::read_to_string(&self.config).unwrap();
        let connect = format!(
            "connect = {{ coordinator = \"{}\", router = \"{}\", producer = \"{}\" }}\n{text}",
            self.coordinator.url(),
            self.router.url(),
            self.one.process.url()
        );
        std::fs::write(self.dir.path().join("client.toml"), connect).unwrap();
    }

    /// Starts the second producer and waits until an operator sees that it captures beside.
    pub(crate) async fn second(&mut self) {
        self.two.process.start(&self.connect).await;
        self.feed("it captures beside", |feed| feed["capturing"] == true).await;
    }

    /// The command line, which knows where everything is.
    pub(crate) fn sluice(&self, args: &[&str]) -> (Option<i32>, String) {
        let client = self.dir.path().join("client.toml").display().to_string();
        let output = run(&[args, &["--config", &client]].concat());
        let text = String::from_utf8(output.stdout).unwrap();
        (output.status.code(), text + &String::from_utf8_lossy(&output.stderr))
    }

    /// What `sluice ingestors get` says, as JSON.
    pub(crate) fn get(&self) -> Value {
        let (_, text) = self.sluice(&["ingestors", "get", INGESTOR, "-o", "json"]);
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// Waits until `sluice ingestors get` says this.
    pub(crate) async fn shows(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let shown = tokio::time::timeout(PATIENCE / 2, async {
            loop {
                last = self.near();
                if holds(&last) {
                    return;
                }
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        });
        if shown.await.is_err() {
            let logs = [&self.one, &self.two].map(|own| own.process.log()).join("\n---\n");
            panic!("not {what}: {last:#}\n{logs}");
        }
        last
    }

    /// As [`get`](Self::get), or as the first producer alone says while clients know nothing yet.
    fn near(&self) -> Value {
        if self.dir.path().join("client.toml").exists() {
            return self.get();
        }
        let url = self.one.process.url();
        let output = run(&["ingestors", "get", INGESTOR, "-o", "json", "--server", &url]);
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    /// Waits until the journal has this height.
    pub(crate) async fn reaches(&self, height: u64) -> Value {
        self.shows(&format!("at height {height}"), |own| own["height"].as_u64() >= Some(height))
            .await
    }

    /// Waits until the feed of the one replica that stands by is like this.
    pub(crate) async fn feed(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let all = self.shows(what, |own| holds(&own["standbys"][0]["feed"])).await;
        all["standbys"][0]["feed"].clone()
    }

    /// Every block of the journal: each once, in order and without a hole.
    pub(crate) async fn journal(&self, last: u64) -> Stored {
        journal(&self.router.url(), last).await
    }

    /// Stops everything; each ends well.
    pub(crate) async fn stop(mut self) {
        let all =
            [&mut self.two.process, &mut self.one.process, &mut self.router, &mut self.coordinator];
        for process in all.into_iter().filter(|process| process.is_running()) {
            assert_eq!(process.stop().await.code(), Some(0), "{}", process.log());
        }
    }
}

impl Replica {
    /// Its node writes these blocks.
    pub(crate) fn grow(&self, heights: impl IntoIterator<Item = u64>) {
        for height in heights {
            for kind in ["meta", "data"] {
                let name = format!("block-{height}-{kind}");
                std::fs::copy(recording::dir().join(&name), self.blocks.join(name)).unwrap();
            }
        }
    }

    /// Its node prunes these blocks.
    pub(crate) fn prune(&self, heights: RangeInclusive<u64>) {
        for height in heights {
            for kind in ["meta", "data"] {
                std::fs::remove_file(self.blocks.join(format!("block-{height}-{kind}"))).unwrap();
            }
        }
    }

    /// Its node writes a block with another last byte: a valid file with another state.
    pub(crate) fn grow_otherwise(&self, height: u64) {
        let name = format!("block-{height}-data");
        let mut file = std::fs::read(recording::dir().join(&name)).unwrap();
        *file.last_mut().unwrap() ^= 1;
        let meta = format!("block-{height}-meta");
        std::fs::copy(recording::dir().join(&meta), self.blocks.join(meta)).unwrap();
        std::fs::write(self.blocks.join(name), file).unwrap();
    }

    /// Its node writes half a block and no more.
    pub(crate) fn grow_torn(&self, height: u64) {
        let name = format!("block-{height}-data");
        let file = std::fs::read(recording::dir().join(&name)).unwrap();
        std::fs::write(self.blocks.join(name), &file[..file.len() / 2]).unwrap();
    }

    /// The number of a metric whose line has all of these parts; 0 without one.
    pub(crate) fn metric(&self, parts: &[&str]) -> f64 {
        let text = self.process.admin_get("/metrics").unwrap();
        let is_it = |line: &&str| parts.iter().all(|part| line.contains(part));
        let mut lines = text.lines().filter(|line| !line.starts_with('#'));
        let number = lines.find(is_it).and_then(|line| line.rsplit(' ').next()?.parse().ok());
        number.unwrap_or_default()
    }
}

/// What one node alone gives: the recording, captured by one process without a second feed.
pub(crate) async fn alone(last: u64) -> Stored {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), "alone", &recording::dir(), "", "");
    let mut node =
        Process::new("alone", dir.path(), &["run", "--config", &config.display().to_string()]);
    node.start(&[]).await;
    let all = journal(&node.url(), last).await;
    assert_eq!(node.stop().await.code(), Some(0), "{}", node.log());
    all
}

fn config(dir: &Path, name: &str, blocks: &Path, keys: &str, coordinator: &str) -> PathBuf {
    let text = format!(
        r#"
cluster = "test"
data_dir = "{data}"
[ingestors.{INGESTOR}]
source = {{ type = "cosmos-files", dir = "{blocks}", torn_after = "400ms", rescan = "50ms" }}
commit_every = "100ms"
{keys}
[coordinator]
lease_ttl = "3s"
{coordinator}
"#,
        data = dir.join(format!("{name}-data")).display(),
        blocks = blocks.display(),
    );
    let path = dir.join(format!("{name}.toml"));
    std::fs::write(&path, text).unwrap();
    path
}

async fn journal(router: &str, last: u64) -> Stored {
    // The journal is made by its first owner.
    eventually("the journal is there", || {
        let output = run(&["ingestors", "get", INGESTOR, "-o", "json", "--server", router]);
        let own: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        std::future::ready((own["height"].as_u64() >= Some(last)).then_some(()))
    })
    .await;
    let mut options = SubscribeOptions::new(INGESTOR.parse().unwrap(), StartPosition::Earliest);
    options.until = Some(last);
    options.give_up_after = Some(PATIENCE);
    let mut subscriber = Subscriber::new(transport::remote(router).unwrap(), options);
    let (mut stored, mut next, mut part) = (Stored::new(), 1, 0);
    while let Some(item) = subscriber.next().await.unwrap() {
        let frame = match item {
            Item::Frame(frame) => frame,
            Item::Gap(_) | Item::Rewind(_) => panic!("{item:?}"),
            _ => continue,
        };
        let header = &frame.header;
        assert_eq!((header.height, header.part), (next, part), "lost, repeated or out of order");
        part += 1;
        if let Some(end) = &header.end {
            stored.insert(header.height, (end.digest, end.states.clone()));
            (next, part) = (next + 1, 0);
        }
    }
    assert_eq!(next, last + 1, "blocks are missing");
    stored
}
