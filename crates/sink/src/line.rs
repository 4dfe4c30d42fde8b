//! Everything of a running stream that goes on beside the delivery itself: the feed is taken in,
//! the lock and the stop are watched, checkpoints are written.

use std::{
    future::pending,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    batch::Reached,
    batcher::{BatchError, Batcher},
    config::StreamConfig,
    feed::{Feed, FeedError, Item},
    ledger::{Ledger, Write},
    owners::{OwnerError, Put, StreamState, Tenure, Under},
    status::Status,
};

/// Items between the feed and the batcher.
const INTAKE: usize = 2;

/// How often an owner looks whether its stream was reset.
pub(crate) const RESET_POLL: Duration = Duration::from_secs(5);

/// Why a tenure ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Told to.
    Stopped,
    /// The lock is gone, or near its end.
    Lost(String),
    /// The stored state was changed by somebody: start again from it.
    Changed(String),
    /// The journal cannot continue the checkpoint.
    Gap(String),
    /// Something failed that may not fail again.
    Failed(String),
}

impl End {
    pub(crate) fn of_feed(error: &FeedError) -> Self {
        if error.is_final() {
            Self::Gap(error.to_string())
        } else {
            Self::Failed(error.to_string())
        }
    }

    fn of_owner(error: OwnerError) -> Option<Self> {
        match error {
            OwnerError::Lost(cause) => Some(Self::Lost(cause)),
            OwnerError::Conflict(cause) => Some(Self::Changed(cause)),
            OwnerError::Unavailable(_) => None,
        }
    }
}

type Written = (Write, Result<u64, OwnerError>);

pub(crate) struct Line {
    pub(crate) batcher: Batcher,
    pub(crate) ledger: Ledger,
    pub(crate) status: Arc<Status>,
    pub(crate) tenure: Arc<dyn Tenure>,
    /// Set once; from then on nothing new is taken in.
    pub(crate) ending: Option<End>,
    config: Arc<StreamConfig>,
    filter: String,
    reset_epoch: u64,
    version: u64,
    intake: mpsc::Receiver<Result<Item, FeedError>>,
    _feeder: AbortOnDropHandle<()>,
    watch: AbortOnDropHandle<End>,
    watched: bool,
    heard: bool,
    writing: Option<JoinHandle<Written>>,
    stop: CancellationToken,
}

/// What a line begins with.
pub(crate) struct Beginning {
    pub(crate) config: Arc<StreamConfig>,
    pub(crate) filter: String,
    pub(crate) state: StreamState,
    pub(crate) batcher: Batcher,
    pub(crate) ledger: Ledger,
    pub(crate) feed: Box<dyn Feed>,
    pub(crate) tenure: Arc<dyn Tenure>,
    pub(crate) status: Arc<Status>,
    pub(crate) stop: CancellationToken,
}

impl Line {
    pub(crate) fn new(from: Beginning) -> Self {
        let (sender, intake) = mpsc::channel(INTAKE);
        let feeder = AbortOnDropHandle::new(tokio::spawn(feed(from.feed, sender)));
        let (tenure, stream) = (Arc::clone(&from.tenure), from.config.name.clone());
        let watch = tokio::spawn(watch(tenure, stream, from.state.reset_epoch));
        Self {
            batcher: from.batcher,
            ledger: from.ledger,
            status: from.status,
            tenure: from.tenure,
            ending: None,
            config: from.config,
            filter: from.filter,
            reset_epoch: from.state.reset_epoch,
            version: from.state.version,
            intake,
            _feeder: feeder,
            watch: AbortOnDropHandle::new(watch),
            watched: false,
            heard: false,
            writing: None,
            stop: from.stop,
        }
    }

    /// True while a new delivery may begin.
    pub(crate) fn may_deliver(&mut self) -> bool {
        let lost = matches!(self.ending, Some(End::Lost(_) | End::Changed(_)));
        if !lost && !self.tenure.is_valid() {
            self.ending = Some(End::Lost("the lock's validity has passed".to_owned()));
        }
        !matches!(self.ending, Some(End::Lost(_) | End::Changed(_)))
    }

    /// Waits until one thing happened beside the delivery, or `until`. Cancel safe.
    pub(crate) async fn turn(&mut self, until: Option<Instant>) {
        let open = self.ending.is_none();
        let room = open && self.batcher.has_room();
        let timer = [until, self.next_write()].into_iter().flatten().min();
        tokio::select! {
            item = self.intake.recv(), if room => self.take_in(item),
            written = written(&mut self.writing), if self.writing.is_some() => {
                self.writing = None;
                self.written(written);
            }
            end = &mut self.watch, if !self.watched => {
                self.watched = true;
                self.ending = Some(end.unwrap_or_else(|_| End::Failed("watch ended".to_owned())));
            }
            () = self.stop.cancelled(), if open => self.ending = Some(End::Stopped),
            () = sleep_until(timer) => {}
        }
        self.checkpoint(false);
    }

    /// Writes the checkpoint if there is one to write, it is time or `force`, and no write is on
    /// its way.
    pub(crate) fn checkpoint(&mut self, force: bool) {
        if let Some(progress) = self.batcher.progress() {
            self.ledger.progress(progress);
        }
        if self.writing.is_some() || !self.tenure.is_valid() {
            return;
        }
        let Some(write) = self.ledger.due(clock(), force) else { return };
        let put = self.put(&write);
        let tenure = Arc::clone(&self.tenure);
        self.writing = Some(tokio::spawn(async move {
            let answer = tenure.put(&put).await;
            (write, answer)
        }));
    }

    /// Writes what is to be written and waits for it: on stop and hand-over.
    pub(crate) async fn checkpoint_now(&mut self) {
        // The write on its way may be of an earlier place: at most two are needed.
        for _ in 0..2 {
            self.checkpoint(true);
            if self.writing.is_none() {
                return;
            }
            let done = written(&mut self.writing).await;
            self.writing = None;
            self.written(done);
        }
    }

    fn put(&self, write: &Write) -> Put {
        let delivered = Some(write.delivered.clone());
        Put {
            stream: self.config.name.clone(),
            ingestor: self.config.ingestor.clone(),
            previous: self.version,
            checkpoint: write.reached.at.clone(),
            under: Under {
                filter: self.filter.clone(),
                delivered: delivered.filter(|at| *at < write.reached.at.position),
            },
            reset_epoch: self.reset_epoch,
        }
    }

    fn next_write(&self) -> Option<Instant> {
        let now = clock();
        let wanted = self.writing.is_none() && self.ledger.is_behind(now);
        wanted.then(|| self.ledger.next_write().unwrap_or(now))
    }

    fn written(&mut self, (write, answer): Written) {
        match answer {
            Ok(version) => {
                self.version = version;
                self.status.checkpoint(&write.reached);
                self.ledger.stored(write, clock());
            }
            Err(error) => {
                self.ledger.attempted(clock());
                tracing::warn!(stream = self.config.name, %error, "checkpoint not stored");
                if let Some(end) = End::of_owner(error) {
                    self.ending = Some(end);
                }
            }
        }
    }

    fn take_in(&mut self, item: Option<Result<Item, FeedError>>) {
        let now = clock();
        let taken = match item {
            Some(Ok(item)) => {
                if !std::mem::replace(&mut self.heard, true) {
                    self.status.running();
                }
                self.push(item, now)
            }
            Some(Err(error)) => {
                self.ending = Some(End::of_feed(&error));
                return;
            }
            None => {
                self.ending = Some(End::Failed("the feed ended".to_owned()));
                return;
            }
        };
        if let Err(error) = taken {
            self.ending = Some(End::Failed(error.to_string()));
        }
    }

    fn push(&mut self, item: Item, now: Instant) -> Result<(), BatchError> {
        match item {
            Item::Frame(frame) => self.batcher.push_frame(frame, now),
            Item::Through { at, height, head } => {
                if let Some(head) = head {
                    self.status.head(head);
                }
                self.batcher.push_through(at, height, now)
            }
            Item::Mark { what, through } => self.batcher.push_mark(what, through, now),
            Item::Heartbeat(head) => {
                self.status.head(head);
                Ok(())
            }
        }
    }
}

/// Stores the first checkpoint of a stream, before anything is delivered: a stream that starts at
/// the head keeps its start over a crash.
pub(crate) async fn store_first(
    tenure: &dyn Tenure,
    config: &StreamConfig,
    state: &mut StreamState,
    reached: &Reached,
) -> Result<(), OwnerError> {
    let under = Under { filter: config.filter.hash(), delivered: None };
    let put = Put {
        stream: config.name.clone(),
        ingestor: config.ingestor.clone(),
        previous: state.version,
        checkpoint: reached.at.clone(),
        under: under.clone(),
        reset_epoch: state.reset_epoch,
    };
    state.version = tenure.put(&put).await?;
    state.checkpoint = Some((reached.at.clone(), under));
    Ok(())
}

async fn feed(mut feed: Box<dyn Feed>, sender: mpsc::Sender<Result<Item, FeedError>>) {
    loop {
        let item = feed.next().await;
        let last = item.is_err();
        if sender.send(item).await.is_err() || last {
            return;
        }
    }
}

/// Resolves when the lock is lost or the stream was reset.
async fn watch(tenure: Arc<dyn Tenure>, stream: String, reset_epoch: u64) -> End {
    let reset = async {
        loop {
            tokio::time::sleep(RESET_POLL).await;
            // An unreachable coordinator shows by the lock's validity.
            match tenure.state(&stream).await {
                Ok(state) if state.reset_epoch != reset_epoch => return,
                _ => {}
            }
        }
    };
    tokio::select! {
        cause = tenure.lost() => End::Lost(cause),
        () = reset => End::Changed("the stream was reset".to_owned()),
    }
}

async fn written(writing: &mut Option<JoinHandle<Written>>) -> Written {
    match writing {
        Some(task) => match task.await {
            Ok(written) => written,
            // Only at the end of the runtime, when nobody asks any more.
            Err(_) => pending().await,
        },
        None => pending().await,
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => pending().await,
    }
}

/// The runtime's clock, which tests can stop and turn.
pub(crate) fn clock() -> Instant {
    tokio::time::Instant::now().into_std()
}
