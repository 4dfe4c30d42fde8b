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
        }
    }

    pub(super) async fn run(mut self, after: Option<u64>) -> Result<(), SourceError> {
        let Some(mut height) = self.first(after).await? else {
            return self.feed.send(Item::Finished).await;
        };
        self.context.notes.set("unknown-previous", None);
        loop {
            match self.await_block(height).await? {
                Decision::Take { data, meta } => {
                    self.take(height, data, meta).await?;
                    height += 1;
                }
                Decision::Gap { next } => {
                    self.gap(height, next).await?;
                    height = next;
                }
                Decision::Broken(which, state) => return Err(self.broken(height, which, state)),
                Decision::End | Decision::Wait => return self.feed.send(Item::Finished).await,
            }
        }
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
    async fn await_block(&mut self, height: u64) -> Result<Decision, SourceError> {
        let patience = Patience {
            follow: self.options.follow,
            torn_after: self.options.torn_after.get(),
            meta_wait: self.options.meta_wait.get(),
        };
        let mut judge = Judge::default();
        loop {
            let look = self.look(height).await?;
            match judge.decide(look, Instant::now(), &patience) {
                Decision::Wait => self.watch.changed().await,
                decision => return Ok(decision),
            }
        }
    }

    async fn look(&mut self, height: u64) -> Result<Look, SourceError> {
        let dir = self.options.dir.clone();
        let data = dir.join(self.names.data(height));
        let meta = self.options.metadata.then(|| dir.join(self.names.meta(height)));
        let (data, meta) = blocking(move || {
            let meta = meta.map_or(Ok(Found::Missing), |path| inspect(&path))?;
            Ok((inspect(&data)?, meta))
        })
        .await?;
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
        let others_have_meta = self.options.metadata && self.metas;
        Ok(Look { data, meta, later, others_have_meta })
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
        };
        let feed = self.feed.clone();
        let read = blocking(move || emit::emit(&block, &feed)).await?;
        match read {
            Some(read) => self.metadata_read(height, read),
            None if self.options.metadata && self.metas => self.without_meta += 1,
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
