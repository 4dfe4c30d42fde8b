//! What a feed asks of the ingestor's owner, whoever that is: to stop, because two feeds differ,
//! or to hand over, because its own source is behind.
//!
//! Both go through the ingestor's control record at the coordinator. It is durable, reaches the
//! owner that is and the one that comes next, and ends only by an operator's `resume`: the halt
//! that two differing feeds cause survives every crash, of either side.

use async_trait::async_trait;
use sluice_client::coordination::{ActionKind, Coordination, CoordinationError};
use sluice_model::IngestorName;

/// Operates an ingestor, as people do by the command line.
///
/// # Contract
/// Both calls are safe to repeat. When [`halt`](Self::halt) has returned, no owner appends
/// another block for long, nor does one after a restart of everything.
#[async_trait]
pub trait Operator: Send + Sync {
    /// Halts the ingestor until somebody resumes it, and writes why into its trail. Fails while
    /// an operator has paused it: their resuming must not end a halt that they were not shown.
    async fn halt(&self, ingestor: &IngestorName, cause: &str) -> Result<(), CoordinationError>;
    /// Asks the owner to give the lock to who waits for it.
    async fn hand_over(
        &self,
        ingestor: &IngestorName,
        reason: &str,
    ) -> Result<(), CoordinationError>;
}

/// Through the coordinator.
#[derive(Clone, Debug)]
pub struct RemoteOperator {
    coordination: Coordination,
    /// Who asks, for the trail.
    actor: String,
}

impl RemoteOperator {
    /// In the name of `actor`.
    pub const fn new(coordination: Coordination, actor: String) -> Self {
        Self { coordination, actor }
    }
}

#[async_trait]
impl Operator for RemoteOperator {
    async fn halt(&self, ingestor: &IngestorName, cause: &str) -> Result<(), CoordinationError> {
        let reason = format!("two feeds differ: {cause}");
        self.coordination.raise_alarm(ingestor, &self.actor, &reason).await.map(drop)
    }

    async fn hand_over(
        &self,
        ingestor: &IngestorName,
        reason: &str,
    ) -> Result<(), CoordinationError> {
        let kind = ActionKind::HandOver;
        self.coordination.request_action(ingestor, &self.actor, reason, kind).await.map(drop)
    }
}
