mod control;
mod fakes;
mod regress;
mod silence;

use std::time::Duration;

use bytes::BytesMut;
use parking_lot::Mutex;
use sluice_client::coordination::{ActionKind, CommitRecord, CoordinationError};
use sluice_frame::put_change;
use sluice_model::{Digest, Durability, Epoch, Generation, Op, Pointer};
use tokio::{task::JoinHandle, time::timeout};

use self::fakes::{Chain, FakeCoordinator, FakeJournal, ID, Node, Run, Scripted, at, is_gap};
use super::*;
use crate::{
    metrics::Metrics,
    notes::Notes,
    source::{Begin, Item, Piece, SourceError, synthetic},
    tests::context,
};

const SOON: Duration = Duration::from_secs(20);

/// Everything around a loop under test.
#[derive(Default)]
struct World {
    coordinator: FakeCoordinator,
    journal: FakeJournal,
    limits: Limits,
    stores: Vec<String>,
    on_regress: OnRegress,
    /// How long the router may owe an answer; zero for ever.
    silence: Duration,
}

struct Running {
    status: StatusCell,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl World {
    fn run(&self, source: Box<dyn Source>) -> Running {
        let metrics = Metrics::new(&opentelemetry::global::meter("test"));
        let status = StatusCell::new("chain".parse().unwrap(), "test", Notes::default(), metrics);
        let contact = Contact::default();
        let parts = Parts {
            ingestor: "chain".parse().unwrap(),
            coordinator: Arc::new(self.coordinator.clone()),
            journals: contact.around(Arc::new(self.journal.clone())),
            contact,
            beside: None,
            source,
            topics: TopicRules::default(),
            stores: Stores::new(&self.stores).unwrap(),
            limits: self.limits,
            rules: Rules {
                first: Duration::from_millis(1),
                max: Duration::from_millis(4),
                blocked_after: 3,
                blocked_wait: Duration::from_millis(20),
                settle: Duration::from_millis(50),
                hand_over: Duration::from_millis(200),
                silence: self.silence,
            },
            on_regress: self.on_regress,
            holder: "test".to_owned(),
            status: status.clone(),
        };
        let stop = CancellationToken::new();
        let task = tokio::spawn(Ingest::new(parts, stop.clone()).run());
        Running { status, stop, task }
    }

    fn scripted(&self, runs: Vec<Run>) -> (Running, Arc<()>) {
        let alive = Arc::new(());
        (self.run(Box::new(script(runs, &alive))), alive)
    }
}

fn script(runs: Vec<Run>, alive: &Arc<()>) -> Scripted {
    let runs = Arc::new(Mutex::new(runs.into()));
    Scripted { runs, begun: Arc::default(), alive: alive.clone(), complete: true }
}

impl Running {
    /// Waits for something about the status.
    async fn until(&self, what: &str, holds: impl Fn(&crate::status::Status) -> bool) {
        let wait = async {
            while !holds(&self.status.get()) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        if timeout(SOON, wait).await.is_err() {
            panic!("not {what}: {:?}", self.status.get());
        }
    }

    async fn state(&self, state: State) {
        self.until(state.word(), |status| status.state == state).await;
    }

    async fn stop(self) {
        self.stop.cancel();
        timeout(SOON, self.task).await.expect("a stop ends the loop").unwrap();
    }
}

fn made_up(more: &str) -> Box<dyn Source> {
    let table = format!("rate = 0\npairs = 20\n{more}").parse().unwrap();
    synthetic::build(&context("chain"), &table).unwrap()
}

fn piece(key: &[u8]) -> Item {
    let mut out = BytesMut::new();
    put_change("bank", Op::Set, key, b"v", &mut out);
    Item::Changes(Piece::new(out.freeze()))
}

fn begin(height: u64, parent: Option<u64>) -> Item {
    Item::Begin(Begin { height, pointer: at(height), parent: parent.map(at), time: None })
}

fn end() -> Item {
    Item::End { changes: Some(1), traceparent: String::new() }
}

/// A block of one change with this content.
fn block_of(height: u64, content: &[u8], parent: Option<Pointer>) -> Vec<Item> {
    vec![
        Item::Begin(Begin { height, pointer: at(height), parent, time: None }),
        piece(content),
        end(),
    ]
}

/// A block of one change.
fn block(height: u64) -> Vec<Item> {
    vec![begin(height, None), piece(&height.to_be_bytes()), end()]
}

fn blocks(heights: impl IntoIterator<Item = u64>) -> Vec<Item> {
    heights.into_iter().flat_map(block).collect()
}

fn all(items: Vec<Item>) -> Run {
    Run::Items(items.into_iter().map(Ok).collect())
}

#[tokio::test]
async fn a_bounded_source_ends_with_everything_durable_and_committed() {
    let world = World { limits: Limits { blocks: 4, ..Limits::default() }, ..World::default() };
    world.journal.state().slow = Duration::from_millis(1);
    let running = world.run(made_up("blocks = 50"));
    running.state(State::Finished).await;
    assert_eq!(world.journal.heights(), (1..=50).collect::<Vec<_>>());
    let commit = world.coordinator.state().commit.clone().unwrap();
    assert_eq!((commit.pointer, commit.journal), (at(50), ID));
    assert!(world.coordinator.state().commits < 10, "commits are coalesced");
    assert!((2..=4).contains(&world.journal.state().most), "{}", world.journal.state().most);
    let status = running.status.get();
    assert_eq!((status.blocks, status.source_height, status.lag()), (50, 50, 0));
    assert_eq!(status.committed, at(50));
    assert_eq!(world.coordinator.state().released, 1);
}

#[tokio::test]
async fn an_interrupted_run_gives_the_same_journal() {
    let (whole, cut) = (World::default(), World::default());
    whole.run(made_up("blocks = 30")).state(State::Finished).await;
    cut.run(made_up("blocks = 12")).state(State::Finished).await;
    cut.journal.state().cut_at = Some(20);
    let running = cut.run(made_up("blocks = 30"));
    running.state(State::Finished).await;
    assert_eq!(cut.journal.content(), whole.journal.content());
    assert_eq!(cut.journal.state().cut_at, None, "the connection was lost on the way");
    assert_eq!(running.status.get().failures, 0, "progress forgets failures");
}

#[tokio::test]
async fn r1_a_stop_while_waiting_for_the_lock_is_quick() {
    let world = World::default();
    world.coordinator.state().busy = true;
    let running = world.run(made_up(""));
    running.state(State::Standby).await;
    timeout(Duration::from_secs(1), running.stop()).await.unwrap();
}

#[tokio::test]
async fn r2_a_stop_while_the_source_hangs_ends_its_tasks_before_the_lock() {
    let world = World::default();
    let (running, alive) =
        world.scripted(vec![Run::Hang([blocks(1..=3), vec![begin(4, None)]].concat())]);
    running.until("three blocks", |status| status.blocks == 3).await;
    let status = running.status.clone();
    world.coordinator.state().probe = Some(alive.clone());
    timeout(Duration::from_secs(1), running.stop()).await.unwrap();
    let held = world.coordinator.state().held_at_release.clone();
    assert_eq!(held, [3], "the source, the probe and this test hold it, no task does");
    assert_eq!(status.get().state, State::Stopped);
    assert_eq!(world.coordinator.state().commit.as_ref().unwrap().pointer, at(3));
    assert_eq!(world.coordinator.state().released, 1);
    assert_eq!(world.journal.heights(), [1, 2, 3], "the unfinished block is not there");
}

#[tokio::test]
async fn r7_a_lost_lock_ends_everything_before_the_next_try() {
    let world = World::default();
    let (running, alive) = world.scripted(vec![Run::Hang(blocks(1..=2)), Run::Hang(blocks(3..=4))]);
    running.until("two blocks", |status| status.blocks == 2).await;
    // Somebody else gets the lock.
    world.coordinator.state().busy = true;
    world.coordinator.revoke();
    running.state(State::Standby).await;
    assert_eq!(Arc::strong_count(&alive), 2, "the source and this test hold it, no feed does");
    let frames = world.journal.state().frames;
    tokio::time::sleep(Duration::from_millis(30)).await;
    assert_eq!(world.journal.state().frames, frames, "nothing is sent without the lock");
    world.coordinator.state().busy = false;
    running.until("four blocks", |status| status.blocks == 4).await;
    assert_eq!(world.journal.heights(), [1, 2, 3, 4]);
    running.stop().await;
}

#[tokio::test]
async fn r7_a_fenced_writer_goes_back_to_standby_and_returns_with_a_new_epoch() {
    let world = World::default();
    let (running, _) = world.scripted(vec![Run::Hang(blocks(1..=2)), Run::Hang(blocks(3..=3))]);
    running.until("two blocks", |status| status.blocks == 2).await;
    let before = running.status.get().epoch;
    world.journal.state().writer += 1;
    // The next frame meets the fence; the loop has none to send, so the lock goes too.
    world.coordinator.revoke();
    running.until("three blocks", |status| status.blocks == 3).await;
    assert!(running.status.get().epoch > before);
    running.stop().await;
}

#[tokio::test]
async fn a_fence_above_the_current_epoch_raises_the_incarnation() {
    let world = World::default();
    world.journal.state().fence = Epoch::from_u64(1 << 48);
    let running = world.run(made_up("blocks = 3"));
    running.state(State::Finished).await;
    assert_eq!(world.coordinator.state().raised, 1);
    assert_eq!(world.journal.heights(), [1, 2, 3]);
}

#[tokio::test]
async fn r4_a_block_that_fails_again_and_again_blocks_visibly_and_recovers() {
    let world = World::default();
    let bad = || {
        let error = SourceError::Block { pointer: at(3), cause: "no such file".into() };
        Run::Items(vec![Err(error)])
    };
    let first = Run::Items(
        blocks(1..=2)
            .into_iter()
            .map(Ok)
            .chain([Err(SourceError::Block { pointer: at(3), cause: "no such file".into() })])
            .collect(),
    );
    let (running, _) =
        world.scripted(vec![first, bad(), bad(), bad(), bad(), Run::Hang(blocks(3..=3))]);
    running.state(State::Blocked).await;
    let status = running.status.get();
    assert!(status.cause.contains("block 3") && status.cause.contains("no such file"));
    assert!(status.failures >= 3, "{status:?}");
    assert_eq!(status.blocked, Some(at(3)));
    assert_eq!(running.status.message().blocked_pointer, at(3).to_bytes());
    assert!(world.coordinator.state().released >= 1, "another producer gets its turn");
    running.until("three blocks", |status| status.blocks == 3).await;
    running.state(State::Active).await;
    assert_eq!((running.status.get().failures, running.status.get().cause.as_str()), (0, ""));
    running.stop().await;
    assert_eq!(world.coordinator.kinds(), ["blocked", "unblocked"]);
}

#[tokio::test]
async fn r3_failures_are_counted_in_a_row_and_progress_forgets_them() {
    let world = World::default();
    let fail = |height: u64| {
        let error = SourceError::Block { pointer: at(height), cause: "connection reset".into() };
        Run::Items(block(height).into_iter().map(Ok).chain([Err(error)]).collect())
    };
    // Twice as many failures as would block, each after a block.
    let runs = (1..=6).map(fail).chain([Run::Hang(vec![])]).collect();
    let (running, _) = world.scripted(runs);
    running.until("six blocks", |status| status.blocks == 6).await;
    running.state(State::Active).await;
    assert_eq!(world.journal.heights(), [1, 2, 3, 4, 5, 6]);
    assert_eq!(world.coordinator.state().released, 0, "the lock is kept");
    running.stop().await;
    assert!(world.coordinator.kinds().is_empty());
}

#[tokio::test]
async fn r6_commits_follow_the_order_and_the_window_bounds_what_is_under_way() {
    let limits = Limits { blocks: 3, commit_every: Duration::ZERO, ..Limits::default() };
    let world = World { limits, ..World::default() };
    world.journal.state().slow = Duration::from_millis(1);
    let running = world.run(made_up("blocks = 40"));
    let mut most = 0;
    while running.status.get().state != State::Finished {
        most = most.max(running.status.get().inflight);
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
    assert!((1..=3).contains(&most) && world.journal.state().most <= 3, "{most}");
    let committed = world.coordinator.state().committed.clone();
    assert!(committed.is_sorted() && committed.len() > 1, "{committed:?}");
    assert_eq!(committed.last().unwrap().1, at(40));
}

#[tokio::test]
async fn r9_a_block_missing_in_the_range_of_the_source_is_an_error_and_no_empty_block() {
    let dir = tempfile::TempDir::new().unwrap();
    for height in [1, 2, 4] {
        std::fs::write(dir.path().join(format!("block-{height}-data")), [0; 8]).unwrap();
    }
    let table = format!("dir = {:?}\nfollow = false", dir.path()).parse().unwrap();
    let source = crate::source::cosmos::build(&context("chain"), &table).unwrap();
    let world = World::default();
    let running = world.run(source);
    running.state(State::Blocked).await;
    let status = running.status.get();
    assert!(status.cause.contains("blocks 3 to 3 are missing"), "{}", status.cause);
    assert_eq!((status.blocked, world.journal.heights()), (Some(at(3)), vec![1, 2]));
    running.stop().await;
}

#[tokio::test]
async fn r5_a_source_that_ends_without_a_word_is_started_again() {
    let world = World::default();
    let (running, _) = world
        .scripted(vec![all(blocks(1..=2)), all([blocks(3..=3), vec![Item::Finished]].concat())]);
    running.state(State::Finished).await;
    assert_eq!(world.journal.heights(), [1, 2, 3]);
}

#[tokio::test]
async fn r8_a_block_with_another_parent_never_passes() {
    let world = World::default();
    let wrong = vec![begin(3, Some(7)), piece(b"x"), end(), Item::Finished];
    let first = all([blocks(1..=2), wrong.clone()].concat());
    let (running, _) =
        world.scripted(vec![first, all(wrong.clone()), all(wrong.clone()), all(wrong)]);
    running.state(State::Blocked).await;
    let status = running.status.get();
    assert!(status.cause.contains("block 3 has the parent 7, but the last block is 2"));
    assert_eq!(status.blocks, 2, "those before were acknowledged");
    running.stop().await;
    assert_eq!(world.journal.heights(), [1, 2]);
}

#[tokio::test]
async fn a_source_that_goes_back_or_miscounts_is_refused() {
    let world = World::default();
    let (running, _) = world.scripted((0..4).map(|_| all(blocks([5, 4]))).collect());
    running.state(State::Blocked).await;
    assert!(running.status.get().cause.contains("does not lie behind"));
    running.stop().await;
    let world = World::default();
    let short = vec![
        begin(1, None),
        piece(b"x"),
        Item::End { changes: Some(2), traceparent: String::new() },
    ];
    let (running, _) = world.scripted((0..4).map(|_| all(short.clone())).collect());
    running.state(State::Blocked).await;
    assert!(running.status.get().cause.contains("2 changes were announced, 1 came"));
    running.stop().await;
    assert!(world.journal.heights().is_empty());
}

#[tokio::test]
async fn a_journal_behind_its_commit_halts_and_names_both() {
    let world = World::default();
    world.run(made_up("blocks = 10")).state(State::Finished).await;
    world.journal.truncate(6);
    let running = world.run(made_up("blocks = 20"));
    running.state(State::Halted).await;
    let cause = running.status.get().cause;
    assert!(cause.contains("committed block is 10") && cause.contains("ends at 6"), "{cause}");
    assert!(cause.contains("accept-loss"), "{cause}");
    assert_eq!(world.journal.heights().len(), 6, "nothing was appended over the hole");
    running.stop().await;
}

#[tokio::test]
async fn a_journal_behind_the_own_acknowledgement_halts_without_any_commit() {
    let limits = Limits { commit_every: Duration::from_secs(3600), ..Limits::default() };
    let world = World { limits, ..World::default() };
    let (running, _) = world.scripted(vec![all(blocks(1..=5)), Run::Hang(vec![])]);
    world.journal.state().cut_at = Some(4);
    running.until("blocks", |status| status.blocks >= 4).await;
    world.journal.truncate(1);
    world.coordinator.state().commit = None;
    world.coordinator.revoke();
    running.state(State::Halted).await;
    assert!(running.status.get().cause.contains("last acknowledged block"));
    running.stop().await;
}

#[tokio::test]
async fn a_commit_behind_the_journal_is_repaired() {
    let world = World::default();
    world.run(made_up("blocks = 10")).state(State::Finished).await;
    let digest = world.journal.state().blocks[2].0.digest;
    world.coordinator.state().commit = Some(CommitRecord {
        journal: ID,
        epoch: Epoch::ZERO,
        generation: Generation(0),
        pointer: at(3),
        digest,
        durability: Durability::Fsynced,
        sequence: 1,
    });
    world.run(made_up("blocks = 10")).state(State::Finished).await;
    assert_eq!(world.coordinator.state().commit.as_ref().unwrap().pointer, at(10));
}

#[tokio::test]
async fn a_volume_without_the_journal_is_not_given_an_empty_one() {
    let world = World::default();
    world.run(made_up("blocks = 3")).state(State::Finished).await;
    let creates = world.journal.state().creates;
    world.journal.state().exists = false;
    let running = world.run(made_up("blocks = 5"));
    running.until("told", |status| status.cause.contains("not here")).await;
    assert_eq!(world.journal.state().creates, creates);
    running.stop().await;
}

#[tokio::test]
async fn only_the_wanted_stores_are_captured_and_a_misspelt_one_stops_the_first_block() {
    let mut both = BytesMut::new();
    put_change("acc", Op::Set, b"a", b"1", &mut both);
    put_change("bank", Op::Set, b"b", b"2", &mut both);
    let mut bank = BytesMut::new();
    put_change("bank", Op::Set, b"b", b"2", &mut bank);
    let items = vec![
        begin(1, None),
        Item::Changes(Piece::new(both.freeze())),
        Item::End { changes: Some(2), traceparent: String::new() },
        Item::Finished,
    ];
    let world = World { stores: vec!["bank".to_owned()], ..World::default() };
    let (running, _) = world.scripted(vec![all(items.clone())]);
    running.state(State::Finished).await;
    assert_eq!(world.journal.content(), [bank.to_vec()]);
    assert_eq!(running.status.get().changes, 1);

    let world = World { stores: vec!["bankk".to_owned()], ..World::default() };
    let (running, _) = world.scripted(vec![all(items)]);
    running.state(State::Blocked).await;
    let cause = running.status.get().cause;
    assert!(cause.contains("stores bankk so far; seen were acc, bank"), "{cause}");
    running.stop().await;
    assert!(world.journal.heights().is_empty());
}

#[tokio::test]
async fn a_recorded_gap_stands_between_the_blocks() {
    let world = World::default();
    let gap = Item::Gap { from: at(3), to: at(4), cause: "never written".into() };
    let items = [blocks(1..=2), vec![gap], blocks(5..=6), vec![Item::Finished]].concat();
    let (running, _) = world.scripted(vec![all(items)]);
    running.state(State::Finished).await;
    assert_eq!(world.journal.heights(), [1, 2, 4, 5, 6]);
    assert!(is_gap(&world.journal.state().blocks[2].1));
    assert_eq!(running.status.get().blocks, 4, "a gap is no block");
}

#[tokio::test]
async fn a_gap_that_halts_is_blocked_at_once() {
    let world = World::default();
    let gap = SourceError::Gap { from: at(3), to: at(4), cause: "not there".into() };
    let (running, _) = world.scripted(vec![Run::Items(vec![Err(gap)])]);
    running.state(State::Blocked).await;
    let status = running.status.get();
    assert_eq!(status.failures, 1);
    assert!(status.cause.contains("blocks 3 to 4 are missing"), "{}", status.cause);
    running.stop().await;
}

#[tokio::test]
async fn an_unreachable_router_is_retried_and_told() {
    let world = World::default();
    world.journal.state().down = true;
    let running = world.run(made_up("blocks = 2"));
    running.until("told", |status| status.cause.contains("no route")).await;
    world.journal.state().down = false;
    running.state(State::Finished).await;
}

#[tokio::test]
async fn an_aborted_block_leaves_nothing_and_metadata_rides_along() {
    let world = World::default();
    let meta = Item::Metadata { type_url: "/t".into(), value: vec![1, 2].into() };
    let items = [
        vec![begin(1, None), piece(b"x"), Item::Abort],
        vec![begin(1, None), piece(b"y"), meta.clone(), meta, end(), Item::Finished],
    ]
    .concat();
    let (running, _) = world.scripted(vec![all(items)]);
    running.state(State::Finished).await;
    let state = world.journal.state();
    let metadata = state.blocks[0].1[0].header.metadata.clone().unwrap();
    assert_eq!((metadata.type_url.as_str(), &metadata.value[..]), ("/t", &[1, 2, 1, 2][..]));
    assert_eq!(state.blocks.len(), 1);
    assert_ne!(state.blocks[0].0.digest, Digest::ZERO);
    assert_eq!(state.blocks[0].1[0].header.parent, Pointer::ORIGIN);
}

#[tokio::test]
async fn foreign_encodings_are_made_canonical_and_bad_ones_are_named() {
    // key before store_key, and an explicit delete = false.
    let odd = hex::decode("7a0b1a016b0a0462616e6b1000").unwrap();
    let mut canonical = BytesMut::new();
    put_change("bank", Op::Set, b"k", b"", &mut canonical);
    let world = World::default();
    let items = |bytes: Vec<u8>| {
        vec![begin(1, None), Item::Changes(Piece::new(bytes.into())), end(), Item::Finished]
    };
    world.scripted(vec![all(items(odd))]).0.state(State::Finished).await;
    assert_eq!(world.journal.content(), [canonical.to_vec()]);

    let world = World::default();
    let place = crate::source::Place {
        file: std::path::Path::new("/d/block-1-data").into(),
        offset: 8,
        first_pair: 0,
    };
    let bad = vec![0x7a, 0x04, 0x0a, 0x02, 0xff, 0xfe];
    let piece = Piece { bytes: bad.into(), place: Some(place) };
    let items = vec![begin(1, None), Item::Changes(piece), end()];
    let (running, _) = world.scripted((0..3).map(|_| all(items.clone())).collect());
    running.state(State::Blocked).await;
    let cause = running.status.get().cause;
    assert!(cause.contains("/d/block-1-data: pair 0 at byte 8"), "{cause}");
    assert!(cause.contains("store_key"), "{cause}");
    running.stop().await;
}
