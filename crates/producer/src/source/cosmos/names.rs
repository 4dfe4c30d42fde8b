//! Names in a directory that a file streamer writes, and what a look at all of them tells.

use std::{collections::BTreeSet, fs, io, path::Path};

/// The file that the SDK writes and deletes at start to see whether it may write.
const PROBE: &str = ".touch";

/// Most foreign names that a listing keeps to show.
const SAMPLE: usize = 5;

/// Which of a block's two files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The changes.
    Data,
    /// The block's requests and responses.
    Meta,
}

/// What a file name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    /// A file of the block at a height.
    Block(u64, Part),
    /// The SDK's probe; comes and goes.
    Probe,
    /// Looks like the three-files-per-block format of SDK 0.45.9 to 0.45.11.
    OldFormat,
    /// Anything else.
    Foreign,
}

/// How the files of one streamer are called: `block-N-data`, or `PREFIX-block-N-data`.
#[derive(Clone, Debug)]
pub struct Names {
    start: String,
}

impl Names {
    /// Names with this prefix; empty for none.
    pub fn new(prefix: &str) -> Self {
        let start =
            if prefix.is_empty() { "block-".to_owned() } else { format!("{prefix}-block-") };
        Self { start }
    }

    /// The name of a block's data file.
    pub fn data(&self, height: u64) -> String {
        format!("{}{height}-data", self.start)
    }

    /// The name of a block's meta file.
    pub fn meta(&self, height: u64) -> String {
        format!("{}{height}-meta", self.start)
    }

    /// Reads a name. Heights are plain decimals: a padded one was written by something else.
    pub fn parse(&self, name: &str) -> Name {
        if name == PROBE {
            return Name::Probe;
        }
        let Some((digits, kind)) =
            name.strip_prefix(&self.start).and_then(|rest| rest.split_once('-'))
        else {
            return Name::Foreign;
        };
        let Some(height) = plain_decimal(digits) else { return Name::Foreign };
        match kind {
            "data" => Name::Block(height, Part::Data),
            "meta" => Name::Block(height, Part::Meta),
            "begin" | "end" => Name::OldFormat,
            _ if kind.strip_prefix("tx-").and_then(plain_decimal).is_some() => Name::OldFormat,
            _ => Name::Foreign,
        }
    }
}

fn plain_decimal(digits: &str) -> Option<u64> {
    let canonical =
        digits.bytes().all(|b| b.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
    if canonical { digits.parse().ok() } else { None }
}

/// All block files of a directory, in the order of heights (a directory lists 10 before 9).
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Heights with a data file.
    pub data: BTreeSet<u64>,
    /// Heights with a meta file.
    pub meta: BTreeSet<u64>,
    /// Files that belong to nobody here; left alone.
    pub foreign: u64,
    /// The first few of their names.
    pub sample: Vec<String>,
    /// Files of the old three-files-per-block format.
    pub old_format: u64,
}

impl Listing {
    /// Reads a directory. Sub-directories count as foreign.
    pub fn read(dir: &Path, names: &Names) -> io::Result<Self> {
        let mut listing = Self::default();
        for entry in fs::read_dir(dir)? {
            let name = entry?.file_name();
            listing.add(names, &name.to_string_lossy());
        }
        listing.sample.sort();
        Ok(listing)
    }

    fn add(&mut self, names: &Names, name: &str) {
        match names.parse(name) {
            Name::Block(height, Part::Data) => drop(self.data.insert(height)),
            Name::Block(height, Part::Meta) => drop(self.meta.insert(height)),
            Name::Probe => {}
            Name::OldFormat => self.old_format += 1,
            Name::Foreign => {
                self.foreign += 1;
                if self.sample.len() < SAMPLE {
                    self.sample.push(name.to_owned());
                }
            }
        }
    }

    /// The lowest height above `height` that has data.
    pub fn next_after(&self, height: u64) -> Option<u64> {
        self.data.range(height.checked_add(1)?..).next().copied()
    }

    /// What a person should know about the directory; empty if nothing.
    pub fn remarks(&self) -> Option<String> {
        let mut parts = Vec::new();
        if self.foreign > 0 {
            parts.push(format!(
                "{} files are no block files and were left alone: {}",
                self.foreign,
                self.sample.join(", ")
            ));
        }
        if self.old_format > 0 {
            parts.push(format!(
                "{} files are in the three-files-per-block format of SDK 0.45.9 to 0.45.11, which \
                 is not read: it records writes of failed transactions",
                self.old_format
            ));
        }
        (!parts.is_empty()).then(|| parts.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_names_with_and_without_prefix() {
        let plain = Names::new("");
        assert_eq!(plain.parse("block-7-data"), Name::Block(7, Part::Data));
        assert_eq!(plain.parse("block-10-meta"), Name::Block(10, Part::Meta));
        assert_eq!(plain.parse("x-block-7-data"), Name::Foreign);
        assert_eq!(plain.parse(".touch"), Name::Probe);
        let prefixed = Names::new("gaia-1");
        assert_eq!(prefixed.data(9), "gaia-1-block-9-data");
        assert_eq!(prefixed.parse(&prefixed.meta(9)), Name::Block(9, Part::Meta));
        assert_eq!(prefixed.parse("block-9-data"), Name::Foreign);
    }

    #[test]
    fn refuses_names_that_the_sdk_does_not_write() {
        let names = Names::new("");
        for name in [
            "block-07-data",
            "block--data",
            "block-+7-data",
            "block-18446744073709551616-data",
            "block-7-data.tmp",
            "block-7",
            "",
        ] {
            assert_eq!(names.parse(name), Name::Foreign, "{name}");
        }
        assert_eq!(names.parse("block-0-data"), Name::Block(0, Part::Data));
        assert_eq!(names.parse("block-7-tx-0"), Name::OldFormat);
        assert_eq!(names.parse("block-7-end"), Name::OldFormat);
    }

    #[test]
    fn lists_in_numeric_order_and_counts_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["block-10-data", "block-9-data", "block-9-meta", ".touch", "notes.txt"] {
            fs::write(dir.path().join(name), b"").unwrap();
        }
        let listing = Listing::read(dir.path(), &Names::new("")).unwrap();
        assert_eq!(listing.data.iter().copied().collect::<Vec<_>>(), [9, 10]);
        assert_eq!(listing.meta.iter().copied().collect::<Vec<_>>(), [9]);
        assert_eq!(
            (listing.foreign, listing.sample.as_slice()),
            (1, &["notes.txt".to_owned()][..])
        );
        assert_eq!(listing.next_after(9), Some(10));
        assert_eq!(listing.next_after(10), None);
        assert!(listing.remarks().unwrap().contains("notes.txt"));
    }
}
