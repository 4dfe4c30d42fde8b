//! Moving the committed position, at most so often.

use std::sync::Arc;

use async_trait::async_trait;
use sluice_client::coordination::{Coalesced, Commit, CoordinationError, Write};
use sluice_model::Pointer;

use crate::{seam::Ownership, status::StatusCell};

/// Coalesced commits of one tenure.
pub(super) type Commits = Coalesced<Commit, CoordinationError>;

/// Starts the writer of commits; the first follows `previous`.
pub(super) fn start(
    lock: Arc<dyn Ownership>,
    previous: Pointer,
    status: StatusCell,
    every: std::time::Duration,
) -> Commits {
    Coalesced::spawn(every, Writer { lock, previous, status })
}

struct Writer {
    lock: Arc<dyn Ownership>,
    previous: Pointer,
    status: StatusCell,
}

#[async_trait]
impl Write<Commit> for Writer {
    type Error = CoordinationError;

    async fn write(&mut self, mut commit: Commit) -> Result<(), CoordinationError> {
        commit.previous = self.previous.clone();
        loop {
            match self.lock.commit(&commit).await {
                // A store that does not answer costs commits, not data: the owner goes on until
                // its deadline.
                Err(error) if error.is_transient() && self.lock.is_valid() => {
                    tracing::warn!(ingestor = %commit.ingestor, %error, "commit; trying again");
                }
                Err(error) => {
                    if matches!(error, CoordinationError::PositionConflict { .. }) {
                        self.status.metrics().conflict(&commit.ingestor);
                    }
                    return Err(error);
                }
                Ok(stored) => {
                    self.status.commit_moved(stored.pointer.clone());
                    self.previous = stored.pointer;
                    return Ok(());
                }
            }
        }
    }
}
