//! Owners that are cut off from the router while the coordinator still hears them, over sockets
//! that can swallow everything.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

#[path = "../../coordinator/tests/support/hole.rs"]
mod hole;
mod support;

use std::{
    fs,
    net::SocketAddr,
    ops::Deref,
    path::PathBuf,
    time::{Duration, Instant},
};

use bytes::{BufMut as _, BytesMut};
use sluice_client::coordination::Coordination;
use sluice_config::{Config, Sources};
use sluice_frame::put_change;
use sluice_journal::Journal as _;
use sluice_model::{Epoch, Op};
use sluice_producer::{ProducerOptions, status::State};
use sluice_router::RouterOptions;
use sluice_service::transport;
use tokio::{net::TcpListener, time::timeout};
use tokio_stream::wrappers::TcpListenerStream;

use hole::Hole;
use support::{Producer, SOON, Services, name};

/// What every producer here allows the router.
const LIMIT: Duration = Duration::from_millis(900);
/// For the machine.
const SLACK: Duration = Duration::from_secs(2);

/// A coordinator, a router on a socket, and a node's directory that every producer reads.
struct Site {
    services: Services,
    /// Where the router listens.
    address: SocketAddr,
    written: u64,
}

impl Deref for Site {
    type Target = Services;

    fn deref(&self) -> &Services {
        &self.services
    }
}

impl Site {
    async fn new() -> Self {
        let services = Services::start(RouterOptions::default()).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tonic::transport::Server::builder().add_routes(services.routes.clone());
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        fs::create_dir(services.dir.path().join("node")).unwrap();
        Self { services, address, written: 0 }
    }

    async fn hole(&self) -> Hole {
        Hole::before(self.address).await
    }

    /// The node has so many blocks more.
    fn write(&mut self, blocks: u64) {
        let node = self.dir.path().join("node");
        for height in self.written + 1..=self.written + blocks {
            let part = node.join(".part");
            fs::write(&part, data_file(height)).unwrap();
            fs::rename(&part, node.join(format!("block-{height}-data"))).unwrap();
        }
        self.written += blocks;
    }

    fn config(&self) -> Config {
        let (dir, node): (_, PathBuf) = (self.dir.path().display(), self.dir.path().join("node"));
        let text = format!(
            "data_dir = \"{dir}/data\"\n[ingestors.chain]\ncommit_every = \"20ms\"\n\
             source = {{ type = \"cosmos-files\", dir = {node:?}, metadata = false, rescan = \"20ms\" }}\n"
        );
        let file = self.dir.path().join("sluice.toml");
        fs::write(&file, text).unwrap();
        sluice_config::load(&Sources { file: Some(file), ..Sources::default() }).unwrap()
    }

    /// A producer whose way to the router is this.
    fn producer(&self, node: &str, way: &Hole) -> Producer {
        let mut options =
            ProducerOptions::new(&self.config(), node, format!("http://{node}.test:7400"));
        options.lease_ttl = Duration::from_secs(3);
        let own = &mut options.ingestors[0];
        assert_eq!(own.rules.silence, Duration::from_secs(30), "three of the usual lease times");
        own.rules.silence = LIMIT;
        own.limits.drain = Duration::from_millis(500);
        Producer::start(options, &self.coordinator, &transport::remote(&way.url()).unwrap())
    }

    fn coordination(&self) -> Coordination {
        Coordination::new(self.coordinator.clone())
    }

    /// Kinds of the trail.
    async fn trail(&self) -> Vec<String> {
        let entries = self.coordination().list_audit(&name(), 0, 0).await.unwrap();
        entries.iter().map(|entry| entry.kind.to_string()).collect()
    }

    async fn height(&self) -> u64 {
        let status = self.journal.status(&name()).await.ok();
        status.and_then(|status| status.head).map_or(0, |head| head.height)
    }

    /// Waits until all that the node has is in the journal. The journal takes a block only on top
    /// of the one before, so none is missing below.
    async fn caught_up(&self) {
        let wait = async {
            while self.height().await < self.written {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        assert!(timeout(SOON, wait).await.is_ok(), "{} of {}", self.height().await, self.written);
    }

    async fn waiters(&self, wanted: usize) {
        let coordination = self.coordination();
        let wait = async {
            while coordination.locks("ingestor/chain").await.unwrap()[0].waiters.len() != wanted {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(SOON, wait).await.expect("they queue");
    }
}

impl Producer {
    fn epoch(&self) -> Epoch {
        self.ingestor.get().epoch
    }

    fn remarks(&self) -> Vec<String> {
        self.ingestor.message().repairs
    }
}

/// A node's data file: one change.
fn data_file(height: u64) -> Vec<u8> {
    let mut region = BytesMut::new();
    put_change("bank", Op::Set, &height.to_be_bytes(), b"value", &mut region);
    let body = &region[1..];
    let mut file = BytesMut::new();
    file.put_u64(body.len() as u64);
    file.put_slice(body);
    file.to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_takes_over_from_an_owner_that_the_router_does_not_hear() {
    let mut site = Site::new().await;
    let (way_a, way_b) = (site.hole().await, site.hole().await);
    let a = site.producer("a", &way_a);
    a.state(State::Active).await;
    let b = site.producer("b", &way_b);
    site.waiters(1).await;
    site.write(20);
    site.caught_up().await;
    let epoch = a.epoch();

    a.until("all acknowledged", |status| {
        status.inflight == 0 && status.head.as_ref().is_some_and(|head| head.height == 20)
    })
    .await;
    // Cut off and idle: nothing is wrong until there is something to send.
    way_a.swallow(true);
    tokio::time::sleep(LIMIT * 2).await;
    assert_eq!((a.ingestor.get().state, a.epoch()), (State::Active, epoch));
    let cut = Instant::now();
    site.write(20);
    b.state(State::Active).await;
    site.caught_up().await;
    let took = cut.elapsed();
    assert!(took >= LIMIT && took < LIMIT + SLACK, "{took:?}");
    println!("cut off from the router: {took:?} until all was captured; the limit is {LIMIT:?}");
    a.state(State::Standby).await;
    assert!(b.epoch() > epoch && a.epoch() == Epoch::ZERO);

    // What the old owner had sent arrives late and is fenced; it queues again.
    way_a.swallow(false);
    site.waiters(1).await;
    site.write(20);
    site.caught_up().await;
    let trail = site.trail().await;
    assert_eq!(trail.iter().filter(|kind| *kind == "unfit").count(), 1, "{trail:?}");
    assert!(!trail.iter().any(|kind| kind == "blocked" || kind == "lost"), "{trail:?}");

    // And is as good as any other afterwards.
    way_b.swallow(true);
    site.write(20);
    a.state(State::Active).await;
    site.caught_up().await;
    way_b.swallow(false);
    for producer in [a, b] {
        producer.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_without_a_standby_keeps_its_lock_and_says_what_it_waits_for() {
    let mut site = Site::new().await;
    let way = site.hole().await;
    let only = site.producer("only", &way);
    site.write(10);
    site.caught_up().await;
    let epoch = only.epoch();
    way.swallow(true);
    site.write(10);
    let since = Instant::now();
    while since.elapsed() < LIMIT * 3 || only.remarks().is_empty() {
        assert!(since.elapsed() < SOON);
        assert_eq!((only.ingestor.get().state, only.epoch()), (State::Active, epoch));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(only.remarks()[0].contains("router has not answered"), "{:?}", only.remarks());
    way.swallow(false);
    site.caught_up().await;
    only.until("silent again", |_| only.remarks().is_empty()).await;
    assert_eq!(only.epoch(), epoch);
    only.stop().await;
    assert!(!site.trail().await.contains(&"unfit".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_that_is_down_for_everybody_blocks_nobody_and_loses_nothing() {
    let mut site = Site::new().await;
    let way = site.hole().await;
    let (a, b) = (site.producer("a", &way), site.producer("b", &way));
    site.write(10);
    site.caught_up().await;
    site.waiters(1).await;
    way.reject(true);
    site.write(10);
    let since = Instant::now();
    while since.elapsed() < LIMIT * 6 {
        for producer in [&a, &b] {
            let status = producer.ingestor.get();
            assert!(!matches!(status.state, State::Blocked | State::Halted), "{status:?}");
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let turns = site.trail().await.iter().filter(|kind| *kind == "unfit").count();
    assert!((1..=5).contains(&turns), "they take turns, slowly: {turns}");
    way.reject(false);
    site.caught_up().await;
    for producer in [a, b] {
        producer.stop().await;
    }
    assert!(!site.trail().await.contains(&"blocked".to_owned()));
}

/// The connection died without a word while nothing was under way, as behind a router of packets
/// that forgot it. HTTP/2 finds out by itself within half a minute.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_died_while_idle_is_noticed_once_blocks_come() {
    let mut site = Site::new().await;
    let way = site.hole().await;
    let only = site.producer("only", &way);
    site.write(10);
    site.caught_up().await;
    let (epoch, before) = (only.epoch(), way.connections());
    way.bury();
    site.write(10);
    let since = Instant::now();
    site.caught_up().await;
    println!("a dead connection was replaced after {:?}", since.elapsed());
    assert!(way.connections() > before && only.epoch() == epoch);
    only.stop().await;
}
