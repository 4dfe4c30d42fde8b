//! A small journal, its blocks, and what must be true of it.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use sluice_frame::{BlockEnd, Frame};
use sluice_journal::{
    AppendError, Corruption, Embedded, Item, Journal, JournalError, Options, ReadFrom, Reader,
    Receipt, Retention, Writer,
    conformance::{ID, block_of, name, opening, parent_of, stores},
    files::fault::FaultFiles,
};

pub(crate) const DIR: &str = "/data";

/// Small segments, so that every run goes through several.
pub(crate) fn options() -> Options {
    Options {
        segment_bytes: 4 << 10,
        tail_cache_bytes: 8 << 10,
        prepare_spares: false,
        ..Options::default()
    }
}

/// The same, but a trim retires all that so many blocks do not need.
pub(crate) fn keeping(blocks: u64) -> Options {
    Options { retention: Retention { blocks: Some(blocks), ..Retention::default() }, ..options() }
}

pub(crate) fn start(files: &FaultFiles) -> Arc<Embedded> {
    start_with(files, options())
}

pub(crate) fn start_with(files: &FaultFiles, options: Options) -> Arc<Embedded> {
    Embedded::open_with(Arc::new(files.clone()), Path::new(DIR), options).unwrap()
}

/// A started journal with a writer, and so many blocks in it; many begin in one segment and end
/// in the next.
pub(crate) async fn filled(
    files: &FaultFiles,
    options: Options,
    blocks: u64,
) -> (Arc<Embedded>, Box<dyn Writer>) {
    let journal = start_with(files, options);
    let (mut writer, _) = open(journal.as_ref(), 5).await.unwrap();
    for height in 1..=blocks {
        append(writer.as_mut(), height).await.unwrap();
    }
    (journal, writer)
}

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// The block of a height in as many parts as the height wants. A function of the height alone.
pub(crate) fn frames(height: u64) -> Vec<Frame> {
    let parts = 1 + u32::try_from(height % 3).unwrap();
    (0..parts)
        .map(|part| {
            let len = usize::try_from(height * 37 % 400 + u64::from(part) * 50).unwrap();
            let store = if part % 2 == 0 { "bank" } else { "gov" };
            let pair =
                (store, vec![1, u8::try_from(part).unwrap()], vec![height.to_le_bytes()[0]; len]);
            let mut frame = block_of(0, height, parent_of(height), &[pair]).remove(0);
            frame.header.part = part;
            frame.header.first_index = part;
            frame.header.end = (part + 1 == parts).then(|| BlockEnd {
                parts,
                changes: parts,
                ..BlockEnd::default()
            });
            frame
        })
        .collect()
}

pub(crate) async fn append(writer: &mut dyn Writer, height: u64) -> Result<Receipt, AppendError> {
    let mut ticket = None;
    for frame in frames(height) {
        ticket = writer.append(frame).await?;
    }
    ticket.expect("the last part gives a ticket").await
}

/// Creates or opens, and gives the writer and the height of the head.
pub(crate) async fn open(
    journal: &dyn Journal,
    epoch: u64,
) -> Result<(Box<dyn Writer>, u64), JournalError> {
    journal.create(&name(), ID).await?;
    let opened = journal.open(opening(epoch)).await?;
    Ok((opened.writer, opened.head.map_or(0, |head| head.height)))
}

pub(crate) async fn head_of(journal: &dyn Journal) -> u64 {
    journal.status(&name()).await.unwrap().head.map_or(0, |head| head.height)
}

/// Everything readable, up to the tail: heights, and what stood between them.
#[derive(Debug, Default)]
pub(crate) struct Content {
    pub(crate) heights: Vec<u64>,
    pub(crate) corrupt: Vec<Corruption>,
}

impl Content {
    /// How many of the blocks up to the last are not readable; each must be reported.
    pub(crate) fn lost(&self, last: u64, what: &str) -> u64 {
        assert!(self.heights.is_sorted_by(|one, other| one < other), "{what}: {self:?}");
        let lost: Vec<u64> = (1..=last).filter(|h| !self.heights.contains(h)).collect();
        for height in &lost {
            assert!(self.reports(*height), "{what}: block {height} is lost silently: {self:?}");
        }
        assert_eq!(self.corrupt.is_empty(), lost.is_empty(), "{what}: {self:?}");
        lost.len() as u64
    }

    fn reports(&self, height: u64) -> bool {
        self.corrupt.iter().any(|c| covers(c, height))
    }
}

pub(crate) fn covers(corruption: &Corruption, height: u64) -> bool {
    let after = corruption.after.pointer.height().unwrap_or(0);
    let through = corruption.through.as_ref().map_or(Some(u64::MAX), |t| t.pointer.height());
    (after + 1..=through.unwrap_or(0)).contains(&height)
        // Where the block before is not known, the position inside the block is named.
        || (corruption.after.index == 0 && after == height)
}

/// Reads everything and compares each block with what was appended.
pub(crate) async fn content(journal: &dyn Journal) -> Content {
    let mut content = Content::default();
    let head = head_of(journal).await;
    let mut reader = journal.read(&name(), ReadFrom::Earliest, stores(&[])).await.unwrap();
    if reader.started().after.pointer.height().unwrap_or(0) < head {
        read_to(head, reader.as_mut(), &mut content).await;
    }
    // Damage behind the head follows at once if there is any.
    content.corrupt.extend(damage_at_once(reader.as_mut()).await);
    content
}

async fn read_to(head: u64, reader: &mut dyn Reader, content: &mut Content) {
    let mut parts = Vec::new();
    loop {
        let item = tokio::time::timeout(Duration::from_secs(20), reader.next()).await;
        match item.expect("the tail is told").unwrap() {
            Item::Entry(stored) => {
                parts.push(Arc::clone(&stored));
                if stored.header.end.is_none() {
                    continue;
                }
                let height = stored.header.height;
                let sent = frames(height);
                assert_eq!(parts.len(), sent.len(), "parts of block {height}");
                for (stored, sent) in parts.drain(..).zip(sent) {
                    assert_eq!(stored.changes, sent.changes, "block {height}");
                    assert_eq!(stored.header.runs, sent.header.runs);
                    assert_eq!(stored.header.routes, sent.header.routes);
                }
                content.heights.push(height);
                if height == head {
                    break;
                }
            }
            Item::Corrupt(corruption) => {
                parts.clear();
                let ends = corruption.through.as_ref().and_then(|t| t.pointer.height());
                content.corrupt.push(corruption);
                if ends.is_some_and(|height| height >= head) {
                    break;
                }
            }
            Item::Through(through) if through.height >= head => break,
            Item::Through(_) => {}
            other => panic!("unexpected {other:?}"),
        }
    }
}

/// Damage that the reader tells of without waiting for anything but its turn.
async fn damage_at_once(reader: &mut dyn Reader) -> Option<Corruption> {
    for _ in 0..3 {
        let item = tokio::select! {
            biased;
            item = reader.next() => item.ok(),
            () = std::future::ready(()) => None,
        };
        if let Some(Item::Corrupt(corruption)) = item {
            return Some(corruption);
        }
    }
    None
}

/// After a crash: every acknowledged block is there, once, unchanged, with everything before it,
/// and nothing is reported damaged.
pub(crate) async fn check_whole(journal: &dyn Journal, acked: u64) -> u64 {
    let status = journal.status(&name()).await.unwrap();
    let head = status.head.map_or(0, |head| head.height);
    assert!(head >= acked, "acknowledged up to {acked}, found {head}");
    assert!(status.corruptions.is_empty(), "{:?}", status.corruptions);
    let content = content(journal).await;
    assert!(content.corrupt.is_empty(), "{:?}", content.corrupt);
    let first = content.heights.first().copied().unwrap_or(head + 1);
    assert_eq!(content.heights, (first..=head).collect::<Vec<_>>());
    let report = journal.verify(&name(), Box::new(|_| ())).await.unwrap();
    assert!(report.is_sound(), "{:?}", report.corruptions);
    first
}

pub(crate) fn segments(files: &FaultFiles) -> Vec<PathBuf> {
    let mut paths = files.paths();
    paths.retain(|path| path.extension().is_some_and(|e| e == "seg"));
    paths
}
