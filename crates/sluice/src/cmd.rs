//! The commands, one module per noun.

pub(crate) mod capture;
pub(crate) mod config;
pub(crate) mod events;
pub(crate) mod files;
pub(crate) mod filter;
pub(crate) mod import;
pub(crate) mod ingestors;
pub(crate) mod journal;
pub(crate) mod serve;
pub(crate) mod status;
pub(crate) mod streams;
pub(crate) mod tail;
