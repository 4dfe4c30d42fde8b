//! What a router process needs: memory under load, and time to open after `kill -9`.
//!
//! Real processes, release build: `make bench`. The producer captures over gRPC; the router keeps
//! everything with an fsync per acknowledgement.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a measurement prints, and ends at the first surprise"
)]

use std::{
    path::Path,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use sluice_client::{
    capture::{Acks, Begin, Blocks, Capturer},
    subscribe::{Item, SubscribeOptions, Subscriber},
};
use sluice_frame::put_change;
use sluice_model::{Filter, FilterSpec, Op, StartPosition};
use sluice_service::transport;
use sluice_tests::process::Process;

const INGESTOR: &str = "bench-1";
const STORES: usize = 20;
/// Bytes of the large block's changes.
const LARGE: usize = 300 << 20;
/// Bytes of the journal that is opened again.
const JOURNAL: usize = 2 << 30;
/// Changes of an ordinary block, about 140 bytes each.
const CHANGES: usize = 1000;
const SUBSCRIBERS: usize = 100;

#[tokio::main]
async fn main() {
    if !std::env::args().any(|arg| arg == "--bench") {
        println!("nothing measured: run with cargo bench");
        return;
    }
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (mut router, producer, _coordinator) = start(dir.path()).await;
    println!("# router process, fsync per acknowledgement, {}", dir.path().display());
    let memory = |what: &str, router: &Process| {
        let (now, peak) = router.memory();
        println!("| {what} | {} MiB | {} MiB |", now >> 20, peak >> 20);
    };
    println!("\n| after | resident | peak |\n|---|---|---|");
    memory("start", &router);

    let capturer =
        Capturer::new(transport::remote(&producer.url()).unwrap(), INGESTOR.parse().unwrap());
    let (mut blocks, mut acks, _) = capturer.resume(Duration::from_secs(30)).await.unwrap();
    capture(&mut blocks, &mut acks, 1, LARGE).await;
    memory("one block of 300 MiB", &router);

    let began = Instant::now();
    let block = CHANGES * 140;
    let last = 1 + (JOURNAL - LARGE) / block;
    let piece = region(CHANGES);
    let sending = async {
        for height in 2..=last {
            blocks.begin(Begin::at(height as u64)).await.unwrap();
            blocks.changes(piece.clone()).await.unwrap();
            blocks.end().await.unwrap();
        }
    };
    let acking = async {
        for _ in 2..=last {
            acks.next().await.unwrap().unwrap();
        }
    };
    tokio::join!(sending, acking);
    let rate = (JOURNAL - LARGE) as f64 / began.elapsed().as_secs_f64() / 1e6;
    memory(&format!("a journal of 2 GiB, captured at {rate:.0} MB/s"), &router);

    let began = Instant::now();
    let reads = (0..SUBSCRIBERS).map(|i| read(router.url(), i % STORES, last as u64));
    let read: u64 = futures_util::future::join_all(reads.map(tokio::spawn))
        .await
        .into_iter()
        .map(Result::unwrap)
        .sum();
    let rate = read as f64 / began.elapsed().as_secs_f64() / 1e6;
    memory(
        &format!("{SUBSCRIBERS} subscribers, {STORES} filters, last 1,000 blocks, {rate:.0} MB/s"),
        &router,
    );

    router.kill();
    let began = Instant::now();
    router.spawn(&[]);
    router.ready().await;
    println!("\nready again after kill -9 with 2 GiB in the journal: {:?}", began.elapsed());
}

async fn start(dir: &Path) -> (Process, Process, Process) {
    let config = dir.join("sluice.toml");
    let text = format!(
        "data_dir = \"{}\"\n[ingestors.{INGESTOR}]\nsource = {{ type = \"capture\" }}\n",
        dir.join("data").display()
    );
    std::fs::write(&config, text).unwrap();
    let config = config.display().to_string();
    let service = |name: &str| Process::new(name, dir, &[name, "--config", &config]);
    let (mut coordinator, mut router, mut producer) =
        (service("coordinator"), service("router"), service("producer"));
    let connect: Vec<String> = [("coordinator", &coordinator), ("router", &router)]
        .iter()
        .flat_map(|(peer, at)| ["--set".to_owned(), format!("connect.{peer}={}", at.url())])
        .collect();
    for process in [&mut coordinator, &mut router, &mut producer] {
        process.start(&connect).await;
    }
    (router, producer, coordinator)
}

fn region(changes: usize) -> Bytes {
    let mut out = BytesMut::new();
    for i in 0..changes {
        let store = format!("store-{:02}", i * STORES / changes);
        put_change(&store, Op::Set, &i.to_be_bytes().repeat(4), &[7; 88], &mut out);
    }
    out.freeze()
}

async fn capture(blocks: &mut Blocks, acks: &mut Acks, height: u64, bytes: usize) {
    let piece = region(CHANGES);
    blocks.begin(Begin::at(height)).await.unwrap();
    for _ in 0..bytes.div_ceil(piece.len()) {
        blocks.changes(piece.clone()).await.unwrap();
    }
    blocks.end().await.unwrap();
    acks.next().await.unwrap().unwrap();
}

/// Reads the last thousand blocks of one store; gives the bytes.
async fn read(url: String, store: usize, last: u64) -> u64 {
    let mut options = SubscribeOptions::new(
        INGESTOR.parse().unwrap(),
        StartPosition::Height(last.saturating_sub(1000)),
    );
    let stores = vec![format!("store-{store:02}")];
    options.filter =
        Filter::compile(&FilterSpec { stores, ..FilterSpec::default() }).unwrap().spec().clone();
    options.until = Some(last);
    let mut subscriber = Subscriber::new(transport::remote(&url).unwrap(), options);
    let mut bytes = 0;
    while let Some(item) = subscriber.next().await.unwrap() {
        if let Item::Frame(frame) = item {
            bytes += frame.changes.len() as u64;
        }
    }
    bytes
}
