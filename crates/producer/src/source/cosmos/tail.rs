//! The task that follows or imports a directory.

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use sluice_model::Pointer;

use super::{
    Options,
    anew::{Identity, Taken},
    consume::Consumer,
    emit::{self, Block, MetaRead},
    format::{Completeness, completeness},
    judge::{Decision, Found, Judge, Look, Patience, Which},
    meta::TxList,
    names::{Listing, Names},
    watch::Watch,
};
use crate::source::{FeedWriter, Item, OnGap, SourceContext, SourceError};

pub(super) struct Tail {
    options: Arc<Options>,
    names: Names,
    context: SourceContext,
    feed: FeedWriter,
    watch: Watch,
    previous: Option<TxList>,
    /// Some block has a meta file.
    metas: bool,
    /// Transactions that are not their block's own and were left out, and in how many blocks.
    repaired: (u64, u64),
    /// Meta files that did not tell these, and the newest of them.
    doubted: (u64, Option<String>),
    without_meta: u64,
    /// The newest height that was told.
    newest: u64,
    /// The highest block that the journal has or that was given.
    tip: Option<u64>,
    taken: Taken,
}

/// What there is to do.
enum Awaited {
    Decided(Decision),
    /// The file of this block was made anew.
    Anew(u64),
}

/// What a look found.
struct Seen {
    look: Look,
    file: Option<Identity>,
    /// The file of the block before was made anew.
    before_anew: bool,
}

impl Tail {
    pub(super) fn new(options: Arc<Options>, context: SourceContext, feed: FeedWriter) -> Self {
        let watch = Watch::new(&options.dir, options.rescan.get());
        let names = options.names();
        Self {
            options,
            names,
            context,
            feed,
            watch,
            previous: None,
            metas: false,
            repaired: (0, 0),
            doubted: (0, None),
            without_meta: 0,
            newest: 0,
            tip: None,
            taken: Taken::default(),
        }
    }

    /// Gives the blocks after the journal's head; with `again`, those from that height on first.
    pub(super) async fn run(
        mut self,
        after: Option<u64>,
        again: Option<u64>,
    ) -> Result<(), SourceError> {
        let Some(mut height) = self.first(after).await? else {
            return self.feed.send(Item::Finished).await;
        };
        self.tip = after;
        if let Some(again) = again {
            height = again;
        } else if let Some(head) = after
            && matches!(self.look(head).await?.look.data, Found::There(Completeness::Complete(_)))
        {
            // The joint: the node may have gone back while nobody looked.
            height = head;
        }
        self.context.notes.set("unknown-previous", None);
        self.context.notes.set("not-compared", None);
        loop {
            if self.is_again(height) && !self.is_there(height).await? {
                // The journal has the block; there is nothing to compare it with.
                height += 1;
                continue;
            }
            match self.await_block(height).await? {
                Awaited::Anew(lowest) => {
                    tracing::warn!(ingestor = %self.context.ingestor, block = lowest,
                        dir = %self.options.dir.display(), "the file of a captured block was made anew");
                    (height, self.previous) = (lowest, None);
                }
                Awaited::Decided(Decision::Take { data, meta }) => {
                    self.take(height, data, meta).await?;
                    self.tip = self.tip.max(Some(height));
                    height += 1;
                }
                // It is gone again.
                Awaited::Decided(Decision::Gap { .. } | Decision::End | Decision::Wait)
                    if self.is_again(height) =>
                {
                    height += 1;
                }
                Awaited::Decided(Decision::Gap { next }) => {
                    self.gap(height, next).await?;
                    self.tip = next.checked_sub(1);
                    height = next;
                }
                Awaited::Decided(Decision::Broken(which, state)) => {
                    let error = self.broken(height, which, state);
                    self.not_compared(height, error)?;
                    height += 1;
                }
                Awaited::Decided(Decision::End | Decision::Wait) => {
                    return self.feed.send(Item::Finished).await;
                }
            }
        }
    }

    /// The journal has it already.
    fn is_again(&self, height: u64) -> bool {
        self.tip >= Some(height)
    }

    async fn is_there(&self, height: u64) -> Result<bool, SourceError> {
        let path = self.options.dir.join(self.names.data(height));
        blocking(move || Ok(identity(&path)?.is_some())).await
    }

    /// The height to begin with: after the journal's head, or the lowest there is.
    async fn first(&mut self, after: Option<u64>) -> Result<Option<u64>, SourceError> {
        loop {
            let listing = self.list().await?;
            self.tell_newest(&listing).await?;
            self.metas = !listing.meta.is_empty();
            let left_behind = after.map_or(0, |head| listing.data.range(..=head).count());
            let consumes = self.options.consumed != super::Consumed::Keep;
            self.context.notes.set(
                "left-behind",
                (consumes && left_behind > 0).then(|| {
                    format!(
                        "{left_behind} data files are at or below the journal's head and were not \
                         consumed by this run; they were left alone"
                    )
                }),
            );
            match (after, listing.data.first()) {
                (Some(head), _) => return Ok(head.checked_add(1)),
                (None, Some(&lowest)) => return Ok(Some(lowest)),
                (None, None) if !self.options.follow => return Ok(None),
                (None, None) => self.watch.changed().await,
            }
        }
    }

    /// Where the meta file before `height` may be, unless its list is known.
    fn before(&self, height: u64) -> Vec<PathBuf> {
        let Some(before) = height.checked_sub(1).filter(|_| self.previous.is_none()) else {
            return Vec::new();
        };
        let name = self.names.meta(before);
        let consumer = Consumer::new(&self.options);
        [self.options.dir.as_path()]
            .into_iter()
            .chain(consumer.attic())
            .map(|dir| dir.join(&name))
            .collect()
    }

    /// Looks at the directory until something can be decided about a height.
    async fn await_block(&mut self, height: u64) -> Result<Awaited, SourceError> {
        let patience = Patience {
            follow: self.options.follow,
            torn_after: self.options.torn_after.get(),
            meta_wait: self.options.meta_wait.get(),
        };
        let mut judge = Judge::default();
        loop {
            let Seen { look, file, before_anew } = self.look(height).await?;
            // A node writes heights in order: whoever made the block before anew did so before it
            // wrote this one.
            if let Some(before) = height.checked_sub(1).filter(|_| before_anew) {
                return Ok(Awaited::Anew(self.lowest_anew().await?.unwrap_or(before)));
            }
            match judge.decide(look, Instant::now(), &patience) {
                Decision::Wait => {
                    if let Some(lowest) = self.lowest_anew().await?.filter(|low| *low < height) {
                        return Ok(Awaited::Anew(lowest));
                    }
                    self.watch.changed().await;
                }
                decision => {
                    self.taken.took(height, file);
                    return Ok(Awaited::Decided(decision));
                }
            }
        }
    }

    /// The lowest captured block whose file was made anew.
    async fn lowest_anew(&mut self) -> Result<Option<u64>, SourceError> {
        let (dir, names, mut taken) =
            (self.options.dir.clone(), self.names.clone(), self.taken.clone());
        let (lowest, taken) = blocking(move || {
            let path = |height| dir.join(names.data(height));
            let lowest = taken.lowest(|height| Identity::of(&path(height)));
            let lowest = lowest.map_err(|source| SourceError::Io {
                action: "looking at the files in",
                path: dir.clone(),
                source,
            })?;
            Ok((lowest, taken))
        })
        .await?;
        self.taken = taken;
        Ok(lowest)
    }

    async fn look(&mut self, height: u64) -> Result<Seen, SourceError> {
        let dir = self.options.dir.clone();
        let path = |height| dir.join(self.names.data(height));
        let (data, before) = (path(height), height.checked_sub(1).map(path));
        // Metadata is the node's own and not compared.
        let with_meta = self.options.metadata && !self.is_again(height);
        let meta = with_meta.then(|| dir.join(self.names.meta(height)));
        let (data, meta, file, before) = blocking(move || {
            let meta = meta.map_or(Ok(Found::Missing), |path| inspect(&path))?;
            let before = before.map_or(Ok(None), |path| identity(&path))?;
            // Its identity first: a file that is replaced while it is read shows later.
            let file = identity(&data)?;
            Ok((inspect(&data)?, meta, file, before))
        })
        .await?;
        let before_anew =
            height.checked_sub(1).is_some_and(|height| self.taken.look(height, before));
        // Only a block that is not there in full needs to know of later ones.
        let later = match data {
            Found::There(Completeness::Complete(_)) => None,
            _ => {
                let listing = self.list().await?;
                self.tell_newest(&listing).await?;
                self.metas |= !listing.meta.is_empty();
                listing.next_after(height)
            }
        };
        let others_have_meta = with_meta && self.metas;
        let look = Look { data, meta, later, others_have_meta };
        Ok(Seen { look, file, before_anew })
    }

    async fn tell_newest(&mut self, listing: &Listing) -> Result<(), SourceError> {
        match listing.data.last() {
            Some(&newest) if newest > self.newest => {
                self.newest = newest;
                self.feed.send(Item::Progress { source_height: newest }).await
            }
            _ => Ok(()),
        }
    }

    async fn list(&self) -> Result<Listing, SourceError> {
        let (dir, names) = (self.options.dir.clone(), self.names.clone());
        let listing = blocking(move || {
            Listing::read(&dir, &names).map_err(|source| SourceError::Io {
                action: "listing the directory",
                path: dir,
                source,
            })
        })
        .await?;
        self.context.notes.set("foreign", listing.remarks());
        Ok(listing)
    }

    async fn take(&mut self, height: u64, data: u64, meta: Option<u64>) -> Result<(), SourceError> {
        let dir = &self.options.dir;
        let block = Block {
            height,
            data: (dir.join(self.names.data(height)), data),
            meta: meta.map(|body| (dir.join(self.names.meta(height)), body)),
            previous: self.previous.clone(),
            before: self.before(height),
            again: self.is_again(height),
        };
        let (feed, block_again) = (self.feed.clone(), block.again);
        let read = match blocking(move || emit::emit(&block, &feed)).await {
            Err(error @ SourceError::Block { .. }) if block_again => {
                self.not_compared(height, error)?;
                return self.feed.send(Item::Abort).await;
            }
            read => read?,
        };
        match read {
            Some(read) => self.metadata_read(height, read),
            None if self.options.metadata && self.metas && !block_again => self.without_meta += 1,
            None => {}
        }
        self.remark();
        Ok(())
    }

    fn metadata_read(&mut self, height: u64, read: MetaRead) {
        self.metas = true;
        if read.left_out > 0 {
            self.repaired = (self.repaired.0 + read.left_out, self.repaired.1 + 1);
        }
        if let Some(doubt) = read.doubt {
            let name = self.names.meta(height);
            let earlier = height.checked_sub(1).filter(|before| read.alone && *before > 0);
            if let Some(before) = earlier.filter(|_| read.txs.count > 0) {
                let remark = format!(
                    "{name} may repeat transactions of earlier blocks in the metadata of block \
                     {height}: {doubt}, and {} to compare it with is not there",
                    self.names.meta(before)
                );
                self.context.notes.set("unknown-previous", Some(remark));
            }
            self.doubted = (self.doubted.0 + 1, Some(format!("{name}: {doubt}")));
        }
        self.previous = Some(read.txs);
    }

    fn remark(&self) {
        let (left_out, blocks) = self.repaired;
        self.context.notes.set(
            "repaired-meta",
            (blocks > 0).then(|| {
                format!(
                    "{left_out} repeated transactions, of earlier blocks or the genesis, were left \
                     out of the metadata of {blocks} blocks"
                )
            }),
        );
        let (files, newest) = &self.doubted;
        self.context.notes.set(
            "doubted-meta",
            newest.as_ref().map(|newest| {
                format!(
                    "in {files} meta files the block's own transactions were told only by a \
                     comparison with the file before; the newest is {newest}"
                )
            }),
        );
        self.context.notes.set(
            "without-meta",
            (self.without_meta > 0).then(|| {
                format!("{} blocks have no meta file although others have one", self.without_meta)
            }),
        );
    }

    async fn gap(&self, height: u64, next: u64) -> Result<(), SourceError> {
        let (from, to) = (Pointer::from_height(height), Pointer::from_height(next - 1));
        let cause = format!(
            "{} has no {} although {} is there",
            self.options.dir.display(),
            self.names.data(height),
            self.names.data(next)
        );
        match self.context.on_gap {
            OnGap::Halt => Err(SourceError::Gap { from, to, cause }),
            OnGap::Record => self.feed.send(Item::Gap { from, to, cause }).await,
        }
    }

    /// A file that cannot be read stops the ingestor, unless the journal has its block: then it
    /// only cannot be compared.
    fn not_compared(&self, height: u64, error: SourceError) -> Result<(), SourceError> {
        if !self.is_again(height) {
            return Err(error);
        }
        let remark = format!("{error}; the journal has the block, it was not compared");
        self.context.notes.set("not-compared", Some(remark));
        Ok(())
    }

    fn broken(&self, height: u64, which: Which, state: Completeness) -> SourceError {
        let name = match which {
            Which::Data => self.names.data(height),
            Which::Meta => self.names.meta(height),
        };
        let file = self.options.dir.join(name);
        let cause = match state {
            Completeness::Short { expected: None, found } => format!(
                "{} is torn: {found} bytes, not even the 8 bytes of its header",
                file.display()
            ),
            Completeness::Short { expected: Some(expected), found } => format!(
                "{} is torn: its header promises {expected} bytes, it has {found}; replace it by a \
                 whole copy of another node",
                file.display()
            ),
            Completeness::Long { expected, found } => format!(
                "{} is corrupt: its header promises {expected} bytes, it has {found}",
                file.display()
            ),
            Completeness::Complete(_) => format!("{} is complete", file.display()),
        };
        SourceError::Block { pointer: Pointer::from_height(height), cause }
    }
}

fn identity(path: &Path) -> Result<Option<Identity>, SourceError> {
    let action = "looking at";
    Identity::of(path).map_err(|source| SourceError::Io { action, path: path.to_owned(), source })
}

/// Looks at one file: its header first, then its size, so that a file that is being written never
/// looks complete.
fn inspect(path: &Path) -> Result<Found, SourceError> {
    let look = |path: &Path| -> io::Result<Found> {
        let mut file = File::open(path)?;
        let mut header = [0; 8];
        let header = match file.read_exact(&mut header) {
            Ok(()) => Some(header),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => None,
            Err(error) => return Err(error),
        };
        Ok(Found::There(completeness(header, file.metadata()?.len())))
    };
    match look(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Found::Missing),
        Err(source) => Err(SourceError::Io { action: "reading", path: path.to_owned(), source }),
        Ok(found) => Ok(found),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SourceError> + Send + 'static,
) -> Result<T, SourceError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|gone| Err(SourceError::Start(format!("a reading thread ended: {gone}"))))
}
