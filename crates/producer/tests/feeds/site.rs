//! A coordinator, a router and a journal, and any number of producers that reach each other.

use std::{
    collections::HashMap,
    ops::Deref,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use sluice_client::coordination::{AuditEntry, Control, Coordination, Member, SessionOptions};
use sluice_config::{OnGap, OnRegress};
use sluice_frame::StateDigest;
use sluice_journal::{Item, Journal, ReadFrom, Select, Status};
use sluice_model::{Filter, TopicRules};
use sluice_producer::{
    ProducerOptions,
    config::IngestorOptions,
    feeds::{Dial, FeedOptions, RemotePeers, peers::Peer, peers::Peers},
    ingest::Limits,
    policy::Rules,
};
use sluice_proto::v1 as pb;
use sluice_router::RouterOptions;
use sluice_service::Transport;
use tokio::{task::JoinHandle, time::timeout};

use crate::support::{Producer, SOON, Services, name};

/// Everything that producers need.
pub(crate) struct Site {
    services: Services,
    pub(crate) coordination: Coordination,
    /// Who can be reached where.
    phones: Arc<Mutex<HashMap<String, Transport>>>,
}

impl Deref for Site {
    type Target = Services;

    fn deref(&self) -> &Services {
        &self.services
    }
}

/// Feeds as the tests want them: beside, and quick.
pub(crate) fn beside() -> FeedOptions {
    let timing = sluice_producer::feeds::Timing {
        settle: Duration::from_millis(30),
        tick: Duration::from_millis(60),
        ask: Duration::from_millis(200),
        fill: Duration::from_millis(300),
        retry: Duration::from_millis(300),
    };
    FeedOptions { beside: true, timing, ..FeedOptions::default() }
}

impl Site {
    pub(crate) async fn new() -> Self {
        let heartbeat = Duration::from_millis(200);
        let services = Services::start(RouterOptions { heartbeat, ..Default::default() }).await;
        let coordination = Coordination::new(services.coordinator.clone());
        Self { services, coordination, phones: Arc::default() }
    }

    /// A directory of the site.
    pub(crate) fn dir(&self, name: &str) -> PathBuf {
        let dir = self.dir.path().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }

    fn dial(&self) -> Dial {
        let phones = self.phones.clone();
        Dial::new(move |address| {
            phones.lock().get(address).cloned().ok_or_else(|| format!("nobody at {address}"))
        })
    }

    /// A producer under this name, which is its address and its disk.
    pub(crate) fn producer(
        &self,
        node: &str,
        feeds: &FeedOptions,
        source: &str,
        table: &str,
    ) -> Producer {
        let address = format!("http://{node}.test:7400");
        let feeds = FeedOptions { spool_dir: self.spool_dir(node), ..feeds.clone() };
        let options = ProducerOptions {
            ingestors: vec![IngestorOptions {
                name: name(),
                source: source.to_owned(),
                table: table.parse().unwrap(),
                stores: vec!["*".to_owned()],
                on_gap: OnGap::Halt,
                on_regress: OnRegress::Block,
                feeds,
                topics: TopicRules::default(),
                limits: Limits {
                    commit_every: Duration::from_millis(20),
                    drain: Duration::from_millis(300),
                    ..Limits::default()
                },
                rules: Rules {
                    blocked_wait: Duration::from_millis(400),
                    hand_over: Duration::from_millis(300),
                    ..Rules::default()
                },
            }],
            lease_ttl: Duration::from_secs(3),
            node: node.to_owned(),
            address: address.clone(),
            dial: self.dial(),
        };
        let producer = Producer::start(options, &self.coordinator, &self.router);
        self.phones.lock().insert(address, producer.api.clone());
        producer
    }

    pub(crate) fn spool_dir(&self, node: &str) -> PathBuf {
        self.dir.path().join(node).join("spool")
    }

    /// Lets calls to this address go somewhere else.
    pub(crate) fn redirect(&self, address: &str, to: Transport) {
        self.phones.lock().insert(address.to_owned(), to);
    }

    /// Waits in the queue for the ingestor's lock, under an address of its own, and never works.
    pub(crate) async fn waiter(&self, address: &str) -> JoinHandle<()> {
        let member = Member::here("waiter", address);
        let options = SessionOptions { ttl: Duration::from_secs(3), member };
        let session = self.coordination.session(options).await.unwrap();
        tokio::spawn(async move {
            session.acquire("ingestor/chain").await.ok();
            std::future::pending::<()>().await;
        })
    }

    pub(crate) async fn status(&self) -> Option<Status> {
        self.journal.status(&name()).await.ok()
    }

    pub(crate) async fn height(&self) -> u64 {
        self.status().await.and_then(|status| status.head).map_or(0, |head| head.height)
    }

    /// The heights in the journal, gaps included, with their state digests.
    pub(crate) async fn blocks(&self) -> Vec<(u64, Vec<StateDigest>)> {
        let head = self.height().await;
        let select = Select { every: true, ..Select::from(Arc::new(Filter::all())) };
        let mut reader = self.journal.read(&name(), ReadFrom::Earliest, select).await.unwrap();
        let mut blocks = Vec::new();
        while blocks.last().is_none_or(|(height, _)| *height < head) {
            match reader.next().await.unwrap() {
                Item::Entry(stored) => {
                    if let Some(end) = &stored.header.end {
                        blocks.push((stored.header.height, end.states.clone()));
                    }
                }
                Item::Gap(gap) => blocks.push((gap.to.height().unwrap(), Vec::new())),
                _ => {}
            }
        }
        blocks
    }

    pub(crate) async fn control(&self) -> Control {
        self.coordination.watch_control(&name()).next().await.unwrap()
    }

    pub(crate) async fn trail(&self) -> Vec<AuditEntry> {
        self.coordination.list_audit(&name(), 0, 0).await.unwrap()
    }

    /// The replicas that wait, as the owner sees them.
    pub(crate) async fn standbys(&self) -> Vec<Arc<dyn Peer>> {
        let peers = RemotePeers::new(self.coordination.clone(), self.dial(), String::new());
        peers.standbys(&name()).await
    }
}

impl Producer {
    /// What its notes say.
    pub(crate) fn notes(&self) -> String {
        self.ingestor.message().repairs.join("\n")
    }

    pub(crate) async fn noted(&self, what: &str) {
        until(
            what,
            async || self.notes().contains(what),
            async || format!("{} / {:?}", self.notes(), self.ingestor.get()),
        )
        .await;
    }

    pub(crate) async fn spool(&self) -> pb::SpoolStateResponse {
        let mut client = pb::spool_client::SpoolClient::new(self.api.clone());
        let request = pb::SpoolStateRequest { ingestor: "chain".to_owned() };
        client.spool_state(request).await.unwrap().into_inner()
    }

    /// Waits until its spool is like this.
    pub(crate) async fn spooled(
        &self,
        what: &str,
        holds: impl Fn(&pb::SpoolStateResponse) -> bool,
    ) {
        until(
            what,
            async || holds(&self.spool().await),
            async || format!("{:?} {}", self.spool().await, self.notes()),
        )
        .await;
    }
}

/// Waits until something holds.
pub(crate) async fn until(
    what: &str,
    holds: impl AsyncFn() -> bool,
    told: impl AsyncFn() -> String,
) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    if timeout(SOON, wait).await.is_err() {
        panic!("not {what}: {}", told().await);
    }
}

/// The files of a block as the Cosmos streamer writes them: one change of one key in `bank`.
pub(crate) fn write_block(dir: &Path, height: u64, value: &[u8]) {
    let mut pair = Vec::new();
    put(&mut pair, 0x0a, b"bank");
    put(&mut pair, 0x1a, b"key");
    put(&mut pair, 0x22, value);
    let mut data = Vec::new();
    varint(&mut data, pair.len());
    data.extend_from_slice(&pair);
    let mut file = (data.len() as u64).to_be_bytes().to_vec();
    file.extend_from_slice(&data);
    std::fs::write(dir.join(format!("block-{height}-data")), file).unwrap();
}

fn put(out: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    out.push(tag);
    varint(out, bytes.len());
    out.extend_from_slice(bytes);
}

fn varint(out: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        out.push(u8::try_from(value & 0x7f).unwrap() | 0x80);
        value >>= 7;
    }
    out.push(u8::try_from(value).unwrap());
}
