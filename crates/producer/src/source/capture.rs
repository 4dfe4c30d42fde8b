//! `capture`: blocks that any program hands in through the public API.

pub mod door;
pub mod visit;

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use parking_lot::Mutex;
use serde::Deserialize;
use sluice_model::{Head, IngestorName};

use super::{
    Ack, Feed, Refusal, Source, SourceContext, SourceError, Verdict,
    registry::{BuildError, parse_section},
};

pub use door::{Answer, Door, Rejection};
pub use visit::{BeginCapture, Visit};

/// The name of this source in the configuration.
pub const TYPE: &str = "capture";

/// `source = { type = "capture" }`: there is nothing to set.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {}

/// The doors of all ingestors of a process, by name.
#[derive(Clone, Debug, Default)]
pub struct Doors(Arc<Mutex<BTreeMap<IngestorName, Arc<Door>>>>);

impl Doors {
    /// The door of an ingestor, if its source takes part in the capture API.
    pub fn get(&self, ingestor: &IngestorName) -> Option<Arc<Door>> {
        self.0.lock().get(ingestor).cloned()
    }

    /// The ingestors that have a door.
    pub fn names(&self) -> Vec<IngestorName> {
        self.0.lock().keys().cloned().collect()
    }

    fn add(&self, ingestor: &IngestorName) -> Arc<Door> {
        self.0.lock().entry(ingestor.clone()).or_default().clone()
    }
}

/// The source.
#[derive(Debug)]
pub struct Capture {
    door: Arc<Door>,
}

/// Builds the source from its table; for the registry.
pub fn build(context: &SourceContext, table: &toml::Table) -> Result<Box<dyn Source>, BuildError> {
    let Options {} = parse_section(context, table)?;
    Ok(Box::new(Capture { door: context.doors.add(&context.ingestor) }))
}

#[async_trait]
impl Source for Capture {
    async fn blocks(&mut self, after: Option<&Head>) -> Result<Feed, SourceError> {
        let (door, head) = (self.door.clone(), after.cloned());
        Ok(Feed::spawn(move |feed| {
            let open = door.open(feed.clone(), head);
            async move {
                feed.closed().await;
                // Shuts the door, also when this task is dropped instead.
                drop(open);
                Ok(())
            }
        }))
    }

    async fn durable(&mut self, ack: &Ack) -> Result<(), SourceError> {
        self.door.durable(ack);
        Ok(())
    }

    async fn refused(&mut self, refusal: &Refusal) -> Verdict {
        self.door.refused(refusal)
    }
}

#[cfg(test)]
mod tests;
