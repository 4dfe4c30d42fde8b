use std::{num::NonZeroUsize, time::Duration};

use async_trait::async_trait;
use sluice_model::Checkpoint;

use crate::{
    batch::{Batch, Receipt},
    config::{ConfigError, SinkConfig, StreamConfig},
};

/// A destination, as the runtime sees it. One is built for every tenure of the stream's lock.
///
/// Contract:
/// * Calls come one at a time. Batches come in order: each begins where the one before ended,
///   and a batch whose delivery failed comes again, the same, before any later one.
/// * A receipt is given only for what the destination has accepted so that it survives the loss
///   of this process. `Err` means "not known to be accepted"; a repeat must do no harm.
/// * A destination that gathers batches answers [`Batch::held`] and gives the receipts of what
///   it held from [`Dispatcher::flush`], or a receipt of an earlier end
///   ([`Batch::delivered_until`]) from a later delivery.
/// * Every call ends by itself: it bounds its own waiting. The runtime drops a call only at the
///   end of the shutdown's grace, after which the dispatcher is dropped too.
#[async_trait]
pub trait Dispatcher: Send {
    /// Delivers a batch. It holds events, marks, or (only in [`BatchShape::Blocks`]) nothing but
    /// the news that nothing matched up to its end.
    async fn deliver(&mut self, batch: &Batch) -> Result<Receipt, DeliverError>;

    /// Makes everything delivered before durable and gives the last receipt, if one was held
    /// back. Called before a checkpoint over a stretch without events, on stop and before the
    /// lock is given up. A failure leaves what is held as it was; the call is repeated.
    async fn flush(&mut self) -> Result<Option<Receipt>, DeliverError> {
        Ok(None)
    }

    /// Called once, before the first delivery, with the stored checkpoint (`None` for a stream
    /// that never stored one). A destination that knows its own state tells where it stands;
    /// the runtime starts from the lower of the two, and without a checkpoint from what the
    /// destination says. Events up to its own mark then come again and must not be doubled.
    async fn resume(
        &mut self,
        checkpoint: Option<&Checkpoint>,
    ) -> Result<Option<Checkpoint>, DeliverError> {
        let _ = checkpoint;
        Ok(None)
    }
}

/// Makes the dispatchers of one type of destination.
///
/// Contract: every method decides from its arguments alone, without I/O, and names the key that
/// is wrong. They are called before anything is delivered, so that a mistake shows at the start.
pub trait DispatcherFactory: Send + Sync {
    /// The name in `type = "…"`, and of the stream's own table.
    fn type_name(&self) -> &'static str;

    /// The lock that makes one process deliver. A destination that lives on one machine puts
    /// the machine's part into the name, so that a process without it never owns the stream.
    fn lock_name(&self, stream: &StreamConfig, sink: &SinkConfig) -> Result<String, ConfigError> {
        let _ = sink;
        Ok(format!("stream/{}", stream.name))
    }

    /// How batches are cut.
    fn shape(&self, stream: &StreamConfig) -> Result<BatchShape, ConfigError> {
        Ok(stream.batch.events_shape())
    }

    /// True if the frames should carry the blocks' metadata.
    fn wants_metadata(&self, stream: &StreamConfig) -> bool {
        let _ = stream;
        false
    }

    /// Where it delivers to, for people; never with a secret, user name or token in it.
    fn destination(&self, stream: &StreamConfig, sink: &SinkConfig) -> String;

    /// Checks the tables of the stream and of the sink, and makes a dispatcher.
    fn build(
        &self,
        stream: &StreamConfig,
        sink: &SinkConfig,
    ) -> Result<Box<dyn Dispatcher>, ConfigError>;
}

/// Where a batch ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchShape {
    /// After so many events or bytes, or when its first event has waited so long. Blocks may be
    /// cut. There are no batches without events or marks.
    Events {
        /// Most events.
        count: NonZeroUsize,
        /// Most bytes of changes; a single larger change is a batch of its own.
        bytes: usize,
        /// Longest wait of the first event.
        wait: Duration,
    },
    /// At ends of blocks: as many whole blocks as fit into `bytes`, or what came within `wait`.
    /// A block larger than `bytes` comes in several batches, cut between two frames, never
    /// inside one. A stretch without any match comes as a batch without events.
    Blocks {
        /// Most bytes of changes, as long as blocks are smaller.
        bytes: usize,
        /// Longest wait of the first block, and of news without events.
        wait: Duration,
    },
}

/// Why a delivery failed. Nothing is ever skipped for it: the same batch comes again.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct DeliverError {
    message: String,
    pub(crate) retry_after: Option<Duration>,
    pub(crate) halted: bool,
}

impl DeliverError {
    /// A failure that another attempt may not meet again. The message names the destination and
    /// what it answered, without secrets.
    pub fn retry(message: impl Into<String>) -> Self {
        Self { message: message.into(), retry_after: None, halted: false }
    }

    /// The same, with the time the destination asked to wait.
    #[must_use]
    pub const fn after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// A failure that lasts until a person acts, such as a destination with other content. The
    /// stream shows as blocked at once and tries again at the longest interval.
    pub fn halt(message: impl Into<String>) -> Self {
        Self { message: message.into(), retry_after: None, halted: true }
    }

    /// How long the destination asked to wait.
    pub const fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// True if only a person can help.
    pub const fn is_halt(&self) -> bool {
        self.halted
    }
}
