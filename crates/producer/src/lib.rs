//! The producer: obtains the blocks of ingestors and hands them to the router.
//!
//! For every configured ingestor one loop runs: queue for the lock, open the journal (which fences
//! every earlier writer), compare its head with the last commit and with the own last
//! acknowledgement, let the [source](source::Source) give the blocks behind the head, cut them
//! into frames, append them with several blocks under way, and move the commit along.
//!
//! * [`source`] — where blocks come from: the seam, its registry and the kinds there are.
//! * [`ingest`] — the loop; [`policy`], [`witness`] and [`control`] decide, without I/O.
//! * [`seam`] — what the loop needs of the coordinator and the router; [`contact`] — whether the
//!   router still answers.
//! * [`feeds`], [`spool`] — several feeds of one ingestor: capture beside, compare, fill.
//! * [`grpc`], [`app`] — the API and the service.

pub mod app;
pub mod config;
pub mod contact;
pub mod control;
mod error;
pub mod feeds;
pub mod grpc;
pub mod ingest;
pub mod metrics;
pub mod notes;
pub mod policy;
pub mod seam;
pub mod source;
pub mod spool;
pub mod status;
pub mod stores;
pub mod witness;

pub use app::ProducerService;
pub use config::ProducerOptions;
pub use error::Error;
pub use source::{Registry, Source};

#[cfg(test)]
mod tests;
