//! Names of files and directories: functions of stream, filter, generation, store and heights,
//! never of time.

use std::path::{Path, PathBuf};

use sluice_model::Generation;

/// Longest encoded name of a directory; beyond it the end is replaced by a hash.
const MAX_COMPONENT: usize = 180;

/// Blocks per directory of [`Layout::Height`].
const BLOCKS_PER_DIR: u64 = 1000;

/// How files are spread over directories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// A directory per store.
    StoreHeight,
    /// Directories by height: `h/000/012/` holds heights 12000 to 12999.
    Height,
    /// No directories.
    Flat,
}

impl Layout {
    /// Every layout with its name in the configuration.
    pub const KNOWN: [(&'static str, Self); 3] =
        [("store/height", Self::StoreHeight), ("height", Self::Height), ("flat", Self::Flat)];

    /// The name in the configuration.
    pub fn name(self) -> &'static str {
        Self::KNOWN.iter().find(|(_, layout)| *layout == self).map_or("", |(name, _)| name)
    }
}

/// Where the files of a generation live, under the stream's directory.
pub fn generation_dir(stream: &Path, generation: Generation) -> PathBuf {
    match generation.0 {
        0 => stream.to_owned(),
        n => stream.join(format!("g{n}")),
    }
}

/// The directory of a height, relative to the generation's.
pub fn height_dir(height: u64) -> PathBuf {
    let thousands = height / BLOCKS_PER_DIR;
    PathBuf::from(format!("h/{:03}/{:03}", thousands / 1000, thousands % 1000))
}

/// The name of the rows of a closed range.
pub fn closed_name(from: u64, to: u64) -> String {
    format!("{from:020}-{to:020}.jsonl")
}

/// The name of the newest rows, whose range has begun at `from` and is not closed.
pub fn open_name(from: u64) -> String {
    format!("{from:020}.open")
}

/// The name of a block's pairs (`data`) or of what is known beside them (`meta`), as Cosmos
/// nodes name them.
pub fn block_name(prefix: &str, height: u64, part: &str) -> String {
    if prefix.is_empty() {
        format!("block-{height}-{part}")
    } else {
        format!("{prefix}-block-{height}-{part}")
    }
}

/// Reads a name made by [`block_name`]; gives height and part. Names that Cosmos nodes do not
/// write (leading zeros, signs) are not block files.
pub fn parse_block_name<'a>(prefix: &str, name: &'a str) -> Option<(u64, &'a str)> {
    let rest =
        if prefix.is_empty() { name } else { name.strip_prefix(prefix)?.strip_prefix('-')? };
    let (height, part) = rest.strip_prefix("block-")?.split_once('-')?;
    let plain = height.bytes().all(|b| b.is_ascii_digit())
        && (height == "0" || !height.starts_with('0'))
        && matches!(part, "data" | "meta");
    if !plain {
        return None;
    }
    Some((height.parse().ok()?, part))
}

/// A name (store, stream) as one directory: `[A-Za-z0-9_.-]` as they are, all else as `%XX`.
/// Injective. Names that would read as one of our own (`.x`, `g7`, `manifest.jsonl`) have their
/// first byte encoded; names too long for a file system end in `~` and a hash.
pub fn component(name: &str) -> String {
    let reserved = name == crate::manifest::FILE_NAME || is_generation(name);
    let mut out = String::with_capacity(name.len());
    for (i, byte) in name.bytes().enumerate() {
        let first = i == 0 && (byte == b'.' || reserved);
        if !first && (byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.')) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    if out.len() > MAX_COMPONENT {
        let hash = blake3::hash(name.as_bytes()).to_hex();
        out.truncate(MAX_COMPONENT - 33);
        out.push('~');
        out.push_str(hash.get(..32).unwrap_or_default());
    }
    out
}

fn is_generation(name: &str) -> bool {
    name.strip_prefix('g').is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

/// The last height of the aligned range that a height lies in.
pub const fn range_end(height: u64, align: u64) -> u64 {
    range_start(height, align).saturating_add(align.saturating_sub(1))
}

/// The first height of the aligned range that a height lies in.
pub const fn range_start(height: u64, align: u64) -> u64 {
    match height.checked_rem(align) {
        Some(over) => height - over,
        None => height,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ranges_are_aligned() {
        assert_eq!((range_start(0, 1000), range_end(0, 1000)), (0, 999));
        assert_eq!((range_start(999, 1000), range_end(1000, 1000)), (0, 1999));
        assert_eq!(range_end(u64::MAX, 1000), u64::MAX);
        assert_eq!((range_start(7, 1), range_end(7, 1)), (7, 7));
    }

    #[test]
    fn block_names_follow_the_prefix_rule() {
        assert_eq!(block_name("", 7, "data"), "block-7-data");
        assert_eq!(block_name("hub", 7, "meta"), "hub-block-7-meta");
        assert_eq!(parse_block_name("", "block-123-data"), Some((123, "data")));
        assert_eq!(parse_block_name("tx-node", "tx-node-block-1-meta"), Some((1, "meta")));
        for other in
            ["block-01-data", "block-1-tx", "block--data", "block-+1-data", "x-block-1-data"]
        {
            assert_eq!(parse_block_name("", other), None, "{other}");
        }
    }

    #[test]
    fn store_directories_stay_apart_from_each_other_and_from_ours() {
        let long = "s".repeat(400);
        let other = format!("{}t", "s".repeat(399));
        let names = [
            "bank",
            "a/b",
            "a%2Fb",
            "..",
            ".",
            "g1",
            "%671",
            "g",
            "gov",
            "manifest.jsonl",
            &long,
            &other,
        ];
        let encoded: HashSet<String> = names.iter().map(|name| component(name)).collect();
        assert_eq!(encoded.len(), names.len());
        for name in &encoded {
            assert!(name.len() <= MAX_COMPONENT && !name.starts_with('.') && !name.contains('/'));
            assert!(!is_generation(name) && name != "manifest.jsonl");
        }
        assert_eq!(component("bank"), "bank");
        assert_eq!(component("g1"), "%671");
    }

    #[test]
    fn directories_by_height_hold_a_thousand_blocks() {
        assert_eq!(height_dir(1999), Path::new("h/000/001"));
        assert_eq!(height_dir(12_345_678), Path::new("h/012/345"));
        assert_eq!(height_dir(u64::MAX), Path::new("h/18446744073709/551"));
    }
}
