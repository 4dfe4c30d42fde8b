//! One program's connection: checks each message and hands the blocks in.

use std::sync::Arc;

use bytes::Bytes;
use sluice_frame::{Elements, ScanError, ScanReason, canonicalize};
use sluice_model::Pointer;
use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::door::{Door, Rejection, Tail};
use crate::source::{Begin, FeedWriter, Item, Piece};

/// How a program begins a block.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BeginCapture {
    /// Its height.
    pub height: u64,
    /// Its place; `None` for the pointer of the height.
    pub pointer: Option<Pointer>,
    /// The block before; `None` for the one sent before, or the journal's head.
    pub parent: Option<Pointer>,
    /// Its own time, nanoseconds since 1970.
    pub time: Option<i64>,
}

/// A connection. Messages come in the order of the API; the first wrong one ends it, and the
/// block at hand is dropped.
#[derive(Debug)]
pub struct Visit {
    door: Arc<Door>,
    id: u64,
    feed: FeedWriter,
    sent_away: CancellationToken,
    room: Arc<Semaphore>,
    current: Option<Block>,
    sent: u64,
    traceparent: String,
}

/// The block at hand.
#[derive(Debug)]
struct Block {
    place: Tail,
    parent: Pointer,
    changes: u32,
    metadata: Option<Arc<str>>,
    room: OwnedSemaphorePermit,
    _pen: OwnedMutexGuard<()>,
}

impl Visit {
    pub(super) fn new(
        door: Arc<Door>,
        id: u64,
        feed: FeedWriter,
        sent_away: CancellationToken,
        room: Arc<Semaphore>,
    ) -> Self {
        let traceparent = String::new();
        Self { door, id, feed, sent_away, room, current: None, sent: 0, traceparent }
    }

    /// The trace that the blocks of this connection belong to (W3C).
    #[must_use]
    pub fn with_traceparent(mut self, traceparent: String) -> Self {
        self.traceparent = traceparent;
        self
    }

    /// Complete blocks handed in; each gets one answer unless the visit is ended.
    pub const fn sent(&self) -> u64 {
        self.sent
    }

    /// Begins a block. Waits while another program's block is being handed in and while too many
    /// answers are unread.
    pub async fn begin(&mut self, begin: BeginCapture) -> Result<(), Rejection> {
        if self.current.is_some() {
            return Err(invalid("a block begins inside another one; send its end first"));
        }
        let (room, pen) = tokio::select! {
            biased;
            () = self.sent_away.cancelled() => return Err(Rejection::Superseded),
            both = async {
                (self.room.clone().acquire_owned().await, self.door.pen.clone().lock_owned().await)
            } => both,
        };
        let room = room.map_err(|_| Rejection::Restarted)?;
        let (place, parent) = self.place(&begin)?;
        self.hand_in(Item::Begin(Begin {
            height: place.height.unwrap_or_default(),
            pointer: place.pointer.clone(),
            parent: Some(parent.clone()),
            time: begin.time,
        }))
        .await?;
        self.current = Some(Block { place, parent, changes: 0, metadata: None, room, _pen: pen });
        Ok(())
    }

    /// Where the block stands and what is before it.
    fn place(&self, begin: &BeginCapture) -> Result<(Tail, Pointer), Rejection> {
        let tail = self.door.tail()?;
        let height = begin.height;
        let pointer = begin.pointer.clone().unwrap_or_else(|| Pointer::from_height(height));
        if pointer.is_origin() {
            return Err(invalid("begin.pointer is empty; leave it out to use the height"));
        }
        let length = (pointer.as_bytes().len(), tail.pointer.as_bytes().len());
        if !tail.pointer.is_origin() && length.0 != length.1 {
            return Err(Rejection::Invalid(format!(
                "begin.pointer has {} bytes, but the pointers of this ingestor have {}",
                length.0, length.1
            )));
        }
        let parent = if pointer <= tail.pointer {
            // Sent again. The journal compares it with what it has.
            let recent = || self.door.parent_of(&pointer);
            // Chains count from 1 and leave no height out; others name the parent.
            let by_height = || Some(Pointer::from_height(pointer.height()?.checked_sub(1)?));
            let by_height = || by_height().filter(|_| height > 1);
            begin.parent.clone().or_else(recent).or_else(by_height).unwrap_or_default()
        } else {
            let parent = begin.parent.clone().unwrap_or_else(|| tail.pointer.clone());
            if parent != tail.pointer {
                return Err(Rejection::WrongParent {
                    pointer,
                    expected: tail.pointer,
                    got: parent,
                });
            }
            if let Some(last) = tail.height.filter(|last| height <= *last) {
                return Err(Rejection::Invalid(format!(
                    "block {pointer} has the height {height}, but the last block has {last} already"
                )));
            }
            parent
        };
        Ok((Tail { pointer, height: Some(height) }, parent))
    }

    /// A piece of the block's changes: elements of field 15, in any encoding that protobuf
    /// allows.
    pub async fn changes(&mut self, region: Bytes) -> Result<(), Rejection> {
        if self.current.is_none() {
            return Err(invalid("changes come before a block has begun"));
        }
        let (bytes, count) = check(region)?;
        if count > 0 {
            self.hand_in(Item::Changes(Piece::new(bytes))).await?;
        }
        if let Some(block) = &mut self.current {
            block.changes = block
                .changes
                .checked_add(count)
                .ok_or_else(|| invalid("a block has at most 4294967295 changes"))?;
        }
        Ok(())
    }

    /// The block's metadata, or a piece of it.
    pub async fn metadata(&mut self, type_url: &str, value: Bytes) -> Result<(), Rejection> {
        let Some(block) = &mut self.current else {
            return Err(invalid("metadata comes before a block has begun"));
        };
        let own = block.metadata.get_or_insert_with(|| type_url.into()).clone();
        if !type_url.is_empty() && *own != *type_url {
            return Err(Rejection::Invalid(format!(
                "the metadata of one block has the types {own:?} and {type_url:?}"
            )));
        }
        self.hand_in(Item::Metadata { type_url: own, value }).await
    }

    /// Ends the block. `announced` is compared with what came.
    pub async fn end(&mut self, announced: Option<u32>) -> Result<(), Rejection> {
        let Some(block) = self.current.take() else {
            return Err(invalid("an end comes before a block has begun"));
        };
        let Block { place, parent, changes, room, _pen, .. } = block;
        if let Some(announced) = announced.filter(|announced| *announced != changes) {
            self.hand_in(Item::Abort).await?;
            return Err(Rejection::Count { pointer: place.pointer, announced, came: changes });
        }
        let traceparent = self.traceparent.clone();
        let end = Item::End { changes: Some(changes), traceparent };
        // Expected in the same step as it is queued: the acknowledgement may be quick, and a
        // visit that is given up here leaves either both or none.
        let mut expected = Ok(());
        self.feed
            .send_after(end, || {
                expected = self.door.expect(self.id, &place, parent, room);
            })
            .await
            .map_err(|_| Rejection::Restarted)?;
        expected?;
        self.sent += 1;
        Ok(())
    }

    async fn hand_in(&self, item: Item) -> Result<(), Rejection> {
        tokio::select! {
            biased;
            () = self.sent_away.cancelled() => Err(Rejection::Superseded),
            sent = self.feed.send(item) => sent.map_err(|_| Rejection::Restarted),
        }
    }

    /// Resolves when the visit is ended from inside.
    pub fn sent_away(&self) -> CancellationToken {
        self.sent_away.clone()
    }
}

fn invalid(message: &str) -> Rejection {
    Rejection::Invalid(message.to_owned())
}

/// Checks a region and brings it into canonical form; gives its number of changes.
fn check(region: Bytes) -> Result<(Bytes, u32), Rejection> {
    match count(&region) {
        Ok(changes) => Ok((region, changes)),
        Err(_) => {
            let canonical = canonicalize(&region).map_err(|error| refuse(&error))?;
            let changes = count(&canonical).map_err(|error| refuse(&error))?;
            Ok((canonical, changes))
        }
    }
}

/// Counts the changes of a region in canonical form.
fn count(region: &[u8]) -> Result<u32, ScanError> {
    let mut changes = 0;
    let mut last: Option<&[u8]> = None;
    for element in Elements::new(region) {
        let element = element?;
        // Stretches of one store are the rule: its name is looked at once.
        if last != Some(element.store) {
            std::str::from_utf8(element.store).map_err(|_| ScanError {
                change: changes,
                offset: 0,
                reason: ScanReason::StoreUtf8,
            })?;
            last = Some(element.store);
        }
        changes += 1;
    }
    Ok(changes)
}

fn refuse(error: &ScanError) -> Rejection {
    match error.reason {
        ScanReason::TooLarge(_) => Rejection::TooLarge(error.to_string()),
        _ => Rejection::Invalid(error.to_string()),
    }
}
