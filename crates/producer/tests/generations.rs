//! Pauses, losses and new histories, end to end: producer, coordinator, router and file sink with
//! a real journal, over in-process transports.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod support;

use std::{
    collections::BTreeMap,
    fs,
    ops::Deref,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::{BufMut as _, BytesMut};
use sluice_client::{
    capture::{Begin, CaptureError, Capturer},
    coordination::{
        ActionKind, ActionResult, Commit, Control, Coordination, Member, SessionOptions,
        ingestor_lock,
    },
    subscribe::{Item, SubscribeError, SubscribeOptions, Subscriber},
};
use sluice_config::{Config, Sources};
use sluice_frame::put_change;
use sluice_model::{
    Checkpoint, Digest, Durability, Generation, Op, Pointer, Position, StartPosition,
};
use sluice_producer::{
    ProducerOptions, ProducerService, Registry,
    status::{State, Status},
};
use sluice_router::RouterOptions;
use sluice_service::{Service, Shutdown};
use sluice_sink::{SinkConfig, SinkOptions, SinkService};
use sluice_sink_file::FileFactory;
use tokio::time::timeout;

use support::{Producer, SOON, Services, name};

/// Everything but the producer.
struct Site(Services);

impl Deref for Site {
    type Target = Services;

    fn deref(&self) -> &Services {
        &self.0
    }
}

impl Site {
    async fn new() -> Self {
        let services = Services::start(RouterOptions::default()).await;
        fs::create_dir(services.dir.path().join("node")).unwrap();
        Self(services)
    }

    fn node(&self) -> PathBuf {
        self.dir.path().join("node")
    }

    /// The configuration of one ingestor with this source, and of a stream that mirrors it.
    fn config(&self, source: &str, more: &str) -> Config {
        let dir = self.dir.path().display();
        let text = format!(
            "data_dir = \"{dir}/data\"\n\
             [ingestors.chain]\n{source}\n{more}\ncommit_every = \"20ms\"\n\
             [sinks.lake]\ntype = \"file\"\nroot = \"{dir}/files\"\n\
             [streams.mirror]\nsink = \"lake\"\ningestor = \"chain\"\nfrom = \"earliest\"\n\
             file = {{ format = \"cosmos\" }}\nbatch = {{ wait = \"20ms\" }}\n"
        );
        let file = self.dir.path().join("sluice.toml");
        fs::write(&file, text).unwrap();
        let sources = Sources { file: Some(file), ..Sources::default() };
        sluice_config::load(&sources).unwrap()
    }

    fn files_source(&self, more: &str) -> Config {
        let dir = self.node();
        let source = format!(
            "source = {{ type = \"cosmos-files\", dir = {dir:?}, metadata = false, rescan = \"20ms\" }}"
        );
        self.config(&source, more)
    }

    fn producer(&self, config: &Config) -> Producer {
        let options = ProducerOptions::new(config, "test", "http://producer.test:7400");
        Producer::start(options, &self.coordinator, &self.router)
    }

    /// Runs the file sink until the site ends.
    fn mirror(&self, config: &Config) {
        let lake = config.sink_of(&config.streams["mirror"]);
        let lake = SinkConfig::from_section("lake", &lake, &config.data_dir);
        let registry = sluice_sink::Registry::default().with(FileFactory::open([&lake]).unwrap());
        let options = SinkOptions {
            sinks: Vec::new(),
            registry,
            router: self.router.clone(),
            coordination: self.coordination(),
            session: session(),
            shared: None,
        };
        let service = SinkService::new(config, options).unwrap();
        let shutdown = self.shutdown.clone();
        tokio::spawn(async move { Box::new(service).run(shutdown).await.unwrap() });
    }

    fn coordination(&self) -> Coordination {
        Coordination::new(self.coordinator.clone())
    }

    fn subscriber(&self, start: impl Into<sluice_client::subscribe::Start>) -> Subscriber {
        Subscriber::new(self.router.clone(), SubscribeOptions::new(name(), start))
    }

    /// Asks for an action and waits until it has ended.
    async fn ask(&self, kind: ActionKind) -> ActionResult {
        let coordination = self.coordination();
        let asked = coordination.request_action(&name(), "ann", "test", kind).await.unwrap();
        let id = asked.action.unwrap().id;
        let mut watch = coordination.watch_control(&name());
        let ended = async {
            loop {
                if let Control { last: Some(last), .. } = watch.next().await.unwrap()
                    && last.id == id
                {
                    return last;
                }
            }
        };
        timeout(SOON, ended).await.expect("the action ends")
    }

    async fn trail(&self) -> Vec<String> {
        let entries = self.coordination().list_audit(&name(), 0, 0).await.unwrap();
        entries.iter().map(|entry| entry.kind.to_string()).collect()
    }

    /// Waits until the stream has this checkpoint.
    async fn checkpoint(&self, generation: u32, height: u64) {
        let coordination = self.coordination();
        let wanted = at(generation, height);
        let reached = async {
            loop {
                let state = coordination.get_checkpoint("mirror").await.unwrap();
                if state.checkpoint.is_some_and(|c| c.checkpoint.position == wanted) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(SOON, reached).await.expect("the stream gets there");
    }

    /// The block files of the mirror, by the name of their directory and their own.
    fn mirrored(&self) -> BTreeMap<(String, String), Vec<u8>> {
        let mut found = BTreeMap::new();
        collect(&self.dir.path().join("files"), &mut found);
        found
    }
}

fn collect(dir: &Path, found: &mut BTreeMap<(String, String), Vec<u8>>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            collect(&path, found);
        } else if name.starts_with("block-") {
            let parent = dir.file_name().unwrap().to_string_lossy().into_owned();
            found.insert((parent, name), fs::read(&path).unwrap());
        }
    }
}

impl Producer {
    /// The value of a metric of the ingestor.
    fn number(metric: &str) -> Option<f64> {
        let text = sluice_telemetry::prometheus_text().unwrap();
        let line = text.lines().find(|line| {
            line.split(['{', ' ']).next() == Some(metric) && line.contains("ingestor=\"shown\"")
        })?;
        line.rsplit(' ').next()?.parse().ok()
    }

    async fn head(&self, generation: u32, height: u64) {
        let place = (Generation(generation), height);
        let at = |status: &Status| status.head.as_ref().map(|h| (h.generation, h.height));
        self.until("at the head", |status| at(status) == Some(place)).await;
    }

    fn capturer(&self) -> Capturer {
        Capturer::new(self.api.clone(), name())
    }
}

fn session() -> SessionOptions {
    SessionOptions { ttl: Duration::from_secs(3), member: Member::here("test", "") }
}

fn at(generation: u32, height: u64) -> Position {
    Position::end_of(Generation(generation), Pointer::from_height(height))
}

/// A node's data file: one change.
fn data_file(height: u64, value: &[u8]) -> Vec<u8> {
    let mut region = BytesMut::new();
    put_change("bank", Op::Set, &height.to_be_bytes(), value, &mut region);
    let body = &region[1..];
    let mut file = BytesMut::new();
    file.put_u64(body.len() as u64);
    file.put_slice(body);
    file.to_vec()
}

fn write(node: &Path, heights: impl IntoIterator<Item = u64>, value: &[u8]) {
    for height in heights {
        let part = node.join(".part");
        fs::write(&part, data_file(height, value)).unwrap();
        fs::rename(&part, node.join(format!("block-{height}-data"))).unwrap();
    }
}

/// Sends blocks and waits for their acknowledgements, as a program does that does not give up: an
/// ingestor that starts over ends the connection, and one that was given up may end the next.
async fn capture(
    producer: &Producer,
    heights: impl IntoIterator<Item = u64>,
    value: &[u8],
) -> Result<Vec<u64>, CaptureError> {
    let heights: Vec<u64> = heights.into_iter().collect();
    let mut acked = Vec::new();
    loop {
        match capture_on(producer, heights.get(acked.len()..).unwrap(), value, &mut acked).await {
            Ok(()) => return Ok(acked),
            Err(CaptureError::Superseded(_)) => {}
            Err(error) if error.is_transient() => {}
            Err(error) => return Err(error),
        }
    }
}

async fn capture_on(
    producer: &Producer,
    heights: &[u64],
    value: &[u8],
    acked: &mut Vec<u64>,
) -> Result<(), CaptureError> {
    let (mut blocks, mut acks, _) = producer.capturer().resume(SOON).await?;
    for height in heights {
        let mut sent = blocks.begin(Begin::at(*height)).await;
        if sent.is_ok() {
            sent = blocks.change("bank", Op::Set, b"key", value).await;
        }
        if sent.is_ok() {
            sent = blocks.end().await;
        }
        // Where sending ended, the answers tell why.
        match timeout(SOON, acks.next()).await.expect("an answer")? {
            Some(ack) => acked.push(ack.height),
            None => return Err(sent.err().unwrap_or(CaptureError::Ended)),
        }
    }
    Ok(())
}

async fn next(subscriber: &mut Subscriber) -> Item {
    loop {
        match timeout(SOON, subscriber.next()).await.expect("something comes").unwrap().unwrap() {
            Item::Heartbeat(_) | Item::Through(_) => {}
            item => return item,
        }
    }
}

async fn next_place(subscriber: &mut Subscriber) -> (u32, u64) {
    match next(subscriber).await {
        Item::Frame(frame) => (frame.header.generation.0, frame.header.height),
        other => panic!("no frame: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_rolled_back_is_followed_into_a_new_history_down_to_the_files() {
    let site = Site::new().await;
    let config = site.files_source("on_regress = \"generation\"");
    write(&site.node(), 1..=5, b"one");
    let producer = site.producer(&config);
    producer.head(0, 5).await;
    site.mirror(&config);
    let mut live = site.subscriber(StartPosition::Earliest);
    for height in 1..=5 {
        assert_eq!(next_place(&mut live).await, (0, height));
    }
    let old = live.checkpoint().unwrap();
    assert_eq!(old.position, at(0, 5));
    site.checkpoint(0, 5).await;

    // The node goes back to 3 and goes on another way.
    write(&site.node(), 4..=6, b"two");
    producer.head(1, 6).await;
    let Item::Rewind(rewind) = next(&mut live).await else { panic!("a rewind comes in band") };
    assert_eq!((rewind.base, rewind.through), (at(0, 3), at(1, 3)));
    assert!(rewind.actor == "on_regress" && rewind.reason.contains("another block"));
    for height in 4..=6 {
        assert_eq!(next_place(&mut live).await, (1, height));
    }
    assert_eq!(live.checkpoint().unwrap().position, at(1, 6));

    // The files of both histories stand side by side.
    site.checkpoint(1, 6).await;
    let files = site.mirrored();
    let file = |dir: &str, height: u64| {
        let found = files.iter().find(|((parent, name), _)| {
            (parent == "g1") == (dir == "g1") && *name == format!("block-{height}-data")
        });
        found.map(|(_, content)| content.clone())
    };
    for height in 1..=5 {
        assert_eq!(file("", height), Some(data_file(height, b"one")), "{height}");
    }
    for height in 4..=6 {
        assert_eq!(file("g1", height), Some(data_file(height, b"two")), "{height}");
    }
    assert_eq!((file("", 6), file("g1", 3)), (None, None));

    // Who stands in the old history is led over; who has another block there is told.
    let mut resumed = site.subscriber(old.clone());
    assert!(matches!(next(&mut resumed).await, Item::Rewind(_)));
    assert_eq!(next_place(&mut resumed).await, (1, 4));
    let other = Checkpoint { digest: Some(Digest::from_array([9; 32])), ..old };
    let refused = site.subscriber(other).next().await.unwrap_err();
    assert!(matches!(refused, SubscribeError::Diverged { .. }), "{refused}");
    let commit = site.coordination().latest(&name()).await.unwrap().unwrap();
    assert_eq!(commit.generation, Generation(1));
    producer.stop().await;
    let trail = site.trail().await;
    for kind in ["diverged", "generation"] {
        assert_eq!(trail.iter().filter(|word| *word == kind).count(), 1, "{kind}: {trail:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_while_nobody_looked_is_blocked_and_left_by_a_rewind() {
    let site = Site::new().await;
    let config = site.files_source("");
    write(&site.node(), 1..=5, b"one");
    let producer = site.producer(&config);
    producer.head(0, 5).await;
    producer.stop().await;
    write(&site.node(), 4..=6, b"two");
    let producer = site.producer(&config);
    producer.state(State::Blocked).await;
    let status = producer.ingestor.get();
    assert_eq!(status.blocked, Some(Pointer::from_height(5)));
    assert!(status.cause.contains("the digest of store bank is"), "{}", status.cause);
    let to = |height| ActionKind::Rewind { to: at(0, height), digest: None };
    let digest = Some(Digest::from_array([9; 32]));
    let refused = site.ask(ActionKind::Rewind { to: at(0, 3), digest }).await;
    assert!(!refused.done && refused.message.contains("has the digest"), "{}", refused.message);
    let skipped =
        ActionKind::Skip { pointer: Pointer::from_height(5), through: Pointer::from_height(5) };
    assert!(!site.ask(skipped).await.done);
    let ended = site.ask(to(3)).await;
    assert!(ended.done, "{}", ended.message);
    producer.head(1, 6).await;
    producer.state(State::Active).await;
    let commit = async {
        while site.coordination().latest(&name()).await.unwrap().unwrap().pointer
            != Pointer::from_height(6)
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, commit).await.unwrap();
    producer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loss_is_halted_and_accepted_and_lost_positions_are_diverged() {
    let site = Site::new().await;
    let config = site.config("source = { type = \"capture\" }", "");
    let producer = site.producer(&config);
    producer.state(State::Active).await;
    assert_eq!(capture(&producer, 1..=5, b"one").await.unwrap(), [1, 2, 3, 4, 5]);
    producer.stop().await;
    // Another owner captured and committed up to 9, and its journal's tail is gone.
    let coordination = site.coordination();
    let own = coordination.session(session()).await.unwrap();
    let lock = own.acquire(&ingestor_lock(&name())).await.unwrap();
    let before = coordination.latest(&name()).await.unwrap().unwrap();
    let lost = Checkpoint { position: at(0, 9), digest: Some(Digest::from_array([9; 32])) };
    let commit = Commit {
        ingestor: name(),
        previous: before.pointer,
        journal: before.journal,
        generation: Generation(0),
        pointer: Pointer::from_height(9),
        digest: Digest::from_array([9; 32]),
        durability: Durability::Fsynced,
    };
    coordination.commit(&lock, &commit).await.unwrap();
    lock.release().await.unwrap();

    let producer = site.producer(&config);
    producer.state(State::Halted).await;
    let held = producer.capturer().head().await.unwrap_err();
    assert!(matches!(&held, CaptureError::Held(why) if why.contains("committed block is 9")));
    assert!(held.is_transient());
    let diverged = site.subscriber(lost.clone()).next().await.unwrap_err();
    assert!(matches!(diverged, SubscribeError::Diverged { .. }), "{diverged}");
    let ended = site.ask(ActionKind::AcceptLoss).await;
    assert!(ended.done && ended.message.contains("generation 1 begins after block 5"));
    producer.state(State::Active).await;
    let commit = coordination.latest(&name()).await.unwrap().unwrap();
    assert_eq!((commit.generation, commit.pointer), (Generation(1), Pointer::from_height(5)));
    // The history goes on under another number, and the lost position stays lost.
    assert_eq!(capture(&producer, 6..=10, b"two").await.unwrap(), [6, 7, 8, 9, 10]);
    let mut all = site.subscriber(Checkpoint { position: at(0, 4), digest: None });
    assert_eq!(next_place(&mut all).await, (0, 5));
    assert!(matches!(next(&mut all).await, Item::Rewind(rewind) if rewind.actor == "ann"));
    assert_eq!(next_place(&mut all).await, (1, 6));
    let diverged = site.subscriber(lost).next().await.unwrap_err();
    assert!(matches!(diverged, SubscribeError::Diverged { .. }), "{diverged}");
    producer.stop().await;
    let trail = site.trail().await;
    let wanted = ["halted", "action-requested", "action-done", "generation"];
    assert!(wanted.iter().all(|kind| trail.iter().any(|word| word == kind)), "{trail:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_lost_everything_begins_a_history_of_its_own() {
    let site = Site::new().await;
    let config = site.config("source = { type = \"capture\" }", "");
    let coordination = site.coordination();
    let own = coordination.session(session()).await.unwrap();
    let lock = own.acquire(&ingestor_lock(&name())).await.unwrap();
    let journal = coordination.ensure_journal(&name()).await.unwrap();
    let request = sluice_proto::v1::CreateRequest {
        ingestor: "chain".to_owned(),
        journal_id: journal.id.as_bytes().to_vec().into(),
    };
    let mut router = sluice_proto::v1::router_client::RouterClient::new(site.router.clone());
    router.create(request).await.unwrap();
    let commit = Commit {
        ingestor: name(),
        previous: Pointer::ORIGIN,
        journal: journal.id,
        generation: Generation(0),
        pointer: Pointer::from_height(3),
        digest: Digest::from_array([3; 32]),
        durability: Durability::Fsynced,
    };
    coordination.commit(&lock, &commit).await.unwrap();
    lock.release().await.unwrap();
    let producer = site.producer(&config);
    producer.state(State::Halted).await;
    assert!(producer.ingestor.get().cause.contains("the journal is empty"));
    let ended = site.ask(ActionKind::AcceptLoss).await;
    assert!(ended.done, "{}", ended.message);
    producer.state(State::Active).await;
    assert_eq!(capture(&producer, 1..=2, b"one").await.unwrap(), [1, 2]);
    producer.head(1, 2).await;
    producer.stop().await;
    // The next owner finds all in order.
    let producer = site.producer(&config);
    producer.state(State::Active).await;
    assert_eq!(capture(&producer, 3..=3, b"one").await.unwrap(), [3]);
    producer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_whose_chain_went_back_is_refused_or_followed_as_configured() {
    for (more, followed) in [("", false), ("on_regress = \"generation\"", true)] {
        let site = Site::new().await;
        let config = site.config("source = { type = \"capture\" }", more);
        let producer = site.producer(&config);
        producer.state(State::Active).await;
        capture(&producer, 1..=5, b"one").await.unwrap();
        if !followed {
            let told = capture(&producer, [4], b"two").await.unwrap_err();
            let CaptureError::Divergent(why) = &told else { panic!("{told}") };
            assert!(why.contains("the digest of store bank is"), "{why}");
            let noted = producer.ingestor.message().repairs.join("\n");
            assert!(noted.contains("another block 4"), "{noted}");
            // Whoever sends what follows goes on.
            assert_eq!(capture(&producer, 6..=6, b"one").await.unwrap(), [6]);
            producer.head(0, 6).await;
        } else {
            // It hears that the ingestor starts over, and goes on.
            assert_eq!(capture(&producer, 4..=6, b"two").await.unwrap(), [4, 5, 6]);
            producer.head(1, 6).await;
            let standing = producer.capturer().resume(SOON).await.unwrap().2.unwrap();
            assert_eq!((standing.generation, standing.height), (Generation(1), 6));
            // What lies below the base is still compared, in the history it is of.
            assert_eq!(capture(&producer, [2], b"one").await.unwrap(), [2]);
        }
        producer.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_is_kept_by_the_next_owner_and_programs_are_told_why() {
    let site = Site::new().await;
    let config = site.config("source = { type = \"capture\" }", "");
    let coordination = site.coordination();
    let first = site.producer(&config);
    first.state(State::Active).await;
    capture(&first, 1..=2, b"one").await.unwrap();
    coordination.set_paused(&name(), true, "ann", "the node is upgraded").await.unwrap();
    first.state(State::Paused).await;
    let message = first.ingestor.message();
    assert!(message.paused && message.epoch > 0, "{message:?}");
    let held = first.capturer().head().await.unwrap_err();
    assert!(matches!(&held, CaptureError::Held(why) if why.contains("the node is upgraded")));
    let second = site.producer(&config);
    second.state(State::Standby).await;
    first.stop().await;
    second.state(State::Paused).await;
    coordination.set_paused(&name(), false, "ann", "").await.unwrap();
    second.state(State::Active).await;
    assert_eq!(capture(&second, 3..=3, b"one").await.unwrap(), [3]);
    // A waiting replica takes over at a hand-over.
    let third = site.producer(&config);
    third.state(State::Standby).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let ended = site.ask(ActionKind::HandOver).await;
    assert!(ended.done, "{}", ended.message);
    third.state(State::Active).await;
    assert_eq!(capture(&third, 4..=4, b"one").await.unwrap(), [4]);
    third.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c12_the_real_coordinator_refuses_a_commit_of_the_history_that_was_left() {
    let site = Site::new().await;
    let coordination = site.coordination();
    let own = coordination.session(session()).await.unwrap();
    let lock = Arc::new(own.acquire(&ingestor_lock(&name())).await.unwrap());
    let journal = coordination.ensure_journal(&name()).await.unwrap();
    let commit = |previous: u64, generation: u32, height: u64| Commit {
        ingestor: name(),
        previous: if previous == 0 { Pointer::ORIGIN } else { Pointer::from_height(previous) },
        journal: journal.id,
        generation: Generation(generation),
        pointer: Pointer::from_height(height),
        digest: Digest::from_array([u8::try_from(height).unwrap(); 32]),
        durability: Durability::Fsynced,
    };
    coordination.commit(&lock, &commit(0, 0, 3)).await.unwrap();
    // The rewind to 3 itself, then what was under way before it.
    coordination.commit(&lock, &commit(3, 1, 3)).await.unwrap();
    let late = coordination.commit(&lock, &commit(3, 0, 4)).await;
    assert!(late.is_err(), "{late:?}");
    let stored = coordination.latest(&name()).await.unwrap().unwrap();
    assert_eq!((stored.generation, stored.pointer), (Generation(1), Pointer::from_height(3)));
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_see_holder_epoch_lag_and_commit() {
    let _guard =
        sluice_telemetry::init("test", &sluice_telemetry::TelemetryOptions::default()).unwrap();
    let site = Site::new().await;
    let text = "[ingestors.shown]\nsource = { type = \"synthetic\", rate = 200.0 }\n";
    let file = site.dir.path().join("shown.toml");
    fs::write(&file, text).unwrap();
    let config = sluice_config::load(&Sources { file: Some(file), ..Sources::default() }).unwrap();
    let service = ProducerService::new(
        ProducerOptions::new(&config, "test", ""),
        site.coordinator.clone(),
        site.router.clone(),
        &Registry::default(),
        &sluice_telemetry::meter(),
    )
    .unwrap();
    let cell = service.ingestors().remove(0);
    let shutdown = Shutdown::new(Duration::from_secs(5));
    let stop = shutdown.clone();
    let task = tokio::spawn(async move { Box::new(service).run(stop).await.unwrap() });
    let seen = async {
        let positive = |metric: &str| Producer::number(metric).is_some_and(|value| value > 0.0);
        let wanted = [
            "sluice_ingestor_holder",
            "sluice_ingestor_epoch",
            "sluice_ingestor_blocks_total",
            "sluice_ingestor_lag_seconds",
            "sluice_ingestor_last_commit_timestamp_seconds",
            "sluice_ingestor_lock_wait_seconds_count",
        ];
        let there = ["sluice_ingestor_inflight", "sluice_ingestor_generation"];
        while !(wanted.iter().all(|metric| positive(metric))
            && there.iter().all(|metric| Producer::number(metric).is_some()))
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    if timeout(SOON, seen).await.is_err() {
        panic!("{}", sluice_telemetry::prometheus_text().unwrap());
    }
    let message = cell.message();
    assert!(message.epoch > 0 && message.committed_at.is_some() && !message.paused);
    shutdown.stop();
    timeout(SOON, task).await.unwrap().unwrap();
    assert_eq!(Producer::number("sluice_ingestor_holder"), Some(0.0));
}
