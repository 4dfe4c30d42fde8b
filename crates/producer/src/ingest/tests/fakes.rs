//! A coordinator, a journal and sources in memory, with faults on demand.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use sluice_client::{
    append::{self, AppendError},
    coordination::{Commit, CommitRecord, CoordinationError, Journal, LostCause},
};
use sluice_frame::Frame;
use sluice_model::{
    Digest, Durability, Epoch, Generation, Head, IngestorName, JournalId, Kind, Pointer,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    seam::{AckSource, Coordinator, FrameSink, Journals, Opened, Owned, Ownership},
    source::{Feed, Item, Source, SourceError},
};

pub(super) const ID: JournalId = JournalId::from_array([7; 16]);

/// Locks and commits in memory.
#[derive(Clone, Default)]
pub(super) struct FakeCoordinator(Arc<Mutex<CoordinatorState>>);

#[derive(Default)]
pub(super) struct CoordinatorState {
    pub(super) epoch: u64,
    pub(super) held: Option<CancellationToken>,
    pub(super) commit: Option<CommitRecord>,
    pub(super) commits: u64,
    pub(super) created: bool,
    pub(super) busy: bool,
    pub(super) released: u64,
    pub(super) raised: u64,
}

impl FakeCoordinator {
    pub(super) fn state(&self) -> parking_lot::MutexGuard<'_, CoordinatorState> {
        self.0.lock()
    }

    /// Takes the lock away.
    pub(super) fn revoke(&self) {
        let held = self.0.lock().held.take();
        held.expect("the lock is held").cancel();
    }
}

#[async_trait]
impl Coordinator for FakeCoordinator {
    async fn acquire(&self, _: &IngestorName) -> Result<Arc<dyn Ownership>, CoordinationError> {
        loop {
            {
                let mut state = self.0.lock();
                if state.held.is_none() && !state.busy {
                    state.epoch += 1;
                    let lost = CancellationToken::new();
                    state.held = Some(lost.clone());
                    let epoch = Mutex::new(Epoch::from_u64(state.epoch));
                    return Ok(Arc::new(FakeLock { state: self.0.clone(), epoch, lost }));
                }
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn ensure_journal(&self, _: &IngestorName) -> Result<Journal, CoordinationError> {
        let created = !std::mem::replace(&mut self.0.lock().created, true);
        Ok(Journal { id: ID, created })
    }

    async fn latest(&self, _: &IngestorName) -> Result<Option<CommitRecord>, CoordinationError> {
        Ok(self.0.lock().commit.clone())
    }
}

struct FakeLock {
    state: Arc<Mutex<CoordinatorState>>,
    epoch: Mutex<Epoch>,
    lost: CancellationToken,
}

#[async_trait]
impl Ownership for FakeLock {
    fn epoch(&self) -> Epoch {
        *self.epoch.lock()
    }

    fn nonce(&self) -> Bytes {
        Bytes::from_static(b"nonce")
    }

    fn is_valid(&self) -> bool {
        !self.lost.is_cancelled()
    }

    fn lost(&self) -> Owned<LostCause> {
        let lost = self.lost.clone();
        Box::pin(async move {
            lost.cancelled().await;
            LostCause::SessionLost
        })
    }

    async fn commit(&self, commit: &Commit) -> Result<CommitRecord, CoordinationError> {
        if !self.is_valid() {
            return Err(CoordinationError::LostOwnership { lock: "i".into(), current: None });
        }
        let mut state = self.state.lock();
        let stored = state.commit.as_ref().map(|c| c.pointer.clone()).unwrap_or_default();
        if stored != commit.previous {
            let stored = state.commit.clone().map(Box::new);
            let ingestor = commit.ingestor.clone();
            return Err(CoordinationError::PositionConflict { ingestor, stored });
        }
        state.commits += 1;
        let record = CommitRecord {
            journal: commit.journal,
            epoch: *self.epoch.lock(),
            generation: commit.generation,
            pointer: commit.pointer.clone(),
            digest: commit.digest,
            durability: commit.durability,
            sequence: state.commits,
        };
        state.commit = Some(record.clone());
        Ok(record)
    }

    async fn raise(&self, fence: Epoch) -> Result<Epoch, CoordinationError> {
        let mut state = self.state.lock();
        state.raised += 1;
        state.epoch = fence.as_u64() + 1;
        *self.epoch.lock() = Epoch::from_u64(state.epoch);
        Ok(Epoch::from_u64(state.epoch))
    }

    async fn release(&self) -> Result<(), CoordinationError> {
        self.lost.cancel();
        let mut state = self.state.lock();
        state.released += 1;
        if state.held.as_ref().is_some_and(CancellationToken::is_cancelled) {
            state.held = None;
        }
        Ok(())
    }
}

/// A journal in memory.
#[derive(Clone, Default)]
pub(super) struct FakeJournal(Arc<Mutex<JournalState>>);

#[derive(Default)]
pub(super) struct JournalState {
    pub(super) exists: bool,
    pub(super) creates: u32,
    pub(super) blocks: Vec<(Head, Vec<Frame>)>,
    pub(super) fence: Epoch,
    pub(super) writer: u64,
    /// Blocks received and not acknowledged, and the most there ever were.
    pub(super) flying: usize,
    pub(super) most: usize,
    /// Wait before an acknowledgement.
    pub(super) slow: Duration,
    /// End the stream like a lost connection when this many blocks are in the journal.
    pub(super) cut_at: Option<usize>,
    /// Refuse to open.
    pub(super) down: bool,
    /// Frames that were sent, in order of arrival.
    pub(super) frames: u64,
}

impl FakeJournal {
    pub(super) fn state(&self) -> parking_lot::MutexGuard<'_, JournalState> {
        self.0.lock()
    }

    pub(super) fn heights(&self) -> Vec<u64> {
        self.0.lock().blocks.iter().map(|(head, _)| head.height).collect()
    }

    /// The changes of every block.
    pub(super) fn content(&self) -> Vec<Vec<u8>> {
        let state = self.0.lock();
        let changes =
            |frames: &Vec<Frame>| frames.iter().flat_map(|f| f.changes.to_vec()).collect();
        state.blocks.iter().map(|(_, frames)| changes(frames)).collect()
    }

    /// Loses everything behind so many blocks.
    pub(super) fn truncate(&self, blocks: usize) {
        self.0.lock().blocks.truncate(blocks);
    }
}

#[async_trait]
impl Journals for FakeJournal {
    async fn create(&self, _: &IngestorName, id: JournalId) -> Result<(), AppendError> {
        assert_eq!(id, ID);
        let mut state = self.0.lock();
        state.creates += 1;
        state.exists = true;
        Ok(())
    }

    async fn open(&self, open: append::Open) -> Result<Opened, AppendError> {
        let mut state = self.0.lock();
        if state.down {
            return Err(AppendError::Unknown(Box::new(tonic::Status::unavailable("no route"))));
        }
        if !state.exists {
            return Err(AppendError::NotHere("not here".into()));
        }
        if open.epoch < state.fence {
            return Err(AppendError::Fenced(format!("fence {}", state.fence)));
        }
        state.fence = open.epoch;
        state.writer += 1;
        state.flying = 0;
        let writer = state.writer;
        let head = state.blocks.last().map(|(head, _)| head.clone());
        let (queue, acks) = mpsc::channel(1024);
        let frames = FakeFrames { state: self.0.clone(), writer, block: Vec::new(), queue };
        Ok(Opened {
            frames: Box::new(frames),
            acks: Box::new(FakeAcks { state: self.0.clone(), acks }),
            head,
        })
    }

    async fn fence(&self, _: &IngestorName) -> Result<Epoch, AppendError> {
        Ok(self.0.lock().fence)
    }
}

struct FakeFrames {
    state: Arc<Mutex<JournalState>>,
    writer: u64,
    block: Vec<Frame>,
    queue: mpsc::Sender<Result<append::Ack, AppendError>>,
}

struct FakeAcks {
    state: Arc<Mutex<JournalState>>,
    acks: mpsc::Receiver<Result<append::Ack, AppendError>>,
}

fn content(frames: &[Frame]) -> Vec<u8> {
    frames.iter().flat_map(|frame| frame.changes.to_vec()).collect()
}

impl JournalState {
    fn append(&mut self, frames: Vec<Frame>) -> Result<append::Ack, AppendError> {
        let header = frames.last().unwrap().header.clone();
        let head = self.blocks.last().map(|(head, _)| head.clone());
        let tail = head.as_ref().map(|head| head.pointer.clone()).unwrap_or_default();
        let mut ack = append::Ack {
            generation: Generation(0),
            pointer: header.pointer.clone(),
            digest: Digest::ZERO,
            durability: Durability::Fsynced,
            duplicate: false,
            unverifiable: false,
        };
        if header.pointer <= tail {
            let stored = self.blocks.iter().find(|(head, _)| head.pointer == header.pointer);
            return match stored {
                Some((head, stored)) if content(stored) == content(&frames) => {
                    (ack.duplicate, ack.digest) = (true, head.digest);
                    Ok(ack)
                }
                _ => Err(AppendError::Divergent {
                    at: None,
                    store: Some("bank".into()),
                    message: format!("block {} differs in store bank", header.pointer),
                }),
            };
        }
        if header.parent != tail {
            let message = format!("parent {} is not {tail}", header.parent);
            return Err(AppendError::WrongParent { head, message });
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(head.map(|head| *head.digest.as_bytes()).as_ref().map_or(&[], |d| &d[..]));
        hasher.update(header.pointer.as_bytes());
        hasher.update(&content(&frames));
        ack.digest = hasher.finalize().into();
        let head = Head {
            generation: Generation(0),
            pointer: header.pointer.clone(),
            height: header.height,
            digest: ack.digest,
            time: header.time,
            appended: 1,
        };
        self.blocks.push((head, frames));
        Ok(ack)
    }
}

#[async_trait]
impl FrameSink for FakeFrames {
    async fn send(&mut self, frame: &Frame) -> Result<(), AppendError> {
        frame.verify().expect("only what the journal takes");
        let mut state = self.state.lock();
        state.frames += 1;
        if state.writer != self.writer || state.fence > frame.header.epoch {
            drop(state);
            self.queue.try_send(Err(AppendError::Fenced("a newer writer".into()))).ok();
            return Err(AppendError::Ended);
        }
        if frame.header.part == 0 {
            self.block.clear();
        }
        assert_eq!(frame.header.part as usize, self.block.len());
        self.block.push(frame.clone());
        if frame.header.end.is_none() {
            return Ok(());
        }
        if state.cut_at == Some(state.blocks.len()) {
            state.cut_at = None;
            let lost = tonic::Status::unavailable("connection lost");
            self.queue.try_send(Err(AppendError::Unknown(Box::new(lost)))).ok();
            return Err(AppendError::Ended);
        }
        state.flying += 1;
        state.most = state.most.max(state.flying);
        let ack = state.append(std::mem::take(&mut self.block));
        let ended = ack.is_err();
        self.queue.try_send(ack).ok();
        if ended { Err(AppendError::Ended) } else { Ok(()) }
    }
}

#[async_trait]
impl AckSource for FakeAcks {
    async fn next(&mut self) -> Result<Option<append::Ack>, AppendError> {
        let slow = self.state.lock().slow;
        if !slow.is_zero() {
            tokio::time::sleep(slow).await;
        }
        let Some(ack) = self.acks.recv().await else { return Ok(None) };
        let mut state = self.state.lock();
        state.flying = state.flying.saturating_sub(1);
        ack.map(Some)
    }
}

/// What one call of `blocks` gives.
pub(super) enum Run {
    /// These items, then nothing more, without an end.
    Items(Vec<Result<Item, SourceError>>),
    /// These items, then waiting for ever.
    Hang(Vec<Item>),
}

/// A source that follows a script; the last run is repeated.
pub(super) struct Scripted {
    pub(super) runs: Arc<Mutex<VecDeque<Run>>>,
    /// Feeds that are alive.
    pub(super) alive: Arc<()>,
    pub(super) complete: bool,
}

#[async_trait]
impl Source for Scripted {
    fn first_block_is_complete(&self) -> bool {
        self.complete
    }

    async fn blocks(&mut self, _: Option<&Head>) -> Result<Feed, SourceError> {
        let run = self.runs.lock().pop_front().unwrap_or_else(|| Run::Hang(Vec::new()));
        let alive = self.alive.clone();
        Ok(Feed::spawn(move |feed| async move {
            let _alive = alive;
            match run {
                Run::Items(items) => {
                    for item in items {
                        feed.send(item?).await?;
                    }
                    Ok(())
                }
                Run::Hang(items) => {
                    for item in items {
                        feed.send(item).await?;
                    }
                    std::future::pending().await
                }
            }
        }))
    }
}

/// True for a record of a gap.
pub(super) fn is_gap(frames: &[Frame]) -> bool {
    frames.iter().all(|frame| frame.header.kind == Kind::Gap)
}

/// The pointer of a height.
pub(super) fn at(height: u64) -> Pointer {
    Pointer::from_height(height)
}
