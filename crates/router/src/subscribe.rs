//! Subscriptions: a journal reader becomes a stream of messages.

mod cut;
mod feed;
mod request;
mod stream;

pub(crate) use cut::first_changes;
pub(crate) use request::{Request, filter, ingestor};
pub(crate) use stream::open;
