//! The router service: holds the journals, takes appends, and streams to every subscriber exactly
//! the changes that its filter asks for.
//!
//! The rooms: `grpc` translates calls; `append` owns the one writer per ingestor and turns
//! frames into acknowledgements; `subscribe` turns a journal reader into messages (`feed` decides,
//! the loop waits); `digests` streams the digests of blocks alone; `catalog` answers questions
//! about journals; `retention` asks who still needs what and trims. A stored frame is never decoded
//! on the way out: a filtered answer is a new header and slices of the stored bytes.

mod app;
mod append;
mod catalog;
mod config;
mod digests;
mod error;
mod grpc;
mod metrics;
mod retention;
mod subscribe;

pub use app::{GRPC_NAME, RouterService};
pub use config::RouterOptions;
pub use retention::Holds;
