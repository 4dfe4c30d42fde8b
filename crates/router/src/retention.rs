//! Retention: asks who still needs what, and lets the journal retire the rest.

use std::time::{SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use sluice_model::{IngestorName, Position};
use sluice_service::BoxError;

use crate::app::Shared;

/// Who still needs what. The coordinator knows.
///
/// # Contract
///
/// The positions are the lowest ones that readers are done with: everything after them is needed.
/// An error means that nobody could be asked; then only the limit in bytes trims. An answer from
/// memory is not an answer.
#[async_trait]
pub trait Holds: Send + Sync {
    /// The positions that retention of an ingestor must not pass.
    ///
    /// # Errors
    /// When there is no fresh list.
    async fn holds(&self, ingestor: &IngestorName) -> Result<Vec<Position>, BoxError>;
}

/// One round over every journal. A journal that fails does not keep the others from their turn.
pub(crate) async fn round(shared: &Shared, holds: Option<&dyn Holds>) {
    let ingestors = match shared.journal.list().await {
        Ok(ingestors) => ingestors,
        Err(error) => {
            tracing::warn!(%error, "retention: the journals cannot be listed");
            return;
        }
    };
    for ingestor in ingestors {
        let held = match holds {
            Some(holds) => match holds.holds(&ingestor).await {
                Ok(held) => Some(held),
                Err(error) => {
                    tracing::warn!(%ingestor, %error, "no fresh holds, only the limit in bytes trims");
                    None
                }
            },
            None => None,
        };
        match shared.journal.trim(&ingestor, held.as_deref(), now_nanos()).await {
            Ok(trimmed) if trimmed.segments > 0 => tracing::info!(
                %ingestor,
                segments = trimmed.segments,
                blocks = trimmed.blocks,
                bytes = trimmed.bytes,
                "trimmed"
            ),
            Ok(_) => {}
            Err(error) => tracing::warn!(%ingestor, %error, "trim failed"),
        }
        if let Ok(status) = shared.journal.status(&ingestor).await {
            shared.metrics.status(&status);
        }
    }
}

/// Nanoseconds since 1970.
fn now_nanos() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
