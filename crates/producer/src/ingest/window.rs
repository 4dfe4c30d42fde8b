//! Blocks that were sent and are not acknowledged yet.

use std::{collections::VecDeque, sync::Arc};

use parking_lot::Mutex;
use sluice_frame::StateDigest;
use sluice_model::Pointer;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::{Limits, record::Gap};

/// A block that is being sent, or was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sending {
    pub(super) pointer: Pointer,
    /// The block before, as the source says; [`Pointer::ORIGIN`] if it does not.
    pub(super) parent: Pointer,
    /// Of a block that the journal has already; complete once all of it was sent.
    pub(super) states: Vec<StateDigest>,
}

/// A block or control record on its way.
#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) pointer: Pointer,
    pub(super) parent: Pointer,
    pub(super) height: u64,
    pub(super) time: Option<i64>,
    pub(super) changes: u64,
    pub(super) bytes: u64,
    /// Of a block that the journal has already.
    pub(super) states: Vec<StateDigest>,
    /// For the record of a gap, which the source is told nothing of.
    pub(super) gap: Option<Gap>,
    pub(super) room: Room,
}

/// The share of a block in the window; given back when dropped.
#[derive(Debug)]
pub(super) struct Room(#[expect(dead_code, reason = "held, not read")] OwnedSemaphorePermit);

#[derive(Debug)]
pub(super) struct Window {
    blocks: Arc<Semaphore>,
    limits: Limits,
    queue: Mutex<Queue>,
    acked: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    flying: VecDeque<InFlight>,
    bytes: u64,
    sending: Option<Sending>,
}

impl Window {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            blocks: Arc::new(Semaphore::new(limits.blocks.max(1))),
            limits,
            queue: Mutex::default(),
            acked: Notify::new(),
        }
    }

    /// Waits until another block may be sent.
    pub(super) async fn room(&self) -> Room {
        loop {
            let acked = self.acked.notified();
            if self.queue.lock().bytes < self.limits.bytes {
                break;
            }
            acked.await;
        }
        match self.blocks.clone().acquire_owned().await {
            Ok(permit) => Room(permit),
            // The semaphore is never closed.
            Err(_) => std::future::pending().await,
        }
    }

    /// The block being sent, for errors.
    pub(super) fn sending(&self, block: Option<Sending>) {
        self.queue.lock().sending = block;
    }

    /// Blocks that are not acknowledged.
    pub(super) fn flying(&self) -> usize {
        self.queue.lock().flying.len()
    }

    /// A block was sent in full.
    pub(super) fn sent(&self, block: InFlight) {
        let mut queue = self.queue.lock();
        queue.bytes += block.bytes;
        queue.sending = None;
        queue.flying.push_back(block);
    }

    /// The oldest block was acknowledged.
    pub(super) fn acked(&self) -> Option<InFlight> {
        let mut queue = self.queue.lock();
        let block = queue.flying.pop_front()?;
        queue.bytes = queue.bytes.saturating_sub(block.bytes);
        drop(queue);
        self.acked.notify_waiters();
        Some(block)
    }

    /// The block that a refusal is about: the oldest under way, or the one being sent.
    pub(super) fn suspect(&self) -> Option<Sending> {
        let queue = self.queue.lock();
        let sent = queue.flying.front().map(|block| Sending {
            pointer: block.pointer.clone(),
            parent: block.parent.clone(),
            states: block.states.clone(),
        });
        sent.or_else(|| queue.sending.clone())
    }

    /// Waits until everything sent is acknowledged.
    pub(super) async fn drained(&self) {
        loop {
            let acked = self.acked.notified();
            if self.queue.lock().flying.is_empty() {
                return;
            }
            acked.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    fn block(height: u64, bytes: u64, room: Room) -> InFlight {
        let pointer = Pointer::from_height(height);
        let parent = Pointer::from_height(height - 1);
        let (states, gap) = (Vec::new(), None);
        InFlight { pointer, parent, height, time: None, changes: 1, bytes, states, gap, room }
    }

    async fn full(window: &Window) -> bool {
        timeout(Duration::from_millis(10), window.room()).await.is_err()
    }

    #[tokio::test]
    async fn is_bounded_in_blocks_and_in_bytes() {
        let window = Window::new(Limits { blocks: 2, bytes: 100, ..Limits::default() });
        window.sent(block(1, 10, window.room().await));
        window.sent(block(2, 10, window.room().await));
        assert!(full(&window).await);
        window.acked().unwrap();
        window.sent(block(3, 500, window.room().await));
        window.acked().unwrap();
        assert!(full(&window).await, "one block of 500 bytes fills it");
        assert_eq!(window.suspect().unwrap().pointer, Pointer::from_height(3));
        assert_eq!(window.flying(), 1);
        window.acked().unwrap();
        window.drained().await;
        assert!(!full(&window).await);
    }

    #[tokio::test]
    async fn a_block_given_up_gives_its_room_back() {
        let window = Window::new(Limits { blocks: 1, ..Limits::default() });
        drop(window.room().await);
        assert!(!full(&window).await);
    }
}
