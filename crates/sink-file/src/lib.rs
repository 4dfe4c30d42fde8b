//! The file sink: committed state changes as files, each exactly once.
//!
//! Two formats: `jsonl` writes rows in files of aligned height ranges, `cosmos` writes the block
//! files that Cosmos nodes before SDK 0.50 wrote, byte for byte.
//!
//! Invariants:
//! * Names and content are functions of stream, filter and positions; never of time, of batches
//!   or of crashes. A file with its final name is whole.
//! * What counts as delivered is durable: bytes, names, manifest, in this order, then the
//!   position that a restart believes.
//! * Nothing is skipped: a failed batch is tried again until it is written, and what does not
//!   exist (a gap in the chain) stands in the manifest.
//! * A root is a volume with an id; one process writes below it.

pub mod config;
mod cosmos;
mod dispatcher;
mod engine;
mod error;
mod files;
pub mod inspect;
mod jsonl;
mod layer;
pub mod manifest;
mod metrics;
pub mod names;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod testing;
pub mod volume;
mod writer;

pub use config::{FileOptions, Format, Keys, RootOptions};
pub use dispatcher::{FactoryError, FileFactory};
pub use error::{Action, FileError};
pub use names::Layout;
pub use volume::{Volume, VolumeError};
