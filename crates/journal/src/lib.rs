//! The journal: the durable, append-only, fenced log of one ingestor's blocks.
//!
//! [`Journal`], [`Writer`] and [`Reader`] are the seam that the rest of Sluice sees; their
//! contract is on the traits and `conformance` checks it. [`Embedded`] is the backend that keeps
//! its own segment files in one directory of a local disk.
//!
//! Inside the embedded backend a block travels like this: [`Writer::append`] checks and hashes a
//! frame on the caller's task, the ingestor's committer thread writes whatever is queued and
//! syncs once, then the assembler makes whole blocks visible to the index, the tail cache and
//! the readers. A block that comes alone is written and synced by whoever waits for its
//! [`Ticket`], and hashed beside that.

mod assembler;
mod codec;
mod committer;
mod control;
mod embedded;
mod error;
pub mod files;
mod hover;
mod index;
pub mod inspect;
mod journal;
mod late;
mod reader;
mod record;
mod recovery;
mod replay;
mod retention;
mod segment;
mod shared;
mod slot;
mod survey;
mod tail;
mod types;
mod verify;
mod writer;

#[cfg(feature = "conformance")]
pub mod conformance;

pub use embedded::{Embedded, Options, Policy, Retention};
pub use error::{AppendError, JournalError, ReadError};
pub use journal::{Help, Journal, Reader, Ticket, Writer};
pub use types::{
    Corruption, GapNotice, GenerationNotice, Item, Open, Opened, ReadFrom, Receipt, Report, Select,
    Started, Status, Stored, Through, Trimmed, VerifyProgress,
};
