//! The tables `[sinks.NAME]` with `type = "file"` and `[streams.NAME] file = { … }`.

use std::{
    collections::HashSet,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Deserializer};
use sluice_config::{ByteSize, CosmosFileStreamer};
use sluice_sink::{ConfigError, SinkConfig, StreamConfig};

use crate::names::Layout;

/// Name of the type in the configuration.
pub const TYPE_NAME: &str = "file";

/// `[sinks.NAME]` with `type = "file"`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RootOptions {
    /// The directory that all streams of the sink write below.
    pub root: PathBuf,
    /// The id in `.sluice-volume` that the root must carry. Set it once the root is made, so that
    /// an empty mount point is never taken for the volume. Without it a missing or empty root is
    /// made into a new volume.
    #[serde(default)]
    pub volume: Option<String>,
}

impl RootOptions {
    /// Reads the sink's table.
    pub fn read(sink: &SinkConfig) -> Result<Self, ConfigError> {
        let mut options: Self = sink.settings()?;
        if options.root.as_os_str().is_empty() {
            return Err(ConfigError::new(
                format!("{}.root", sink.path()),
                "it is empty; name the directory that files are written below",
            ));
        }
        if options.root.is_relative() {
            options.root = sink.data_dir.join(&options.root);
        }
        Ok(options)
    }
}

/// What the files contain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// A JSON object per change.
    #[default]
    Jsonl,
    /// Block files as Cosmos nodes write them.
    Cosmos,
}

impl Format {
    /// Every format with its name in the configuration.
    pub const KNOWN: [(&'static str, Self); 2] = [("jsonl", Self::Jsonl), ("cosmos", Self::Cosmos)];

    /// The name in the configuration.
    pub fn name(self) -> &'static str {
        Self::KNOWN.iter().find(|(_, format)| *format == self).map_or("", |(name, _)| name)
    }
}

impl<'de> Deserialize<'de> for Format {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        known("format", &Self::KNOWN, deserializer)
    }
}

impl<'de> Deserialize<'de> for Layout {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        known("layout", &Self::KNOWN, deserializer)
    }
}

fn known<'de, T: Copy, D: Deserializer<'de>>(
    what: &str,
    known: &[(&'static str, T)],
    deserializer: D,
) -> Result<T, D::Error> {
    let written = String::deserialize(deserializer)?;
    known.iter().find(|(name, _)| *name == written).map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<_> = known.iter().map(|(name, _)| *name).collect();
        serde::de::Error::custom(format!(
            "there is no {what} {written:?}; known are {}",
            names.join(", ")
        ))
    })
}

/// `[streams.NAME] file = { … }`. The names with dashes are those of a Cosmos node's
/// `[streamers.file]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FileOptions {
    /// What the files contain.
    pub format: Format,
    /// How they are spread over directories. Default: `store/height` for jsonl, `flat` for
    /// cosmos.
    pub layout: Option<Layout>,
    /// Blocks per range: rows of a range share files, and each closed range has a line in the
    /// manifest. Ranges begin at multiples.
    pub align_blocks: u64,
    /// A range of rows also closes at the end of the block that brings it to so many bytes.
    pub max_bytes: ByteSize,
    /// Files and names are on the disk before a batch counts as delivered. Without it a power cut
    /// may lose or tear what was delivered in the last seconds; it is found at the next start and
    /// written again if the journal still has it. A crash of the process alone loses nothing.
    pub fsync: bool,
    /// Directory below the root. Default: the stream's name; `.` is the root itself.
    pub write_dir: String,
    /// Begins the names of block files, followed by a dash.
    pub prefix: String,
    /// Writes `block-N-meta` too.
    #[serde(alias = "output-metadata")]
    pub output_metadata: bool,
    /// What a failed write does. `true`: the stream shows as blocked at once, whatever the cause.
    /// `false`: it shows as retrying. Not set: retrying for what may pass by itself (a full
    /// disk), blocked for what needs a person (permissions). In every case the write is tried
    /// again until it works, and nothing is skipped.
    #[serde(alias = "stop-node-on-error")]
    pub stop_node_on_error: Option<bool>,
    /// Stores that are written; `*` is every one. Comes after the stream's filter.
    pub keys: Vec<String>,
}

impl Default for FileOptions {
    fn default() -> Self {
        Self {
            format: Format::Jsonl,
            layout: None,
            align_blocks: 1000,
            max_bytes: ByteSize::mib(64),
            fsync: true,
            write_dir: String::new(),
            prefix: String::new(),
            output_metadata: true,
            stop_node_on_error: None,
            keys: vec!["*".to_owned()],
        }
    }
}

impl FileOptions {
    /// Reads the stream's table and checks it.
    pub fn read(stream: &StreamConfig) -> Result<Self, ConfigError> {
        let path = stream.path(TYPE_NAME);
        let options: Self = stream.settings(TYPE_NAME)?;
        options
            .check()
            .map_err(|(key, reason)| ConfigError::new(format!("{path}.{key}"), reason))?;
        Ok(options)
    }

    /// The layout, with the format's default.
    pub fn layout(&self) -> Layout {
        self.layout.unwrap_or(match self.format {
            Format::Jsonl => Layout::StoreHeight,
            Format::Cosmos => Layout::Flat,
        })
    }

    /// The stores that are written.
    pub fn keys(&self) -> Keys {
        Keys::new(&self.keys)
    }

    /// The root and the options that do what a Cosmos node's file streamer did: the same files in
    /// the same directory. Two things differ: files appear whole, and a failed write is tried
    /// again instead of ending the node (`stop-node-on-error` decides only how it shows).
    pub fn from_streamer(streamer: &CosmosFileStreamer) -> (RootOptions, Self) {
        let root = RootOptions { root: streamer.write_dir.clone(), volume: None };
        let options = Self {
            format: Format::Cosmos,
            layout: Some(Layout::Flat),
            fsync: streamer.fsync,
            write_dir: ".".to_owned(),
            prefix: streamer.prefix.clone(),
            output_metadata: streamer.output_metadata,
            stop_node_on_error: Some(streamer.stop_node_on_error),
            keys: streamer.keys.clone(),
            ..Self::default()
        };
        (root, options)
    }

    fn check(&self) -> Result<(), (&'static str, String)> {
        if self.align_blocks == 0 {
            return Err(("align_blocks", "it must be at least 1".to_owned()));
        }
        if self.max_bytes.bytes() == 0 {
            return Err(("max_bytes", "it must be at least 1".to_owned()));
        }
        if self.keys.is_empty() {
            return Err(("keys", "it is empty; name stores, or \"*\" for all".to_owned()));
        }
        if self.format == Format::Cosmos && self.layout == Some(Layout::StoreHeight) {
            let reason = "format cosmos has one file for all stores of a block; use flat or height";
            return Err(("layout", reason.to_owned()));
        }
        if self.prefix.contains(['/', '\0']) || self.prefix.starts_with('.') {
            let reason = "it becomes the begin of file names, so it must not contain / or begin with a dot; use write_dir for a directory";
            return Err(("prefix", reason.to_owned()));
        }
        let dir = Path::new(&self.write_dir);
        let inside = |part| matches!(part, Component::Normal(_) | Component::CurDir);
        if !dir.components().all(inside) || self.write_dir.contains('\0') {
            let reason = "it must be a directory below the sink's root, without ..";
            return Err(("write_dir", reason.to_owned()));
        }
        Ok(())
    }
}

/// Which stores are written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keys(Option<Arc<HashSet<String>>>);

impl Keys {
    /// The stores of these names; all if one of them is `*`.
    pub fn new(names: &[String]) -> Self {
        if names.iter().any(|name| name == "*") {
            return Self(None);
        }
        Self(Some(Arc::new(names.iter().cloned().collect())))
    }

    /// True if the store is written.
    pub fn has(&self, store: &str) -> bool {
        self.0.as_ref().is_none_or(|names| names.contains(store))
    }

    pub(crate) fn has_bytes(&self, store: &[u8]) -> bool {
        self.0.is_none() || std::str::from_utf8(store).is_ok_and(|store| self.has(store))
    }

    /// The filter's hash, or the one of filter and stores together.
    pub(crate) fn hash(&self, filter: &str) -> String {
        let Some(names) = &self.0 else { return filter.to_owned() };
        let mut names: Vec<_> = names.iter().collect();
        names.sort();
        let mut hasher = blake3::Hasher::new();
        hasher.update(filter.as_bytes());
        for name in names {
            hasher.update(&(name.len() as u64).to_be_bytes());
            hasher.update(name.as_bytes());
        }
        hasher.finalize().to_hex().chars().take(32).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<FileOptions, String> {
        let options: FileOptions =
            toml::from_str(text).map_err(|error: toml::de::Error| error.message().to_owned())?;
        options.check().map_err(|(key, reason)| format!("{key}: {reason}"))?;
        Ok(options)
    }

    #[test]
    fn reads_the_documented_table_and_the_node_s_names() {
        let options = read(
            "format = \"jsonl\"\nlayout = \"store/height\"\nalign_blocks = 1000\nfsync = true",
        )
        .unwrap();
        assert_eq!(
            options,
            FileOptions { layout: Some(Layout::StoreHeight), ..Default::default() }
        );
        let options = read(
            "format = \"cosmos\"\noutput-metadata = false\nstop-node-on-error = true\nkeys = [\"bank\"]\nwrite_dir = \".\"",
        )
        .unwrap();
        assert_eq!(options.layout(), Layout::Flat);
        assert_eq!(options.stop_node_on_error, Some(true));
        assert!(
            !options.output_metadata && options.keys().has("bank") && !options.keys().has("acc")
        );
    }

    #[test]
    fn mistakes_are_named_with_what_is_known() {
        for (text, expected) in [
            ("format = \"parquet\"", "there is no format \"parquet\"; known are jsonl, cosmos"),
            ("layout = \"tree\"", "known are store/height, height, flat"),
            ("formt = \"jsonl\"", "unknown field `formt`"),
            ("align_blocks = 0", "align_blocks: it must be at least 1"),
            ("keys = []", "keys: it is empty"),
            ("format = \"cosmos\"\nlayout = \"store/height\"", "layout: format cosmos"),
            ("prefix = \"a/b\"", "prefix: "),
            ("write_dir = \"../x\"", "write_dir: "),
            ("write_dir = \"/srv\"", "write_dir: "),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn takes_a_node_s_file_streamer_as_it_stands() {
        let text = "[store]\nstreamers = [\"file\"]\n[streamers.file]\nkeys = [\"bank\"]\nwrite_dir = \"out\"\nprefix = \"hub\"\noutput-metadata = \"false\"\nstop-node-on-error = \"true\"\nfsync = \"true\"";
        let home = Path::new("/home/node");
        let streamer = sluice_config::cosmos_app_toml(text, home).unwrap().unwrap();
        let (root, options) = FileOptions::from_streamer(&streamer);
        assert_eq!(root.root, Path::new("/home/node/out"));
        options.check().unwrap();
        let same = read(
            "format = \"cosmos\"\nlayout = \"flat\"\nwrite_dir = \".\"\nprefix = \"hub\"\noutput-metadata = false\nstop-node-on-error = true\nkeys = [\"bank\"]",
        );
        assert_eq!(options, same.unwrap());
    }

    #[test]
    fn stores_are_part_of_the_name_of_a_filter() {
        assert_eq!(Keys::new(&["*".into()]).hash("f"), "f");
        let one = Keys::new(&["a".into(), "b".into()]).hash("f");
        assert_eq!(one, Keys::new(&["b".into(), "a".into()]).hash("f"));
        assert_ne!(one, Keys::new(&["ab".into()]).hash("f"));
    }
}
