//! `sluice demo`: the services as processes, each killed once with SIGKILL while blocks flow, and
//! a verdict on what arrived.
//!
//! The recording plays the node: its files appear one height after the other, never far ahead of
//! the journal, so that every kill hits work in progress. Everything waits for conditions; the
//! deadlines only end a demo that cannot succeed.

mod plan;
mod processes;
mod recording;
mod verify;
mod watch;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::json;
use tokio::task::JoinHandle;

use crate::{
    cli::DemoArgs,
    exit::{Exit, Failure, Outcome, on_path},
    output::{Out, count, note},
    receiver::{self, Receiver, Stats},
};
use plan::{FILTERED_STORES, Plan, WEBHOOK_BATCH, WEBHOOK_STORE, WEBHOOK_STREAM};
use processes::Processes;
use recording::{Recording, data_file, meta_file};
use verify::Verdict;
use watch::Watch;

/// Heights that the node may be ahead of the journal.
const AHEAD: u64 = 15;
/// Least time between two heights of the node.
const BLOCK_TIME: Duration = Duration::from_millis(10);

/// `sluice demo`.
pub(crate) async fn run(out: &mut Out, args: &DemoArgs) -> Outcome {
    let recording = Arc::new(Recording::read(&args.recording)?);
    let (dir, temporary) = workdir(args)?;
    note(format!(
        "{} blocks, {} changes in {}; working in {}",
        count(recording.blocks.len() as u64),
        count(recording.changes() as u64),
        args.recording.display(),
        dir.display()
    ));
    let began = Instant::now();
    let plan = Plan::new(&dir, args.layout).await?;
    let receiver = Receiver::open(&plan.received, 0.0)?;
    let listener = receiver::listen(plan.receiver).await?;
    let stop = tokio_util::sync::CancellationToken::new();
    let receiving = tokio::spawn(receiver.clone().serve(listener, stop.clone()));

    let mut processes = Processes::start(&plan).await?;
    let result = tokio::select! {
        played = play(&plan, &mut processes, &recording, args.faults) => played,
        interrupted = tokio::signal::ctrl_c() => {
            interrupted?;
            Err(Failure::new(Exit::Interrupted, "interrupted"))
        }
    };
    processes.stop().await;
    stop.cancel();
    drop(receiving);
    let kills =
        result.map_err(|failure| failure.fix(format!("tail -n 5 {}/logs/*.log", dir.display())))?;
    let verdict = judge(&plan, &recording, &kills)?;
    let report = Report {
        kills: kills.number,
        seconds: began.elapsed().as_secs_f64(),
        stats: receiver.stats(),
    };
    conclude(out, &recording, verdict, &report, &dir)?;
    if temporary {
        std::fs::remove_dir_all(&dir).map_err(on_path(&dir))?;
    }
    Ok(Exit::Ok)
}

/// The working directory, empty, and whether it is ours to remove.
fn workdir(args: &DemoArgs) -> Result<(PathBuf, bool), Failure> {
    let (dir, temporary) = match &args.dir {
        Some(dir) => (dir.clone(), false),
        None => {
            let name = format!("sluice-demo-{}", std::process::id());
            (std::env::temp_dir().join(name), true)
        }
    };
    std::fs::create_dir_all(&dir).map_err(on_path(&dir))?;
    let used = std::fs::read_dir(&dir).map_err(on_path(&dir))?.next().is_some();
    if used {
        let message = format!("{} is not empty", dir.display());
        return Err(Failure::new(Exit::Refused, message)
            .fix(format!("sluice demo --dir {}-2", dir.display())));
    }
    Ok((std::fs::canonicalize(&dir).map_err(on_path(&dir))?, temporary))
}

/// What was killed.
#[derive(Debug, Default)]
struct Kills {
    number: u64,
    /// The webhook stream's lowest stored checkpoint at any kill: nothing up to it may come again.
    floor: Option<String>,
}

/// Feeds, kills, waits for the end.
async fn play(
    plan: &Plan,
    processes: &mut Processes,
    recording: &Arc<Recording>,
    faults: bool,
) -> Result<Kills, Failure> {
    let watch = Watch::new(plan)?;
    let durable = Arc::new(AtomicU64::new(0));
    let feeding = Feeding::start(plan.node.clone(), Arc::clone(recording), Arc::clone(&durable));
    let last = recording.blocks.len() as u64;
    let mut kills = Kills::default();
    if faults {
        let names = processes.names();
        for (i, name) in names.iter().enumerate() {
            let height = last * (i as u64 + 1) / (names.len() as u64 + 1);
            watch.until(name, height, &durable).await?;
            let stored = watch.checkpoint(WEBHOOK_STREAM).await;
            processes.kill(name).await?;
            note(format!("  kill -9 {name:<12} at height {}", durable.load(Ordering::Relaxed)));
            processes.start_again(name)?;
            kills.number += 1;
            kills.floor = Some(kills.floor.map_or(stored.clone(), |floor| floor.min(stored)));
        }
    }
    watch.until_done(last, &durable).await?;
    feeding.end().await?;
    Ok(kills)
}

/// The recording as a node that writes one height after the other.
struct Feeding(JoinHandle<Result<(), Failure>>);

impl Feeding {
    fn start(node: PathBuf, recording: Arc<Recording>, durable: Arc<AtomicU64>) -> Self {
        Self(tokio::spawn(async move {
            for block in &recording.blocks {
                while block.height > durable.load(Ordering::Relaxed) + AHEAD {
                    tokio::time::sleep(BLOCK_TIME).await;
                }
                // As the node does it: in place, the meta file first.
                for (path, bytes) in [
                    (meta_file(&node, block.height), &block.meta),
                    (data_file(&node, block.height), &block.data),
                ] {
                    tokio::fs::write(&path, bytes).await.map_err(on_path(&path))?;
                }
                tokio::time::sleep(BLOCK_TIME).await;
            }
            Ok(())
        }))
    }

    async fn end(self) -> Result<(), Failure> {
        self.0.await.map_err(|error| Failure::new(Exit::Failed, error.to_string()))?
    }
}

fn judge(plan: &Plan, recording: &Recording, kills: &Kills) -> Result<Verdict, Failure> {
    let floor = kills.floor.as_deref().unwrap_or_default();
    let mut verdict = Verdict::default();
    verdict.block_files(recording, &plan.all_files, None);
    verdict.block_files(recording, &plan.filtered_files, Some(&FILTERED_STORES));
    verdict.events(recording, &plan.received, WEBHOOK_STORE, floor)?;
    verdict.repeats_at_most(kills.number * WEBHOOK_BATCH);
    Ok(verdict)
}

struct Report {
    kills: u64,
    seconds: f64,
    stats: Stats,
}

/// Prints the verdict; fails on any violation.
fn conclude(
    out: &mut Out,
    recording: &Recording,
    mut verdict: Verdict,
    report: &Report,
    dir: &Path,
) -> Result<(), Failure> {
    if report.stats.holes > 0 {
        verdict.wrong.push(format!("the receiver saw {} holes", report.stats.holes));
    }
    if out.is_json() {
        out.json(&json!({
            "blocks": recording.blocks.len(),
            "changes": recording.changes(),
            "kills": report.kills,
            "seconds": report.seconds,
            "filesIdentical": verdict.files,
            "eventsAccepted": verdict.accepted,
            "eventsRepeated": verdict.repeated,
            "lost": verdict.lost,
            "wrong": verdict.wrong,
        }))?;
    } else {
        out.line(format!("{} data files byte for byte as recorded", count(verdict.files)))?;
        out.line(format!(
            "{} blocks, {} changes, {} events accepted, {} repeated, {} lost, {} kills in {:.1} s",
            count(recording.blocks.len() as u64),
            count(recording.changes() as u64),
            count(verdict.accepted),
            count(verdict.repeated),
            count(verdict.lost),
            report.kills,
            report.seconds,
        ))?;
    }
    out.flush()?;
    if verdict.wrong.is_empty() {
        return Ok(());
    }
    Err(Failure::new(Exit::Data, verdict.wrong.join("\n"))
        .fix(format!("ls {0} {0}/logs   (everything is kept)", dir.display())))
}
