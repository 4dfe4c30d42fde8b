//! What is counted: repeats, order, holes. Pure.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Ids per stream that are remembered exactly. An older one counts as a repeat.
const REMEMBERED: usize = 1 << 16;

/// The counts, over all streams.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Stats {
    /// Batches accepted.
    pub(crate) batches: u64,
    /// Events accepted, repeats included.
    pub(crate) events: u64,
    /// Events with an id that was not there before.
    pub(crate) distinct: u64,
    /// Events that came again.
    pub(crate) repeated: u64,
    /// Events that came after a later one for the first time.
    pub(crate) disordered: u64,
    /// Batches that begin behind the end of the last one: something in between was lost.
    pub(crate) holes: u64,
}

/// A batch as it was sent.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) header: BatchHeader,
    /// Ids and texts of the events.
    pub(crate) events: Vec<(String, Box<RawValue>)>,
}

/// What a batch says of itself; one line of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BatchHeader {
    #[serde(default)]
    pub(crate) webhook_id: String,
    pub(crate) stream: String,
    pub(crate) batch_number: u64,
    pub(crate) after: Option<String>,
    pub(crate) through: Option<String>,
    pub(crate) epoch: u64,
    /// How many event lines follow.
    #[serde(default)]
    pub(crate) events: usize,
}

/// The body of a request; everything of the header, and the events.
#[derive(Deserialize)]
struct Body {
    events: Vec<Box<RawValue>>,
}

/// The part of an event that is looked at.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Named {
    sequence_id: String,
}

/// The id in an event's text.
pub(crate) fn id_of(event: &str) -> Result<String, String> {
    let named: Named = serde_json::from_str(event).map_err(|error| error.to_string())?;
    Ok(named.sequence_id)
}

/// A header without the count of events, which in a body is the list.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Bounds {
    stream: String,
    batch_number: u64,
    #[serde(default)]
    after: Option<String>,
    #[serde(default)]
    through: Option<String>,
    #[serde(default)]
    epoch: u64,
}

impl Batch {
    /// Reads a body.
    pub(crate) fn parse(body: &[u8], webhook_id: &str) -> Result<Self, String> {
        let wrong = |error: serde_json::Error| format!("not a batch: {error}");
        let bounds: Bounds = serde_json::from_slice(body).map_err(wrong)?;
        let Body { events } = serde_json::from_slice(body).map_err(wrong)?;
        let events = events
            .into_iter()
            .enumerate()
            .map(|(index, event)| match id_of(event.get()) {
                Ok(id) => Ok((id, event)),
                Err(why) => Err(format!("events[{index}]: {why}")),
            })
            .collect::<Result<Vec<_>, _>>()?;
        let header = BatchHeader {
            webhook_id: webhook_id.to_owned(),
            stream: bounds.stream,
            batch_number: bounds.batch_number,
            after: bounds.after,
            through: bounds.through,
            epoch: bounds.epoch,
            events: events.len(),
        };
        Ok(Self { header, events })
    }
}

/// Counts over all streams.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) stats: Stats,
    streams: BTreeMap<String, Seen>,
}

/// What was seen of one stream.
#[derive(Debug, Default)]
struct Seen {
    /// The newest ids that were new, ascending.
    ids: VecDeque<String>,
    /// True if ids were forgotten.
    forgot: bool,
    through: Option<String>,
}

impl Tally {
    /// Counts one batch's bounds. Ids sort as text in the order of the events.
    pub(crate) fn batch(&mut self, header: &BatchHeader) {
        self.stats.batches += 1;
        let seen = self.streams.entry(header.stream.clone()).or_default();
        if let (Some(after), Some(through)) = (&header.after, &seen.through)
            && after > through
        {
            self.stats.holes += 1;
        }
        if header.through > seen.through {
            seen.through.clone_from(&header.through);
        }
    }

    /// Counts one event.
    pub(crate) fn event(&mut self, stream: &str, id: &str) {
        let seen = self.streams.entry(stream.to_owned()).or_default();
        self.stats.events += 1;
        if seen.ids.back().is_none_or(|last| last.as_str() < id) {
            self.stats.distinct += 1;
            seen.ids.push_back(id.to_owned());
            if seen.ids.len() > REMEMBERED {
                seen.ids.pop_front();
                seen.forgot = true;
            }
            return;
        }
        let place = seen.ids.partition_point(|known| known.as_str() < id);
        let known = seen.ids.get(place).is_some_and(|known| known == id);
        if known || (place == 0 && seen.forgot) {
            self.stats.repeated += 1;
        } else {
            self.stats.disordered += 1;
            self.stats.distinct += 1;
            seen.ids.insert(place, id.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounds(after: Option<&str>, through: &str) -> BatchHeader {
        let text = |text: &str| Some(text.to_owned());
        BatchHeader { after: after.and_then(text), through: text(through), ..Default::default() }
    }

    #[test]
    fn repeats_disorder_and_new_ones_are_told_apart() {
        let mut tally = Tally::default();
        for id in ["1", "2", "4", "2", "4", "3", "3", "5"] {
            tally.event("s", id);
        }
        tally.event("other", "1");
        let Stats { events, distinct, repeated, disordered, .. } = tally.stats;
        assert_eq!((events, distinct, repeated, disordered), (9, 6, 3, 1));
    }

    #[test]
    fn a_hole_is_a_batch_that_begins_behind_the_last_end() {
        let mut tally = Tally::default();
        tally.batch(&bounds(None, "5"));
        tally.batch(&bounds(Some("5"), "9"));
        tally.batch(&bounds(Some("5"), "9"));
        assert_eq!(tally.stats.holes, 0, "a repeat is no hole");
        tally.batch(&bounds(Some("a"), "b"));
        assert_eq!((tally.stats.holes, tally.stats.batches), (1, 4));
    }

    #[test]
    fn a_body_keeps_its_events_as_they_were_written() {
        let body = br#"{"stream":"s","type":"events","batchNumber":3,"after":null,"through":"2",
            "epoch":9,"events":[{"sequenceId":"1", "x" : 1}]}"#;
        let batch = Batch::parse(body, "id").unwrap();
        assert_eq!(batch.events[0].0, "1");
        assert_eq!(batch.events[0].1.get(), r#"{"sequenceId":"1", "x" : 1}"#);
        assert_eq!((batch.header.batch_number, batch.header.events), (3, 1));
        let wrong = br#"{"stream":"s","batchNumber":3,"events":[{"id":"1"}]}"#;
        assert!(Batch::parse(wrong, "").unwrap_err().contains("events[0]"));
    }
}
