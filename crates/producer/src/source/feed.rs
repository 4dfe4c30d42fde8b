//! The queue between a source's task and the ingest loop, bounded in items and in bytes.

use std::{future::Future, sync::Arc};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use super::{Item, SourceError};

/// Items that a source may be ahead of the loop.
const ITEMS: usize = 64;
/// Bytes that a source may be ahead of the loop. One item larger than this is let in alone.
const BYTES: u32 = 4 << 20;

struct Queued {
    item: Result<Item, SourceError>,
    _room: Option<OwnedSemaphorePermit>,
}

/// The reading end.
#[derive(Debug)]
pub struct Feed {
    items: mpsc::Receiver<Queued>,
    closed: CancellationToken,
    task: Option<JoinHandle<()>>,
}

/// The filling end. Clones fill the same queue.
#[derive(Clone, Debug)]
pub struct FeedWriter {
    items: mpsc::Sender<Queued>,
    room: Arc<Semaphore>,
    closed: CancellationToken,
}

impl std::fmt::Debug for Queued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.item.fmt(f)
    }
}

impl Feed {
    /// A feed that `run` fills. Its error becomes the feed's last item. A run that ends without
    /// [`Item::Finished`] and without an error ends the feed, which its reader takes for a fault.
    pub fn spawn<F, Fut>(run: F) -> Self
    where
        F: FnOnce(FeedWriter) -> Fut,
        Fut: Future<Output = Result<(), SourceError>> + Send + 'static,
    {
        let (mut feed, writer) = Self::pair();
        let work = run(writer.clone());
        feed.task = Some(tokio::spawn(async move {
            let closed = writer.closed.clone();
            let ended = tokio::select! {
                ended = work => ended,
                () = closed.cancelled() => return,
            };
            if let Err(error) = ended {
                // Only a reader that is gone refuses it, and it does not want it.
                writer.put(Err(error), 0).await.ok();
            }
        }));
        feed
    }

    /// As [`Self::spawn`], for a run that has something to put in order at its end: it is not
    /// dropped when the feed is closed. It has to end soon after [`FeedWriter::closed`].
    pub fn spawn_until_closed<F, Fut>(run: F) -> Self
    where
        F: FnOnce(FeedWriter) -> Fut,
        Fut: Future<Output = Result<(), SourceError>> + Send + 'static,
    {
        let (mut feed, writer) = Self::pair();
        let work = run(writer.clone());
        feed.task = Some(tokio::spawn(async move {
            if let Err(error) = work.await {
                // Only a reader that is gone refuses it, and it does not want it.
                writer.put(Err(error), 0).await.ok();
            }
        }));
        feed
    }

    /// A feed without a task; it ends when the last writer is dropped.
    pub fn pair() -> (Self, FeedWriter) {
        let (sender, items) = mpsc::channel(ITEMS);
        let closed = CancellationToken::new();
        let room = Arc::new(Semaphore::new(BYTES as usize));
        let writer = FeedWriter { items: sender, room, closed: closed.clone() };
        (Self { items, closed, task: None }, writer)
    }

    /// The next item; `None` when the source ended without saying why. Cancel safe.
    pub async fn next(&mut self) -> Option<Result<Item, SourceError>> {
        Some(self.items.recv().await?.item)
    }

    /// Ends the source's task and waits until it has ended.
    pub async fn close(mut self) {
        self.closed.cancel();
        self.items.close();
        if let Some(task) = self.task.take() {
            // A panic in the task was reported by the runtime; there is nothing left to end.
            task.await.ok();
        }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.closed.cancel();
    }
}

impl FeedWriter {
    /// Adds an item; waits for room. Fails when nobody reads any more. Not cancel safe in the
    /// sense that an item given up is lost; no item is ever added twice.
    pub async fn send(&self, item: Item) -> Result<(), SourceError> {
        let weight = item.weight();
        self.put(Ok(item), weight).await
    }

    /// Adds an item without weight and, in the same step, calls `before`. Cancel safe: given up,
    /// neither has happened.
    pub async fn send_after(&self, item: Item, before: impl FnOnce()) -> Result<(), SourceError> {
        let slot = tokio::select! {
            biased;
            () = self.closed.cancelled() => return Err(SourceError::Closed),
            slot = self.items.reserve() => slot.map_err(|_| SourceError::Closed)?,
        };
        before();
        slot.send(Queued { item: Ok(item), _room: None });
        Ok(())
    }

    /// As [`Self::send`], from a thread that may block.
    pub fn send_blocking(&self, item: Item) -> Result<(), SourceError> {
        tokio::runtime::Handle::current().block_on(self.send(item))
    }

    /// Resolves when nobody reads any more.
    pub async fn closed(&self) {
        self.closed.cancelled().await;
    }

    /// True when nobody reads any more.
    pub fn is_closed(&self) -> bool {
        self.closed.is_cancelled()
    }

    async fn put(&self, item: Result<Item, SourceError>, weight: usize) -> Result<(), SourceError> {
        let weight = u32::try_from(weight).unwrap_or(BYTES).min(BYTES);
        let room = async {
            if weight == 0 {
                return Ok(None);
            }
            self.room.clone().acquire_many_owned(weight).await.map(Some)
        };
        let put = async {
            let room = room.await.map_err(|_| SourceError::Closed)?;
            let queued = Queued { item, _room: room };
            self.items.send(queued).await.map_err(|_| SourceError::Closed)
        };
        tokio::select! {
            biased;
            () = self.closed.cancelled() => Err(SourceError::Closed),
            done = put => done,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use tokio::time::timeout;

    use super::*;
    use crate::source::Piece;

    fn piece(size: usize) -> Item {
        Item::Changes(Piece::new(Bytes::from(vec![0; size])))
    }

    #[tokio::test]
    async fn is_bounded_in_bytes_and_goes_on_when_read() {
        let (mut feed, writer) = Feed::pair();
        let half = BYTES as usize / 2;
        writer.send(piece(half)).await.unwrap();
        writer.send(piece(half)).await.unwrap();
        let third = writer.send(piece(1));
        tokio::pin!(third);
        assert!(timeout(Duration::from_millis(20), third.as_mut()).await.is_err());
        feed.next().await.unwrap().unwrap();
        third.await.unwrap();
    }

    #[tokio::test]
    async fn an_item_beyond_the_bound_passes_alone() {
        let (mut feed, writer) = Feed::pair();
        writer.send(piece(BYTES as usize * 2)).await.unwrap();
        assert_eq!(feed.next().await.unwrap().unwrap().weight(), BYTES as usize * 2);
    }

    #[tokio::test]
    async fn closing_ends_a_task_that_waits_for_room() {
        let feed = Feed::spawn(|writer| async move {
            loop {
                writer.send(piece(BYTES as usize)).await?;
            }
        });
        timeout(Duration::from_secs(5), feed.close()).await.unwrap();
    }

    #[tokio::test]
    async fn an_error_is_the_last_item() {
        let mut feed =
            Feed::spawn(|_| async { Err(SourceError::Start("no such place".to_owned())) });
        assert!(matches!(feed.next().await, Some(Err(SourceError::Start(_)))));
        assert!(feed.next().await.is_none());
    }
}
