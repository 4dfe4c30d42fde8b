//! The blocks that are measured with.

use std::{path::Path, sync::Arc};

use bytes::{Bytes, BytesMut};
use sluice_frame::{BlockEnd, Frame, Header, put_change, scan};
use sluice_journal::{Embedded, Journal, Open, Options, Retention};
use sluice_model::{Epoch, FilterSpec, IngestorName, JournalId, Kind, Op, Pointer, TopicRules};

pub(crate) const INGESTOR: &str = "bench";
pub(crate) const BLOCKS: u64 = 3000;
const STORES: usize = 100;
const CHANGES: usize = 1000;
/// Every so many blocks have a change in the store `rare`.
const RARE: u64 = 200;

pub(crate) fn ingestor() -> IngestorName {
    INGESTOR.parse().unwrap()
}

pub(crate) const fn id() -> JournalId {
    JournalId::from_array([1; 16])
}

/// A block of 1000 changes in 100 sorted stores, 32-byte keys and 100-byte values.
pub(crate) fn block(height: u64) -> Frame {
    block_of(height, STORES)
}

/// The same in so many stores.
pub(crate) fn block_of(height: u64, stores: usize) -> Frame {
    let mut region = BytesMut::new();
    for i in 0..CHANGES {
        let store = format!("s{:02}", i * stores / CHANGES);
        let mut key = [0u8; 32];
        key[..8].copy_from_slice(&(i as u64).to_be_bytes());
        let mut value = [0u8; 100];
        value[..8].copy_from_slice(&height.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
        value[8..16].copy_from_slice(&(i as u64).to_le_bytes());
        put_change(&store, Op::Set, &key, &value, &mut region);
    }
    if height.is_multiple_of(RARE) {
        put_change("rare", Op::Set, b"key", b"value", &mut region);
    }
    let changes = region.freeze();
    let table = scan(&changes, &TopicRules::default()).unwrap();
    let mut header = Header::new(Kind::Block, ingestor(), Pointer::from_height(height), height);
    header.parent = if height == 1 { Pointer::ORIGIN } else { Pointer::from_height(height - 1) };
    header.routes = table.routes;
    header.runs = table.runs;
    header.end = Some(BlockEnd { parts: 1, changes: table.changes, ..BlockEnd::default() });
    Frame { header, changes }
}

fn stores(stores: &[&str]) -> FilterSpec {
    FilterSpec { stores: stores.iter().map(ToString::to_string).collect(), ..FilterSpec::default() }
}

/// The filters by name, from everything to nearly nothing.
pub(crate) fn filters() -> Vec<(&'static str, FilterSpec)> {
    vec![
        ("all", stores(&[])),
        ("1 of 8", stores(&["s0?", "s10", "s11"])),
        ("1 of 100", stores(&["s42"])),
        ("sparse", stores(&["rare"])),
    ]
}

/// One of 20 filters that let 5 of the 100 stores through.
pub(crate) fn five_stores(i: usize) -> FilterSpec {
    let names: Vec<String> = (0..5).map(|j| format!("s{:02}", i * 5 + j)).collect();
    stores(&names.iter().map(String::as_str).collect::<Vec<_>>())
}

/// A filled journal directory.
pub(crate) struct Store {
    dir: tempfile::TempDir,
    bytes: u64,
    filled: Option<Arc<dyn Journal>>,
}

impl Store {
    pub(crate) fn fill() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let journal = open(dir.path(), 512 << 20);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let bytes = runtime.block_on(async {
            journal.create(&ingestor(), id()).await.unwrap();
            let open = Open {
                ingestor: ingestor(),
                id: id(),
                epoch: Epoch::from_u64(1),
                nonce: Bytes::from_static(b"n"),
                holder: "bench".into(),
            };
            let mut writer = journal.open(open).await.unwrap().writer;
            let mut bytes = 0;
            let mut last = None;
            for height in 1..=BLOCKS {
                let frame = block(height);
                bytes += frame.changes.len() as u64;
                last = writer.append(frame).await.unwrap();
            }
            last.unwrap().await.unwrap();
            bytes
        });
        Self { dir, bytes, filled: Some(journal) }
    }

    /// The journal as it was filled: all of it is in the tail cache.
    pub(crate) fn in_memory(&self) -> Arc<dyn Journal> {
        Arc::clone(self.filled.as_ref().unwrap())
    }

    /// The journal opened anew, without a tail cache: everything is read from the files.
    pub(crate) fn on_disk(&mut self) -> Arc<dyn Journal> {
        let filled = self.filled.take().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(filled.close());
        drop(filled);
        open(self.dir.path(), 0)
    }

    pub(crate) const fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn regime(&self) -> String {
        regime(self.dir.path())
    }
}

pub(crate) fn open(path: &Path, tail_cache: usize) -> Arc<dyn Journal> {
    let options = Options { tail_cache_bytes: tail_cache, ..Options::default() };
    Embedded::open_dir(path, options).unwrap()
}

/// A journal that keeps nothing behind its newest segments, so that it writes recycled ones.
pub(crate) fn open_recycling(path: &Path) -> Arc<dyn Journal> {
    let retention = Retention { blocks: Some(1), ..Retention::default() };
    let options = Options { prepare_spares: false, retention, ..Options::default() };
    Embedded::open_dir(path, options).unwrap()
}

/// Where the files are and what an acknowledgement means.
pub(crate) fn regime(path: &Path) -> String {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let kind = mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            Some((fields.next()?, fields.next()?))
        })
        .filter(|(at, _)| path.starts_with(at))
        .max_by_key(|(at, _)| at.len())
        .map_or("unknown", |(_, kind)| kind);
    format!("files on {kind}, policy fsync (fdatasync before every acknowledgement)")
}
