//! A coordinator, a journal and sources in memory, with faults on demand.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use sluice_client::{
    append::{self, AppendError},
    coordination::{
        Action, ActionKind, ActionResult, AuditEntry, Commit, CommitRecord, Control,
        CoordinationError, Journal, LostCause, Paused,
    },
};
use sluice_frame::{Digester, Frame, Record, StateDigest};
use sluice_model::{
    Digest, Durability, Epoch, Generation, Head, IngestorName, JournalId, Kind, Pointer, Position,
};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    seam::{
        AckSource, Controls, Coordinator, FrameSink, Journals, Opened, Owned, Ownership,
        StoredBlock,
    },
    source::{Ack, Again, Feed, Item, Source, SourceError},
};

pub(super) const ID: JournalId = JournalId::from_array([7; 16]);

/// Locks and commits in memory.
#[derive(Clone, Default)]
pub(super) struct FakeCoordinator(Arc<Mutex<CoordinatorState>>);

pub(super) struct CoordinatorState {
    pub(super) control: watch::Sender<Control>,
    pub(super) trail: Vec<AuditEntry>,
    /// Every commit that took effect, in order.
    pub(super) committed: Vec<(Generation, Pointer)>,
    /// Finishing an action fails so many times, as if nobody answered.
    pub(super) unheard: u32,
    /// Something that tasks hold, and by how many it was held at each release of the lock.
    pub(super) probe: Option<Arc<()>>,
    pub(super) held_at_release: Vec<usize>,
    pub(super) epoch: u64,
    pub(super) held: Option<CancellationToken>,
    owner: Option<Arc<dyn Ownership>>,
    pub(super) commit: Option<CommitRecord>,
    pub(super) commits: u64,
    pub(super) created: bool,
    pub(super) busy: bool,
    /// Others that wait for the lock.
    pub(super) waiting: usize,
    pub(super) released: u64,
    pub(super) raised: u64,
}

impl Default for CoordinatorState {
    fn default() -> Self {
        let ingestor = "chain".parse().unwrap();
        let control = Control { ingestor, paused: None, action: None, last: None, version: 1 };
        Self {
            control: watch::Sender::new(control),
            trail: Vec::new(),
            committed: Vec::new(),
            unheard: 0,
            probe: None,
            held_at_release: Vec::new(),
            epoch: 0,
            held: None,
            owner: None,
            commit: None,
            commits: 0,
            created: false,
            busy: false,
            waiting: 0,
            released: 0,
            raised: 0,
        }
    }
}

impl FakeCoordinator {
    pub(super) fn state(&self) -> parking_lot::MutexGuard<'_, CoordinatorState> {
        self.0.lock()
    }

    pub(super) fn set_paused(&self, paused: bool) {
        let pause = || Paused { by: "ann".into(), reason: "upgrade".into(), at: 0, alarm: false };
        self.0.lock().control.send_modify(|control| {
            control.paused = paused.then(pause);
            control.version += 1;
        });
    }

    /// Asks for an action; gives its id.
    pub(super) fn ask(&self, kind: ActionKind) -> u64 {
        let state = self.0.lock();
        let id = state.control.borrow().last.as_ref().map_or(1, |last| last.id + 1);
        state.control.send_modify(|control| {
            let (actor, reason) = ("ann".to_owned(), "because".to_owned());
            control.action = Some(Action { id, actor, reason, requested: 0, kind });
            control.version += 1;
        });
        id
    }

    /// Waits until an action has ended.
    pub(super) async fn ended(&self, id: u64) -> ActionResult {
        let mut control = self.0.lock().control.subscribe();
        let wait = control.wait_for(|c| c.last.as_ref().is_some_and(|last| last.id == id));
        let ended = tokio::time::timeout(super::SOON, wait).await.expect("the action ends");
        ended.unwrap().last.clone().unwrap()
    }

    /// The kinds of the trail so far.
    pub(super) fn kinds(&self) -> Vec<String> {
        self.0.lock().trail.iter().map(|entry| entry.kind.to_string()).collect()
    }

    /// The lock as its last owner has it.
    pub(super) fn owner(&self) -> Arc<dyn Ownership> {
        self.0.lock().owner.clone().expect("somebody owned it")
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
                    let lock: Arc<dyn Ownership> =
                        Arc::new(FakeLock { state: self.0.clone(), epoch, lost });
                    state.owner = Some(lock.clone());
                    return Ok(lock);
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

    fn control(&self, _: &IngestorName) -> Box<dyn Controls> {
        let mut states = self.0.lock().control.subscribe();
        states.mark_changed();
        Box::new(FakeControls(states))
    }

    async fn audit(&self, entry: AuditEntry) -> Result<(), CoordinationError> {
        self.0.lock().trail.push(entry);
        Ok(())
    }

    async fn waiters(&self, _: &IngestorName) -> Result<usize, CoordinationError> {
        Ok(self.0.lock().waiting)
    }
}

struct FakeControls(watch::Receiver<Control>);

#[async_trait]
impl Controls for FakeControls {
    async fn next(&mut self) -> Result<Control, CoordinationError> {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        Ok(self.0.borrow_and_update().clone())
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
        let place = |c: &CommitRecord| Position::end_of(c.generation, c.pointer.clone());
        let new = Position::end_of(commit.generation, commit.pointer.clone());
        let later = state.commit.as_ref().is_none_or(|stored| place(stored) < new);
        if stored != commit.previous || !later {
            let stored = state.commit.clone().map(Box::new);
            let ingestor = commit.ingestor.clone();
            return Err(CoordinationError::PositionConflict { ingestor, stored });
        }
        state.commits += 1;
        state.committed.push((commit.generation, commit.pointer.clone()));
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

    async fn finish_action(
        &self,
        _: &IngestorName,
        id: u64,
        done: bool,
        message: &str,
    ) -> Result<Control, CoordinationError> {
        if !self.is_valid() {
            return Err(CoordinationError::LostOwnership { lock: "i".into(), current: None });
        }
        let mut state = self.state.lock();
        if state.unheard > 0 {
            state.unheard -= 1;
            return Err(CoordinationError::Unavailable {
                call: "FinishAction",
                after: Duration::ZERO,
                tries: 1,
                last: "nobody answers".into(),
            });
        }
        let epoch = *self.epoch.lock();
        state.control.send_modify(|control| {
            let action = control.action.take_if(|action| action.id == id).expect("this action");
            control.last = Some(ActionResult {
                id,
                done,
                message: message.to_owned(),
                kind: action.kind.name().to_owned(),
                actor: action.actor,
                epoch,
                finished: 0,
                cancelled: false,
            });
            control.version += 1;
        });
        let control = state.control.borrow().clone();
        Ok(control)
    }

    async fn release(&self) -> Result<(), CoordinationError> {
        self.lost.cancel();
        let mut state = self.state.lock();
        state.released += 1;
        let held = state.probe.as_ref().map(Arc::strong_count);
        state.held_at_release.extend(held);
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
    /// No connection to it can be made.
    pub(super) cut_off: bool,
    /// Answer nothing any more, for as long as this is set.
    pub(super) hole: bool,
    /// Tries to open.
    pub(super) opens: u64,
    /// Frames that were sent, in order of arrival.
    pub(super) frames: u64,
}

impl JournalState {
    fn reachable(&self) -> Result<(), AppendError> {
        if !self.cut_off {
            return Ok(());
        }
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        Err(tonic::Status::from_error(Box::new(refused)).into())
    }
}

impl FakeJournal {
    pub(super) fn state(&self) -> parking_lot::MutexGuard<'_, JournalState> {
        self.0.lock()
    }

    pub(super) fn heights(&self) -> Vec<u64> {
        self.0.lock().blocks.iter().map(|(head, _)| head.height).collect()
    }

    /// Generation and height of every record.
    pub(super) fn places(&self) -> Vec<(u32, u64)> {
        self.0.lock().blocks.iter().map(|(head, _)| (head.generation.0, head.height)).collect()
    }

    /// The changes of every block.
    pub(super) fn content(&self) -> Vec<Vec<u8>> {
        let state = self.0.lock();
        let changes =
            |frames: &Vec<Frame>| frames.iter().flat_map(|f| f.changes.to_vec()).collect();
        state.blocks.iter().map(|(_, frames)| changes(frames)).collect()
    }

    /// Waits while nothing comes through.
    async fn through(&self) {
        while self.0.lock().hole {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
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
        self.through().await;
        let mut state = self.0.lock();
        state.reachable()?;
        state.creates += 1;
        state.exists = true;
        Ok(())
    }

    async fn open(&self, open: append::Open) -> Result<Opened, AppendError> {
        self.through().await;
        let mut state = self.0.lock();
        state.opens += 1;
        state.reachable()?;
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

    async fn block(
        &self,
        _: &IngestorName,
        pointer: &Pointer,
        newest: Option<Generation>,
    ) -> Result<Option<StoredBlock>, AppendError> {
        let state = self.0.lock();
        let Some((head, _)) = state.blocks.last() else { return Ok(None) };
        let mut generation = newest.unwrap_or(head.generation).min(head.generation);
        loop {
            let at = |(head, _): &&(Head, Vec<Frame>)| head.generation == generation;
            let base = state.blocks.iter().filter(at).find(|(_, frames)| is_generation(frames));
            if base.is_none_or(|(base, _)| *pointer > base.pointer) {
                let found = state.blocks.iter().filter(at).find(|(h, _)| h.pointer == *pointer);
                return Ok(found.map(|(head, frames)| stored(head, frames)));
            }
            generation = Generation(generation.0 - 1);
        }
    }
}

fn stored(head: &Head, frames: &[Frame]) -> StoredBlock {
    let header = &frames[0].header;
    StoredBlock {
        kind: header.kind,
        head: head.clone(),
        parent: header.parent.clone(),
        states: states(frames),
    }
}

fn states(frames: &[Frame]) -> Vec<StateDigest> {
    let header = &frames[0].header;
    let mut digester =
        Digester::new(Digest::ZERO, header.generation, header.pointer.clone(), header.height);
    frames.iter().for_each(|frame| digester.add(frame).unwrap());
    digester.finish().states
}

/// True for the begin of a history.
fn is_generation(frames: &[Frame]) -> bool {
    frames.iter().all(|frame| frame.header.kind == Kind::Generation)
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
        let now = head.as_ref().map(|head| head.generation).unwrap_or_default();
        let mut ack = append::Ack {
            generation: header.generation,
            pointer: header.pointer.clone(),
            digest: Digest::ZERO,
            durability: Durability::Fsynced,
            duplicate: false,
            unverifiable: false,
        };
        if let Some(Record::GenerationStart { generation, base_generation, base_digest, .. }) =
            &header.record
        {
            assert_eq!((generation.0, &header.parent), (now.0 + 1, &tail), "on top of the head");
            let base = self.blocks.iter().find(|(head, _)| {
                (head.generation, &head.pointer) == (*base_generation, &header.pointer)
            });
            let expected = base.map(|(head, _)| head.digest).unwrap_or_default();
            assert_eq!(*base_digest, expected, "the base is a block of the journal");
            ack.digest = expected;
            self.push(&header, ack.digest, frames);
            return Ok(ack);
        }
        assert!(header.generation <= now, "no history without its record");
        if (header.generation, &header.pointer) <= (now, &tail) {
            let place = (header.generation, &header.pointer);
            let stored =
                self.blocks.iter().find(|(head, _)| (head.generation, &head.pointer) == place);
            return match stored {
                Some((head, stored)) if content(stored) == content(&frames) => {
                    (ack.duplicate, ack.digest) = (true, head.digest);
                    Ok(ack)
                }
                Some(_) => Err(AppendError::Divergent {
                    at: None,
                    store: Some("bank".into()),
                    message: format!("block {} differs in store bank", header.pointer),
                }),
                None => {
                    let message = format!("block {} is not here", header.pointer);
                    Err(AppendError::WrongParent { head, message })
                }
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
        self.push(&header, ack.digest, frames);
        Ok(ack)
    }

    fn push(&mut self, header: &sluice_frame::Header, digest: Digest, frames: Vec<Frame>) {
        let head = Head {
            generation: header.generation,
            pointer: header.pointer.clone(),
            height: header.height,
            digest,
            time: header.time,
            appended: 1,
        };
        self.blocks.push((head, frames));
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
        FakeJournal(self.state.clone()).through().await;
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

/// Generation and height of the heads that a source was begun behind.
pub(super) type Begun = Arc<Mutex<Vec<Option<(u32, u64)>>>>;

/// A source that follows a script; then it hangs.
pub(super) struct Scripted {
    pub(super) runs: Arc<Mutex<VecDeque<Run>>>,
    /// The heads it was begun at.
    pub(super) begun: Begun,
    /// Feeds that are alive.
    pub(super) alive: Arc<()>,
    pub(super) complete: bool,
}

#[async_trait]
impl Source for Scripted {
    fn first_block_is_complete(&self) -> bool {
        self.complete
    }

    async fn blocks(&mut self, after: Option<&Head>) -> Result<Feed, SourceError> {
        self.begun.lock().push(after.map(|head| (head.generation.0, head.height)));
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

/// What a node has, by height, kept for ever: a rollback replaces blocks.
pub(super) type Chain = Arc<Mutex<std::collections::BTreeMap<u64, Vec<u8>>>>;

/// A source that gives a chain as it is when asked, joint first, and can go back.
pub(super) struct Node {
    pub(super) chain: Chain,
    /// Blocks below are taken away.
    pub(super) lowest: u64,
    pub(super) made_anew: bool,
}

impl Node {
    fn feed(&self, from: u64, head: u64) -> Feed {
        let chain = self.chain.lock().clone();
        Feed::spawn(move |feed| async move {
            for (height, content) in chain.range(from..) {
                let again = *height <= head;
                for item in super::block_of(*height, content, again.then_some(Pointer::ORIGIN)) {
                    feed.send(item).await?;
                }
            }
            std::future::pending().await
        })
    }
}

#[async_trait]
impl Source for Node {
    async fn blocks(&mut self, after: Option<&Head>) -> Result<Feed, SourceError> {
        let head = after.map_or(0, |head| head.height);
        Ok(self.feed(head.max(self.lowest), head))
    }

    async fn again(
        &mut self,
        head: &Head,
        from: &Pointer,
        at: &Pointer,
    ) -> Result<Option<Again>, SourceError> {
        let (from, at) = (from.height().unwrap(), at.height().unwrap());
        let first = (from + 1).max(self.lowest).min(at);
        let feed = self.feed(first, head.height);
        let first = Pointer::from_height(first);
        Ok(Some(Again { feed, first, made_anew: self.made_anew }))
    }

    async fn durable(&mut self, _: &Ack) -> Result<(), SourceError> {
        Ok(())
    }
}
