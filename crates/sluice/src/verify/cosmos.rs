//! The directory of a Cosmos node's file streamer, or of a file sink that writes the same format.
//! Read by the source that captures such directories, so that both mean the same by a block.

use std::{path::Path, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use sluice_frame::{
    Digester, Digests, Frame, Header, Metadata, RouteTable, Run, canonicalize, scan,
};
use sluice_model::{Digest, Generation, Head, Kind, Pointer, TopicRules};
use sluice_producer::{
    Registry, Source,
    notes::Notes,
    source::{
        Begin, Feed, Item, Piece, SourceContext, SourceError, capture::Doors, cosmos,
        registry::OnGap,
    },
};

use super::{Block, How, Scope, Side, Step};
use crate::exit::{Exit, Failure, on_path};

/// The files from the lowest height of the range to the last that is complete.
#[derive(Debug)]
pub(super) struct CosmosSide {
    /// Keeps the files' reader alive.
    _source: Box<dyn Source>,
    feed: Feed,
    shown: String,
    scope: Arc<Scope>,
    first: u64,
    last: u64,
    open: Option<Open>,
    ingestor: sluice_model::IngestorName,
    topics: TopicRules,
    ended: bool,
}

/// The block at hand.
#[derive(Debug)]
struct Open {
    begin: Begin,
    digester: Digester,
    changes: u32,
}

impl CosmosSide {
    pub(super) async fn open(
        dir: &Path,
        how: &How<'_>,
        scope: &Arc<Scope>,
    ) -> Result<Self, Failure> {
        let (lowest, last) = bounds(dir, how.prefix)?;
        let first = scope.from.map_or(lowest, |from| from.max(lowest));
        let context = SourceContext {
            ingestor: how.ingestor.clone(),
            on_gap: OnGap::Record,
            notes: Notes::default(),
            doors: Doors::default(),
        };
        let mut table = toml::Table::new();
        table.insert("dir".into(), dir.display().to_string().into());
        table.insert("prefix".into(), how.prefix.into());
        table.insert("follow".into(), false.into());
        let mut source = Registry::default()
            .build(cosmos::TYPE, &context, &table)
            .map_err(|error| Failure::usage(error.to_string()))?;
        let after = (first > lowest).then(|| before(first));
        let feed = source.blocks(after.as_ref()).await.map_err(|error| wrong(dir, &error))?;
        Ok(Self {
            _source: source,
            feed,
            shown: dir.display().to_string(),
            scope: Arc::clone(scope),
            first,
            last,
            open: None,
            ingestor: how.ingestor.clone(),
            topics: TopicRules::default(),
            ended: false,
        })
    }

    fn take(&mut self, item: Item) -> Result<Option<Step>, Failure> {
        match item {
            Item::Begin(begin) => {
                if self.scope.is_behind(begin.height) {
                    self.ended = true;
                    return Ok(None);
                }
                // What a block's digest chains it to is the journal's to say; only what is in it
                // counts here.
                let (pointer, height) = (begin.pointer.clone(), begin.height);
                let digester = Digester::new(Digest::ZERO, Generation(0), pointer, height);
                self.open = Some(Open { begin, digester, changes: 0 });
            }
            Item::Changes(piece) => self.changes(&piece)?,
            Item::Metadata { type_url, value } => {
                self.metadata(Metadata { type_url: type_url.to_string(), value })?;
            }
            Item::End { changes, .. } => return self.end(changes),
            Item::Gap { from, to, cause } => {
                let heights = from.height().zip(to.height());
                return Ok(heights.map(|(from, to)| Step::Gap { from, to, cause }));
            }
            Item::Abort => self.open = None,
            Item::Progress { .. } => {}
            Item::Finished => self.ended = true,
        }
        Ok(None)
    }

    fn changes(&mut self, piece: &Piece) -> Result<(), Failure> {
        let (bytes, table) = match scan(&piece.bytes, &self.topics) {
            Ok(table) => (piece.bytes.clone(), table),
            Err(_) => {
                // As at capture: other encoders may order fields or write defaults.
                let canonical = canonicalize(&piece.bytes).and_then(|bytes| {
                    let table = scan(&bytes, &self.topics)?;
                    Ok((bytes, table))
                });
                canonical.map_err(|error| self.data(&piece.explain(&error)))?
            }
        };
        let frame = self.frame(table.routes, table.runs, None, bytes);
        if let Some(open) = &mut self.open {
            open.changes = open.changes.saturating_add(frame.header.changes());
        }
        self.add(&frame)
    }

    fn metadata(&mut self, metadata: Metadata) -> Result<(), Failure> {
        let frame = self.frame(RouteTable::default(), Vec::new(), Some(metadata), Bytes::new());
        self.add(&frame)
    }

    /// A frame as a digest needs it.
    fn frame(
        &self,
        routes: RouteTable,
        runs: Vec<Run>,
        metadata: Option<Metadata>,
        changes: Bytes,
    ) -> Frame {
        let header = Header::new(Kind::Block, self.ingestor.clone(), Pointer::ORIGIN, 0);
        Frame { header: Header { routes, runs, metadata, ..header }, changes }
    }

    fn add(&mut self, frame: &Frame) -> Result<(), Failure> {
        let Some(open) = &mut self.open else {
            return Err(self.data("changes came outside of a block"));
        };
        let added = open.digester.add(frame);
        added.map_err(|error| self.data(&error.to_string()))
    }

    fn end(&mut self, counted: Option<u32>) -> Result<Option<Step>, Failure> {
        let Some(Open { begin, digester, changes }) = self.open.take() else { return Ok(None) };
        if counted.is_some_and(|counted| counted != changes) {
            return Err(self.data(&format!("block {} is not whole", begin.height)));
        }
        let Digests { mut states, metadata, .. } = digester.finish();
        states.retain(|state| self.scope.keeps(&state.store));
        Ok(Some(Step::Block(Block {
            height: begin.height,
            pointer: begin.pointer,
            generation: Generation(0),
            digest: None,
            stores: states,
            metadata: metadata.filter(|_| self.scope.whole),
            linked: false,
        })))
    }

    fn data(&self, what: &str) -> Failure {
        Failure::new(Exit::Data, format!("{}: {what}", self.shown))
            .fix(format!("sluice files decode {}/block-N-data", self.shown))
    }
}

#[async_trait]
impl Side for CosmosSide {
    fn first(&self) -> u64 {
        self.first
    }

    fn last(&self) -> Option<u64> {
        Some(self.last)
    }

    async fn next(&mut self) -> Result<Option<Step>, Failure> {
        while !self.ended {
            let item = match self.feed.next().await {
                Some(Ok(item)) => item,
                Some(Err(error)) => return Err(wrong(Path::new(&self.shown), &error)),
                None => return Err(self.data("its reader ended without saying why")),
            };
            if let Some(step) = self.take(item)? {
                return Ok(Some(step));
            }
        }
        Ok(None)
    }
}

/// The lowest and the highest height with a data file.
fn bounds(dir: &Path, prefix: &str) -> Result<(u64, u64), Failure> {
    let names = cosmos::names::Names::new(prefix);
    let listing = cosmos::names::Listing::read(dir, &names).map_err(on_path(dir))?;
    match (listing.data.first(), listing.data.last()) {
        (Some(first), Some(last)) => Ok((*first, *last)),
        _ => {
            let message = format!(
                "{} holds neither a journal nor files called {}",
                dir.display(),
                names.data(1).replace('1', "N")
            );
            Err(Failure::new(Exit::NotFound, message)
                .fix("sluice ingestors verify --help   (about --against and --prefix)"))
        }
    }
}

/// A head after which a block of this height comes.
fn before(height: u64) -> Head {
    let height = height.saturating_sub(1);
    Head {
        generation: Generation(0),
        pointer: Pointer::from_height(height),
        height,
        digest: Digest::ZERO,
        time: None,
        appended: 0,
    }
}

fn wrong(dir: &Path, error: &SourceError) -> Failure {
    Failure::new(Exit::Data, format!("{}: {error}", dir.display()))
        .fix(format!("sluice files decode {}/block-N-data", dir.display()))
}
