//! The producer with a real coordinator, router and journal, over in-process transports.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod support;

use std::{ops::Deref, time::Duration};

use sluice_client::capture::{Acks, Begin, Blocks, CaptureError, Capturer};
use sluice_config::{OnGap, OnRegress};
use sluice_journal::Journal;
use sluice_model::{Op, Pointer, TopicRules};
use sluice_producer::{
    ProducerOptions,
    config::IngestorOptions,
    feeds::{Dial, FeedOptions},
    ingest::Limits,
    policy::Rules,
    status::State,
};
use sluice_router::RouterOptions;
use tempfile::TempDir;
use tokio::time::timeout;

use support::{Producer, SOON, Services, name};

struct Site(Services);

impl Deref for Site {
    type Target = Services;

    fn deref(&self) -> &Services {
        &self.0
    }
}

impl Site {
    async fn new() -> Self {
        Self(Services::start(RouterOptions::default()).await)
    }

    fn producer(&self, source: &str, table: &str) -> Producer {
        self.producer_on_gap(source, table, OnGap::Halt)
    }

    fn producer_on_gap(&self, source: &str, table: &str, on_gap: OnGap) -> Producer {
        let options = ProducerOptions {
            ingestors: vec![IngestorOptions {
                name: name(),
                source: source.to_owned(),
                table: table.parse().unwrap(),
                stores: vec!["*".to_owned()],
                on_gap,
                on_regress: OnRegress::Block,
                feeds: FeedOptions::default(),
                topics: TopicRules::default(),
                limits: Limits { commit_every: Duration::from_millis(20), ..Limits::default() },
                rules: Rules::default(),
            }],
            lease_ttl: Duration::from_secs(3),
            node: "test".to_owned(),
            address: format!("http://{source}.test:7400"),
            dial: Dial::default(),
        };
        Producer::start(options, &self.coordinator, &self.router)
    }

    async fn heights(&self) -> (u64, u64) {
        let status = self.journal.status(&name()).await.unwrap();
        (status.blocks, status.head.map_or(0, |head| head.height))
    }
}

impl Producer {
    fn capturer(&self) -> Capturer {
        Capturer::new(self.api.clone(), name())
    }
}

async fn send(blocks: &mut Blocks, begin: Begin, value: &[u8]) -> Result<(), CaptureError> {
    blocks.begin(begin).await?;
    blocks.change("bank", Op::Set, b"key", value).await?;
    blocks.end().await
}

async fn next(acks: &mut Acks) -> Result<Option<sluice_client::capture::Ack>, CaptureError> {
    timeout(SOON, acks.next()).await.expect("an answer")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bounded_source_is_captured_whole_and_goes_on_after_a_stop() {
    let site = Site::new().await;
    let first = site.producer("synthetic", "rate = 0.0\nblocks = 40\npairs = 50");
    first.state(State::Finished).await;
    assert_eq!(site.heights().await, (40, 40));
    first.until("committed", |status| status.committed == Pointer::from_height(40)).await;
    first.stop().await;
    let second = site.producer("synthetic", "rate = 0.0\nblocks = 60\npairs = 50");
    second.state(State::Finished).await;
    assert_eq!((site.heights().await, second.ingestor.get().blocks), ((60, 60), 20));
    let epoch = second.ingestor.message().epoch;
    assert_eq!(epoch, 0, "a finished ingestor holds no lock");
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_is_imported_through_the_real_journal() {
    let site = Site::new().await;
    let dir =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/cosmos-recording");
    let producer = site.producer("cosmos-files", &format!("dir = {dir:?}\nfollow = false"));
    producer.state(State::Finished).await;
    assert_eq!(site.heights().await, (300, 300));
    assert_eq!(producer.ingestor.get().changes, 7777);
    let message = producer.ingestor.message();
    assert!(message.repairs.join("\n").contains("repeated transactions"));
    producer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recorded_gap_and_what_follows_are_accepted_and_kept_across_a_restart() {
    let site = Site::new().await;
    let dir = TempDir::new().unwrap();
    // Blocks without changes: files of 8 zero bytes.
    for height in [1, 2, 5] {
        std::fs::write(dir.path().join(format!("block-{height}-data")), [0; 8]).unwrap();
    }
    let table = format!("dir = {:?}\nfollow = false", dir.path());
    let halted = site.producer("cosmos-files", &table);
    halted.state(State::Blocked).await;
    assert!(halted.ingestor.get().cause.contains("blocks 3 to 4 are missing"));
    halted.stop().await;
    let recording = site.producer_on_gap("cosmos-files", &table, OnGap::Record);
    recording.state(State::Finished).await;
    assert_eq!(site.heights().await.1, 5);
    recording.stop().await;
    std::fs::write(dir.path().join("block-6-data"), [0; 8]).unwrap();
    let more = site.producer("cosmos-files", &table);
    more.state(State::Finished).await;
    assert_eq!((site.heights().await.1, more.ingestor.get().blocks), (6, 1));
    more.stop().await;
}

/// Sends blocks as a program does that does not give up: the ingestor starts again after a
/// refusal, and a connection made before that ends with it. Gives the heights acknowledged and
/// what ended it for good.
async fn persist(capturer: &Capturer, begins: &[Begin]) -> (Vec<u64>, Option<CaptureError>) {
    loop {
        let (mut blocks, mut acks, _) = capturer.resume(SOON).await.unwrap();
        let mut answered = Vec::new();
        let mut sent = Ok(());
        for begin in begins {
            if sent.is_ok() {
                sent = send(&mut blocks, begin.clone(), b"one").await;
            }
        }
        blocks.finish();
        let ended = loop {
            match next(&mut acks).await {
                Ok(Some(ack)) => answered.push(ack.height),
                Ok(None) => break sent.err(),
                Err(error) => break Some(error),
            }
        };
        match ended {
            Some(error) if error.is_transient() => {}
            ended => return (answered, ended),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_capture_with_acks_duplicates_and_typed_refusals() {
    let site = Site::new().await;
    let producer = site.producer("capture", "");
    producer.state(State::Active).await;
    let capturer = producer.capturer();
    let (mut blocks, mut acks, head) = capturer.resume(SOON).await.unwrap();
    assert_eq!(head, None);
    for height in 1..=3 {
        send(&mut blocks, Begin::at(height), b"one").await.unwrap();
    }
    let mut digests = Vec::new();
    for height in 1..=3 {
        let ack = next(&mut acks).await.unwrap().unwrap();
        assert_eq!((ack.height, ack.duplicate), (height, false));
        digests.push(ack.digest);
    }
    // The same again, and the connection goes on.
    send(&mut blocks, Begin::at(2), b"one").await.unwrap();
    let again = next(&mut acks).await.unwrap().unwrap();
    assert_eq!((again.duplicate, again.digest), (true, digests[1]));
    send(&mut blocks, Begin::at(4), b"one").await.unwrap();
    assert_eq!(next(&mut acks).await.unwrap().unwrap().height, 4);
    assert_eq!(capturer.head().await.unwrap().head.unwrap().height, 4);

    // A changed block is refused, and the ingestor goes on for the next connection.
    send(&mut blocks, Begin::at(2), b"two").await.unwrap();
    let refused = next(&mut acks).await.unwrap_err();
    assert!(matches!(refused, CaptureError::Divergent(_)), "{refused}");
    let wrong = Begin { parent: Some(Pointer::from_height(3)), ..Begin::at(6) };
    let (answered, refused) = persist(&capturer, &[Begin::at(5), wrong]).await;
    assert_eq!(answered, [5], "answered before the refusal");
    assert!(matches!(refused, Some(CaptureError::WrongParent(_))), "{refused:?}");
    assert_eq!(capturer.resume(SOON).await.unwrap().2.unwrap().height, 5);
    let (answered, refused) = persist(&capturer, &[Begin::at(6)]).await;
    assert!(refused.is_none() && answered == [6], "{answered:?} {refused:?}");
    assert_eq!(site.heights().await, (6, 6));
    producer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_names_the_owner_and_takes_over() {
    let site = Site::new().await;
    let owner = site.producer("capture", "");
    owner.state(State::Active).await;
    let standby = site.producer("capture", "");
    let refused = standby.capturer().head().await.unwrap_err();
    let CaptureError::NotOwner { owner: Some(address) } = refused else { panic!("{refused}") };
    assert_eq!(address, "http://capture.test:7400");
    let opened = standby.capturer().open().await;
    let refused = match opened {
        Err(error) => error,
        Ok((_blocks, mut acks)) => next(&mut acks).await.unwrap_err(),
    };
    assert!(matches!(refused, CaptureError::NotOwner { .. }), "{refused}");

    let (mut blocks, mut acks, _) = owner.capturer().resume(SOON).await.unwrap();
    send(&mut blocks, Begin::at(1), b"one").await.unwrap();
    next(&mut acks).await.unwrap().unwrap();
    owner.stop().await;
    let told = next(&mut acks).await;
    assert!(told.is_err(), "the connection ends with an error, not silently");
    standby.state(State::Active).await;
    let (mut blocks, mut acks, head) = standby.capturer().resume(SOON).await.unwrap();
    assert_eq!(head.unwrap().height, 1);
    send(&mut blocks, Begin::at(1), b"one").await.unwrap();
    assert!(next(&mut acks).await.unwrap().unwrap().duplicate);
    standby.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_or_another_kind_of_ingestor_is_told() {
    let site = Site::new().await;
    let producer = site.producer("synthetic", "blocks = 1");
    let other = Capturer::new(producer.api.clone(), "other".parse().unwrap());
    assert!(matches!(other.head().await.unwrap_err(), CaptureError::NotFound(_)));
    let refused = producer.capturer().head().await.unwrap_err();
    assert!(refused.to_string().contains("type = \"capture\""), "{refused}");
    producer.stop().await;
}
