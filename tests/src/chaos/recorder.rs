//! The program that captures: sends blocks, keeps every acknowledgement, and after any failure
//! looks for the owner again and sends again what was not acknowledged.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use parking_lot::Mutex;
use sluice_client::capture::{Ack, Acks, Begin, Blocks, CaptureError, Capturer};
use sluice_model::Pointer;
use sluice_service::transport;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::{INGESTOR, chain, history::History};
use crate::eventually;

/// Between two blocks.
const PACE: Duration = Duration::from_millis(8);
/// Blocks sent and not acknowledged.
const WINDOW: u64 = 24;
/// How long an answer of a producer may take when the owner is looked for.
const ASK: Duration = Duration::from_millis(200);
/// Without an acknowledgement for so long, somebody else may be the owner.
const SUSPICIOUS: Duration = Duration::from_millis(300);

/// The running program.
#[derive(Debug)]
pub(crate) struct Recorder {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    history: Mutex<History>,
    /// Grows with everything worth looking at.
    news: watch::Sender<u64>,
}

impl Recorder {
    /// Captures through any of these producers.
    pub(crate) fn start(producers: &[String], chain: chain::Chain) -> Self {
        let capturer = |url: &String| {
            Capturer::new(transport::remote(url).unwrap(), INGESTOR.parse().unwrap())
        };
        let capturers = producers.iter().map(capturer).collect();
        let history = Mutex::new(History { limit: u64::MAX, ..History::default() });
        let shared = Arc::new(Shared { history, news: watch::Sender::new(0) });
        let program = Program { shared: Arc::clone(&shared), capturers, chain };
        Self { shared, task: tokio::spawn(program.run()) }
    }

    /// What it saw so far.
    pub(crate) fn history(&self) -> History {
        self.assert_alive();
        self.shared.history.lock().clone()
    }

    /// The last acknowledged block.
    pub(crate) fn last(&self) -> u64 {
        self.assert_alive();
        self.shared.history.lock().last()
    }

    /// Waits for so many new blocks.
    pub(crate) async fn progresses(&self, blocks: u64, what: &str) {
        let goal = self.last() + blocks;
        eventually(&format!("block {goal} is acknowledged {what}"), || {
            std::future::ready((self.last() >= goal).then_some(()))
        })
        .await;
    }

    /// True if a new block was acknowledged since.
    pub(crate) fn progressed_since(&self, since: Instant) -> bool {
        self.shared.history.lock().times.last().is_some_and(|at| *at > since)
    }

    /// Sends nothing that is not acknowledged, not even again.
    pub(crate) fn freeze(&self) {
        let mut history = self.shared.history.lock();
        let last = history.last();
        history.hold(last);
    }

    /// Begins no further block and waits until all that was begun is acknowledged.
    pub(crate) async fn pause(&self) -> u64 {
        self.shared.hold();
        eventually("everything sent is acknowledged", || {
            let history = self.shared.history.lock();
            std::future::ready((history.last() >= history.sent).then_some(history.sent))
        })
        .await
    }

    /// Goes on.
    pub(crate) fn go_on(&self) {
        let mut history = self.shared.history.lock();
        history.limit = u64::MAX;
        if let Some((_, until @ None)) = history.holds.last_mut() {
            *until = Some(Instant::now());
        }
        drop(history);
        self.shared.news.send_modify(|news| *news += 1);
    }

    fn assert_alive(&self) {
        assert!(!self.task.is_finished(), "the recorder ended");
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    fn ended(&self, why: &CaptureError) {
        let mut history = self.history.lock();
        *history.ends.entry(word(why)).or_default() += 1;
        if let CaptureError::Divergent(what) = why {
            history.wrong.push(format!("a block sent again was refused: {what}"));
        }
    }

    /// Lets no further block begin.
    fn hold(&self) {
        let mut history = self.history.lock();
        let sent = history.sent;
        history.hold(sent);
    }
}

struct Program {
    shared: Arc<Shared>,
    capturers: Vec<Capturer>,
    chain: chain::Chain,
}

/// The producer that says it is the owner.
struct Found {
    at: usize,
    epoch: u64,
    head: u64,
}

impl Program {
    async fn run(self) {
        loop {
            let Some(found) = self.find().await else {
                sleep(Duration::from_millis(15)).await;
                continue;
            };
            let why = match timeout(ASK, self.capturers[found.at].open()).await {
                Ok(Ok((blocks, acks))) => self.converse(blocks, acks, found).await,
                Ok(Err(why)) => why,
                Err(_) => CaptureError::Ended,
            };
            self.shared.ended(&why);
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// The owner with the highest epoch among those that answer.
    async fn find(&self) -> Option<Found> {
        let asked = self.capturers.iter().enumerate().map(|(at, capturer)| async move {
            let standing = timeout(ASK, capturer.head()).await.ok()?.ok()?;
            let head = standing.head.map_or(0, |head| head.height);
            Some(Found { at, epoch: standing.epoch.as_u64(), head })
        });
        let found = join_all(asked).await;
        found.into_iter().flatten().max_by_key(|found| found.epoch)
    }

    /// One connection, until it ends or somebody else is the owner.
    async fn converse(&self, mut blocks: Blocks, mut acks: Acks, found: Found) -> CaptureError {
        let last = self.shared.history.lock().last();
        // Two times of three, but in step with nothing, what was acknowledged is believed rather
        // than the head, so that blocks which the journal has are sent again.
        let trusting = rand::random_ratio(1, 3);
        let first = if trusting { found.head } else { last.min(found.head) } + 1;
        let sending = self.send(&mut blocks, first);
        tokio::pin!(sending);
        let receiving = self.receive(&mut acks, first, &found);
        tokio::pin!(receiving);
        tokio::select! {
            why = &mut receiving => why,
            // The acknowledgements tell why.
            _ = &mut sending => timeout(SUSPICIOUS, receiving).await.unwrap_or(CaptureError::Ended),
        }
    }

    async fn send(&self, blocks: &mut Blocks, first: u64) -> Result<(), CaptureError> {
        let mut news = self.shared.news.subscribe();
        for height in first.. {
            while !self.may_begin(height) {
                news.changed().await.ok();
            }
            let parent = match height {
                1 => Pointer::ORIGIN,
                _ => Pointer::from_height(height - 1),
            };
            blocks.begin(Begin { height, parent: Some(parent), ..Begin::default() }).await?;
            blocks.changes(chain::changes(height)).await?;
            blocks.end().await?;
            sleep(PACE).await;
        }
        Ok(())
    }

    fn may_begin(&self, height: u64) -> bool {
        let mut history = self.shared.history.lock();
        let may = height <= history.limit && height <= history.last() + WINDOW;
        if may {
            history.sent = history.sent.max(height);
        }
        may
    }

    async fn receive(&self, acks: &mut Acks, first: u64, found: &Found) -> CaptureError {
        let mut next = first;
        loop {
            match timeout(SUSPICIOUS, acks.next()).await {
                Ok(Ok(Some(ack))) => {
                    self.acknowledged(&ack, next);
                    next = ack.height + 1;
                }
                Ok(Ok(None)) => return CaptureError::Ended,
                Ok(Err(why)) => return why,
                Err(_) if self.shared.history.lock().sent < next => {}
                Err(_) => {
                    let other = self.find().await;
                    if other.is_some_and(|other| other.epoch > found.epoch) {
                        return CaptureError::NotOwner { owner: None };
                    }
                }
            }
        }
    }

    fn acknowledged(&self, ack: &Ack, expected: u64) {
        let mut history = self.shared.history.lock();
        let (height, digest) = (ack.height, *ack.digest.as_bytes());
        if height != expected {
            history.wrong.push(format!("block {height} was acknowledged instead of {expected}"));
        }
        if digest != self.chain.digest(height) {
            history.wrong.push(format!("block {height} was acknowledged with a foreign digest"));
        }
        history.duplicates += u64::from(ack.duplicate);
        if history.acked.insert(height, digest).is_none() {
            history.times.push(Instant::now());
        }
        drop(history);
        self.shared.news.send_modify(|news| *news += 1);
    }
}

fn word(why: &CaptureError) -> &'static str {
    match why {
        CaptureError::NotOwner { .. } => "not the owner any more",
        CaptureError::WrongParent(_) => "wrong parent",
        CaptureError::Divergent(_) => "divergent",
        CaptureError::Superseded(_) => "superseded",
        CaptureError::Unknown(_) | CaptureError::Ended => "outcome unknown",
        _ => "refused",
    }
}
