//! The run: schedule, rounds, judgement.

use std::{
    io::{Write as _, stdout},
    panic::AssertUnwindSafe,
    path::PathBuf,
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};

use super::{
    fault::{Fault, Kind, faults, losses},
    hosts,
    inject::inject,
    report::{Row, table},
    scenario::Scenario,
    site::{Plan, Site},
};
use crate::{
    checker::{self, Verdict},
    eventually,
    process::run_behind,
    skipped,
};

/// Blocks after which a fault counts as overcome.
const OVERCOME: u64 = 20;

/// What is run.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Decides the order of the faults.
    pub seed: u64,
    /// Only faults whose names contain one of these; all if empty.
    pub only: Vec<String>,
    /// Another build of the program.
    pub program: Option<PathBuf>,
}

/// Prints the schedule, runs it, prints the table. True if nothing was wrong.
pub async fn run(options: &Options) -> bool {
    let mut rng = StdRng::seed_from_u64(options.seed);
    let wanted = |fault: &Fault| {
        options.only.is_empty() || options.only.iter().any(|part| fault.name.contains(part))
    };
    let mut schedule: Vec<Fault> = faults().into_iter().filter(wanted).collect();
    schedule.shuffle(&mut rng);
    let recycled: Vec<Fault> = recycled().into_iter().filter(wanted).collect();
    let mut losses: Vec<Fault> = losses().into_iter().filter(wanted).collect();
    losses.shuffle(&mut rng);
    let mut network = None;
    if !losses.is_empty() {
        network = Some(hosts::start());
    }
    let program = options.program.as_ref();
    let plan = || Plan { program: program.cloned(), ..Plan::default() };
    let mut sites = vec![(schedule, plan()), (recycled, Plan { recycle: true, ..plan() })];
    match network.transpose() {
        Ok(network) => sites.push((losses, Plan { network, ..plan() })),
        Err(why) => losses.iter().for_each(|fault| skipped(fault.name, &why)),
    }
    let order: Vec<&Fault> = sites.iter().flat_map(|(faults, _)| faults).collect();
    say(&format!("seed {}, {} faults:", options.seed, order.len()));
    for (number, fault) in order.iter().enumerate() {
        say(&format!("  {:>2} {}", number + 1, fault.name));
    }
    let began = Instant::now();
    let mut rows = Vec::new();
    for (faults, plan) in sites {
        if !faults.is_empty() {
            installation(plan, &faults, &mut rows).await;
        }
    }
    say("");
    say(&table(&rows));
    let good = rows.iter().all(Row::is_good);
    let word = if good { "nothing lost, duplicated or forked" } else { "FAILED" };
    say(&format!(
        "{word} in {} faults, {:.0?}, seed {}",
        rows.len(),
        began.elapsed(),
        options.seed
    ));
    good
}

/// Faults that need a journal which uses its segments again.
fn recycled() -> Vec<Fault> {
    let name = "kill -9 router in a recycled segment";
    vec![Fault { name, kind: Kind::Scenario(Scenario::RecycledSegment), bound: None }; 2]
}

/// One installation, and what is done to it. After something that cannot be recovered from, the
/// rest is left out.
async fn installation(plan: Plan, faults: &[Fault], rows: &mut Vec<Row>) {
    let mut site = Site::start(plan).await;
    let mut ledger = Ledger::default();
    for fault in faults {
        let round = AssertUnwindSafe(round(&mut site, fault, &mut ledger)).catch_unwind().await;
        let stuck = round.is_err();
        let row = round.unwrap_or_else(|panic| Row::stuck(fault.name, &words(&*panic)));
        say(&row.line());
        rows.push(row);
        if stuck {
            say(&site.describe().await);
            return;
        }
    }
    let row = end(&site).await;
    say(&row.line());
    rows.push(row);
}

fn words(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default()
}

/// What was counted up to the last round.
#[derive(Debug, Default)]
struct Ledger {
    lost: u64,
    duplicated: u64,
    forked: u64,
    wrong: usize,
    epochs: usize,
    fenced: Fenced,
}

/// Counts what the router refused as fenced, over its restarts.
#[derive(Debug, Default)]
struct Fenced {
    total: u64,
    seen: u64,
}

impl Fenced {
    fn look(&mut self, site: &Site) -> u64 {
        let now = refused_as_fenced(site);
        self.total += if now >= self.seen { now - self.seen } else { now };
        self.seen = now;
        self.total
    }
}

/// What the router refused as fenced since it was started.
fn refused_as_fenced(site: &Site) -> u64 {
    let metrics = site.router.admin_get("/metrics").unwrap_or_default();
    let lines = metrics.lines().filter(|line| {
        line.starts_with("sluice_router_append_refused") && line.contains("\"FENCED\"")
    });
    let now: f64 = lines.filter_map(|line| line.split(' ').nth(1)?.parse::<f64>().ok()).sum();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
    let now = now as u64;
    now
}

async fn round(site: &mut Site, fault: &Fault, ledger: &mut Ledger) -> Row {
    site.recorder.progresses(3, "before the fault").await;
    let fenced = ledger.fenced.look(site);
    let began = Instant::now();
    let mut wrong = inject(site, fault.kind).await;
    site.recorder.progresses(OVERCOME, "after the fault").await;
    let overcome = Instant::now();
    site.roles().await;
    let stall = site.recorder.history().longest_stall(began, overcome);
    let verdict = judge(site).await;
    let takeovers = verdict.epochs.len().saturating_sub(ledger.epochs.max(1));
    ledger.epochs = verdict.epochs.len();
    let delivered = site.reader.delivered();
    let recorded = site.recorder.history().wrong;
    let words = [recorded, delivered.wrong, verdict.wrong].concat();
    wrong.extend(words.iter().skip(ledger.wrong).cloned());
    ledger.wrong = words.len();
    if let Some(bound) = fault.bound.filter(|bound| stall > *bound) {
        wrong.push(format!("capture stood still for {stall:.2?}; {bound:.1?} are allowed"));
    }
    let (lost, duplicated, forked) = (
        verdict.lost + delivered.lost,
        verdict.duplicated + delivered.duplicated,
        verdict.forked + delivered.forked,
    );
    let row = Row {
        name: fault.name.to_owned(),
        takeovers,
        stall,
        fenced: ledger.fenced.look(site) - fenced,
        lost: lost.saturating_sub(ledger.lost),
        duplicated: duplicated.saturating_sub(ledger.duplicated),
        forked: forked.saturating_sub(ledger.forked),
        wrong,
    };
    (ledger.lost, ledger.duplicated, ledger.forked) = (lost, duplicated, forked);
    row
}

/// Lets capture pause, waits until the consumer has everything, and reads the journal's files.
pub(crate) async fn judge(site: &Site) -> Verdict {
    let last = site.recorder.pause().await;
    eventually("the consumer has every acknowledged block", || {
        let delivered = site.reader.delivered();
        std::future::ready((delivered.last >= last || !delivered.wrong.is_empty()).then_some(()))
    })
    .await;
    let verdict = checker::check(&site.journal, &site.chain, &site.recorder.history().acked);
    site.recorder.go_on();
    verdict
}

/// Every epoch that opened the journal so far.
pub(crate) async fn epochs(site: &Site) -> Vec<u64> {
    judge(site).await.epochs
}

/// After the last fault: the program's own verification of the files, on a journal at rest.
async fn end(site: &Site) -> Row {
    site.recorder.pause().await;
    let history = site.recorder.history();
    let launcher = site.disk.as_ref().map_or(&[][..], |disk| disk.launcher());
    let dir = site.scratch("journal").display().to_string();
    let verified = run_behind(launcher, &["journal", "verify", "--dir", &dir]);
    let mut wrong = Vec::new();
    if verified.status.code() != Some(0) {
        wrong.push(String::from_utf8_lossy(&verified.stdout).trim().to_owned());
    }
    let ends: Vec<String> = history.ends.iter().map(|(why, n)| format!("{why} {n}")).collect();
    say(&format!(
        "{} blocks acknowledged, {} of them more than once; connections ended: {}",
        history.acked.len(),
        history.duplicates,
        ends.join(", ")
    ));
    Row {
        name: "verification of the files".to_owned(),
        stall: Duration::ZERO,
        wrong,
        ..Row::default()
    }
}

fn say(text: &str) {
    writeln!(stdout(), "{text}").ok();
}
