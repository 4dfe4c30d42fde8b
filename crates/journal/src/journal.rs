use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use async_trait::async_trait;
use sluice_frame::Frame;
use sluice_model::{IngestorName, JournalId, Position};
use tokio::sync::oneshot;

use crate::{
    AppendError, Item, JournalError, Open, Opened, ReadError, ReadFrom, Receipt, Report, Select,
    Started, Status, Trimmed, VerifyProgress,
};

/// The journals of one volume or cluster.
///
/// # Contract
///
/// - A journal exists once: only [`create`](Self::create) makes one. Everything else answers
///   `NotHere` for a journal that this place does not hold, and never makes it.
/// - [`open`](Self::open) durably fences every earlier writer before it returns, also one of the
///   same epoch. A fenced writer appends nothing any more, whatever is still under way.
/// - An acknowledged block survives what its receipt's durability says. Blocks that were not
///   acknowledged may or may not be there after a crash; each is there whole or not at all.
/// - Readers see whole durable blocks only, in the order of positions, each once.
/// - Data that cannot be read is reported in its place, and what follows stays readable. Nothing
///   is deleted because something else is missing.
#[async_trait]
pub trait Journal: Send + Sync + fmt::Debug {
    /// Makes an ingestor's journal. Doing it again with the same id changes nothing.
    ///
    /// # Errors
    /// `AlreadyExists` for another id.
    async fn create(&self, ingestor: &IngestorName, id: JournalId) -> Result<(), JournalError>;

    /// Makes the caller the only writer. Repeating an open is allowed: each one gets a new writer
    /// id and fences the one before.
    ///
    /// # Errors
    /// `NotHere`, also for another id; `Fenced` for an epoch below the highest that ever opened.
    async fn open(&self, open: Open) -> Result<Opened, JournalError>;

    /// The head, the bounds and the health of a journal.
    ///
    /// # Errors
    /// `NotHere`.
    async fn status(&self, ingestor: &IngestorName) -> Result<Status, JournalError>;

    /// Every ingestor that has a journal here, in order of name.
    ///
    /// # Errors
    /// When the backend cannot be asked.
    async fn list(&self) -> Result<Vec<IngestorName>, JournalError>;

    /// A reader that begins at `from` and never ends by itself.
    ///
    /// # Errors
    /// `OutOfRange` exactly when the position lies before the parent of the oldest retained
    /// block; `Diverged` when the journal does not have the position. It never waits for one.
    async fn read(
        &self,
        ingestor: &IngestorName,
        from: ReadFrom,
        select: Select,
    ) -> Result<Box<dyn Reader>, ReadError>;

    /// Retires what retention no longer wants and no hold needs. The head block always stays.
    /// Without a fresh list of holds (`None`) only the limit in bytes retires anything.
    /// `now` is in nanoseconds since 1970.
    ///
    /// # Errors
    /// `NotHere`, or the disk.
    async fn trim(
        &self,
        ingestor: &IngestorName,
        holds: Option<&[Position]>,
        now: i64,
    ) -> Result<Trimmed, JournalError>;

    /// Reads everything and checks checksums, chain and digests. `progress` is called now and
    /// then, from another thread.
    ///
    /// # Errors
    /// `NotHere`, or the disk; what is wrong inside the journal is in the report.
    async fn verify(
        &self,
        ingestor: &IngestorName,
        progress: Box<dyn Fn(VerifyProgress) + Send + Sync>,
    ) -> Result<Report, JournalError>;

    /// Finishes what is queued, makes it durable and refuses everything after. Readers end with
    /// `Closed`. Doing it again changes nothing.
    async fn close(&self);
}

/// The only unfenced writer of a journal. Dropping it does not take back what was appended.
#[async_trait]
pub trait Writer: Send + Sync + fmt::Debug {
    /// Appends the next frame of a block, or a control record.
    ///
    /// Frames of a block come in order from part 0; the last one carries `end`. Its digests may be
    /// zero: the journal computes them, and compares those that are not. Epoch and digests of the
    /// stored header are the journal's. The next block may follow before this one is acknowledged.
    ///
    /// The changes should be most of the memory that they share: the tail cache counts them, and
    /// keeps all of it alive.
    ///
    /// The ticket comes with the last part only. The call waits while the queue of the journal is
    /// full.
    ///
    /// A control record (`GAP`, `GENERATION`) is one frame with `end` and without changes. A
    /// `GAP` stands at the pointer `to`, its parent is the head. A `GENERATION` stands at the
    /// base: its `generation` is the new one, `pointer` and `height` are those of the base,
    /// `parent` is the head's pointer; the next block has the base as its parent and the base's
    /// digest as its parent digest.
    ///
    /// A block at or below the head is compared with the stored one and acknowledged as a
    /// duplicate, or refused as `Divergent`.
    ///
    /// # Cancel safety
    /// Not cancel safe: a call given up may or may not have queued the frame. Begin the block
    /// again.
    ///
    /// # Errors
    /// See [`AppendError`]. After a refusal the block begins again at part 0.
    async fn append(&mut self, frame: Frame) -> Result<Option<Ticket>, AppendError>;

    /// The id that `open` gave.
    fn writer_id(&self) -> u64;
}

/// One reader. Reading never delays appends or other readers.
#[async_trait]
pub trait Reader: Send + Sync + fmt::Debug {
    /// Where it began.
    fn started(&self) -> &Started;

    /// The next frame, notice or step of progress; waits at the tail.
    ///
    /// Frames of one block come in order of parts. After the last selected frame of a block that
    /// is not also the block's last part, and when the tail is reached, a
    /// [`Through`](crate::Through) follows; long stretches without a match give one every few
    /// hundred frames. Starting inside a block delivers that block's frames that end after the
    /// index, whole.
    ///
    /// # Cancel safety
    /// Cancel safe: nothing is skipped when the call is given up.
    ///
    /// # Errors
    /// `OutOfRange` when retention has overtaken the reader, `Io` (call again), `Closed`.
    async fn next(&mut self) -> Result<Item, ReadError>;
}

/// Resolves when the block is durable, or when it is certain or unknown that it is not.
///
/// The block becomes durable whether or not anybody waits for its ticket; whoever waits at once
/// may save it a way. Waiting may occupy the thread for as long as a sync takes, in the way of
/// [`tokio::task::block_in_place`], so not in a `LocalSet` of a runtime of several threads.
#[derive(Debug)]
pub struct Ticket {
    result: oneshot::Receiver<Result<Receipt, AppendError>>,
    help: Option<Arc<dyn Help>>,
    helped: bool,
}

/// What a backend lets the ticket of a block do for it.
pub trait Help: Send + Sync + fmt::Debug {
    /// The ticket is waited for: called once, before it waits.
    fn help(&self);

    /// The result is not there yet; true if it comes so soon that whoever waits had better ask
    /// again than sleep. May pause for some microseconds.
    fn hover(&self) -> bool;

    /// The ticket was dropped before anybody waited for it.
    fn leave(&self);
}

impl Ticket {
    /// A ticket and the means to resolve it, for backends.
    pub fn new() -> (oneshot::Sender<Result<Receipt, AppendError>>, Self) {
        let (sender, result) = oneshot::channel();
        (sender, Self { result, help: None, helped: false })
    }

    /// A ticket that helps its block.
    #[must_use]
    pub fn helping(mut self, help: Arc<dyn Help>) -> Self {
        self.help = Some(help);
        self
    }

    /// A ticket that is already resolved.
    pub fn ready(result: Result<Receipt, AppendError>) -> Self {
        let (sender, ticket) = Self::new();
        // The receiver is right here, so the value cannot be refused.
        sender.send(result).ok();
        ticket
    }
}

impl Future for Ticket {
    type Output = Result<Receipt, AppendError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if !std::mem::replace(&mut self.helped, true) {
            self.help.iter().for_each(|help| help.help());
        }
        let result = Pin::new(&mut self.result).poll(cx);
        if result.is_ready() {
            self.help = None;
        } else if self.help.as_ref().is_some_and(|help| help.hover()) {
            // The others of the runtime go on in between.
            cx.waker().wake_by_ref();
        }
        result.map(|received| received.unwrap_or(Err(AppendError::Closed)))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.helped {
            self.help.iter().for_each(|help| help.leave());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicU32, Ordering},
        time::Duration,
    };

    use sluice_model::{Digest, Durability, Generation, Pointer};
    use tokio::task::JoinHandle;

    use super::*;

    type Sender = oneshot::Sender<Result<Receipt, AppendError>>;

    /// Hovers so many times.
    #[derive(Debug)]
    struct Hovering(AtomicU32);

    impl Help for Hovering {
        fn help(&self) {}

        fn hover(&self) -> bool {
            let left = |left: u32| left.checked_sub(1);
            self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, left).is_ok()
        }

        fn leave(&self) {}
    }

    fn receipt() -> Receipt {
        Receipt {
            generation: Generation::default(),
            pointer: Pointer::from_height(1),
            digest: Digest::ZERO,
            durability: Durability::Fsynced,
            duplicate: false,
            unverifiable: false,
        }
    }

    fn waiting(help: &Arc<Hovering>) -> (Sender, JoinHandle<Result<Receipt, AppendError>>) {
        let (sender, ticket) = Ticket::new();
        (sender, tokio::spawn(ticket.helping(Arc::clone(help) as Arc<dyn Help>)))
    }

    /// Resolves a ticket that hovers, on one thread, once it has done so for so often.
    async fn resolved(hovers: u32, after: u32) -> Arc<Hovering> {
        let help = Arc::new(Hovering(AtomicU32::new(hovers)));
        let (sender, ticket) = waiting(&help);
        let resolved = async {
            while hovers - help.0.load(Ordering::Relaxed) < after {
                tokio::task::yield_now().await;
            }
            sender.send(Ok(receipt())).unwrap();
            ticket.await.unwrap()
        };
        let soon = tokio::time::timeout(Duration::from_secs(30), resolved).await;
        assert_eq!(soon.expect("nothing goes on").unwrap().pointer, receipt().pointer);
        help
    }

    #[tokio::test]
    async fn other_tasks_go_on_while_a_ticket_hovers() {
        let help = resolved(u32::MAX, 100).await;
        assert_eq!(Arc::strong_count(&help), 1, "what it needed is given back");
    }

    #[tokio::test]
    async fn a_ticket_that_hovers_no_more_is_woken() {
        resolved(3, 3).await;
    }
}
