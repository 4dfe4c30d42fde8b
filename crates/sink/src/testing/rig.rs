//! A journal and a coordinator in memory, to run a stream against a real or recorded destination.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use parking_lot::Mutex;
use sluice_frame::Frame;
use sluice_model::{Checkpoint, Epoch, IngestorName, Position, StartPosition};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{end_of, through};
use crate::{
    config::{SinkConfig, StreamConfig},
    dispatcher::DispatcherFactory,
    feed::{Feed, FeedError, FeedRequest, Item, Journal},
    metrics::Metrics,
    owners::{OwnerError, Owners, Put, StreamState, Tenure},
    piece,
    status::Status,
    stream::Stream,
};

/// The outside world of a stream, in memory. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Rig {
    world: Arc<World>,
}

#[derive(Debug)]
struct World {
    inner: Mutex<Inner>,
    /// Counts changes of the journal and of the lock, to wait for.
    changed: watch::Sender<u64>,
}

impl Default for World {
    fn default() -> Self {
        Self { inner: Mutex::default(), changed: watch::Sender::new(0) }
    }
}

#[derive(Debug, Default)]
struct Inner {
    items: Vec<(Position, Entry)>,
    refusal: Option<fn() -> FeedError>,
    subscriptions: Vec<Checkpoint>,
    epoch: u64,
    holder: Option<CancellationToken>,
    stored: StreamState,
    puts: Vec<Put>,
    coordinator_down: bool,
    no_journal: bool,
    located: usize,
    /// The last epoch whose validity has passed.
    expired: u64,
}

#[derive(Clone, Debug)]
enum Entry {
    Frame(Box<Frame>),
    Through(u64),
    Mark(crate::MarkKind),
}

/// A stream that runs until it is stopped or dropped.
#[derive(Debug)]
pub struct Running {
    /// What it says.
    pub status: Arc<Status>,
    stop: CancellationToken,
    task: AbortOnDropHandle<()>,
}

impl Running {
    /// Tells it to stop and waits until it has.
    ///
    /// # Panics
    /// If the stream's task panicked.
    pub async fn stop(self) {
        self.stop.cancel();
        self.task.await.expect("the stream's task ends");
    }

    /// Tells it to stop, without waiting.
    pub fn tell_stop(&self) {
        self.stop.cancel();
    }

    /// Ends it at once, as a crash would.
    pub fn crash(self) {
        drop(self);
    }
}

impl Rig {
    /// Appends a frame of a block.
    pub fn push(&self, frame: Frame) {
        let at = match &frame.header.end {
            Some(_) => frame.header.end_of_block(),
            None => frame.header.position(frame.header.next_index().saturating_sub(1)),
        };
        self.change(|inner| inner.items.push((at, Entry::Frame(Box::new(frame)))));
    }

    /// Appends the news that nothing matched up to a height.
    pub fn push_through(&self, height: u64) {
        self.change(|inner| inner.items.push((end_of(height), Entry::Through(height))));
    }

    /// Appends a mark at the end of a height.
    pub fn push_mark(&self, mark: crate::MarkKind, height: u64) {
        self.change(|inner| inner.items.push((end_of(height), Entry::Mark(mark))));
    }

    /// From now on subscriptions fail like this; `None` ends it.
    pub fn refuse(&self, refusal: Option<fn() -> FeedError>) {
        self.change(|inner| inner.refusal = refusal);
    }

    /// From now on nothing can be stored, as if no coordinator answered.
    pub fn coordinator_down(&self, down: bool) {
        self.change(|inner| inner.coordinator_down = down);
    }

    /// From now on the ingestor has no journal, as before its first block.
    pub fn no_journal(&self, none: bool) {
        self.change(|inner| inner.no_journal = none);
    }

    /// How often it was asked where a start is.
    pub fn located(&self) -> usize {
        self.world.inner.lock().located
    }

    /// Takes the lock away from whoever holds it.
    pub fn lose_lock(&self) {
        self.change(|inner| {
            if let Some(holder) = inner.holder.take() {
                holder.cancel();
            }
        });
    }

    /// Lets the validity of the lock pass without a word, as after a suspended machine.
    pub fn expire_lock(&self) {
        self.change(|inner| inner.expired = inner.epoch);
    }

    /// Resets the stream.
    pub fn reset(&self, start: StartPosition) {
        self.change(|inner| {
            inner.stored = StreamState {
                reset_epoch: inner.stored.reset_epoch + 1,
                start: Some(start),
                ..StreamState::default()
            };
        });
    }

    /// What is stored.
    pub fn stored(&self) -> StreamState {
        self.world.inner.lock().stored.clone()
    }

    /// The stored checkpoint's position.
    pub fn checkpoint(&self) -> Option<Position> {
        self.stored().checkpoint.map(|(checkpoint, _)| checkpoint.position)
    }

    /// Every checkpoint that was ever stored, in order.
    pub fn puts(&self) -> Vec<Put> {
        self.world.inner.lock().puts.clone()
    }

    /// Where every subscription began, in order.
    pub fn subscriptions(&self) -> Vec<Checkpoint> {
        self.world.inner.lock().subscriptions.clone()
    }

    /// True while nobody holds the lock.
    pub fn is_free(&self) -> bool {
        self.world.inner.lock().holder.as_ref().is_none_or(CancellationToken::is_cancelled)
    }

    /// Runs a stream against this world.
    pub fn run(
        &self,
        config: StreamConfig,
        sink: SinkConfig,
        factory: Arc<dyn DispatcherFactory>,
    ) -> Running {
        let meter = opentelemetry::global::meter("test");
        let metrics = Metrics::new(&meter, &config.name, &config.sink);
        let status = Arc::new(Status::new(metrics));
        let stream = Stream {
            config: Arc::new(config),
            sink: Arc::new(sink),
            factory,
            journal: Arc::new(self.clone()),
            owners: Arc::new(self.clone()),
            status: Arc::clone(&status),
            grace: Duration::from_secs(5),
        };
        let stop = CancellationToken::new();
        let task = AbortOnDropHandle::new(tokio::spawn(stream.run(stop.clone())));
        Running { status, stop, task }
    }

    fn change<T>(&self, how: impl FnOnce(&mut Inner) -> T) -> T {
        let out = how(&mut self.world.inner.lock());
        self.world.changed.send_modify(|count| *count += 1);
        out
    }

    fn head(&self) -> Position {
        self.world.inner.lock().items.last().map_or_else(|| end_of(0), |(at, _)| at.clone())
    }
}

#[async_trait]
impl Journal for Rig {
    async fn locate(
        &self,
        _: &IngestorName,
        start: &StartPosition,
    ) -> Result<Checkpoint, FeedError> {
        let none = self.change(|inner| {
            inner.located += 1;
            inner.no_journal
        });
        if none {
            return Err(FeedError::NotYet("no journal of chain".to_owned()));
        }
        let position = match start {
            StartPosition::Latest => self.head(),
            StartPosition::Height(height) => end_of(height.saturating_sub(1)),
            _ => end_of(0),
        };
        Ok(Checkpoint { position, digest: None })
    }

    fn subscribe(&self, request: FeedRequest) -> Box<dyn Feed> {
        self.change(|inner| inner.subscriptions.push(request.after.clone()));
        Box::new(RigFeed { rig: self.clone(), after: request.after.position })
    }
}

struct RigFeed {
    rig: Rig,
    after: Position,
}

#[async_trait]
impl Feed for RigFeed {
    async fn next(&mut self) -> Result<Item, FeedError> {
        let mut changed = self.rig.world.changed.subscribe();
        loop {
            {
                let inner = self.rig.world.inner.lock();
                if let Some(refusal) = inner.refusal {
                    return Err(refusal());
                }
                if let Some((at, entry)) = inner.items.iter().find(|(at, _)| *at > self.after) {
                    let from = std::mem::replace(&mut self.after, at.clone());
                    return Ok(item(entry, &from));
                }
            }
            if changed.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

fn item(entry: &Entry, from: &Position) -> Item {
    match entry {
        Entry::Through(height) => {
            let (at, height) = through(*height);
            Item::Through { at, height, head: None }
        }
        Entry::Mark(what) => Item::Mark { what: what.clone(), through: None },
        Entry::Frame(frame) => {
            let inside = from.pointer == frame.header.pointer && !from.is_end_of_block();
            let passed = if inside { from.index + 1 - frame.header.first_index } else { 0 };
            let fit = piece::fit(frame, passed as usize, usize::MAX, false);
            let frame = match fit {
                Ok(fit) if fit.changes > 0 => piece::split((**frame).clone(), fit).1,
                _ => (**frame).clone(),
            };
            Item::Frame(frame)
        }
    }
}

#[async_trait]
impl Owners for Rig {
    async fn acquire(&self, _: &str) -> Result<Box<dyn Tenure>, OwnerError> {
        let mut changed = self.world.changed.subscribe();
        loop {
            {
                let mut inner = self.world.inner.lock();
                if inner.holder.as_ref().is_none_or(CancellationToken::is_cancelled) {
                    inner.epoch += 1;
                    let lost = CancellationToken::new();
                    inner.holder = Some(lost.clone());
                    let epoch = Epoch::from_u64(inner.epoch);
                    return Ok(Box::new(RigTenure { rig: self.clone(), epoch, lost }));
                }
            }
            if changed.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

struct RigTenure {
    rig: Rig,
    epoch: Epoch,
    lost: CancellationToken,
}

impl Drop for RigTenure {
    /// A crash frees the lock, as the lease's end would.
    fn drop(&mut self) {
        self.rig.change(|_| self.lost.cancel());
    }
}

#[async_trait]
impl Tenure for RigTenure {
    fn epoch(&self) -> Epoch {
        self.epoch
    }

    fn is_valid(&self) -> bool {
        let expired = self.rig.world.inner.lock().expired;
        !self.lost.is_cancelled() && expired < self.epoch.as_u64()
    }

    async fn lost(&self) -> String {
        self.lost.cancelled().await;
        "taken away".to_owned()
    }

    async fn state(&self, _: &str) -> Result<StreamState, OwnerError> {
        Ok(self.rig.stored())
    }

    async fn put(&self, put: &Put) -> Result<u64, OwnerError> {
        self.rig.change(|inner| {
            if self.lost.is_cancelled() {
                return Err(OwnerError::Lost("taken away".to_owned()));
            }
            if inner.coordinator_down {
                return Err(OwnerError::Unavailable("no answer".to_owned()));
            }
            let stored = &inner.stored;
            let back = stored
                .checkpoint
                .as_ref()
                .is_some_and(|(checkpoint, _)| checkpoint.position > put.checkpoint.position);
            if put.previous != stored.version || put.reset_epoch != stored.reset_epoch || back {
                return Err(OwnerError::Conflict("another checkpoint is stored".to_owned()));
            }
            inner.stored.version += 1;
            inner.stored.checkpoint = Some((put.checkpoint.clone(), put.under.clone()));
            inner.puts.push(put.clone());
            Ok(inner.stored.version)
        })
    }

    async fn release(&self) {
        self.rig.change(|_| self.lost.cancel());
    }
}

/// Waits until something is so.
///
/// # Panics
/// If it is not after 20 seconds.
pub async fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let wait = async {
        while !is() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(20), wait).await;
    assert!(waited.is_ok(), "waited 20 s in vain for: {what}");
}

/// How often each value is there: to tell what came twice or not at all.
pub fn counts<T: Ord>(values: impl IntoIterator<Item = T>) -> BTreeMap<T, usize> {
    let mut counts = BTreeMap::new();
    for value in values {
        *counts.entry(value).or_default() += 1;
    }
    counts
}
