//! Several feeds of one ingestor: every replica captures from its own source, only the owner
//! appends.
//!
//! ```text
//!   owner    source ─> [fill] ─> ingest loop ─> [agree] ─> journal
//!                        │                        │           │ digests of every block
//!                        └──── Spool service ─────┘           v
//!   standby  source ─> spool <───────────── compare, drop, or halt
//! ```
//!
//! * [`beside`] — a standby keeps what its source gives in its [spool](crate::spool) until the
//!   journal is seen to have the same; it halts the ingestor when the journal has something else,
//!   and asks for the lock when the owner's source lags.
//! * [`fill`] — the owner's source, with what it lacks fetched from standbys.
//! * [`agree`] — the owner's journal, which takes only blocks that a second feed confirms. It asks
//!   about the next ones while the first is compared.
//! * [`compare`] and [`incoming`] decide, without I/O; [`peers`], [`tail`] and [`operator`] are the
//!   seams to other replicas, the router and the coordinator.
//!
//! All of it is put around the ingest loop, which knows nothing of it but where it waits for the
//! lock.

pub mod agree;
pub mod assemble;
pub mod beside;
pub mod compare;
pub mod fill;
pub mod grpc;
pub mod incoming;
mod lag;
mod metrics;
pub mod operator;
pub mod peers;
mod session;
mod spooling;
pub mod tail;

use std::{
    collections::BTreeMap,
    fmt,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use sluice_model::{IngestorName, Pointer, TopicRules};

pub use agree::Ahead;
pub use beside::Beside;
pub use grpc::SpoolApi;
pub use metrics::FeedMetrics;
pub use operator::{Operator, RemoteOperator};
pub use peers::{Dial, Peers, RemotePeers};
pub use tail::{RemoteTails, Tails};

use crate::{
    seam::Journals, source::Source, spool::SpoolHandle, status::StatusCell, stores::Stores,
};

/// Most filled blocks whose giver is remembered.
const SUPPLIED: usize = 1024;

/// How several feeds of an ingestor work together.
#[derive(Clone, Debug)]
pub struct FeedOptions {
    /// Replicas that do not own the ingestor capture beside.
    pub beside: bool,
    /// Feeds that must have given a block before it is appended; 1 compares afterwards.
    pub agree: u8,
    /// How long a block may be missing in every feed until a gap is recorded.
    pub gap_after: Option<Duration>,
    /// Blocks that the owner's source may be behind a replica's; 0: any number.
    pub lag_limit: u64,
    /// Bytes of the spool.
    pub spool_bytes: u64,
    /// Its directory.
    pub spool_dir: PathBuf,
    /// How far ahead blocks are asked about where two feeds must agree.
    pub ahead: Ahead,
    /// How often things are looked at.
    pub timing: Timing,
}

/// How often things are looked at.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// How long a replica waits for the lock before it begins to capture beside.
    pub settle: Duration,
    /// How often a standby looks at room, lag and what it has to tell.
    pub tick: Duration,
    /// How long one question for a block that is still to come waits.
    pub ask: Duration,
    /// How long a block that no replica has yet is asked for again.
    pub fill: Duration,
    /// Largest wait before a standby begins again after a failure.
    pub retry: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            settle: Duration::from_millis(250),
            tick: Duration::from_secs(1),
            ask: Duration::from_secs(2),
            fill: Duration::from_secs(3),
            retry: Duration::from_secs(10),
        }
    }
}

impl Default for FeedOptions {
    /// One feed.
    fn default() -> Self {
        Self {
            beside: false,
            agree: 1,
            gap_after: None,
            lag_limit: 0,
            spool_bytes: 1 << 30,
            spool_dir: PathBuf::new(),
            ahead: Ahead::default(),
            timing: Timing::default(),
        }
    }
}

/// What the feeds need of the world.
#[derive(Clone)]
pub struct Seams {
    /// The other replicas.
    pub peers: Arc<dyn Peers>,
    /// The journal's digests.
    pub tails: Arc<dyn Tails>,
    /// What operators can do.
    pub operator: Arc<dyn Operator>,
}

/// The feeds of one ingestor in this process.
#[derive(Clone, Debug)]
pub struct Feeds {
    shared: Arc<Shared>,
}

/// What the parts share.
pub(crate) struct Shared {
    ingestor: IngestorName,
    options: FeedOptions,
    spool: Arc<SpoolHandle>,
    seams: Seams,
    status: StatusCell,
    metrics: FeedMetrics,
    /// This process captures beside; it is not the owner.
    standing_by: AtomicBool,
    /// Blocks that came from another replica, and from which.
    supplied: Mutex<BTreeMap<Pointer, String>>,
}

impl Feeds {
    /// For an ingestor with these options. `None` if they ask for nothing. Does no I/O.
    pub fn new(
        options: FeedOptions,
        seams: Seams,
        status: StatusCell,
        metrics: FeedMetrics,
    ) -> Option<Self> {
        if !options.beside && options.gap_after.is_none() {
            return None;
        }
        let spool = Arc::new(SpoolHandle::new(options.spool_dir.clone(), options.spool_bytes));
        let shared = Shared {
            ingestor: status.ingestor().clone(),
            options,
            spool,
            seams,
            status,
            metrics,
            standing_by: AtomicBool::new(false),
            supplied: Mutex::default(),
        };
        Some(Self { shared: Arc::new(shared) })
    }

    /// The source, with what it lacks fetched from elsewhere while this process is the owner.
    pub fn source(&self, source: Box<dyn Source>) -> Box<dyn Source> {
        Box::new(fill::Filling::new(self.shared.clone(), source))
    }

    /// The journals, with blocks held back until a second feed confirms them if so configured.
    pub fn journals(&self, journals: Arc<dyn Journals>) -> Arc<dyn Journals> {
        if self.shared.options.agree < 2 {
            return journals;
        }
        Arc::new(agree::Agreeing::new(self.shared.clone(), journals))
    }

    /// What to do while somebody else owns the ingestor; nothing, if so configured.
    pub fn beside(
        &self,
        topics: TopicRules,
        stores: Stores,
        metadata_limit: usize,
    ) -> Option<Beside> {
        let shared = self.shared.clone();
        shared.options.beside.then(|| Beside::new(shared, topics, stores, metadata_limit))
    }

    /// The ingestor and its spool, for the API; `None` without one.
    pub fn spool(&self) -> Option<(IngestorName, Arc<SpoolHandle>)> {
        let shared = &self.shared;
        shared.options.beside.then(|| (shared.ingestor.clone(), shared.spool.clone()))
    }
}

impl Shared {
    fn is_standing_by(&self) -> bool {
        self.standing_by.load(Ordering::Acquire)
    }

    fn note(&self, key: &'static str, remark: Option<String>) {
        self.status.note(key, remark);
    }

    /// Remembers that a block came from another replica: that one's word for it counts no more.
    fn supplied(&self, pointer: Pointer, by: String) {
        let mut supplied = self.supplied.lock();
        supplied.insert(pointer, by);
        if supplied.len() > SUPPLIED {
            supplied.pop_first();
        }
    }

    fn supplier(&self, pointer: &Pointer) -> Option<String> {
        self.supplied.lock().get(pointer).cloned()
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("ingestor", &self.ingestor)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Seams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seams")
    }
}

#[cfg(test)]
mod tests;
