//! The runtime of every sink: one stream from its checkpoint to its destination, in order.
//!
//! ```text
//!   lock → checkpoint → resume → subscribe → Batcher → Dispatcher → Receipt → Ledger → checkpoint
//! ```
//!
//! A destination implements [`Dispatcher`] and registers a [`DispatcherFactory`] under its type
//! name; everything else (order, retries, checkpoints, hand-over, status) is here, once.
//!
//! Invariants:
//! * A checkpoint over events is built from a [`Receipt`] and from nothing else; one over a
//!   stretch without events never passes an event that was not delivered.
//! * Past the validity of the lock no new delivery begins.
//! * What is kept in memory is bounded: one batch in flight, one batch and one frame behind it.

mod app;
mod batch;
mod batcher;
mod client;
pub mod config;
#[cfg(any(test, feature = "conformance"))]
#[expect(clippy::expect_used, reason = "test material: a failure is a failed test")]
pub mod conformance;
mod dispatcher;
pub mod feed;
mod grpc;
mod ledger;
mod line;
mod metrics;
pub mod owners;
mod piece;
pub mod retry;
mod status;
mod stream;
mod tenancy;
#[cfg(any(test, feature = "conformance"))]
#[expect(clippy::expect_used, reason = "test material: a failure is a failed test")]
pub mod testing;

pub use app::{Registry, SinkOptions, SinkService};
pub use batch::{Batch, BatchId, Mark, MarkKind, Origin, Receipt};
pub use batcher::{BatchError, Batcher, Progress};
pub use client::{CoordinatorOwners, RouterJournal};
pub use config::{BatchConfig, ConfigError, SinkConfig, StreamConfig};
pub use dispatcher::{BatchShape, DeliverError, Dispatcher, DispatcherFactory};
pub use retry::Retry;
pub use status::{Snapshot, State, Status};
