use std::{
    collections::VecDeque,
    num::NonZeroUsize,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};

use async_trait::async_trait;
use parking_lot::Mutex;
use sluice_model::{FilterSpec, Generation, Pointer, StartPosition};
use tokio::sync::Notify;

use super::*;
use crate::{
    Batch, BatchShape, ConfigError, DeliverError, MarkKind, Receipt, State,
    feed::FeedError,
    testing::{Rig, Running, block, end_of, eventually, stream_config, through},
};

/// A destination that writes down what comes, and fails, hangs or holds as told.
#[derive(Clone, Default)]
struct Recorder(Arc<Recorded>);

#[derive(Default)]
struct Recorded {
    batches: Mutex<Vec<Batch>>,
    failures: Mutex<VecDeque<DeliverError>>,
    always_fail: AtomicBool,
    attempts: AtomicUsize,
    epochs: Mutex<Vec<u64>>,
    hold: AtomicBool,
    flushes: AtomicUsize,
    tells: Mutex<Option<Checkpoint>>,
    gate: Mutex<Option<Arc<Notify>>>,
    blocks: AtomicBool,
}

struct Recording {
    recorder: Recorder,
    held: Option<Receipt>,
}

impl DispatcherFactory for Recorder {
    fn type_name(&self) -> &'static str {
        "recorder"
    }
    fn shape(&self, stream: &StreamConfig) -> Result<BatchShape, ConfigError> {
        let blocks = self.0.blocks.load(Ordering::SeqCst);
        Ok(if blocks { stream.batch.blocks_shape() } else { stream.batch.events_shape() })
    }
    fn destination(&self, _: &StreamConfig, _: &SinkConfig) -> String {
        "memory".to_owned()
    }
    fn build(&self, _: &StreamConfig, _: &SinkConfig) -> Result<Box<dyn Dispatcher>, ConfigError> {
        Ok(Box::new(Recording { recorder: self.clone(), held: None }))
    }
}

#[async_trait]
impl Dispatcher for Recording {
    async fn deliver(&mut self, batch: &Batch) -> Result<Receipt, DeliverError> {
        let own = &self.recorder.0;
        own.attempts.fetch_add(1, Ordering::SeqCst);
        own.epochs.lock().push(batch.epoch().as_u64());
        let gate = own.gate.lock().clone();
        if let Some(gate) = gate {
            gate.notified().await;
        }
        if let Some(failure) = own.failures.lock().pop_front() {
            return Err(failure);
        }
        if own.always_fail.load(Ordering::SeqCst) {
            return Err(DeliverError::retry("500"));
        }
        own.batches.lock().push(batch.clone());
        if own.hold.load(Ordering::SeqCst) {
            self.held = Some(batch.delivered());
            return Ok(batch.held());
        }
        Ok(batch.delivered())
    }

    async fn flush(&mut self) -> Result<Option<Receipt>, DeliverError> {
        self.recorder.0.flushes.fetch_add(1, Ordering::SeqCst);
        Ok(self.held.take())
    }

    async fn resume(&mut self, _: Option<&Checkpoint>) -> Result<Option<Checkpoint>, DeliverError> {
        Ok(self.recorder.0.tells.lock().clone())
    }
}

impl Recorder {
    fn heights(&self) -> Vec<u64> {
        let mut heights = Vec::new();
        for batch in self.0.batches.lock().iter() {
            batch.for_each_event(|event| heights.push(event.height)).unwrap();
        }
        heights
    }

    fn count(&self) -> usize {
        self.0.batches.lock().len()
    }

    fn attempts(&self) -> usize {
        self.0.attempts.load(Ordering::SeqCst)
    }

    fn run(&self, rig: &Rig) -> Running {
        self.run_as(rig, |_| {})
    }

    fn run_as(&self, rig: &Rig, change: impl FnOnce(&mut StreamConfig)) -> Running {
        let mut config = stream_config("recorder", toml::Table::new());
        config.batch.events = NonZeroUsize::new(2).unwrap();
        change(&mut config);
        rig.run(config, SinkConfig::default(), Arc::new(self.clone()))
    }
}

fn push(rig: &Rig, heights: std::ops::RangeInclusive<u64>) {
    for height in heights {
        rig.push(block(height, &[("bank", vec![1])]));
    }
}

fn expect(heights: std::ops::RangeInclusive<u64>) -> Vec<u64> {
    heights.collect()
}

#[tokio::test(start_paused = true)]
async fn delivers_in_order_and_stores_what_was_delivered() {
    let (rig, recorder) = (Rig::default(), Recorder::default());
    push(&rig, 1..=9);
    let running = recorder.run(&rig);
    eventually("the checkpoint", || rig.checkpoint() == Some(end_of(9))).await;
    assert_eq!(recorder.heights(), expect(1..=9));
    let snapshot = running.status.snapshot();
    assert_eq!((snapshot.state, snapshot.batches, snapshot.events), (State::Running, 5, 9));
    assert_eq!(snapshot.checkpoint_height, 9);
    running.stop().await;
    assert!(rig.is_free());
}

#[tokio::test(start_paused = true)]
async fn a_failed_batch_comes_again_before_any_later_one() {
    let (rig, recorder) = (Rig::default(), Recorder::default());
    push(&rig, 1..=6);
    *recorder.0.failures.lock() = (0..3).map(|_| DeliverError::retry("503")).collect();
    let running = recorder.run(&rig);
    eventually("delivery", || rig.checkpoint() == Some(end_of(6))).await;
    assert_eq!(recorder.heights(), expect(1..=6));
    let snapshot = running.status.snapshot();
    assert_eq!((snapshot.state, snapshot.retries), (State::Running, 3));
    assert!(snapshot.last_error.contains("503"), "{}", snapshot.last_error);
}

#[tokio::test(start_paused = true)]
async fn nothing_passes_a_batch_that_never_succeeds() {
    let (rig, recorder) = (Rig::default(), Recorder::default());
    push(&rig, 1..=2);
    let running = recorder.run(&rig);
    eventually("the first batch", || rig.checkpoint() == Some(end_of(2))).await;
    recorder.0.always_fail.store(true, Ordering::SeqCst);
    push(&rig, 3..=4);
    for height in 5..=600 {
        rig.push_through(height);
    }
    eventually("many attempts", || recorder.attempts() > 30).await;
    assert_eq!(rig.checkpoint(), Some(end_of(2)));
    running.stop().await;
    assert_eq!(rig.checkpoint(), Some(end_of(2)), "a stop does not make it delivered");
    recorder.0.always_fail.store(false, Ordering::SeqCst);
    let running = recorder.run(&rig);
    eventually("the rest", || rig.checkpoint() == Some(end_of(600))).await;
    assert_eq!(recorder.heights(), expect(1..=4));
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn shows_blocked_after_the_retry_time_and_goes_on_trying() {
    let (rig, recorder) = (Rig::default(), Recorder::default());
    push(&rig, 1..=2);
    recorder.0.always_fail.store(true, Ordering::SeqCst);
    let running = recorder.run_as(&rig, |config| config.retry.for_ = Duration::from_millis(40));
    eventually("blocked", || running.status.snapshot().state == State::Blocked).await;
    let cause = running.status.snapshot().cause;
    assert!(cause.contains("sluice streams explain test"), "{cause}");
    let before = recorder.attempts();
    eventually("more attempts", || recorder.attempts() > before + 3).await;
    recorder.0.always_fail.store(false, Ordering::SeqCst);
    eventually("success", || running.status.snapshot().state == State::Running).await;
    assert_eq!(recorder.heights(), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_kept() {
    let (rig, recorder) = (Rig::default(), Recorder::default());
    push(&rig, 1..=2);
    let asked = Duration::from_secs(7);
    recorder.0.failures.lock().push_back(DeliverError::retry("429").after(asked));
    let began = tokio::time::Instant::now();
    let _running = recorder.run(&rig);
    eventually("delivery", || recorder.count() == 1).await;
    assert!(began.elapsed() >= asked);
}

#[tokio::test(start_paused = true)]
async fn a_stop_during_a_long_backoff_does_not_wait_for_it() {
    let (rig, recorder) = (Rig::default(), Recorder::default());
    push(&rig, 1..=2);
    let asked = Duration::from_secs(600);
    recorder.0.failures.lock().push_back(DeliverError::retry("429").after(asked));
    let running = recorder.run(&rig);
    eventually("the failure", || running.status.snapshot().retries == 1).await;
    let began = tokio::time::Instant::now();
    running.stop().await;
    assert!(began.elapsed() < Duration::from_secs(1));
    assert_eq!(recorder.attempts(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_stop_brings_in_what_waits_and_flushes() {
    let (rig, recorder) = (Rig::default(), Recorder::default());
    recorder.0.hold.store(true, Ordering::SeqCst);
    push(&rig, 1..=3);
    let running = recorder.run_as(&rig, |config| config.batch.wait = Duration::from_secs(3600));
    eventually("the full batch", || recorder.count() == 1).await;
    // The third event waits for a second one; the feed's task has handed it over by now.
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(rig.checkpoint(), Some(end_of(0)), "held is not delivered");
    running.stop().await;
    assert_eq!(recorder.heights(), expect(1..=3));
    assert_eq!(recorder.0.flushes.load(Ordering::SeqCst), 1);
    assert_eq!(rig.checkpoint(), Some(end_of(3)));
}

#[tokio::test(start_paused = true)]
async fn what_is_held_is_flushed_in_time() {
    let (rig, recorder) = (Rig::default(), Recorder::default());
    recorder.0.hold.store(true, Ordering::SeqCst);
    push(&rig, 1..=2);
    let _running = recorder.run(&rig);
    eventually("the flush", || rig.checkpoint() == Some(end_of(2))).await;
    assert_eq!(recorder.0.flushes.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn after_a_crash_it_goes_on_from_the_checkpoint_without_a_gap() {
    let (rig, recorder) = (Rig::default(), Recorder::default());
    push(&rig, 1..=4);
    let running = recorder.run(&rig);
    eventually("delivery", || rig.checkpoint() == Some(end_of(4))).await;
    running.crash();
    push(&rig, 5..=8);
    let _running = recorder.run(&rig);
    eventually("the rest", || rig.checkpoint() == Some(end_of(8))).await;
    assert_eq!(recorder.heights(), expect(1..=8));
    let batches = recorder.0.batches.lock();
    assert!(batches.windows(2).all(|pair| pair[1].after() == &pair[0].through().position));
    assert!(batches.last().unwrap().epoch() > batches[0].epoch());
}

#[tokio::test(start_paused = true)]
async fn a_quiet_stretch_moves_the_checkpoint_but_is_no_hole_for_the_receiver() {
    let (rig, recorder) = (Rig::default(), Recorder::default());
    push(&rig, 1..=2);
    rig.push_through(500);
    let running = recorder.run(&rig);
    eventually("progress", || rig.checkpoint() == Some(end_of(500))).await;
    running.crash();
    push(&rig, 501..=502);
    let running = recorder.run(&rig);
    eventually("the rest", || rig.checkpoint() == Some(end_of(502))).await;
    running.stop().await;
    let batches = recorder.0.batches.lock();
    assert_eq!(batches.len(), 2);
    assert_eq!(batches[1].after(), &batches[0].through().position);
    assert_eq!(rig.subscriptions()[1], through(500).0, "it does not read the stretch again");
}

#[tokio::test(start_paused = true)]
async fn another_filter_starts_at_the_checkpoint_and_claims_nothing_before_it() {
    let (rig, recorder) = (Rig::default(), Recorder::default());
    push(&rig, 1..=2);
    rig.push_through(9);
    let running = recorder.run(&rig);
    eventually("progress", || rig.checkpoint() == Some(end_of(9))).await;
    running.stop().await;
    push(&rig, 10..=11);
    let spec = FilterSpec { stores: vec!["bank".to_owned()], ..FilterSpec::default() };
    let filter = Arc::new(sluice_model::Filter::compile(&spec).unwrap());
    let hash = filter.hash();
    let _running = recorder.run_as(&rig, |config| config.filter = filter);
    eventually("the rest", || rig.checkpoint() == Some(end_of(11))).await;
    let batches = recorder.0.batches.lock();
    assert_eq!(batches[1].after(), &end_of(9));
    assert_eq!(batches[1].filter_hash(), hash);
    assert_eq!(rig.stored().checkpoint.unwrap().1.filter, hash);
}

#[tokio::test(start_paused = true)]
async fn latest_is_decided_once() {
    let (rig, recorder) = (Rig::default(), Recorder::default());
    push(&rig, 1..=5);
    let latest = |config: &mut StreamConfig| config.start = StartPosition::Latest;
    let running = recorder.run_as(&rig, latest);
    eventually("the first checkpoint", || rig.checkpoint() == Some(end_of(5))).await;
    running.crash();
    push(&rig, 6..=7);
    let _running = recorder.run_as(&rig, latest);
    eventually("what came meanwhile", || rig.checkpoint() == Some(end_of(7))).await;
    assert_eq!(recorder.heights(), [6, 7]);
}

#[tokio::test(start_paused = true)]
async fn after_the_lock_is_lost_no_delivery_begins_and_the_current_one_is_awaited() {
    let (rig, recorder) = (Rig::default(), Recorder::default());
    let gate = Arc::new(Notify::new());
    *recorder.0.gate.lock() = Some(Arc::clone(&gate));
    push(&rig, 1..=6);
    let running = recorder.run(&rig);
    eventually("the first attempt", || recorder.attempts() == 1).await;
    rig.lose_lock();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(recorder.attempts(), 1, "the attempt is not dropped and no other begins");
    *recorder.0.gate.lock() = None;
    gate.notify_one();
    eventually("the next tenure", || rig.checkpoint() == Some(end_of(6))).await;
    let batches = recorder.0.batches.lock();
    // Delivered under the lost lock without a checkpoint, so it came again under the next epoch.
    assert_eq!(batches[0].through(), batches[1].through());
    assert!(batches[0].epoch() < batches[1].epoch());
    assert_eq!(batches[0].id(), batches[1].id());
    drop(running);
}

#[tokio::test(start_paused = true)]
async fn past_the_validity_of_the_lock_nothing_is_tried_again() {
    let (rig, recorder) = (Rig::default(), Recorder::default());
    push(&rig, 1..=2);
    recorder.0.always_fail.store(true, Ordering::SeqCst);
    let _running = recorder.run(&rig);
    eventually("attempts", || recorder.attempts() >= 3).await;
    rig.expire_lock();
    let before = recorder.attempts();
    eventually("the next tenure", || recorder.0.epochs.lock().contains(&2)).await;
    let under_the_first = recorder.0.epochs.lock().iter().filter(|epoch| **epoch == 1).count();
    assert_eq!(under_the_first, before);
}

#[tokio::test(start_paused = true)]
async fn two_processes_take_turns() {
    let (rig, one, two) = (Rig::default(), Recorder::default(), Recorder::default());
    push(&rig, 1..=4);
    let first = one.run(&rig);
    eventually("the first owner", || rig.checkpoint() == Some(end_of(4))).await;
    let second = two.run(&rig);
    eventually("the wait", || second.status.snapshot().state == State::Waiting).await;
    first.stop().await;
    push(&rig, 5..=6);
    eventually("the second owner", || rig.checkpoint() == Some(end_of(6))).await;
    assert_eq!((one.heights(), two.heights()), (expect(1..=4), expect(5..=6)));
    second.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_gap_is_shown_and_never_jumped() {
    let (rig, recorder) = (Rig::default(), Recorder::default());
    push(&rig, 1..=2);
    rig.refuse(Some(|| FeedError::OutOfRange { at: "1".into(), oldest: "7".into() }));
    let running = recorder.run(&rig);
    eventually("the gap", || running.status.snapshot().state == State::Gap).await;
    let cause = running.status.snapshot().cause;
    assert!(cause.contains("oldest block is 7") && cause.contains("streams reset test"), "{cause}");
    tokio::time::sleep(GAP_RECHECK * 4).await;
    assert_eq!(running.status.snapshot().state, State::Gap);
    assert!(rig.subscriptions().iter().all(|after| after.position == end_of(0)));
    rig.refuse(None);
    eventually("healed", || recorder.heights() == [1, 2]).await;
}

#[tokio::test(start_paused = true)]
async fn an_ingestor_without_a_block_is_waited_for_and_no_failure() {
    let (rig, recorder) = (Rig::default(), Recorder::default());
    rig.no_journal(true);
    let running = recorder.run(&rig);
    eventually("a second look", || rig.located() > 1).await;
    let snapshot = running.status.snapshot();
    assert_eq!((snapshot.state, snapshot.retries), (State::Starting, 0));
    assert!(snapshot.cause.contains("chain has no block yet"), "{}", snapshot.cause);
    assert_eq!(snapshot.last_error, "");
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!(rig.located() < 400, "{} questions in ten minutes", rig.located());
    assert_eq!(snapshot.epoch, running.status.snapshot().epoch, "the lock is kept meanwhile");
    push(&rig, 1..=2);
    rig.no_journal(false);
    let began = tokio::time::Instant::now();
    eventually("delivery", || recorder.heights() == [1, 2]).await;
    assert!(began.elapsed() <= LOOK.max + Duration::from_secs(1), "{:?}", began.elapsed());
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn from_latest_before_the_first_block_is_from_the_first_block() {
    let (rig, recorder) = (Rig::default(), Recorder::default());
    rig.no_journal(true);
    let running = recorder.run_as(&rig, |config| config.start = StartPosition::Latest);
    eventually("the wait", || rig.located() > 0).await;
    push(&rig, 1..=2);
    rig.no_journal(false);
    eventually("delivery", || recorder.heights() == [1, 2]).await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_wait_for_a_first_block_ends_with_a_stop_or_the_lock() {
    let (rig, recorder) = (Rig::default(), Recorder::default());
    rig.no_journal(true);
    let running = recorder.run(&rig);
    eventually("the wait", || rig.located() > 0).await;
    rig.lose_lock();
    eventually("the next tenure", || running.status.snapshot().epoch.as_u64() == 2).await;
    let began = tokio::time::Instant::now();
    running.stop().await;
    assert!(began.elapsed() < Duration::from_millis(100), "{:?}", began.elapsed());
    assert!(rig.is_free());
}

#[tokio::test(start_paused = true)]
async fn a_reset_of_a_quiet_stream_is_noticed() {
    let (rig, recorder) = (Rig::default(), Recorder::default());
    push(&rig, 1..=4);
    let _running = recorder.run(&rig);
    eventually("delivery", || rig.checkpoint() == Some(end_of(4))).await;
    rig.reset(StartPosition::Height(3));
    eventually("again", || rig.checkpoint() == Some(end_of(4))).await;
    assert_eq!(recorder.heights(), [1, 2, 3, 4, 3, 4]);
    let batches = recorder.0.batches.lock();
    assert_ne!(batches[1].id(), batches[2].id(), "a reset is another delivery");
}

#[tokio::test(start_paused = true)]
async fn a_destination_behind_the_checkpoint_gets_the_rest_again() {
    let (rig, recorder) = (Rig::default(), Recorder::default());
    push(&rig, 1..=6);
    let running = recorder.run(&rig);
    eventually("delivery", || rig.checkpoint() == Some(end_of(6))).await;
    running.stop().await;
    *recorder.0.tells.lock() = Some(through(4).0);
    push(&rig, 7..=8);
    let _running = recorder.run(&rig);
    eventually("the rest", || rig.checkpoint() == Some(end_of(8))).await;
    assert_eq!(recorder.heights(), [1, 2, 3, 4, 5, 6, 5, 6, 7, 8]);
    let positions: Vec<_> = rig.puts().into_iter().map(|put| put.checkpoint.position).collect();
    assert!(positions.is_sorted(), "the stored checkpoint never goes back: {positions:?}");
}

#[tokio::test(start_paused = true)]
async fn an_unreachable_coordinator_delays_checkpoints_not_deliveries() {
    let (rig, recorder) = (Rig::default(), Recorder::default());
    push(&rig, 1..=2);
    let running = recorder.run(&rig);
    eventually("delivery", || rig.checkpoint() == Some(end_of(2))).await;
    rig.coordinator_down(true);
    push(&rig, 3..=6);
    eventually("deliveries", || recorder.heights() == expect(1..=6)).await;
    assert_eq!(rig.checkpoint(), Some(end_of(2)));
    rig.coordinator_down(false);
    eventually("the checkpoint", || rig.checkpoint() == Some(end_of(6))).await;
    drop(running);
}

#[tokio::test(start_paused = true)]
async fn checkpoints_are_written_at_most_once_a_second() {
    let (rig, recorder) = (Rig::default(), Recorder::default());
    let _running = recorder.run(&rig);
    eventually("the first checkpoint", || rig.puts().len() == 1).await;
    let began = tokio::time::Instant::now();
    for height in 1..=200 {
        push(&rig, height..=height);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    eventually("the last checkpoint", || rig.checkpoint() == Some(end_of(200))).await;
    let most = usize::try_from(began.elapsed().as_secs()).unwrap() + 3;
    assert!(rig.puts().len() <= most, "{} writes in {:?}", rig.puts().len(), began.elapsed());
    assert!(rig.puts().len() >= 8);
}

/// With `checkpoint = "0s"` a crash repeats at most the batch that was on its way.
#[tokio::test(start_paused = true)]
async fn a_synchronous_checkpoint_is_stored_before_the_next_batch_goes_out() {
    let (rig, recorder) = (Rig::default(), Recorder::default());
    push(&rig, 1..=20);
    let gate = Arc::new(Notify::new());
    *recorder.0.gate.lock() = Some(Arc::clone(&gate));
    let _running = recorder.run_as(&rig, |config| config.checkpoint = Duration::ZERO);
    for batch in 1..=10 {
        eventually("the next attempt", || recorder.attempts() == batch).await;
        let done = 2 * (batch as u64 - 1);
        let stored = rig.checkpoint().map(|at| at.pointer);
        assert!(batch == 1 || stored == Some(end_of(done).pointer), "{stored:?} at {batch}");
        gate.notify_one();
    }
    eventually("the last checkpoint", || rig.checkpoint() == Some(end_of(20))).await;
}

#[tokio::test(start_paused = true)]
async fn marks_and_quiet_stretches_reach_destinations_of_blocks() {
    let (rig, recorder) = (Rig::default(), Recorder::default());
    recorder.0.blocks.store(true, Ordering::SeqCst);
    push(&rig, 1..=1);
    let gap = MarkKind::Gap {
        from: Pointer::from_height(2),
        to: Pointer::from_height(3),
        cause: "pruned".to_owned(),
    };
    rig.push_mark(gap.clone(), 3);
    rig.push_through(70);
    let _running = recorder.run(&rig);
    eventually("progress", || rig.checkpoint() == Some(end_of(70))).await;
    let batches = recorder.0.batches.lock();
    let marks: Vec<_> = batches.iter().flat_map(|batch| batch.marks()).map(|m| &m.what).collect();
    assert_eq!(marks, [&gap]);
    assert_eq!(batches.last().unwrap().through().position, end_of(70));
    assert_eq!(batches[0].frames()[0].header.generation, Generation(0));
}
