//! Material for the tests of both formats: frames, a stream cut into batches in any way, and the
//! law that a crash at any operation leaves no trace.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use bytes::{Bytes, BytesMut};
use sluice_frame::{BlockEnd, Frame, Header, Metadata, put_change, scan};
use sluice_model::{
    Checkpoint, Digest, Generation, Kind, Op, Pointer, Position, TopicRules, event::Encoding,
};

use crate::{
    config::FileOptions,
    dispatcher::{Target, writer},
    error::FileError,
    layer::memory::{Cut, Memory},
    writer::Writer,
};

/// A change as tests write it: store, operation, key, value.
pub(crate) type Pair<'a> = (&'a str, Op, &'a [u8], &'a [u8]);

pub(crate) fn set<'a>(store: &'a str, key: &'a [u8], value: &'a [u8]) -> Pair<'a> {
    (store, Op::Set, key, value)
}

pub(crate) fn region(pairs: &[Pair<'_>]) -> Bytes {
    let mut out = BytesMut::new();
    for (store, op, key, value) in pairs {
        put_change(store, *op, key, value, &mut out);
    }
    out.freeze()
}

/// A part of a block. The last one says so.
pub(crate) fn part(
    generation: u32,
    height: u64,
    part: u32,
    first_index: u32,
    pairs: &[Pair<'_>],
    last: bool,
) -> Frame {
    let changes = region(pairs);
    let table = scan(&changes, &TopicRules::default()).unwrap();
    let mut header =
        Header::new(Kind::Block, "chain".parse().unwrap(), Pointer::from_height(height), height);
    header.generation = Generation(generation);
    header.parent = height.checked_sub(1).map_or(Pointer::ORIGIN, Pointer::from_height);
    header.time = Some(1_700_000_000_000_000_000);
    header.part = part;
    header.first_index = first_index;
    (header.routes, header.runs) = (table.routes, table.runs);
    header.end = last.then(|| BlockEnd { digest: digest(height), ..BlockEnd::default() });
    Frame { header, changes }
}

/// A block of one frame.
pub(crate) fn block(height: u64, pairs: &[Pair<'_>]) -> Frame {
    part(0, height, 0, 0, pairs, true)
}

pub(crate) fn with_metadata(mut frame: Frame, value: &[u8]) -> Frame {
    let value = Bytes::copy_from_slice(value);
    frame.header.metadata = Some(Metadata { type_url: "m".to_owned(), value });
    frame
}

fn digest(height: u64) -> Digest {
    blake3::hash(&height.to_be_bytes()).into()
}

pub(crate) fn end_of(generation: u32, height: u64) -> Position {
    Position::end_of(Generation(generation), Pointer::from_height(height))
}

/// One item of a stream.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "test material, few of them")]
pub(crate) enum Step {
    Frame(Frame),
    /// Nothing matched up to this height.
    Through(u32, u64),
    Gap(u32, u64, u64),
    Rewind(u32, u64),
}

impl Step {
    /// How far the stream is complete with this item, given how far it was before.
    fn through(&self, before: &Position) -> Position {
        match self {
            Self::Frame(frame) if frame.header.end.is_some() => frame.header.end_of_block(),
            Self::Frame(frame) if frame.header.changes() > 0 => {
                frame.header.position(frame.header.next_index() - 1)
            }
            Self::Frame(_) => before.clone(),
            Self::Through(generation, height) | Self::Gap(generation, _, height) => {
                end_of(*generation, *height)
            }
            // It stands between two blocks and ends at neither.
            Self::Rewind(..) => before.clone(),
        }
    }

    fn height(&self) -> u64 {
        match self {
            Self::Frame(frame) => frame.header.height,
            Self::Through(_, height) | Self::Gap(_, _, height) | Self::Rewind(_, height) => *height,
        }
    }

    /// What a router does not send again to a reader that is done up to `done`.
    fn is_behind(&self, done: &Position) -> bool {
        match self {
            Self::Frame(frame) if frame.header.changes() == 0 => {
                frame.header.end_of_block() <= *done
            }
            Self::Rewind(generation, _) => done.generation.0 >= *generation,
            other => other.through(&Position::ORIGIN) <= *done,
        }
    }
}

/// A stream and the destination under test.
#[derive(Debug)]
pub(crate) struct Rig {
    pub(crate) steps: Vec<Step>,
    pub(crate) start: Position,
    pub(crate) options: FileOptions,
    pub(crate) reset_epoch: u64,
}

pub(crate) const ROOT: &str = "/root";

impl Rig {
    pub(crate) fn new(steps: Vec<Step>, options: FileOptions) -> Self {
        Self { steps, start: end_of(0, 0), options, reset_epoch: 0 }
    }

    pub(crate) fn writer(&self, layer: &Memory) -> Box<dyn Writer> {
        let target = Target {
            layer: Arc::new(layer.clone()),
            root: PathBuf::from(ROOT),
            stream: "lake".to_owned(),
            ingestor: "chain".to_owned(),
            filter: "f00".to_owned(),
            encoding: Encoding::Base64,
        };
        writer(&self.options, target)
    }

    /// Delivers everything after `done` in batches of `per_batch` items; moves `done` with every
    /// receipt.
    pub(crate) fn deliver(
        &self,
        writer: &mut dyn Writer,
        done: &mut Position,
        per_batch: usize,
    ) -> Result<(), FileError> {
        let rest: Vec<_> = self.steps.iter().filter(|step| !step.is_behind(done)).collect();
        for batch in rest.chunks(per_batch) {
            let after = done.clone();
            self.batch(writer, &after, batch)?;
            for step in batch {
                *done = step.through(done).max(done.clone());
            }
        }
        Ok(())
    }

    fn batch(
        &self,
        writer: &mut dyn Writer,
        after: &Position,
        steps: &[&Step],
    ) -> Result<(), FileError> {
        writer.begin(after, self.reset_epoch)?;
        let mut through = after.clone();
        for step in steps {
            match step {
                Step::Frame(frame) => writer.frame(frame)?,
                Step::Through(..) => {}
                Step::Gap(_, from, to) => {
                    writer.gap(&Pointer::from_height(*from), &Pointer::from_height(*to), "lost")?;
                }
                Step::Rewind(generation, base) => {
                    writer.rewind(Generation(*generation), &Pointer::from_height(*base))?;
                }
            }
            through = step.through(&through).max(through);
        }
        let height = through.pointer.height().or(steps.last().map(|step| step.height()));
        let digest = height.map(digest).filter(|_| through.is_end_of_block());
        writer.finish(&Checkpoint { position: through, digest }, height.unwrap_or(0))
    }

    /// Runs without a fault.
    pub(crate) fn run(&self, per_batch: usize) -> Memory {
        let layer = Memory::default();
        let mut writer = self.writer(&layer);
        assert_eq!(writer.resume().unwrap(), None);
        self.deliver(writer.as_mut(), &mut self.start.clone(), per_batch).unwrap();
        layer
    }

    /// Crashes at every operation in every way, goes on from the last receipt with other batches,
    /// and expects the same tree.
    pub(crate) fn survives_every_crash(&self) {
        let whole = self.run(3);
        let expected = visible(&whole);
        for per_batch in [1, 2, 5] {
            assert_same(
                &visible(&self.run(per_batch)),
                &expected,
                &format!("batches of {per_batch}"),
            );
        }
        for cut in [Cut::Process, Cut::Everything, Cut::Bytes] {
            for at in 1..=whole.operations() {
                self.survives_crash(at, cut, &expected);
            }
        }
    }

    /// Crashes once and expects the tree of a run without a crash.
    pub(crate) fn survives_one_crash(&self, at: u64, cut: Cut) {
        let whole = self.run(3);
        self.survives_crash(at % whole.operations() + 1, cut, &visible(&whole));
    }

    fn survives_crash(&self, at: u64, cut: Cut, expected: &BTreeMap<PathBuf, Vec<u8>>) {
        let layer = Memory::default();
        layer.crash_at(at);
        let mut done = self.start.clone();
        let mut writer = self.writer(&layer);
        writer.resume().unwrap();
        assert!(self.deliver(writer.as_mut(), &mut done, 3).is_err(), "operation {at} exists");
        assert!(layer.crashed());
        layer.restart(cut);
        let mut writer = self.writer(&layer);
        let at_files = writer.resume().unwrap_or_else(|error| panic!("{at} {cut:?}: {error}"));
        let position = at_files.map(|at| at.position);
        assert!(
            position.as_ref().map_or(done == self.start, |position| *position >= done),
            "{at} {cut:?}: a receipt for {done} was given, but after the crash the files are at {position:?}"
        );
        // The stored checkpoint lags behind the receipts.
        for per_batch in [4, 1] {
            let mut from = if per_batch == 4 { done.clone() } else { self.start.clone() };
            self.deliver(writer.as_mut(), &mut from, per_batch).unwrap();
            assert_same(&visible(&layer), expected, &format!("crash at operation {at}, {cut:?}"));
        }
    }

    /// Meets an error at every operation, tries the batch again, and expects the same tree.
    pub(crate) fn survives_every_failure(&self) {
        let whole = self.run(3);
        let expected = visible(&whole);
        for at in 1..=whole.operations() {
            let layer = Memory::default();
            layer.fail_at(at, std::io::ErrorKind::StorageFull);
            let mut done = self.start.clone();
            let mut writer = self.writer(&layer);
            writer.resume().unwrap();
            let error = self.deliver(writer.as_mut(), &mut done, 3).unwrap_err();
            assert!(error.is_transient() && error.reason() == "full", "{error}");
            assert!(error.to_string().contains(ROOT), "it names the file: {error}");
            self.deliver(writer.as_mut(), &mut done, 3).unwrap();
            assert_same(&visible(&layer), &expected, &format!("failure at operation {at}"));
        }
    }
}

/// What consumers see, and temporary files, which must not be left: everything but the position.
pub(crate) fn visible(layer: &Memory) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut tree = layer.tree();
    tree.retain(|path, _| path.file_name().is_none_or(|name| name != ".position.json"));
    tree
}

type Tree = BTreeMap<PathBuf, Vec<u8>>;

/// Compares trees and shows only what differs.
pub(crate) fn assert_same(tree: &Tree, expected: &Tree, context: &str) {
    let text = |tree: &Tree, path| {
        tree.get(path).map(|bytes| bytes.escape_ascii().to_string().replace(r#"\""#, "\""))
    };
    for path in tree.keys().chain(expected.keys()) {
        assert_eq!(text(tree, path), text(expected, path), "{context}: {}", path.display());
    }
}

/// The names in a tree, below the root.
pub(crate) fn paths(tree: &BTreeMap<PathBuf, Vec<u8>>) -> Vec<String> {
    let relative = |path: &PathBuf| path.strip_prefix(ROOT).unwrap().display().to_string();
    tree.keys().map(relative).collect()
}
