//! Where programs with blocks meet the ingest loop: who is connected, what is on its way, and
//! whom an acknowledgement belongs to.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use parking_lot::Mutex;
use sluice_model::{Head, Pointer};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::Visit;
use crate::source::{Ack, FeedWriter, Refusal, Verdict};

/// Blocks of one program whose acknowledgement it has not read.
pub(super) const UNREAD: usize = 256;
/// Recent blocks whose parents are remembered for programs that send again without naming them.
const REMEMBERED: usize = 4096;

/// An acknowledgement on its way to the program. Its share of the bound is free once it is read.
#[derive(Debug)]
pub struct Answer {
    /// What happened to the block.
    pub result: Result<Ack, Rejection>,
    pub(super) _room: Option<OwnedSemaphorePermit>,
}

/// Why a program's block, or the program itself, was sent away. Nothing of the block is kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// This process does not own the ingestor at the moment.
    #[error("this producer does not capture the ingestor at the moment")]
    NotOwner,
    /// The block does not follow the last one.
    #[error("block {pointer} has the parent {got}, but the last block is {expected}")]
    WrongParent {
        /// The block.
        pointer: Pointer,
        /// The last block.
        expected: Pointer,
        /// What the program named.
        got: Pointer,
    },
    /// The message or the block is not what the API asks for.
    #[error("{0}")]
    Invalid(String),
    /// A change is larger than any journal takes.
    #[error("{0}")]
    TooLarge(String),
    /// Not as many changes came as were announced; the block was dropped.
    #[error("block {pointer}: {announced} changes were announced, {came} came")]
    Count {
        /// The block.
        pointer: Pointer,
        /// What the program counted.
        announced: u32,
        /// What was received.
        came: u32,
    },
    /// The journal refused the block.
    #[error("{message}")]
    Refused {
        /// The block.
        pointer: Pointer,
        /// In capitals.
        reason: String,
        /// In words.
        message: String,
    },
    /// Another program began to capture the same ingestor.
    #[error("another program has connected to capture this ingestor")]
    Superseded,
    /// The ingest loop started over; what was not acknowledged may or may not be durable.
    #[error("the ingestor starts over; ask for the head and go on from there")]
    Restarted,
}

/// The door of one ingestor.
#[derive(Debug, Default)]
pub struct Door {
    inner: Mutex<Inner>,
    /// Held while a block is handed in, so that two programs' pieces never mix.
    pub(super) pen: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Debug, Default)]
struct Inner {
    active: Option<Active>,
    parents: BTreeMap<Pointer, Pointer>,
}

#[derive(Debug)]
struct Active {
    feed: FeedWriter,
    head: Option<Head>,
    tail: Tail,
    pending: VecDeque<Pending>,
    visitor: Option<Visitor>,
}

/// The last block that was handed in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tail {
    pub(super) pointer: Pointer,
    pub(super) height: Option<u64>,
}

#[derive(Debug)]
struct Pending {
    pointer: Pointer,
    visit: u64,
    room: OwnedSemaphorePermit,
}

#[derive(Debug)]
struct Visitor {
    /// Names the visit; grows in the order of arrival.
    visit: u64,
    answers: mpsc::Sender<Answer>,
    sent_away: CancellationToken,
}

impl Visitor {
    /// Ends the visit and says why.
    fn send_away(self, why: Rejection) {
        // One place beyond the bound on unread answers is kept for this.
        self.answers.try_send(Answer { result: Err(why), _room: None }).ok();
        self.sent_away.cancel();
    }
}

/// Keeps a door open; shuts it when dropped.
#[derive(Debug)]
pub(super) struct Open {
    door: Arc<Door>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.door.shut();
    }
}

impl Door {
    /// Lets programs in that hand blocks to this feed.
    pub(super) fn open(self: &Arc<Self>, feed: FeedWriter, head: Option<Head>) -> Open {
        self.shut();
        let tail = head.as_ref().map_or_else(Tail::default, |head| Tail {
            pointer: head.pointer.clone(),
            height: Some(head.height),
        });
        let active = Active { feed, head, tail, pending: VecDeque::new(), visitor: None };
        self.inner.lock().active = Some(active);
        Open { door: self.clone() }
    }

    fn shut(&self) {
        let active = self.inner.lock().active.take();
        if let Some(visitor) = active.and_then(|active| active.visitor) {
            visitor.send_away(Rejection::Restarted);
        }
    }

    /// The last durable block. Fails where the ingestor is not owned.
    pub fn head(&self) -> Result<Option<Head>, Rejection> {
        let inner = self.inner.lock();
        inner.active.as_ref().map(|active| active.head.clone()).ok_or(Rejection::NotOwner)
    }

    /// A program connects. The one that arrived before, if any, is sent away: it is most likely
    /// the same one, whose connection broke. `visit` grows with every arrival, because one that is
    /// long gone may get here behind the next one.
    pub fn visit(
        self: &Arc<Self>,
        visit: u64,
    ) -> Result<(Visit, mpsc::Receiver<Answer>), Rejection> {
        let mut inner = self.inner.lock();
        let active = inner.active.as_mut().ok_or(Rejection::NotOwner)?;
        if active.visitor.as_ref().is_some_and(|visitor| visitor.visit > visit) {
            return Err(Rejection::Superseded);
        }
        let (answers, receiver) = mpsc::channel(UNREAD + 1);
        let sent_away = CancellationToken::new();
        let visitor = Visitor { visit, answers, sent_away: sent_away.clone() };
        if let Some(before) = active.visitor.replace(visitor) {
            before.send_away(Rejection::Superseded);
        }
        let feed = active.feed.clone();
        let room = Arc::new(Semaphore::new(UNREAD));
        Ok((Visit::new(self.clone(), visit, feed, sent_away, room), receiver))
    }

    /// The last block handed in.
    pub(super) fn tail(&self) -> Result<Tail, Rejection> {
        let inner = self.inner.lock();
        inner.active.as_ref().map(|active| active.tail.clone()).ok_or(Rejection::Restarted)
    }

    /// The parent that a recent block had.
    pub(super) fn parent_of(&self, pointer: &Pointer) -> Option<Pointer> {
        self.inner.lock().parents.get(pointer).cloned()
    }

    /// A block is about to be complete; its acknowledgement is for this visit.
    pub(super) fn expect(
        &self,
        visit: u64,
        block: &Tail,
        parent: Pointer,
        room: OwnedSemaphorePermit,
    ) -> Result<(), Rejection> {
        let mut inner = self.inner.lock();
        let active = inner.active.as_mut().ok_or(Rejection::Restarted)?;
        active.pending.push_back(Pending { pointer: block.pointer.clone(), visit, room });
        if block.pointer > active.tail.pointer {
            active.tail = block.clone();
        }
        inner.parents.insert(block.pointer.clone(), parent);
        if inner.parents.len() > REMEMBERED {
            inner.parents.pop_first();
        }
        Ok(())
    }

    /// A block is durable.
    pub(super) fn durable(&self, ack: &Ack) {
        let mut inner = self.inner.lock();
        let Some(active) = inner.active.as_mut() else { return };
        let Some(pending) = active.pending.pop_front() else { return };
        debug_assert_eq!(pending.pointer, ack.pointer, "acknowledgements come in order");
        let newer = active
            .head
            .as_ref()
            .is_none_or(|head| (head.generation, &head.pointer) < (ack.generation, &ack.pointer));
        if newer && !ack.unverifiable {
            active.head = Some(Head {
                generation: ack.generation,
                pointer: ack.pointer.clone(),
                height: ack.height,
                digest: ack.digest,
                time: ack.time,
                appended: 0,
            });
        }
        if let Some(visitor) = active.visitor.as_ref().filter(|v| v.visit == pending.visit) {
            let answer = Answer { result: Ok(ack.clone()), _room: Some(pending.room) };
            // There is a place for every permit; only a program that is gone takes no answer.
            visitor.answers.try_send(answer).ok();
        }
    }

    /// The journal refused a block: whoever sent it is told, and the ingestor goes on.
    pub(super) fn refused(&self, refusal: &Refusal) -> Verdict {
        let mut inner = self.inner.lock();
        let Some(active) = inner.active.as_mut() else { return Verdict::Halt };
        let pointer = refusal.pointer.clone().unwrap_or_default();
        // A block refused before its end came is not expected yet: it is the one being handed in.
        let sender = active.pending.front().filter(|p| p.pointer == pointer).map(|p| p.visit);
        let visitor =
            active.visitor.take_if(|visitor| sender.is_none_or(|visit| visit == visitor.visit));
        inner.parents.remove(&pointer);
        if let Some(visitor) = visitor {
            visitor.send_away(Rejection::Refused {
                pointer,
                reason: refusal.reason.clone(),
                message: refusal.message.clone(),
            });
        }
        Verdict::Continue
    }
}
