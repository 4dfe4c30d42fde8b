//! What a coordinator does besides answering: it drops the store's old history and tells how
//! large the store is.

use std::time::Duration;

use sluice_coordination::{Compactor, Coordination};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// How often what operators see is brought up to date.
const TELL: Duration = Duration::from_secs(5);

pub(crate) async fn run(
    coordination: Coordination,
    mut compactor: Compactor,
    metrics: Metrics,
    stop: CancellationToken,
) {
    let mut due = Instant::now();
    loop {
        let compacting = Instant::now() >= due;
        let looked = if compacting {
            due = Instant::now() + compactor.every();
            compactor.step().await
        } else {
            coordination.kv().status().await
        };
        match looked {
            Ok((revision, size)) => metrics.store(revision, size),
            Err(error) => tracing::warn!(%error, compacting, "the store was not looked at"),
        }
        metrics.budget(coordination.budget());
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(TELL.min(compactor.every())) => {}
        }
    }
}
