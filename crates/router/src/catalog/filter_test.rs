use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use prost::Message;
use sluice_frame::{Frame, Header, Route, Run, Splicer};
use sluice_journal::{Item, ReadFrom, Reader, Select, Stored};
use sluice_model::{Filter, FilterSpec, IngestorName, Position, filter::PSEUDO_STORE_PREFIX};
use sluice_proto::v1 as pb;
use tonic::Status;

use crate::{app::Shared, error, subscribe::first_changes};

/// Blocks looked at when the question does not say.
const DEFAULT_BLOCKS: u64 = 100;
/// Distinct routes reported.
const MAX_ROUTES: usize = 4096;
/// Changes in the sample.
const SAMPLE_CHANGES: u32 = 16;
/// Items after which the runtime gets its turn.
const YIELD_EVERY: usize = 256;

/// What a filter would have matched in the last blocks.
///
/// A filter on stores and topics is answered from the run index alone; no change is read but for
/// the sample. One that looks at single changes has to walk those of matching routes.
pub(crate) async fn test_filter(
    shared: &Shared,
    ingestor: &IngestorName,
    filter: Arc<Filter>,
    blocks: u64,
) -> Result<pb::TestFilterResponse, Status> {
    let status = shared.journal.status(ingestor).await.map_err(|e| error::journal(&e))?;
    let blocks = match blocks {
        0 => DEFAULT_BLOCKS,
        asked => asked,
    };
    let blocks = blocks.min(shared.options.test_filter_blocks).min(status.blocks);
    let mut count = Count::new(Arc::clone(&filter));
    if blocks == 0 {
        return Ok(count.finish(0));
    }
    let everything = Arc::new(everything(filter.spec()));
    let select = Select { headers_only: true, ..Select::from(everything) };
    scan(shared, ingestor, select, blocks, |stored| {
        count.routes(&stored.header);
        false
    })
    .await?;
    let inside = filter.looks_inside_runs();
    scan(shared, ingestor, Select::from(filter), blocks, |stored| {
        count.matches(stored, inside);
        // From the index everything but the sample is known already.
        !inside && count.answer.sample.is_some()
    })
    .await?;
    Ok(count.finish(blocks))
}

/// Every store, also the pseudo stores that the filter names.
fn everything(spec: &FilterSpec) -> Filter {
    let named = spec.stores.iter().filter(|store| store.starts_with(PSEUDO_STORE_PREFIX)).cloned();
    let stores = std::iter::once("*".to_owned()).chain(named).collect();
    // A list of plain names always compiles.
    Filter::compile(&FilterSpec { stores, ..FilterSpec::default() })
        .unwrap_or_else(|_| Filter::all())
}

/// Shows the frames of the last blocks to `see`, until the head or until it has seen enough.
async fn scan(
    shared: &Shared,
    ingestor: &IngestorName,
    select: Select,
    blocks: u64,
    mut see: impl FnMut(&Stored) -> bool,
) -> Result<(), Status> {
    let refused = |e| error::read(ingestor, &e);
    let mut reader =
        shared.journal.read(ingestor, ReadFrom::Last(blocks), select).await.map_err(refused)?;
    let Some(head) = reader.started().head.as_ref().map(|head| head.position()) else {
        return Ok(());
    };
    for seen in 1usize.. {
        match step(&mut reader, &head).await.map_err(refused)? {
            Step::Frame(stored) if see(&stored) => break,
            Step::Frame(stored) if last(&stored.header, &head) => break,
            Step::End => break,
            Step::Frame(_) | Step::Other => {}
        }
        if seen % YIELD_EVERY == 0 {
            tokio::task::yield_now().await;
        }
    }
    Ok(())
}

enum Step {
    Frame(Arc<Stored>),
    Other,
    End,
}

async fn step(
    reader: &mut Box<dyn Reader>,
    head: &Position,
) -> Result<Step, sluice_journal::ReadError> {
    let through = match reader.next().await? {
        Item::Entry(stored) => return Ok(Step::Frame(stored)),
        Item::Through(through) => through.position,
        Item::Gap(gap) => gap.through,
        Item::Generation(generation) => generation.through,
        Item::Corrupt(corruption) => match corruption.through {
            Some(through) => through,
            None => return Ok(Step::End),
        },
    };
    Ok(if through >= *head { Step::End } else { Step::Other })
}

fn last(header: &Header, head: &Position) -> bool {
    header.end.is_some() && header.end_of_block() >= *head
}

/// Adds up.
struct Count {
    filter: Arc<Filter>,
    splicer: Splicer,
    answer: pb::TestFilterResponse,
    routes: BTreeMap<(String, String), (u64, u64)>,
    matched_block: Option<Position>,
}

impl Count {
    fn new(filter: Arc<Filter>) -> Self {
        Self {
            splicer: Splicer::new(Arc::clone(&filter), false),
            filter,
            answer: pb::TestFilterResponse::default(),
            routes: BTreeMap::new(),
            matched_block: None,
        }
    }

    /// Counts from the index. Matches too, unless the filter looks at single changes.
    fn routes(&mut self, header: &Header) {
        for (run, route) in runs(header) {
            let (changes, bytes) = (u64::from(run.count), u64::from(run.bytes));
            self.answer.changes += changes;
            let name = (route.store.to_string(), route.topic.to_string());
            if self.routes.len() < MAX_ROUTES || self.routes.contains_key(&name) {
                let total = self.routes.entry(name).or_default();
                *total = (total.0 + changes, total.1 + bytes);
            }
            if !self.filter.looks_inside_runs()
                && self.filter.matches_route(&route.store, &route.topic)
            {
                self.matched(header, changes, bytes);
            }
        }
    }

    /// Takes the sample and, for a filter that looks at single changes, counts what passes.
    fn matches(&mut self, stored: &Stored, inside: bool) {
        let Some(wire) = self.splicer.splice(&stored.header, &stored.changes) else { return };
        let Ok(frame) = wire.parse() else { return };
        if inside {
            for run in &frame.header.runs {
                self.matched(&stored.header, run.count.into(), run.bytes.into());
            }
        }
        if self.answer.sample.is_none() {
            self.answer.sample = sample(&frame);
        }
    }

    fn matched(&mut self, header: &Header, changes: u64, bytes: u64) {
        self.answer.matching_changes += changes;
        self.answer.matching_bytes += bytes;
        let block = header.end_of_block();
        if self.matched_block.as_ref() != Some(&block) {
            self.answer.matching_blocks += 1;
            self.matched_block = Some(block);
        }
    }

    fn finish(mut self, blocks: u64) -> pb::TestFilterResponse {
        self.answer.blocks = blocks;
        let seen = |pattern: &FilterSpec| {
            Filter::compile(pattern).is_ok_and(|one| {
                self.routes.keys().any(|(store, topic)| one.matches_route(store, topic))
            })
        };
        self.answer.unmatched_stores = self
            .filter
            .spec()
            .stores
            .iter()
            .filter(|pattern| !pattern.starts_with('!'))
            .filter(|pattern| {
                !seen(&FilterSpec { stores: vec![(*pattern).clone()], ..FilterSpec::default() })
            })
            .cloned()
            .collect();
        let routes = std::mem::take(&mut self.routes);
        self.answer.routes = routes
            .into_iter()
            .map(|((store_key, topic), (changes, bytes))| pb::RouteCount {
                matches: self.filter.matches_route(&store_key, &topic),
                store_key,
                topic,
                changes,
                bytes,
            })
            .collect();
        self.answer
    }
}

fn runs(header: &Header) -> impl Iterator<Item = (&Run, &Route)> {
    header.runs.iter().filter_map(|run| Some((run, header.routes.get(run.route as usize)?)))
}

fn sample(frame: &Frame) -> Option<pb::Frame> {
    let bytes: Bytes = first_changes(frame, SAMPLE_CHANGES).encode();
    pb::Frame::decode(bytes).ok()
}
