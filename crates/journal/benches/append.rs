//! Ratios to what the disk can do, interleaved in one run: durable appends against plain writes
//! with a sync each, and reads from the disk with filters that match all, some and few.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    missing_docs,
    reason = "a benchmark prints its table and panics when something is wrong"
)]

use std::{io::BufRead, os::unix::fs::FileExt, path::Path, time::Instant};

use sluice_frame::Frame;
use sluice_journal::{
    Embedded, Item, Journal, Open, Options, Policy, ReadFrom, Retention, Ticket, Writer,
    conformance::{ID, block_of, name, opening, parent_of, stores},
};
use sluice_model::IngestorName;

/// As in the program.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const BLOCKS: u64 = 150;
const ROUNDS: usize = 7;

fn frames(height: u64, ingestor: &IngestorName, rare: bool) -> Vec<Frame> {
    let names: Vec<String> = (0..8).map(|store| format!("store{store}")).collect();
    let mut pairs = Vec::new();
    for store in &names {
        for number in 0..125u32 {
            let key = [height.to_be_bytes().as_slice(), &number.to_be_bytes(), &[1; 20]].concat();
            pairs.push((store.as_str(), key, vec![u8::try_from(number).unwrap(); 100]));
        }
    }
    if rare {
        pairs.push(("rare", vec![1], vec![1]));
    }
    let mut frames = block_of(0, height, parent_of(height), &pairs);
    frames.iter_mut().for_each(|frame| frame.header.ingestor = ingestor.clone());
    frames
}

async fn send(writer: &mut dyn Writer, frames: Vec<Frame>) -> Ticket {
    let mut ticket = None;
    for frame in frames {
        ticket = writer.append(frame).await.unwrap();
    }
    ticket.unwrap()
}

/// Blocks per second with so many under way.
async fn append(writer: &mut dyn Writer, blocks: Vec<Vec<Frame>>, window: usize) -> f64 {
    let (count, begin) = (blocks.len(), Instant::now());
    let mut tickets = std::collections::VecDeque::new();
    for frames in blocks {
        if tickets.len() == window {
            let ticket: Ticket = tickets.pop_front().unwrap();
            ticket.await.unwrap();
        }
        tickets.push_back(send(writer, frames).await);
    }
    for ticket in tickets {
        ticket.await.unwrap();
    }
    count as f64 / begin.elapsed().as_secs_f64()
}

/// Plain writes of the same size to a file that was written before.
fn floor(file: &std::fs::File, size: usize, per_sync: u64) -> f64 {
    let bytes = vec![7; size];
    let begin = Instant::now();
    for number in 0..BLOCKS {
        file.write_all_at(&bytes, number * size as u64).unwrap();
        if number % per_sync == per_sync - 1 {
            file.sync_data().unwrap();
        }
    }
    BLOCKS as f64 / begin.elapsed().as_secs_f64()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

async fn appends(dir: &Path) {
    let retention = Retention { blocks: Some(1), ..Retention::default() };
    let options = Options { prepare_spares: false, retention, ..Options::default() };
    let journal = Embedded::open_dir(&dir.join("journal"), options).unwrap();
    journal.create(&name(), ID).await.unwrap();
    let mut writer = journal.open(opening(1)).await.unwrap().writer;
    let size = frames(1, &name(), false).iter().map(|f| f.encode().len()).sum();
    let file = std::fs::File::create(dir.join("floor")).unwrap();
    let mut next = 1;
    let mut take = || {
        let heights = next..next + BLOCKS;
        next += BLOCKS;
        heights.map(|height| frames(height, &name(), false)).collect::<Vec<_>>()
    };
    // The first touch of every segment, and of the file.
    for _ in 0..8 {
        append(writer.as_mut(), take(), 8).await;
        journal.trim(&name(), Some(&[]), 0).await.unwrap();
    }
    floor(&file, size, 1);
    let mut rows: [Vec<f64>; 4] = Default::default();
    for _ in 0..ROUNDS {
        rows[0].push(floor(&file, size, 1));
        rows[1].push(append(writer.as_mut(), take(), 1).await);
        rows[2].push(floor(&file, size, 8));
        rows[3].push(append(writer.as_mut(), take(), 8).await);
        journal.trim(&name(), Some(&[]), 0).await.unwrap();
    }
    let ratio = |a: &[f64], b: &[f64]| median(a.iter().zip(b).map(|(a, b)| a / b).collect());
    let (one, eight) = (ratio(&rows[1], &rows[0]), ratio(&rows[3], &rows[2]));
    let [floor1, window1, floor8, window8] = rows.map(median);
    println!("block of {size} bytes; blocks/s, medians of {ROUNDS} interleaved rounds");
    println!("floor, a sync each          {floor1:9.0}");
    println!("journal, window 1           {window1:9.0}   {one:.2} of the floor (target 0.75)");
    println!("floor, a sync for eight     {floor8:9.0}");
    println!("journal, window 8           {window8:9.0}   {eight:.2} of the floor (target 0.60)");
    journal.close().await;
}

async fn many(dir: &Path) {
    let options = Options { segment_bytes: 16 << 20, ..Options::default() };
    let journal = Embedded::open_dir(&dir.join("many"), options).unwrap();
    let mut tasks = Vec::new();
    let begin = Instant::now();
    for number in 0..16 {
        let ingestor: IngestorName = format!("chain-{number}").parse().unwrap();
        journal.create(&ingestor, ID).await.unwrap();
        let open = Open { ingestor: ingestor.clone(), ..opening(1) };
        let mut writer = journal.open(open).await.unwrap().writer;
        let blocks: Vec<_> = (1..=40).map(|height| frames(height, &ingestor, false)).collect();
        tasks.push(tokio::spawn(async move { append(writer.as_mut(), blocks, 1).await }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let rate = 640.0 / begin.elapsed().as_secs_f64();
    println!("16 ingestors, window 1      {rate:9.0}   together, opens and encoding included");
    journal.close().await;
}

async fn reads(dir: &Path) {
    const COUNT: u64 = 3000;
    let options = Options { policy: Policy::None, tail_cache_bytes: 0, ..Options::default() };
    let path = dir.join("reads");
    let journal = Embedded::open_dir(&path, options.clone()).unwrap();
    journal.create(&name(), ID).await.unwrap();
    let mut writer = journal.open(opening(1)).await.unwrap().writer;
    for height in 1..=COUNT {
        drop(send(writer.as_mut(), frames(height, &name(), height % 1000 == 0)).await);
    }
    journal.close().await;
    drop(journal);
    let begin = Instant::now();
    let journal = Embedded::open_dir(&path, options).unwrap();
    println!(
        "open of {} MB                {:6.0} ms",
        COUNT * 148 / 1000,
        begin.elapsed().as_secs_f64() * 1e3
    );
    let mut rates: [Vec<f64>; 3] = Default::default();
    for _ in 0..3 {
        for (filter, rates) in [&[][..], &["store3"], &["rare"]].into_iter().zip(&mut rates) {
            let begin = Instant::now();
            let select = stores(filter);
            let mut reader = journal.read(&name(), ReadFrom::Earliest, select).await.unwrap();
            loop {
                match reader.next().await.unwrap() {
                    Item::Through(through) if through.height == COUNT => break,
                    Item::Entry(stored) if stored.header.height == COUNT => break,
                    _ => {}
                }
            }
            rates.push(COUNT as f64 / begin.elapsed().as_secs_f64());
        }
    }
    let [all, some, few] = rates.map(median);
    println!("read all from the disk      {all:9.0}");
    println!("read frames with 1 of 8     {some:9.0}   {:.2} of all", some / all);
    println!("read 1 block of 1000        {few:9.0}   {:.0} times all (target 10)", few / all);
    journal.close().await;
}

/// The first argument of the process that fills a journal until it is killed.
const FILL: &str = "fill-until-killed";
/// Bytes in the journal when the process is killed.
const FILLED: u64 = 2 << 30;

/// Appends without end; says so once there is enough.
async fn fill(dir: &Path) {
    let journal = Embedded::open_dir(dir, Options::default()).unwrap();
    journal.create(&name(), ID).await.unwrap();
    let mut writer = journal.open(opening(1)).await.unwrap().writer;
    let mut bytes = 0;
    let mut tickets = std::collections::VecDeque::new();
    for height in 1.. {
        let frames = frames(height, &name(), false);
        bytes += frames.iter().map(|frame| frame.changes.len() as u64).sum::<u64>();
        tickets.push_back(send(writer.as_mut(), frames).await);
        if tickets.len() > 32 {
            let ticket: Ticket = tickets.pop_front().unwrap();
            ticket.await.unwrap();
        }
        if bytes >= FILLED {
            println!("{height}");
            bytes = 0;
        }
    }
}

/// How long it takes to open a large journal whose process was killed while it was writing.
async fn killed(dir: &Path) {
    let dir = dir.join("killed");
    std::fs::create_dir(&dir).unwrap();
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args([FILL.as_ref(), dir.as_os_str()])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let begin = Instant::now();
    let journal = Embedded::open_dir(&dir, Options::default()).unwrap();
    let opened = journal.open(opening(2)).await.unwrap();
    let took = begin.elapsed();
    let head = opened.head.unwrap().height;
    // Every block but those that were under way had been acknowledged.
    assert!(head + 33 >= line.trim().parse::<u64>().unwrap());
    let bytes = journal.status(&name()).await.unwrap().bytes;
    let took = took.as_secs_f64() * 1e3;
    println!("open after kill -9          {took:6.0} ms  of {} MB (target 1000)", bytes >> 20);
    journal.close().await;
}

fn main() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [first, dir, ..] = arguments.as_slice()
        && first == FILL
    {
        runtime.block_on(fill(Path::new(dir)));
        return;
    }
    let chosen: Vec<_> = arguments.iter().filter(|name| !name.starts_with("--")).collect();
    let wanted = |name: &str| chosen.is_empty() || chosen.iter().any(|chosen| *chosen == name);
    let dir = tempfile::tempdir_in(std::env::current_dir().unwrap()).unwrap();
    runtime.block_on(async {
        if wanted("appends") {
            appends(dir.path()).await;
        }
        if wanted("many") {
            many(dir.path()).await;
        }
        if wanted("reads") {
            reads(dir.path()).await;
        }
        if wanted("killed") {
            killed(dir.path()).await;
        }
    });
}
