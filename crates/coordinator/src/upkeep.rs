//! What a coordinator does besides answering: it drops the store's old history and tells how
//! large the store is.

use sluice_coordination::{Compactor, Coordination};
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

pub(crate) async fn run(
    coordination: Coordination,
    mut compactor: Compactor,
    metrics: Metrics,
    stop: CancellationToken,
) {
    loop {
        match compactor.step().await {
            Ok((revision, size)) => metrics.store(revision, size),
            Err(error) => tracing::warn!(%error, "the store's history was not looked at"),
        }
        metrics.budget(coordination.budget());
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(compactor.every()) => {}
        }
    }
}
