use std::{collections::VecDeque, fmt, sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::kv::{Kv, KvError, Revision};

/// How much history a store keeps.
#[derive(Clone, Copy, Debug)]
pub struct CompactionOptions {
    /// How often to look.
    pub every: Duration,
    /// History younger than this is kept, as long as it is within `keep_revisions`.
    pub keep_age: Duration,
    /// History beyond so many revisions is dropped whatever its age.
    pub keep_revisions: u64,
}

impl Default for CompactionOptions {
    fn default() -> Self {
        Self {
            every: Duration::from_secs(60),
            keep_age: Duration::from_secs(600),
            keep_revisions: 10_000,
        }
    }
}

/// Drops old history, so that the store does not grow with every commit. Any number of replicas
/// may do it at once.
pub struct Compactor {
    kv: Arc<dyn Kv>,
    options: CompactionOptions,
    seen: VecDeque<(Instant, Revision)>,
    compacted: Revision,
}

impl fmt::Debug for Compactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compactor").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Compactor {
    /// Over a store.
    pub fn new(kv: Arc<dyn Kv>, options: CompactionOptions) -> Self {
        Self { kv, options, seen: VecDeque::new(), compacted: 0 }
    }

    /// The pause between two [`Self::step`]s.
    pub fn every(&self) -> Duration {
        self.options.every
    }

    /// Looks once and compacts what is old. Returns the store's revision and its size in bytes.
    /// Cancel safe.
    pub async fn step(&mut self) -> Result<(Revision, u64), KvError> {
        let (revision, size) = self.kv.status().await?;
        let target = self.target(Instant::now(), revision);
        if target > self.compacted {
            self.kv.compact(target).await?;
            self.compacted = target;
        }
        Ok((revision, size))
    }

    fn target(&mut self, now: Instant, revision: Revision) -> Revision {
        self.seen.push_back((now, revision));
        let mut old = 0;
        while let Some((at, seen)) = self.seen.front().copied()
            && now.saturating_duration_since(at) >= self.options.keep_age
        {
            old = seen;
            self.seen.pop_front();
        }
        old.max(revision.saturating_sub(self.options.keep_revisions))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::EmbeddedKv;

    #[tokio::test]
    async fn keeps_by_age_and_by_count() {
        let options = CompactionOptions { keep_revisions: 100, ..CompactionOptions::default() };
        let mut compactor = Compactor::new(Arc::new(EmbeddedKv::in_memory()), options);
        let start = Instant::now();
        let minutes = |n: u64| start + Duration::from_secs(60 * n);
        assert_eq!(compactor.target(start, 10), 0);
        assert_eq!(compactor.target(minutes(5), 20), 0);
        assert_eq!(compactor.target(minutes(10), 30), 10);
        assert_eq!(compactor.target(minutes(15), 40), 20);
        assert_eq!(compactor.target(minutes(16), 1000), 900);
    }
}
