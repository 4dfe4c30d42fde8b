use std::{fs, path::Path};

use sluice_sink::{conformance, conformance::Harness, testing};

use super::*;
use crate::{inspect, volume::VOLUME_FILE};

/// The file sink on a real disk, as the runtime's conformance suite drives it.
struct Files {
    dir: tempfile::TempDir,
    table: &'static str,
}

impl Files {
    fn new(table: &'static str) -> Self {
        Self { dir: tempfile::tempdir().unwrap(), table }
    }

    fn sink(&self) -> SinkConfig {
        let mut settings = toml::Table::new();
        let root = self.dir.path().join("root").display().to_string();
        settings.insert("root".to_owned(), root.into());
        SinkConfig {
            name: "lake".to_owned(),
            type_name: TYPE_NAME.to_owned(),
            settings,
            ..SinkConfig::default()
        }
    }

    fn stream(&self) -> StreamConfig {
        testing::stream_config("lake", self.table.parse().unwrap())
    }

    fn stream_dir(&self) -> PathBuf {
        self.dir.path().join("root/test")
    }
}

#[async_trait]
impl Harness for Files {
    async fn dispatcher(&mut self) -> Box<dyn Dispatcher> {
        let factory = FileFactory::open([&self.sink()]).unwrap();
        factory.build(&self.stream(), &self.sink()).unwrap()
    }

    /// The volume goes away and comes back, as a mount does.
    async fn refuse(&mut self, refuse: bool) {
        let id = self.dir.path().join("root").join(VOLUME_FILE);
        let away = self.dir.path().join("away");
        if refuse { fs::rename(id, away).unwrap() } else { fs::rename(away, id).unwrap() }
    }

    async fn arrived(&mut self) -> Vec<String> {
        let mut rows = Vec::new();
        collect(&self.stream_dir(), &mut rows);
        rows.sort_by(|a, b| a.0.cmp(&b.0));
        rows.into_iter().map(|(_, id)| id).collect()
    }

    fn shape(&self) -> BatchShape {
        BatchShape::Blocks { bytes: 200, wait: std::time::Duration::ZERO }
    }

    fn exactly_once(&self) -> bool {
        true
    }
}

/// The ids of all rows with the path and line that they stand in, or of the pairs of block files.
fn collect(dir: &Path, rows: &mut Vec<(String, String)>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() {
            collect(&path, rows);
        } else if let Some((height, "data")) = names::parse_block_name("", name) {
            inspect::decode_data(&path, |pair| {
                let id = format!("{height:020}-{:08x}", pair.number);
                rows.push((id.clone(), id));
            })
            .unwrap();
        } else if !name.starts_with('.') && !name.starts_with("manifest") && !name.contains("-meta")
        {
            for (n, line) in fs::read_to_string(&path).unwrap().lines().enumerate() {
                let row: serde_json::Value = serde_json::from_str(line).unwrap();
                let id = row["sequenceId"].as_str().unwrap().to_owned();
                rows.push((format!("{} {n:010}", path.display()), id));
            }
        }
    }
}

const TABLES: [&str; 3] = [
    "align_blocks = 7",
    "format = \"jsonl\"\nlayout = \"flat\"\nfsync = false\nmax_bytes = 2000",
    "format = \"cosmos\"\nalign_blocks = 7",
];

macro_rules! conforms {
    ($($law:ident)*) => {$(
        #[tokio::test]
        async fn $law() {
            for table in TABLES {
                conformance::$law(&mut Files::new(table)).await;
            }
        }
    )*};
}

conforms! {
    delivers_in_order
    redelivers_after_failure
    receipt_only_after_acceptance
    flushes_on_drain
    resumes_without_gap
    repeats_have_the_same_ids
}

#[tokio::test]
async fn the_lock_s_name_contains_the_volume_and_a_root_has_one_user() {
    let files = Files::new("");
    let (stream, sink) = (files.stream(), files.sink());
    let factory = FileFactory::open([&sink]).unwrap();
    let id = crate::volume::read_id(&files.dir.path().join("root")).unwrap().unwrap();
    assert_eq!(factory.lock_name(&stream, &sink).unwrap(), format!("stream/test/{id}"));
    assert!(factory.destination(&stream, &sink).starts_with(files.stream_dir().to_str().unwrap()));
    let second = FileFactory::open([&sink]).unwrap_err().to_string();
    assert!(second.contains("sinks.lake.root") && second.contains("in use"), "{second}");
    let mut other = sink;
    other.settings.insert("volume".to_owned(), uuid::Uuid::new_v4().to_string().into());
    drop(factory);
    let refused = FileFactory::open([&other]).unwrap_err().to_string();
    assert!(refused.contains(&id.to_string()) && refused.contains("is expected"), "{refused}");
}

#[tokio::test]
async fn unknown_formats_are_errors_that_list_the_known() {
    let files = Files::new("format = \"parquet\"");
    let factory = FileFactory::open([&files.sink()]).unwrap();
    let error = factory.build(&files.stream(), &files.sink()).err().unwrap();
    assert_eq!(error.key(), "streams.test.file.format");
    assert!(error.to_string().contains("known are jsonl, cosmos"), "{error}");
}

#[tokio::test]
async fn failures_show_as_the_setting_says() {
    for (table, denied, full) in [
        ("", true, false),
        ("stop_node_on_error = true", true, true),
        ("stop_node_on_error = false", false, false),
    ] {
        let options: FileOptions = toml::from_str(table).unwrap();
        let error = |kind: std::io::ErrorKind| FileError::Io {
            action: crate::error::Action::Write,
            path: PathBuf::from("/lake/x.open"),
            source: kind.into(),
        };
        for (kind, halts) in [
            (std::io::ErrorKind::PermissionDenied, denied),
            (std::io::ErrorKind::ReadOnlyFilesystem, denied),
            (std::io::ErrorKind::StorageFull, full),
        ] {
            let shown = deliver_error(&error(kind), options.stop_node_on_error);
            assert_eq!(shown.is_halt(), halts, "{table} {kind:?}");
            assert!(shown.to_string().contains("/lake/x.open"), "{shown}");
        }
    }
}

/// A write that fails names the path and the reason, and the same dispatcher goes on when the
/// obstacle is gone.
#[tokio::test]
async fn goes_on_by_itself_when_the_obstacle_is_gone() {
    let mut files = Files::new("align_blocks = 7");
    let batches = testing::batches_shaped(files.shape(), &vec![vec![vec![1]]; 30]).unwrap();
    let mut dispatcher = files.dispatcher().await;
    dispatcher.resume(None).await.unwrap();
    // A file where a directory must be: no user, not even root, can write below it.
    fs::write(files.stream_dir(), "").unwrap();
    let error = dispatcher.deliver(&batches[0]).await.unwrap_err();
    let named = files.stream_dir().display().to_string();
    assert!(error.to_string().contains(&named) && error.is_halt(), "{error}");
    fs::remove_file(files.stream_dir()).unwrap();
    for batch in &batches {
        let receipt = dispatcher.deliver(batch).await.unwrap();
        assert_eq!(receipt.checkpoint(), Some(batch.through()));
    }
    assert_eq!(files.arrived().await.len(), 30);
    assert!(inspect::verify(&files.stream_dir()).unwrap().is_clean());
}
