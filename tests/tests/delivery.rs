//! The main job end to end, in both layouts, with the recording of a real node: what arrives is
//! compared with what an independent reader of the recording expects.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::too_many_lines,
    reason = "a failure here is a failed test"
)]

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use sluice_tests::{
    etcd::Etcd,
    eventually,
    process::{Process, run},
    receiver::{self, Received, without_repeats},
    recording::{self, Block},
};

const HOOKED: [&str; 2] = ["bank", "staking"];
const FILED: [&str; 3] = ["acc", "bank", "staking"];

/// The configuration that every process of an installation shares.
fn config(dir: &Path, hook: &str, more: &str) -> PathBuf {
    let text = format!(
        r#"
cluster = "test"
data_dir = "{data}"
[ingestors.rec-1]
source = {{ type = "cosmos-files", dir = "{recording}" }}
topics = [ {{ store = "bank", prefix = "hex:02", topic = "bank.balances" }} ]
[sinks.files]
type = "file"
root = "{files}"
[streams.blocks]
sink = "files"
ingestor = "rec-1"
from = "earliest"
filter = {{ stores = ["acc", "bank", "staking"] }}
file = {{ format = "cosmos" }}
[streams.rows]
sink = "files"
ingestor = "rec-1"
from = "earliest"
filter = {{ stores = ["bank"] }}
file = {{ format = "jsonl", align_blocks = 100 }}
[streams.hook]
sink = "webhook"
ingestor = "rec-1"
from = "earliest"
filter = {{ stores = ["bank", "staking"] }}
batch = {{ events = 40, wait = "50ms" }}
checkpoint = "0s"
retry = {{ first = "20ms", max = "200ms" }}
webhook = {{ url = "{hook}" }}
[coordinator]
lease_ttl = "3s"
{more}
"#,
        data = dir.join("data").display(),
        files = dir.join("files").display(),
        recording = recording::dir().display(),
    );
    let path = dir.join("sluice.toml");
    std::fs::write(&path, text).unwrap();
    path
}

/// Every file below a directory whose name passes, by name.
fn files(dir: &Path, wanted: &dyn Fn(&str) -> bool) -> BTreeMap<String, PathBuf> {
    let mut found = BTreeMap::new();
    let Ok(entries) = std::fs::read_dir(dir) else { return found };
    for entry in entries.flatten() {
        let (path, name) = (entry.path(), entry.file_name().into_string().unwrap());
        if path.is_dir() {
            found.extend(files(&path, wanted));
        } else if wanted(&name) {
            found.insert(name, path);
        }
    }
    found
}

fn data_files(dir: &Path) -> BTreeMap<String, PathBuf> {
    files(&dir.join("files"), &|name| name.starts_with("block-") && name.ends_with("-data"))
}

async fn files_arrive(dir: &Path, blocks: &[Block]) {
    eventually("every block file is written", || {
        std::future::ready((data_files(dir).len() == blocks.len()).then_some(()))
    })
    .await;
    let written = data_files(dir);
    for block in blocks {
        let path = &written[&format!("block-{}-data", block.height)];
        let expected = recording::data_file(block, &FILED);
        assert!(std::fs::read(path).unwrap() == expected, "{} differs", path.display());
    }
}

async fn events_arrive(received: &Received, expected: &[String]) -> usize {
    eventually("the last event reaches the receiver", || {
        std::future::ready(received.ids().contains(expected.last().unwrap()).then_some(()))
    })
    .await;
    let (ids, repeats) = without_repeats(&received.ids());
    assert_eq!(ids.len(), expected.len(), "events lost or invented");
    assert!(ids == expected, "events out of order");
    repeats
}

/// A receiver has lost something exactly when `after` is beyond the last `through` it saw.
fn bounds_are_seamless(received: &Received) {
    let mut through = String::new();
    for batch in received.batches() {
        let after = batch["after"].as_str().unwrap_or_default().to_owned();
        assert!(through.is_empty() || after <= through, "{after} leaves a hole behind {through}");
        through = through.max(batch["through"].as_str().unwrap().to_owned());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_delivers_everything_once_and_stops_cleanly() {
    let dir = tempfile::tempdir().unwrap();
    let (url, received) = receiver::start().await;
    received.refuse_next(3);
    let config = config(dir.path(), &url, "");
    let mut node =
        Process::new("run", dir.path(), &["run", "--config", &config.display().to_string()]);
    node.start(&[]).await;

    let blocks = recording::blocks();
    let expected = recording::ids(&blocks, &HOOKED);
    assert_eq!(events_arrive(&received, &expected).await, 0, "nothing was repeated");
    bounds_are_seamless(&received);
    files_arrive(dir.path(), &blocks).await;

    // The same from the command line, bounded, as JSON.
    let last = blocks.last().unwrap().height.to_string();
    let tail = run(&[
        "--server",
        &node.url(),
        "tail",
        "rec-1",
        "--store",
        "staking",
        "--from",
        "earliest",
        "--until",
        &last,
        "-o",
        "jsonl",
    ]);
    let printed = String::from_utf8(tail.stdout).unwrap();
    assert!(tail.status.success(), "{}", String::from_utf8_lossy(&tail.stderr));
    let ids: Vec<String> = printed
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .map(|event| event["sequenceId"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(ids, recording::ids(&blocks, &["staking"]));

    let stopped = node.stop().await;
    assert_eq!(stopped.code(), Some(0), "{}", node.log());

    // A second start finds everything done and delivers nothing again.
    let before = received.ids().len();
    node.start(&[]).await;
    let status = run(&["--server", &node.url(), "status"]);
    assert_ne!(status.status.code(), Some(2), "{}", String::from_utf8_lossy(&status.stdout));
    assert_eq!(node.stop().await.code(), Some(0), "{}", node.log());
    assert_eq!(received.ids().len(), before, "a checkpoint was lost on the way out");
}

/// Five processes around a real etcd.
struct Installation {
    _etcd: Etcd,
    services: Vec<Process>,
}

async fn five_processes(dir: &Path, hook: &str) -> Installation {
    let etcd = Etcd::start(dir).await;
    let more = format!("store = \"etcd\"\netcd = {{ endpoints = [\"{}\"] }}", etcd.url());
    let config = config(dir, hook, &more).display().to_string();
    let mut services: Vec<Process> = [
        ("coordinator", vec!["coordinator"]),
        ("router", vec!["router"]),
        ("producer", vec!["producer"]),
        ("sink-files", vec!["sink", "files"]),
        ("sink-webhook", vec!["sink", "webhook"]),
    ]
    .into_iter()
    .map(|(name, mut args)| {
        args.extend(["--config", &config]);
        Process::new(name, dir, &args)
    })
    .collect();
    let connect: Vec<String> = ["coordinator", "router", "producer"]
        .iter()
        .zip(&services)
        .flat_map(|(peer, at)| ["--set".to_owned(), format!("connect.{peer}={}", at.url())])
        .collect();
    for service in &mut services {
        service.start(&connect).await;
    }
    Installation { _etcd: etcd, services }
}

#[tokio::test(flavor = "multi_thread")]
async fn five_processes_lose_nothing_when_each_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let (url, received) = receiver::start().await;
    let mut installation = five_processes(dir.path(), &url).await;
    let blocks = recording::blocks();
    let expected = recording::ids(&blocks, &HOOKED);

    // Each is killed after some more progress at the receiver.
    let share = expected.len() / 8;
    for (number, victim) in installation.services.iter_mut().enumerate() {
        let wanted = share * (number + 1);
        eventually("the receiver gets on", || {
            std::future::ready((received.ids().len() >= wanted).then_some(()))
        })
        .await;
        victim.kill_and_restart().await;
    }
    let repeats = events_arrive(&received, &expected).await;
    assert!(repeats <= 40 * 5, "{repeats} repeats are more than one batch per kill");
    bounds_are_seamless(&received);
    files_arrive(dir.path(), &blocks).await;
    for service in installation.services.iter_mut().rev() {
        let stopped = service.stop().await;
        assert_eq!(stopped.code(), Some(0), "{}", service.log());
    }
}
