//! Appending: one writer per ingestor, frames in, acknowledgements out.

mod stream;
mod writers;

pub(crate) use stream::serve;
pub(crate) use writers::{Claimed, Writers};
