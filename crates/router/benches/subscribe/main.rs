//! What filtered delivery and durable appends cost, against the naive way and against the floors
//! of the machine, measured side by side in one run. Ratios count; absolutes drift.
//!
//! `cargo bench -p sluice-router`; a number gives the seconds per cell, 1 by default; names of
//! sections (`delivery`, `fan-out`, `disk`, `append`) measure only these.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    reason = "a measurement prints, and ends at the first surprise"
)]

mod append;
mod data;
mod floor;
mod naive;
mod server;

use std::time::{Duration, Instant};

use sluice_model::FilterSpec;
use sluice_proto::{
    MAX_MESSAGE,
    v1::{self as pb, router_client::RouterClient, subscribe_response::Message},
};
use sluice_service::{Transport, transport};

use data::{BLOCKS, Store};
use server::Server;

/// As in the program.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Rounds over all cells; medians are over these.
const ROUNDS: usize = 5;
const SECTIONS: [&str; 4] = ["delivery", "fan-out", "disk", "append"];

/// One measurement: what was moved, how long it took, what it cost the server's thread.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    pub(crate) bytes: u64,
    pub(crate) wall: Duration,
    pub(crate) cpu: Duration,
    pub(crate) passes: u32,
}

impl Cost {
    pub(crate) fn rate(&self) -> f64 {
        self.bytes as f64 / self.wall.as_secs_f64() / 1e9
    }

    fn cpu_per_gb(&self) -> f64 {
        self.cpu.as_secs_f64() / (self.bytes as f64 / 1e9)
    }

    fn cpu_per_pass(&self) -> f64 {
        self.cpu.as_secs_f64() / f64::from(self.passes)
    }
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if !args.iter().any(|arg| arg == "--bench") {
        println!("nothing measured: run with cargo bench");
        return;
    }
    let seconds = args.iter().find_map(|arg| arg.parse::<f64>().ok()).unwrap_or(1.0);
    let cell = Duration::from_secs_f64(seconds);
    let named = |section: &str| args.iter().any(|arg| arg == section);
    let none_named = !SECTIONS.into_iter().any(named);
    let wanted = |section: &str| none_named || named(section);
    println!(
        "# medians of {ROUNDS} interleaved rounds of {seconds} s per cell; server and client: one thread each; 1 GB = 1e9 B"
    );
    if ["delivery", "fan-out", "disk"].into_iter().any(wanted) {
        let mut store = Store::fill();
        println!("# {}", store.regime());
        if wanted("delivery") {
            delivery(&store, cell);
        }
        if wanted("fan-out") {
            fan_out(&store);
        }
        if wanted("disk") {
            from_disk(&mut store, cell);
        }
    }
    if wanted("append") {
        append::measure(cell);
    }
}

/// Reads every block once through a filter; gives the bytes of frames and their number.
async fn pass(client: &mut RouterClient<Transport>, filter: &FilterSpec) -> u64 {
    let request = pb::SubscribeRequest {
        ingestor: data::INGESTOR.into(),
        filter: Some(filter.into()),
        start: Some((&sluice_model::StartPosition::Earliest).into()),
        until_height: Some(BLOCKS),
        metadata: false,
        max_frame_bytes: 0,
    };
    let mut stream = client.subscribe(request).await.unwrap().into_inner();
    let mut bytes = 0;
    while let Some(message) = stream.message().await.unwrap() {
        if let Some(Message::Frame(frame)) = message.message {
            bytes += frame.len() as u64;
        }
    }
    bytes
}

fn client_runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Repeats passes for the time of a cell.
fn measure(server: &Server, filter: &FilterSpec, cell: Duration) -> Cost {
    client_runtime().block_on(async {
        let mut client = RouterClient::new(transport::remote(&server.url()).unwrap())
            .max_decoding_message_size(MAX_MESSAGE);
        pass(&mut client, filter).await;
        let (begin, cpu) = (Instant::now(), server.cpu());
        let (mut bytes, mut passes) = (0, 0);
        while begin.elapsed() < cell {
            bytes += pass(&mut client, filter).await;
            passes += 1;
        }
        Cost { bytes, wall: begin.elapsed(), cpu: server.cpu() - cpu, passes }
    })
}

fn delivery(store: &Store, cell: Duration) {
    let journal = store.in_memory();
    let (splice, naive) = (Server::router(&journal), Server::naive(&journal));
    println!(
        "\n## delivery from memory ({} MB stored, 100 stores, ~148 KB frames), no disk in it",
        store.bytes() >> 20
    );
    println!(
        "| filter | splice GB/s | server s/GB | naive GB/s | server s/GB | naive : splice, server CPU |"
    );
    println!("|---|---|---|---|---|---|");
    let mut all = Vec::new();
    let mut tcp = Vec::new();
    for (name, filter) in data::filters() {
        let mut rounds = Vec::new();
        for _ in 0..ROUNDS {
            let fast = measure(&splice, &filter, cell);
            let slow = measure(&naive, &filter, cell);
            if name == "all" {
                let floor = floor::tcp(store.bytes() / BLOCKS, cell);
                tcp.push((floor.rate(), floor.cpu_per_gb()));
                all.push((fast.rate() / floor.rate(), fast.cpu_per_gb() / floor.cpu_per_gb()));
            }
            rounds.push((fast, slow));
        }
        let of = |value: fn(&(Cost, Cost)) -> f64| median(rounds.iter().map(value).collect());
        println!(
            "| {name} | {:.2} | {:.3} | {:.3} | {:.3} | **{:.1}** |",
            of(|r| r.0.rate()),
            of(|r| r.0.cpu_per_gb()),
            of(|r| r.1.rate()),
            of(|r| r.1.cpu_per_gb()),
            of(|r| r.1.cpu_per_pass() / r.0.cpu_per_pass()),
        );
    }
    let of = |values: &[(f64, f64)], first: bool| {
        median(values.iter().map(|v| if first { v.0 } else { v.1 }).collect())
    };
    println!(
        "\nraw TCP floor, interleaved: {:.2} GB/s, writer {:.3} s/GB; match-all has {:.2} of its rate at {:.2} of its CPU",
        of(&tcp, true),
        of(&tcp, false),
        of(&all, true),
        of(&all, false),
    );
}

/// 100 subscribers on connections of their own, 20 distinct filters.
fn fan_out(store: &Store) {
    let journal = store.in_memory();
    let server = Server::router(&journal);
    let disk_before = server.disk_reads();
    let rounds: Vec<Cost> = (0..ROUNDS)
        .map(|_| {
            client_runtime().block_on(async {
                let clients: Vec<_> = (0..100)
                    .map(|_| {
                        RouterClient::new(transport::remote(&server.url()).unwrap())
                            .max_decoding_message_size(MAX_MESSAGE)
                    })
                    .collect();
                let (begin, cpu) = (Instant::now(), server.cpu());
                let reads = clients.into_iter().enumerate().map(|(i, mut client)| async move {
                    pass(&mut client, &data::five_stores(i % 20)).await
                });
                let bytes = futures_util::future::join_all(reads).await.iter().sum();
                Cost { bytes, wall: begin.elapsed(), cpu: server.cpu() - cpu, passes: 1 }
            })
        })
        .collect();
    println!(
        "\n## 100 subscribers x 20 filters (5 of 100 stores each), from memory\n{:.2} GB/s in all, server {:.3} s/GB; disk reads added: {}",
        median(rounds.iter().map(Cost::rate).collect()),
        median(rounds.iter().map(Cost::cpu_per_gb).collect()),
        server.disk_reads() - disk_before,
    );
}

/// Without a tail cache: what the run index saves.
fn from_disk(store: &mut Store, cell: Duration) {
    let journal = store.on_disk();
    let server = Server::router(&journal);
    let filters = data::filters();
    let of = |wanted: &str| {
        let (_, filter) = filters.iter().find(|(name, _)| *name == wanted).unwrap();
        measure(&server, filter, cell)
    };
    let mut rows = Vec::new();
    for _ in 0..ROUNDS {
        rows.push((of("all"), of("1 of 100"), of("sparse")));
    }
    let per_pass = |cost: &Cost| cost.wall.as_secs_f64() / f64::from(cost.passes);
    println!(
        "\n## without tail cache (pread; files in the page cache, {})\nmatch-all {:.2} GB/s; a pass over the journal takes 1 of 100: {:.1}x less time than match-all, sparse: {:.0}x less",
        store.regime(),
        median(rows.iter().map(|row| row.0.rate()).collect()),
        median(rows.iter().map(|row| per_pass(&row.0) / per_pass(&row.1)).collect()),
        median(rows.iter().map(|row| per_pass(&row.0) / per_pass(&row.2)).collect()),
    );
}
