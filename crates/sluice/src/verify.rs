//! `sluice ingestors verify`: is what a journal holds what another source of truth holds?
//!
//! Each side gives its blocks in order, with digests computed anew from the bytes that came, so
//! that neither side is believed. Only digests are kept: a journal of any size is compared in the
//! memory of a few frames. The comparison itself knows no service and no file.

mod compare;
mod cosmos;
mod directory;
mod fold;
mod lineage;
mod router;

use std::path::Path;

use async_trait::async_trait;
use sluice_model::{Filter, FilterSpec, IngestorName};

use crate::{connect::Server, exit::Failure};
pub(crate) use compare::{Difference, Report, What, compare};
pub(crate) use fold::Block;

/// What is compared.
#[derive(Debug)]
pub(crate) struct Scope {
    stores: Filter,
    /// Every store, so that the digests of whole blocks count too.
    whole: bool,
    /// The lowest height.
    pub(crate) from: Option<u64>,
    /// The highest height.
    pub(crate) until: Option<u64>,
}

impl Scope {
    /// These stores (all without one) in these heights, inclusive.
    pub(crate) fn new(
        stores: &[String],
        from: Option<u64>,
        until: Option<u64>,
    ) -> Result<Self, Failure> {
        if from.zip(until).is_some_and(|(from, until)| from > until) {
            return Err(Failure::usage("--until lies before --from"));
        }
        let spec = FilterSpec { stores: stores.to_vec(), ..FilterSpec::default() };
        let stores = Filter::compile(&spec).map_err(|error| Failure::usage(error.to_string()))?;
        let whole = stores.spec().stores.is_empty();
        Ok(Self { stores, whole, from, until })
    }

    /// True if the store is compared.
    fn keeps(&self, store: &str) -> bool {
        self.stores.matches_route(store, "")
    }

    /// True if the height lies before the range.
    fn is_before(&self, height: u64) -> bool {
        self.from.is_some_and(|from| height < from)
    }

    /// True if the height lies behind the range.
    fn is_behind(&self, height: u64) -> bool {
        self.until.is_some_and(|until| height > until)
    }
}

/// One step of a side, in ascending heights.
#[derive(Debug)]
pub(crate) enum Step {
    /// A block. One without changes and metadata may be left out.
    Block(Block),
    /// Everything up to this height was given.
    Through(u64),
    /// These blocks are known to be missing.
    Gap {
        /// The first missing height.
        from: u64,
        /// The last missing height.
        to: u64,
        /// Why.
        cause: String,
    },
}

/// One of the two that are compared.
///
/// Gives the present history only: blocks that a rewind left behind are not given. Cancel safety
/// is not needed: a comparison that is given up is given up whole.
#[async_trait]
pub(crate) trait Side: Send {
    /// The first height that this side can give.
    fn first(&self) -> u64;

    /// The last height, where it is known before.
    fn last(&self) -> Option<u64>;

    /// The next step; `None` at the end.
    async fn next(&mut self) -> Result<Option<Step>, Failure>;
}

/// The other source of truth, as it was named.
pub(crate) enum Against<'a> {
    /// The journal of an ingestor at a router.
    Router(Server, IngestorName),
    /// A directory of journals, or of a Cosmos node's file streamer.
    Directory(&'a Path),
}

/// How the other side is to be read.
#[derive(Debug)]
pub(crate) struct How<'a> {
    /// The ingestor's name on the other side.
    pub(crate) ingestor: &'a IngestorName,
    /// The prefix of the file streamer.
    pub(crate) prefix: &'a str,
}

/// The side of a router; the words for it.
pub(crate) async fn at_router(
    server: &Server,
    ingestor: &IngestorName,
    scope: &std::sync::Arc<Scope>,
) -> Result<(Box<dyn Side>, String), Failure> {
    let side = router::RouterSide::open(server, ingestor, scope).await?;
    Ok((Box::new(side), format!("{ingestor} at {}", server.url())))
}

/// Opens the other side; says what it was taken for.
pub(crate) async fn open(
    against: &Against<'_>,
    how: &How<'_>,
    scope: &std::sync::Arc<Scope>,
) -> Result<(Box<dyn Side>, String), Failure> {
    let dir = match against {
        Against::Router(server, ingestor) => return at_router(server, ingestor, scope).await,
        Against::Directory(dir) => *dir,
    };
    if let Some(found) = directory::find(dir, how.ingestor)? {
        let text = format!("the journal in {}", found.dir.display());
        return Ok((Box::new(directory::DirectorySide::open(found, scope).await?), text));
    }
    let side = cosmos::CosmosSide::open(dir, how, scope).await?;
    Ok((Box::new(side), format!("the block files in {}", dir.display())))
}

/// What a router must be asked for to hear of control records and progress alone.
fn nothing() -> FilterSpec {
    FilterSpec { stores: vec!["!*".to_owned()], ..FilterSpec::default() }
}
