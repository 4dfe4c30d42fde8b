//! `cosmos-files`: the directory that a Cosmos SDK node's file streamer writes (SDK 0.45.12 to
//! 0.47), followed while it grows or imported once.

mod anew;
pub mod consume;
pub mod emit;
pub mod format;
pub mod judge;
pub mod meta;
pub mod names;
mod tail;
pub mod txs;
mod watch;

use std::{path::PathBuf, sync::Arc};

use async_trait::async_trait;
use serde::Deserialize;
use sluice_config::HumanDuration;
use sluice_model::{Head, Pointer};

use super::{
    Ack, Again, Feed, Source, SourceContext, SourceError,
    registry::{BuildError, parse_section},
};
use consume::{Consumed, Consumer};
use names::{Listing, Names};
use tail::Tail;

/// The name of this source in the configuration.
pub const TYPE: &str = "cosmos-files";

/// `source = { type = "cosmos-files", … }`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// The streamer's `write_dir`.
    pub dir: PathBuf,
    /// The streamer's `prefix`.
    #[serde(default)]
    pub prefix: String,
    /// Wait for more blocks at the end; otherwise the source is finished there.
    #[serde(default = "yes")]
    pub follow: bool,
    /// What becomes of files whose block is durable: `keep`, `delete` or `move:DIR`.
    #[serde(default)]
    pub consumed: Consumed,
    /// Take the meta files along.
    #[serde(default = "yes")]
    pub metadata: bool,
    /// Refuse the first block of an empty journal if a store that the ingestor names is not in
    /// it: the first file of a chain holds its whole genesis.
    #[serde(default)]
    pub strict_stores: bool,
    /// How long a file may stay incomplete, or a block missing before later ones, until it
    /// counts as torn or missing.
    #[serde(default = "torn_after")]
    pub torn_after: HumanDuration,
    /// How long a complete data file waits for its meta file where others have one.
    #[serde(default = "meta_wait")]
    pub meta_wait: HumanDuration,
    /// How often the directory is looked at when nothing announces a change.
    #[serde(default = "rescan")]
    pub rescan: HumanDuration,
}

const fn yes() -> bool {
    true
}

const fn torn_after() -> HumanDuration {
    HumanDuration::secs(30)
}

const fn meta_wait() -> HumanDuration {
    HumanDuration::secs(1)
}

const fn rescan() -> HumanDuration {
    HumanDuration::secs(1)
}

/// The source.
#[derive(Debug)]
pub struct CosmosFiles {
    options: Arc<Options>,
    context: SourceContext,
    consumer: Consumer,
}

/// Builds the source from its table; for the registry.
pub fn build(context: &SourceContext, table: &toml::Table) -> Result<Box<dyn Source>, BuildError> {
    let options: Options = parse_section(context, table)?;
    Ok(Box::new(CosmosFiles::new(context, options)?))
}

impl CosmosFiles {
    /// A source with these options. Does not look at the directory yet.
    pub fn new(context: &SourceContext, options: Options) -> Result<Self, BuildError> {
        let invalid = |key: &str, message: String| BuildError::Invalid {
            path: format!("{}.{key}", context.path()),
            message,
        };
        if options.prefix.contains('/') {
            return Err(invalid(
                "prefix",
                "must not contain '/': name the directory in dir".into(),
            ));
        }
        if let Consumed::Move(to) = &options.consumed
            && *to == options.dir
        {
            return Err(invalid("consumed", "moves the files to where they are".into()));
        }
        let consumer = Consumer::new(&options);
        Ok(Self { options: Arc::new(options), context: context.clone(), consumer })
    }
}

#[async_trait]
impl Source for CosmosFiles {
    async fn blocks(&mut self, after: Option<&Head>) -> Result<Feed, SourceError> {
        let after = match after {
            None => None,
            Some(head) => Some(head.pointer.height().ok_or_else(|| {
                SourceError::Start(format!(
                    "the journal's head {} is no height, so no file follows it; this ingestor was \
                     filled by another kind of source",
                    head.pointer
                ))
            })?),
        };
        let (options, context) = (self.options.clone(), self.context.clone());
        Ok(Feed::spawn(move |writer| Tail::new(options, context, writer).run(after, None)))
    }

    async fn again(
        &mut self,
        head: &Head,
        from: &Pointer,
        at: &Pointer,
    ) -> Result<Option<Again>, SourceError> {
        let heights = (head.pointer.height(), from.height(), at.height());
        let (Some(head), Some(from), Some(at)) = heights else { return Ok(None) };
        let first = self.lowest(from, at).await?;
        let (options, context) = (self.options.clone(), self.context.clone());
        let feed = Feed::spawn(move |writer| {
            Tail::new(options, context, writer).run(Some(head), Some(first))
        });
        let made_anew = self.options.consumed != Consumed::Keep;
        Ok(Some(Again { feed, first: Pointer::from_height(first), made_anew }))
    }

    fn first_block_is_complete(&self) -> bool {
        self.options.strict_stores
    }

    async fn durable(&mut self, ack: &Ack) -> Result<(), SourceError> {
        match ack.pointer.height() {
            Some(height) => self.consumer.durable(height).await,
            None => Ok(()),
        }
    }
}

impl CosmosFiles {
    /// The lowest height above `from` from which on every file is there up to `at`.
    async fn lowest(&self, from: u64, at: u64) -> Result<u64, SourceError> {
        let (dir, names) = (self.options.dir.clone(), self.options.names());
        let listing = tokio::task::spawn_blocking(move || {
            let listing = Listing::read(&dir, &names);
            listing.map_err(|source| SourceError::Io {
                action: "listing the directory",
                path: dir,
                source,
            })
        });
        let listing = listing
            .await
            .unwrap_or_else(|gone| Err(SourceError::Start(format!("a thread ended: {gone}"))))?;
        if !listing.data.contains(&at) {
            let pointer = Pointer::from_height(at);
            let cause = "its file was there and is gone".to_owned();
            return Err(SourceError::Block { pointer, cause });
        }
        let there = |height: &u64| *height > from && listing.data.contains(height);
        Ok((0..=at).rev().take_while(there).last().unwrap_or(at))
    }
}

impl Options {
    /// The names of this streamer's files.
    pub fn names(&self) -> Names {
        Names::new(&self.prefix)
    }
}

#[cfg(test)]
mod tests;
