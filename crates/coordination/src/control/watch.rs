use std::fmt;

use futures_util::StreamExt;
use sluice_model::IngestorName;

use super::Control;
use crate::{
    acquire::AGAIN,
    coordination::Coordination,
    error::Error,
    kv::{Entry, Event, EventKind, KvError, Watch},
    record,
};

/// Follows the control of an ingestor: first its present state, then every later one. States that
/// follow each other faster than they are asked for may be left out, the last one never. Lost
/// watches and compacted history are overcome by reading again.
pub struct ControlWatch {
    coordination: Coordination,
    key: String,
    told: Option<Control>,
    watch: Option<Watch>,
    ended: bool,
}

impl fmt::Debug for ControlWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ControlWatch").field("key", &self.key).finish_non_exhaustive()
    }
}

impl Coordination {
    /// Follows the control of an ingestor. Does no I/O before the first [`ControlWatch::next`].
    pub fn watch_control(&self, ingestor: &IngestorName) -> ControlWatch {
        ControlWatch {
            key: self.keys.control(ingestor),
            coordination: self.clone(),
            told: None,
            watch: None,
            ended: false,
        }
    }
}

impl ControlWatch {
    /// The next state that differs from the one told before. `None` after an error, which means
    /// that the store cannot be read, or has something else in this place. Cancel safe.
    pub async fn next(&mut self) -> Option<Result<Control, Error>> {
        while !self.ended {
            match self.advance().await {
                Ok(Some(control)) if self.told.as_ref() != Some(&control) => {
                    self.told = Some(control.clone());
                    return Some(Ok(control));
                }
                Ok(_) => {}
                Err(error) => {
                    self.ended = true;
                    return Some(Err(error));
                }
            }
        }
        None
    }

    async fn advance(&mut self) -> Result<Option<Control>, Error> {
        let Some(watch) = &mut self.watch else { return self.read().await.map(Some) };
        let failed = match watch.next().await {
            Some(Ok(events)) => return self.latest(&events),
            Some(Err(error)) => error,
            None => KvError::Unavailable("the watch ended".to_owned()),
        };
        self.watch = None;
        tracing::debug!(key = self.key, error = %failed, "watching the control anew");
        if !matches!(failed, KvError::Compacted { .. }) {
            tokio::time::sleep(AGAIN).await;
        }
        Ok(None)
    }

    /// Reads the state, and watches what comes after it.
    async fn read(&mut self) -> Result<Control, Error> {
        let (revision, entry) = self.coordination.kv.get(&self.key).await?;
        let control = self.decode(entry)?;
        match self.coordination.kv.watch(&self.key, revision + 1).await {
            Ok(watch) => self.watch = Some(watch),
            Err(error) => {
                // The state is told all the same; what comes after it is read next time.
                tracing::debug!(key = self.key, %error, "the control is not watched yet");
                if self.told.as_ref() == Some(&control) {
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
        Ok(control)
    }

    fn decode(&self, entry: Option<Entry>) -> Result<Control, Error> {
        entry
            .map_or_else(|| Ok(Control::default()), |entry| record::decode(&self.key, &entry.value))
    }

    fn latest(&self, events: &[Event]) -> Result<Option<Control>, Error> {
        match events.last().map(|event| &event.kind) {
            None => Ok(None),
            Some(EventKind::Deleted) => Ok(Some(Control::default())),
            Some(EventKind::Put(value)) => record::decode(&self.key, value).map(Some),
        }
    }
}
