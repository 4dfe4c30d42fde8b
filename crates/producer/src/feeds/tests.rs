//! The feeds of one process over seams in memory, with faults on demand.

use std::collections::VecDeque;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use sluice_client::coordination::CoordinationError;
use sluice_frame::{BlockEnd, Frame, put_change};
use sluice_model::{Digest, Generation, Head, Op, Position};
use tempfile::TempDir;
use tokio::{sync::mpsc, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    assemble::Assembler,
    peers::{Answer, Frames, Owner, Peer, PeerError},
    tail::{JournalBlock, Since, Tail, TailError, Told},
    *,
};
use crate::{
    metrics::Metrics,
    notes::Notes,
    source::{Ack, Begin, Feed, Item, Piece, Refusal, SourceError, Verdict},
    spool::Place,
};

const SOON: Duration = Duration::from_secs(20);

pub(super) fn ingestor() -> IngestorName {
    "chain".parse().unwrap()
}

pub(super) fn at(height: u64) -> Pointer {
    Pointer::from_height(height)
}

fn region(store: &str, value: &[u8]) -> Bytes {
    let mut region = BytesMut::new();
    put_change(store, Op::Set, b"key", value, &mut region);
    region.freeze()
}

/// The items of a block with one change.
fn items(height: u64, store: &str, value: &[u8]) -> Vec<Item> {
    vec![
        Item::Begin(Begin { height, pointer: at(height), parent: None, time: None }),
        Item::Changes(Piece::new(region(store, value))),
        Item::End { changes: Some(1), traceparent: String::new() },
    ]
}

/// What a feed with this block would be told by.
pub(super) fn end_of(height: u64, store: &str, value: &[u8]) -> BlockEnd {
    let topics = TopicRules::default();
    let mut stores = Stores::new(&["*".to_owned()]).unwrap();
    let mut assembler = Assembler::new(ingestor(), Generation(0), &topics, 1 << 20, at(height - 1));
    let mut frames: Vec<Frame> = Vec::new();
    for item in items(height, store, value) {
        frames.extend(assembler.take(item, &mut stores).unwrap().frames);
    }
    frames.pop().unwrap().header.end.unwrap()
}

fn told(generation: u32, height: u64, end: BlockEnd) -> Told {
    let head = head(generation, height);
    Told::Block(JournalBlock { head, parent: at(height - 1), end })
}

fn head(generation: u32, height: u64) -> Head {
    Head {
        generation: Generation(generation),
        pointer: at(height),
        height,
        digest: Digest::from_array([1; 32]),
        time: None,
        appended: 0,
    }
}

/// A world of fakes.
#[derive(Default)]
pub(super) struct World {
    pub(super) head: Mutex<Option<Head>>,
    /// Where each tail began.
    pub(super) followed: Mutex<Vec<Since>>,
    /// What every later tail tells, in order.
    pub(super) tail: Mutex<VecDeque<Told>>,
    /// Refuse to begin in the middle.
    pub(super) trimmed: bool,
    /// Calls to halt that fail before one succeeds.
    pub(super) deaf: Mutex<u32>,
    pub(super) halts: Mutex<Vec<String>>,
    pub(super) answers: Mutex<Vec<Answer>>,
}

struct FakeTail(Arc<World>);

#[async_trait]
impl Tail for FakeTail {
    async fn next(&mut self) -> Result<Told, TailError> {
        loop {
            let next = self.0.tail.lock().pop_front();
            if let Some(next) = next {
                return Ok(next);
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// The seams of a world.
struct Fake(Arc<World>);

#[async_trait]
impl Tails for Fake {
    async fn head(&self, _: &IngestorName) -> Result<Option<Head>, TailError> {
        Ok(self.0.head.lock().clone())
    }

    async fn follow(&self, _: &IngestorName, since: Since) -> Result<Box<dyn Tail>, TailError> {
        let middle = since != Since::Earliest;
        self.0.followed.lock().push(since);
        if middle && self.0.trimmed {
            return Err(TailError::OutOfRange("gone".to_owned()));
        }
        Ok(Box::new(FakeTail(self.0.clone())))
    }
}

#[async_trait]
impl Operator for Fake {
    async fn halt(&self, _: &IngestorName, cause: &str) -> Result<(), CoordinationError> {
        let mut deaf = self.0.deaf.lock();
        if *deaf > 0 {
            *deaf -= 1;
            return Err(CoordinationError::Closed);
        }
        self.0.halts.lock().push(cause.to_owned());
        Ok(())
    }

    async fn hand_over(&self, _: &IngestorName, _: &str) -> Result<(), CoordinationError> {
        Ok(())
    }
}

#[async_trait]
impl Peers for Fake {
    fn here(&self) -> &str {
        "http://here.test"
    }

    async fn standbys(&self, _: &IngestorName) -> Vec<Arc<dyn Peer>> {
        vec![Arc::new(Self(self.0.clone()))]
    }

    async fn owner(&self, _: &IngestorName) -> Option<Owner> {
        None
    }
}

#[async_trait]
impl Peer for Fake {
    fn name(&self) -> &str {
        "http://peer.test"
    }

    async fn digests(&self, _: &IngestorName, _: &Place, _: Duration) -> Result<Answer, PeerError> {
        let mut answers = self.0.answers.lock();
        Ok(if answers.len() > 1 { answers.remove(0) } else { answers[0].clone() })
    }

    async fn fetch(&self, _: &IngestorName, _: &Place) -> Result<Box<dyn Frames>, PeerError> {
        Err(PeerError("nothing to fetch".to_owned()))
    }
}

/// Gives what it is handed; remembers what it hears.
struct Handed {
    items: Arc<tokio::sync::Mutex<mpsc::Receiver<Item>>>,
    heard: Arc<Mutex<Vec<(u64, bool)>>>,
    after: Arc<Mutex<Vec<Option<u64>>>>,
}

#[async_trait]
impl Source for Handed {
    async fn blocks(&mut self, after: Option<&Head>) -> Result<Feed, SourceError> {
        self.after.lock().push(after.map(|head| head.height));
        let items = self.items.clone();
        Ok(Feed::spawn(move |feed| async move {
            let mut items = items.lock().await;
            while let Some(item) = items.recv().await {
                feed.send(item).await?;
            }
            std::future::pending().await
        }))
    }

    async fn durable(&mut self, ack: &Ack) -> Result<(), SourceError> {
        self.heard.lock().push((ack.height, ack.unverifiable));
        Ok(())
    }

    async fn refused(&mut self, _: &Refusal) -> Verdict {
        Verdict::Halt
    }
}

/// A standby that runs until the test has seen enough.
struct Standby {
    world: Arc<World>,
    feeds: Feeds,
    give: mpsc::Sender<Item>,
    heard: Arc<Mutex<Vec<(u64, bool)>>>,
    after: Arc<Mutex<Vec<Option<u64>>>>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
    _dir: TempDir,
}

pub(super) fn options(dir: &std::path::Path) -> FeedOptions {
    let quick = Duration::from_millis(5);
    let timing = Timing { settle: quick, tick: quick, ask: quick, fill: quick, retry: quick };
    let spool_dir = dir.join("spool");
    FeedOptions { beside: true, spool_dir, spool_bytes: 1 << 20, timing, ..FeedOptions::default() }
}

pub(super) fn feeds(world: &Arc<World>, options: FeedOptions) -> Feeds {
    feeds_of(world, Arc::new(Fake(world.clone())), options)
}

/// The same with other replicas.
pub(super) fn feeds_of(world: &Arc<World>, peers: Arc<dyn Peers>, options: FeedOptions) -> Feeds {
    let meter = opentelemetry::global::meter("test");
    let status = StatusCell::new(ingestor(), "test", Notes::default(), Metrics::new(&meter));
    let fake = || Fake(world.clone());
    let seams = Seams { peers, tails: Arc::new(fake()), operator: Arc::new(fake()) };
    Feeds::new(options, seams, status, FeedMetrics::new(&meter)).unwrap()
}

impl Standby {
    fn start(world: World) -> Self {
        let (world, dir) = (Arc::new(world), TempDir::new().unwrap());
        let feeds = feeds(&world, options(dir.path()));
        let stores = Stores::new(&["*".to_owned()]).unwrap();
        let mut beside = feeds.beside(TopicRules::default(), stores, 1 << 20).unwrap();
        let (give, items) = mpsc::channel(64);
        let (heard, after) = (Arc::default(), Arc::default());
        let mut source = Handed {
            items: Arc::new(tokio::sync::Mutex::new(items)),
            heard: Arc::clone(&heard),
            after: Arc::clone(&after),
        };
        let stop = CancellationToken::new();
        let waiting = stop.clone();
        let task = tokio::spawn(async move {
            beside.run_until(&mut source, waiting.cancelled_owned()).await;
        });
        Self { world, feeds, give, heard, after, stop, task, _dir: dir }
    }

    async fn give(&self, height: u64, value: &[u8]) {
        for item in items(height, "bank", value) {
            self.give.send(item).await.unwrap();
        }
    }

    fn tell(&self, told: Told) {
        self.world.tail.lock().push_back(told);
    }

    async fn blocks(&self) -> Vec<u64> {
        let shared = &self.feeds.shared;
        let heights = |spool: &mut crate::spool::Spool| {
            let there = (1..100).filter(|height| {
                (0..2).any(|generation| spool.get(&(Generation(generation), at(*height))).is_some())
            });
            Ok(there.collect())
        };
        shared.spool.with(heights).await.unwrap()
    }

    async fn until(&self, what: &str, holds: impl AsyncFn() -> bool) {
        let wait = async {
            while !holds().await {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        if timeout(SOON, wait).await.is_err() {
            let notes = self.feeds.shared.status.message().repairs;
            panic!("not {what}: {:?} {:?} {notes:?}", self.blocks().await, self.heard.lock());
        }
    }

    async fn stop(self) {
        self.stop.cancel();
        timeout(SOON, self.task).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn the_source_hears_of_its_blocks_in_order_and_of_those_that_come_again() {
    let standby = Standby::start(World::default());
    standby.give(1, b"a").await;
    standby.give(1, b"again").await;
    standby.give(2, b"b").await;
    standby.until("two blocks", async || standby.blocks().await == [1, 2]).await;
    assert!(standby.heard.lock().is_empty(), "not before the journal has them");
    standby.tell(told(0, 1, end_of(1, "bank", b"a")));
    standby.tell(told(0, 2, end_of(2, "bank", b"b")));
    standby.until("nothing", async || standby.blocks().await.is_empty()).await;
    let heard = [(1, false), (1, true), (2, false)];
    standby.until("heard", async || *standby.heard.lock() == heard).await;
    assert!(standby.world.halts.lock().is_empty());
    standby.stop().await;
}

#[tokio::test]
async fn a_difference_that_cannot_be_told_is_told_again_and_nothing_is_let_go_meanwhile() {
    let standby = Standby::start(World { deaf: Mutex::new(5), ..World::default() });
    standby.give(1, b"a").await;
    standby.give(2, b"b").await;
    standby.until("two blocks", async || standby.blocks().await == [1, 2]).await;
    standby.tell(told(0, 1, end_of(1, "bank", b"other")));
    standby.tell(told(0, 2, end_of(2, "bank", b"b")));
    standby.until("told", async || !standby.world.halts.lock().is_empty()).await;
    let cause = standby.world.halts.lock()[0].clone();
    assert!(cause.contains("block 1") && cause.contains("store bank"), "{cause}");
    standby.until("the evidence alone", async || standby.blocks().await == [1]).await;
    let spool = &standby.feeds.shared.spool;
    let kept = spool.captured((Generation(0), at(1))).await.unwrap().unwrap();
    assert!(kept.diverged);
    // A second run compares from the oldest block again, and does not halt again.
    standby.until("again", async || standby.world.followed.lock().len() > 1).await;
    standby.tell(told(0, 1, end_of(1, "bank", b"other")));
    standby.give(3, b"c").await;
    standby.tell(told(0, 3, end_of(3, "bank", b"c")));
    standby.until("heard of 3", async || standby.heard.lock().contains(&(3, false))).await;
    assert_eq!(standby.world.halts.lock().len(), 1);
    standby.stop().await;
}

#[tokio::test]
async fn another_history_empties_the_spool_and_begins_at_its_base() {
    let standby = Standby::start(World { head: Mutex::new(Some(head(0, 1))), ..World::default() });
    standby.give(2, b"b").await;
    standby.give(3, b"c").await;
    standby.until("two blocks", async || standby.blocks().await == [2, 3]).await;
    *standby.world.head.lock() = Some(head(1, 1));
    standby.tell(Told::Rewind(Generation(1)));
    standby.until("nothing", async || standby.blocks().await.is_empty()).await;
    standby.until("begun anew", async || *standby.after.lock() == [Some(1), Some(1)]).await;
    standby.give(2, b"new").await;
    standby.until("a block", async || standby.blocks().await == [2]).await;
    standby.tell(told(1, 2, end_of(2, "bank", b"new")));
    standby.until("compared", async || standby.blocks().await.is_empty()).await;
    assert!(standby.world.halts.lock().is_empty());
    standby.stop().await;
}

#[tokio::test]
async fn goes_on_behind_the_spool_and_compares_from_its_oldest_block() {
    let world = World { trimmed: true, head: Mutex::new(Some(head(0, 1))), ..World::default() };
    let standby = Standby::start(world);
    for height in 2..=4 {
        standby.give(height, b"x").await;
    }
    standby.until("three blocks", async || standby.blocks().await == [2, 3, 4]).await;
    let Standby { world, feeds, stop, task, _dir, .. } = standby;
    stop.cancel();
    task.await.unwrap();
    // The journal has gone on meanwhile.
    *world.head.lock() = Some(head(0, 3));
    world.followed.lock().clear();
    let stores = Stores::new(&["*".to_owned()]).unwrap();
    let mut beside = feeds.beside(TopicRules::default(), stores, 1 << 20).unwrap();
    let after = Arc::new(Mutex::new(Vec::new()));
    let (_give, items) = mpsc::channel(1);
    let mut source = Handed {
        items: Arc::new(tokio::sync::Mutex::new(items)),
        heard: Arc::default(),
        after: after.clone(),
    };
    let begun = async {
        while after.lock().is_empty() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(SOON, beside.run_until(&mut source, begun)).await.unwrap();
    assert_eq!(*after.lock(), [Some(4)], "the source, behind the spool's last");
    let oldest = Since::After(Position::end_of(Generation(0), at(1)));
    assert_eq!(world.followed.lock()[..2], [oldest, Since::Earliest], "retention has passed it");
}
