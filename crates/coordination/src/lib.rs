//! Sessions, locks, epochs, commits and checkpoints over a small key-value seam.
//!
//! [`Kv`] is the seam: get, range, transaction, lease, watch, with two backends ([`EtcdKv`] for
//! any number of coordinators, [`EmbeddedKv`] for one) and one conformance suite. [`Coordination`]
//! is the recipe over it, the same for both:
//!
//! - A **session** is a lease. A **candidate** for a lock is a key under it, named by the lease
//!   and a nonce of the client, so that asking twice is asking once.
//! - Candidates are served in the order of their create revision; each watches only the one
//!   before it. The winner reads its own key and the store's incarnation again in the very
//!   transaction that makes it the owner: a candidate whose lease ended while it waited never
//!   wins.
//! - The **epoch** is incarnation ‖ create revision and stands in the owner's key from the winning
//!   transaction on. Every commit and checkpoint is a transaction guarded by that key and by the
//!   previous value.
//!
//! - The **control** of an ingestor is what operators want of it: paused, or an action to be done
//!   once. It is changed by compare-and-swap and watched by owner and waiters; only the owner can
//!   say that an action ended.
//! - The **trail** of an ingestor says who owned it and what was done to it. Changes of ownership
//!   and of control are written in one transaction with their entry.
//!
//! Nothing here keeps state between calls except the write budget: any replica serves any call.

mod acquire;
mod audit;
mod budget;
mod checkpoint;
mod commit;
mod compaction;
pub mod control;
mod coordination;
pub mod embedded;
mod error;
pub mod etcd;
mod hold;
mod keys;
mod kv;
mod listing;
mod record;
mod session;

#[cfg(feature = "conformance")]
pub mod conformance;

pub use acquire::{Acquisition, LockState};
pub use audit::{AuditEntry, Note};
pub use budget::{BudgetOptions, WriteBudget};
pub use checkpoint::PutCheckpoint;
pub use commit::Commit;
pub use compaction::{CompactionOptions, Compactor};
pub use control::{Action, ActionKind, ActionResult, Control, ControlWatch};
pub use coordination::{Coordination, Options, Ticket, WallClock};
pub use embedded::EmbeddedKv;
pub use error::Error;
pub use etcd::{EtcdKv, EtcdOptions, EtcdTls};
pub use hold::{Hold, STOPPED_STREAM_HOLD};
pub use keys::{KeyError, Keys, MAX_NAME};
pub use kv::{
    Answer, Compare, Entry, Event, EventKind, Kv, KvError, LeaseId, MAX_TXN_OPS, Op, Range,
    Revision, Txn, TxnAnswer, Watch,
};
pub use listing::LockStatus;
pub use record::{CommitRecord, Member, StreamCheckpoint, StreamState};
