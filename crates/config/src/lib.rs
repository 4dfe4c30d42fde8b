//! Configuration: one documented file, and what may override it.
//!
//! ```text
//!   defaults  <  file (TOML)  <  environment (SLUICE_JOURNAL__DIR)  <  --set journal.dir=…
//! ```
//!
//! Unknown keys are errors with their path and a guess; so are values of the wrong kind. Every
//! error says which file, variable or flag set the key. Secrets are references (`file:`, `env:`) and never printed. Tables that belong to one
//! type of source or sink stay raw here; their owner reads them with [`section`].
//!
//! This is the only crate that reads the environment.

mod cosmos;
mod duration;
mod error;
mod explain;
mod layer;
mod load;
mod render;
mod secret;
mod sections;
mod size;
mod validate;

pub use cosmos::{CosmosFileStreamer, cosmos_app_toml};
pub use duration::HumanDuration;
pub use error::ConfigError;
pub use load::{Sources, load, process_environment, section};
pub use secret::{Secret, SecretError};
pub use sections::{
    Batch, Config, Connect, Coordinator, Durability, Etcd, Feeds, Ingestor, Journal,
    JournalBackend, Listen, OnGap, OnRegress, Retention, Retry, Security, Sink, Source, Store,
    Stream, Telemetry, Then, Tls,
};
pub use size::ByteSize;
