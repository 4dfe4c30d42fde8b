//! Durable appends over gRPC against what the disk gives.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use sluice_client::append::{Appender, Open};
use sluice_journal::Journal;
use sluice_model::{Epoch, Pointer};
use sluice_service::transport;

use super::{ROUNDS, client_runtime, data, floor, median, server::Server};

/// Stores of a block, as a chain's application has them.
const STORES: usize = 15;
/// Bytes of the journal's segments.
const SEGMENT: u64 = 64 << 20;
/// Blocks after which retention looks: several times a segment, so that each one is used again.
const TRIM_EVERY: u64 = 128;

pub(crate) fn measure(cell: Duration) {
    let dir = tempfile::tempdir().unwrap();
    let journal = data::open_recycling(&dir.path().join("journal"));
    let runtime = client_runtime();
    runtime.block_on(journal.create(&data::ingestor(), data::id())).unwrap();
    let server = Server::router(&journal);
    let sample = data::block_of(1, STORES);
    let mut next = 1;
    let mut rows = Vec::new();
    let at = (&server, &journal);
    // The first touch of every segment.
    while next < 4 * SEGMENT / sample.changes.len() as u64 {
        runtime.block_on(append(at, &mut next, 8, cell));
    }
    for _ in 0..ROUNDS {
        let each = floor::disk(dir.path(), &sample.changes, 1, cell);
        let one = runtime.block_on(append(at, &mut next, 1, cell));
        let grouped = floor::disk(dir.path(), &sample.changes, 8, cell);
        let eight = runtime.block_on(append(at, &mut next, 8, cell));
        rows.push((each, one, grouped, eight));
    }
    let of = |value: fn(&(f64, f64, f64, f64)) -> f64| median(rows.iter().map(value).collect());
    println!(
        "\n## durable append over gRPC, {} KB blocks of {STORES} stores; {}",
        sample.changes.len() / 1000,
        data::regime(dir.path())
    );
    println!(
        "floors overwrite a file written before; the journal writes recycled segments; a thread for the connection, as in the program"
    );
    println!("| | blocks/s | ratio to its floor |\n|---|---|---|");
    println!("| floor: pwrite + fdatasync each | {:.0} | 1 |", of(|r| r.0));
    println!("| window 1 | {:.0} | **{:.2}** |", of(|r| r.1), of(|r| r.1 / r.0));
    println!("| floor: 8 pwrites per fdatasync | {:.0} | 1 |", of(|r| r.2));
    println!(
        "| window 8 | {:.0} | **{:.2}** of x8, {:.2} of x1 |",
        of(|r| r.3),
        of(|r| r.3 / r.2),
        of(|r| r.3 / r.0),
    );
}

/// Blocks per second with so many on their way.
async fn append(
    (server, journal): (&Server, &Arc<dyn Journal>),
    next: &mut u64,
    window: u64,
    cell: Duration,
) -> f64 {
    let open = Open {
        ingestor: data::ingestor(),
        journal_id: data::id(),
        epoch: Epoch::from_u64(1),
        nonce: Bytes::from_static(b"n"),
        holder: "bench".into(),
    };
    let transport = transport::remote(&server.url()).unwrap();
    let (mut appender, _) = Appender::open(transport, open).await.unwrap();
    let template = data::block_of(1, STORES);
    let begin = Instant::now();
    let (mut sent, mut acked) = (0u64, 0u64);
    while begin.elapsed() < cell {
        let mut block = template.clone();
        block.header.height = *next;
        block.header.pointer = Pointer::from_height(*next);
        block.header.parent =
            if *next == 1 { Pointer::ORIGIN } else { Pointer::from_height(*next - 1) };
        appender.send(&block).await.unwrap();
        *next += 1;
        sent += 1;
        if sent.is_multiple_of(TRIM_EVERY) {
            journal.trim(&data::ingestor(), Some(&[]), 0).await.unwrap();
        }
        if sent - acked >= window {
            appender.next_ack().await.unwrap().unwrap();
            acked += 1;
        }
    }
    while acked < sent {
        appender.next_ack().await.unwrap().unwrap();
        acked += 1;
    }
    acked as f64 / begin.elapsed().as_secs_f64()
}
