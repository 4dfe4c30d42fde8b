//! The embedded backend passes the suite, on a real file system.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests report by panicking, as tests do"
)]

use std::sync::Arc;

use async_trait::async_trait;
use sluice_journal::{Embedded, Journal, Options, Retention, conformance::Backend};

struct OnDisk(tempfile::TempDir);

impl OnDisk {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }
}

#[async_trait]
impl Backend for OnDisk {
    async fn open(&self) -> Arc<dyn Journal> {
        let options = Options {
            segment_bytes: 16 << 10,
            tail_cache_bytes: 1 << 20,
            retention: Retention { blocks: Some(1), ..Retention::default() },
            ..Options::default()
        };
        Embedded::open_dir(self.0.path(), options).unwrap()
    }
}

mod with_a_tail_cache {
    use super::OnDisk;
    sluice_journal::conformance!(OnDisk::new());
}

/// The same with every frame from the disk.
struct NoCache(OnDisk);

#[async_trait]
impl Backend for NoCache {
    async fn open(&self) -> Arc<dyn Journal> {
        let options = Options {
            segment_bytes: 4 << 10,
            tail_cache_bytes: 0,
            index_cache_bytes: 1,
            prepare_spares: false,
            retention: Retention { blocks: Some(1), ..Retention::default() },
            ..Options::default()
        };
        Embedded::open_dir(self.0.0.path(), options).unwrap()
    }
}

mod without_any_cache {
    use super::{NoCache, OnDisk};
    sluice_journal::conformance!(NoCache(OnDisk::new()));
}
