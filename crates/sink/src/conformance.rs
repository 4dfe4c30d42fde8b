//! What every destination must do, as plain functions over a [`Harness`]. A destination's tests
//! call each one with a harness of their own.

use async_trait::async_trait;
use sluice_model::{Checkpoint, Position};

use crate::{
    batch::{Batch, Receipt},
    dispatcher::{BatchShape, Dispatcher},
    testing::{batches_shaped, counts},
};

/// A destination under test.
#[async_trait]
pub trait Harness: Send {
    /// A new dispatcher for the same destination, as after a restart of the process. The one
    /// before is dropped by then.
    async fn dispatcher(&mut self) -> Box<dyn Dispatcher>;

    /// From now on the destination refuses everything (`true`), or accepts again (`false`).
    async fn refuse(&mut self, refuse: bool);

    /// The ids of the events that the destination has accepted durably, in order, repeats
    /// included.
    async fn arrived(&mut self) -> Vec<String>;

    /// How batches for it are cut.
    fn shape(&self) -> BatchShape;

    /// True if a repeated batch must leave no trace.
    fn exactly_once(&self) -> bool {
        false
    }
}

/// Blocks 1 to `blocks` with three events each, as the destination's batches.
fn some_batches(harness: &dyn Harness, blocks: u64) -> Vec<Batch> {
    let keys = |height: u64| (0..3u8).map(|n| vec![n, height.to_le_bytes()[0]]).collect();
    let keys: Vec<Vec<Vec<u8>>> = (1..=blocks).map(keys).collect();
    batches_shaped(harness.shape(), &keys).expect("the blocks are good")
}

fn ids<'a>(batches: impl IntoIterator<Item = &'a Batch>) -> Vec<String> {
    let mut ids = Vec::new();
    for batch in batches {
        batch.for_each_event(|event| ids.push(event.id().to_string())).expect("a good batch");
    }
    ids
}

fn ids_until(batches: &[Batch], end: &Position) -> Vec<String> {
    let mut ids = Vec::new();
    for batch in batches {
        batch
            .for_each_event(|event| {
                if event.position <= end {
                    ids.push(event.id().to_string());
                }
            })
            .expect("a good batch");
    }
    ids
}

/// What a receipt moved the checkpoint to, if it did.
fn advance(checkpoint: &mut Option<Checkpoint>, receipt: Option<&Receipt>) {
    if let Some(at) = receipt.and_then(Receipt::checkpoint) {
        let before = checkpoint.as_ref().map(|checkpoint| &checkpoint.position);
        assert!(
            before.is_none_or(|before| *before <= at.position),
            "a receipt went back to {at:?}"
        );
        *checkpoint = Some(at.clone());
    }
}

async fn deliver_all(dispatcher: &mut dyn Dispatcher, batches: &[Batch]) -> Option<Checkpoint> {
    let mut checkpoint = None;
    for batch in batches {
        let receipt = dispatcher.deliver(batch).await.expect("the destination accepts");
        advance(&mut checkpoint, Some(&receipt));
    }
    let flushed = dispatcher.flush().await.expect("the destination accepts");
    advance(&mut checkpoint, flushed.as_ref());
    checkpoint
}

async fn started(harness: &mut dyn Harness) -> Box<dyn Dispatcher> {
    let mut dispatcher = harness.dispatcher().await;
    dispatcher.resume(None).await.expect("the destination can be looked at");
    dispatcher
}

/// Every event arrives, once, in order, and the last receipt says so.
///
/// # Panics
/// If not.
pub async fn delivers_in_order(harness: &mut dyn Harness) {
    let batches = some_batches(harness, 40);
    let mut dispatcher = started(harness).await;
    let checkpoint = deliver_all(dispatcher.as_mut(), &batches).await;
    assert_eq!(checkpoint.as_ref(), batches.last().map(Batch::through));
    assert_eq!(harness.arrived().await, ids(&batches));
}

/// A batch that was refused can be delivered again, and then everything is there in order.
///
/// # Panics
/// If not.
pub async fn redelivers_after_failure(harness: &mut dyn Harness) {
    let batches = some_batches(harness, 40);
    let mut dispatcher = started(harness).await;
    let (first, rest) = batches.split_first().expect("there are batches");
    harness.refuse(true).await;
    let mut refused = None;
    let accepted = match dispatcher.deliver(first).await {
        Ok(receipt) => {
            advance(&mut refused, Some(&receipt));
            // A destination that gathers accepts the batch into its memory; then its flush fails.
            dispatcher.flush().await.is_err()
        }
        Err(_) => false,
    };
    assert_eq!(refused, None, "a receipt although the destination refuses");
    assert_eq!(harness.arrived().await, Vec::<String>::new());
    harness.refuse(false).await;
    let again = if accepted { rest } else { &batches };
    let checkpoint = deliver_all(dispatcher.as_mut(), again).await;
    assert_eq!(checkpoint.as_ref(), batches.last().map(Batch::through));
    assert_eq!(harness.arrived().await, ids(&batches));
}

/// Whenever a receipt names a place, everything up to it is at the destination already.
///
/// # Panics
/// If not.
pub async fn receipt_only_after_acceptance(harness: &mut dyn Harness) {
    let batches = some_batches(harness, 40);
    let mut dispatcher = started(harness).await;
    for batch in &batches {
        let receipt = dispatcher.deliver(batch).await.expect("the destination accepts");
        if let Some(at) = receipt.checkpoint() {
            let arrived = harness.arrived().await;
            let promised = ids_until(&batches, &at.position);
            assert_eq!(arrived.get(..promised.len()), Some(promised.as_slice()));
        }
    }
}

/// After a flush nothing is held back.
///
/// # Panics
/// If something is.
pub async fn flushes_on_drain(harness: &mut dyn Harness) {
    let batches = some_batches(harness, 40);
    let mut dispatcher = started(harness).await;
    let (first, rest) = batches.split_first().expect("there are batches");
    let checkpoint = deliver_all(dispatcher.as_mut(), std::slice::from_ref(first)).await;
    assert_eq!(checkpoint.as_ref(), Some(first.through()));
    assert_eq!(harness.arrived().await, ids([first]));
    let receipt = dispatcher.flush().await.expect("an empty flush");
    assert!(receipt.and_then(|r| r.checkpoint().cloned()).is_none_or(|at| at == *first.through()));
    let checkpoint = deliver_all(dispatcher.as_mut(), rest).await;
    assert_eq!(checkpoint.as_ref(), batches.last().map(Batch::through));
}

/// After a restart it goes on from the lower of the checkpoint and its own mark, without a gap;
/// with exactly once also without a repeat.
///
/// # Panics
/// If not.
pub async fn resumes_without_gap(harness: &mut dyn Harness) {
    let batches = some_batches(harness, 40);
    let (early, late) = batches.split_at(batches.len() / 2);
    let mut dispatcher = started(harness).await;
    let checkpoint = deliver_all(dispatcher.as_mut(), early).await.expect("a checkpoint");
    // One more that the checkpoint does not know of: the crash comes before its write.
    let unknown = late.first().expect("there are later batches");
    dispatcher.deliver(unknown).await.map(drop).expect("the destination accepts");
    drop(dispatcher);
    let mut dispatcher = harness.dispatcher().await;
    let told = dispatcher.resume(Some(&checkpoint)).await.expect("the destination can resume");
    let from = told
        .map_or(checkpoint.position.clone(), |told| told.position.min(checkpoint.position.clone()));
    let rest: Vec<Batch> =
        batches.iter().filter(|batch| batch.through().position > from).cloned().collect();
    let last = deliver_all(dispatcher.as_mut(), &rest).await;
    assert_eq!(last.as_ref(), batches.last().map(Batch::through));
    let expected = ids(&batches);
    let arrived = harness.arrived().await;
    if harness.exactly_once() {
        assert_eq!(arrived, expected);
    } else {
        assert_eq!(counts(&arrived).len(), expected.len(), "every event arrives");
        let mut first_times = arrived;
        let mut seen = std::collections::BTreeSet::new();
        first_times.retain(|id| seen.insert(id.clone()));
        assert_eq!(first_times, expected, "first arrivals are in order");
    }
}

/// The same batch again has the same ids.
///
/// # Panics
/// If not.
pub async fn repeats_have_the_same_ids(harness: &mut dyn Harness) {
    let batches = some_batches(harness, 4);
    assert_eq!(
        batches.iter().map(Batch::id).collect::<Vec<_>>(),
        some_batches(harness, 4).iter().map(Batch::id).collect::<Vec<_>>()
    );
    let mut dispatcher = started(harness).await;
    deliver_all(dispatcher.as_mut(), &batches).await;
    drop(dispatcher);
    let mut dispatcher = harness.dispatcher().await;
    let before = Checkpoint { position: batches[0].after().clone(), digest: None };
    dispatcher.resume(Some(&before)).await.expect("the destination can resume");
    deliver_all(dispatcher.as_mut(), &batches).await;
    let times = if harness.exactly_once() { 1 } else { 2 };
    let expected = ids(&batches).into_iter().map(|id| (id, times)).collect();
    assert_eq!(counts(harness.arrived().await), expected);
}
