//! The coordinator service: sessions, locks, commits, checkpoints and holds over gRPC.
//!
//! It decodes, calls [`sluice_coordination`], and encodes. It keeps nothing between calls but the
//! write budget, never renews a lease by itself and never answers from memory, so any number of
//! replicas serve one etcd; with the embedded store there is exactly one.

mod app;
mod config;
mod error;
mod grpc;
mod metrics;
mod upkeep;
mod wire;

pub use app::Coordinator;
pub use config::{CoordinatorOptions, StoreOptions};
pub use error::BuildError;
