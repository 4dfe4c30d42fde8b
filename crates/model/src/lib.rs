//! The values that every part of Sluice shares: names, positions, digests, filters, events.
//!
//! Nothing here does I/O, waits, or knows a wire format. A value that exists is valid: the
//! constructors check, the fields are private where a rule ties them together.

pub mod bucket;
mod change;
mod digest;
mod epoch;
pub mod event;
pub mod filter;
mod head;
mod kind;
mod name;
mod pointer;
mod position;
mod sequence;
mod start;
pub mod topic;

pub use change::{Change, Op};
pub use digest::{Digest, DigestError};
pub use epoch::Epoch;
pub use filter::{Filter, FilterSpec};
pub use head::{Durability, Head, JournalId, JournalIdError};
pub use kind::Kind;
pub use name::{IngestorName, NameError};
pub use pointer::{Pointer, PointerError};
pub use position::{Checkpoint, END_OF_BLOCK, Generation, Position};
pub use sequence::{SequenceId, SequenceIdError};
pub use start::{StartError, StartPosition};
pub use topic::{TopicRule, TopicRules};
