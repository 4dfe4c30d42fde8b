//! An owner whose source is behind this replica's.

use sluice_client::coordination::CoordinationError;

use super::Shared;

/// Looks at a lag that is over the limit before something is done about it.
const LOOKS: u32 = 3;

/// Watches how far the journal, and with it the owner, is behind.
#[derive(Debug, Default)]
pub(super) struct Lag {
    looks: u32,
}

impl Lag {
    /// Takes a look: this replica has blocks up to `own`, the journal up to `journal`. When that
    /// is too much for a while, and it is the owner's source that is behind and not only its
    /// journal, the owner is asked to hand over.
    pub(super) async fn watch(&mut self, shared: &Shared, own: u64, journal: u64) {
        if self.is_lasting(shared.options.lag_limit, own, journal)
            && let Err(error) = ask(shared, own).await
        {
            tracing::warn!(ingestor = %shared.ingestor, %error, "asking the owner to hand over");
        }
    }

    fn is_lasting(&mut self, limit: u64, own: u64, journal: u64) -> bool {
        let over = limit > 0 && own >= journal.saturating_add(limit);
        self.looks = if over { self.looks + 1 } else { 0 };
        let lasting = self.looks >= LOOKS;
        if lasting {
            self.looks = 0;
        }
        lasting
    }
}

async fn ask(shared: &Shared, own: u64) -> Result<(), CoordinationError> {
    let limit = shared.options.lag_limit;
    let Some(owner) = shared.seams.peers.owner(&shared.ingestor).await else { return Ok(()) };
    if !owner.working || own < owner.height.saturating_add(limit) {
        return Ok(());
    }
    let reason = format!(
        "the source of the owner at {} is at {}, this replica's at {own}; lag_limit is {limit}",
        owner.address, owner.height
    );
    shared.seams.operator.hand_over(&shared.ingestor, &reason).await?;
    shared.metrics.hand_over(&shared.ingestor);
    tracing::info!(ingestor = %shared.ingestor, reason, "asked the owner to hand over");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_lag_that_lasts_counts_and_then_once() {
        let mut lag = Lag::default();
        let mut look = |own, journal| lag.is_lasting(5, own, journal);
        assert!(!look(10, 5) && !look(10, 5), "not at once");
        assert!(!look(10, 6) && !look(11, 6) && !look(12, 6), "below the limit in between");
        assert!(look(12, 6));
        assert!(!look(12, 6) && !look(12, 6) && look(12, 6), "and again after as long");
        let mut off = Lag::default();
        assert!((0..10).all(|_| !off.is_lasting(0, 100, 1)), "0 is never");
    }
}
