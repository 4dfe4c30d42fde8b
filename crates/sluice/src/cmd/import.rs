//! `sluice import`: block files of a Cosmos node, brought in once by a producer of this process.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use serde_json::json;
use sluice_client::coordination::ingestor_lock;
use sluice_config::{Config, Ingestor};
use sluice_producer::{
    ProducerOptions, ProducerService, Registry,
    status::{State, StatusCell},
};
use sluice_proto::v1 as pb;
use sluice_service::{Service, Shutdown};

use crate::{
    cli::{GapArg, ImportArgs},
    connect::Server,
    exit::{Exit, Failure, Outcome, on_path},
    output::{Out, count},
    progress::Progress,
};

/// How often the state is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// How long another owner of the ingestor is waited for: longer than the lease of a dead one.
const STANDBY: Duration = Duration::from_secs(30);
/// How long what is under way may take after an interrupt.
const GRACE: Duration = Duration::from_secs(10);

/// Where the two services are that an import needs.
#[derive(Debug)]
pub(crate) struct Peers {
    pub(crate) coordinator: Server,
    pub(crate) router: Server,
}

/// How the capture ended.
enum End {
    Finished,
    Interrupted,
    Stuck(Failure),
}

pub(crate) async fn run(peers: &Peers, out: &mut Out, args: &ImportArgs, own: Config) -> Outcome {
    let dir = std::fs::canonicalize(&args.dir)
        .map_err(|error| on_path(&args.dir)(error).fix("sluice import --help"))?;
    let mut router = peers.router.router();
    peers.router.ask(router.list_journals(pb::ListJournalsRequest {})).await?;
    owner(peers, args).await?;

    let service = producer(peers, args, &dir, own)?;
    let cell = service.ingestors().into_iter().next();
    let cell = cell.ok_or_else(|| Failure::new(Exit::Failed, "no ingestor was built"))?;
    let shutdown = Shutdown::new(GRACE);
    let running = tokio::spawn(Box::new(service).run(shutdown.clone()));
    let end = watch(peers, args, &cell).await;
    shutdown.stop();
    let drained = running.await;

    summary(out, &cell)?;
    match end {
        End::Stuck(failure) => Err(failure),
        End::Interrupted => Ok(Exit::Interrupted),
        End::Finished => match drained {
            Ok(Ok(())) => Ok(Exit::Ok),
            Ok(Err(error)) => Err(Failure::new(Exit::Failed, error.to_string())),
            Err(error) => Err(Failure::new(Exit::Failed, error.to_string())),
        },
    }
}

/// A producer with this one ingestor. What the configuration says of stores and topics holds.
fn producer(
    peers: &Peers,
    args: &ImportArgs,
    dir: &Path,
    mut config: Config,
) -> Result<ProducerService, Failure> {
    let mut source = toml::Table::new();
    source.insert("type".into(), "cosmos-files".into());
    source.insert("dir".into(), dir.display().to_string().into());
    source.insert("prefix".into(), args.prefix.clone().into());
    source.insert("follow".into(), false.into());
    source.insert("metadata".into(), (!args.no_metadata).into());
    let on_gap = match args.on_gap {
        GapArg::Halt => "halt",
        GapArg::Record => "record",
    };
    let mut table = toml::Table::new();
    table.insert("source".into(), source.into());
    table.insert("on_gap".into(), on_gap.into());
    let path = format!("ingestors.{}", args.ingestor);
    let mut ingestor: Ingestor = sluice_config::section(&path, &table)?;
    if let Some(declared) = config.ingestors.remove(&args.ingestor) {
        ingestor.stores = declared.stores;
        ingestor.topics = declared.topics;
    }
    config.ingestors = [(args.ingestor.clone(), ingestor)].into();
    let options = ProducerOptions::new(&config, "sluice import", "");
    let (coordinator, router) = (peers.coordinator.transport(), peers.router.transport());
    let meter = sluice_telemetry::meter();
    ProducerService::new(options, coordinator, router, &Registry::default(), &meter)
        .map_err(|error| Failure::usage(error.to_string()).fix("sluice import --help"))
}

/// Who captures the ingestor now, in words; fails where there is no coordinator.
async fn owner(peers: &Peers, args: &ImportArgs) -> Result<Option<String>, Failure> {
    let lock = ingestor_lock(&args.ingestor);
    let mut coordinator = peers.coordinator.coordinator();
    let request = pb::ListLocksRequest { prefix: lock.clone() };
    let locks = peers.coordinator.ask(coordinator.list_locks(request)).await?.locks;
    let own = locks.into_iter().find(|status| status.lock == lock);
    let member = own.and_then(|status| status.owner);
    Ok(member.map(|member| format!("{} (pid {})", member.node, member.pid)))
}

async fn watch(peers: &Peers, args: &ImportArgs, cell: &StatusCell) -> End {
    let mut progress = Progress::new(args.ingestor.as_str());
    let began = Instant::now();
    let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
    let end = loop {
        let status = cell.get();
        progress.set(status.head.as_ref().map_or(0, |head| head.height), status.source_height);
        match status.state {
            State::Finished => break End::Finished,
            State::Blocked | State::Halted => {
                break End::Stuck(stuck(peers, args, &status.cause).await);
            }
            State::Standby if status.blocks == 0 && began.elapsed() > STANDBY => {
                break End::Stuck(waiting(peers, args, &status.cause).await);
            }
            _ => {}
        }
        tokio::select! {
            _ = &mut interrupt => break End::Interrupted,
            () = tokio::time::sleep(LOOK) => {}
        }
    };
    progress.finish();
    end
}

/// The import does not get past a block: because of the files, or because a service is gone.
async fn stuck(peers: &Peers, args: &ImportArgs, cause: &str) -> Failure {
    let mut router = peers.router.router();
    if let Err(gone) = peers.router.ask(router.list_journals(pb::ListJournalsRequest {})).await {
        return gone;
    }
    let fix = if args.on_gap == GapArg::Halt && cause.contains("missing") {
        format!("sluice import {} {} --on-gap record", args.ingestor, args.dir.display())
    } else {
        format!("sluice files decode {}/block-N-data", args.dir.display())
    };
    Failure::new(Exit::Data, cause).fix(fix)
}

/// Another process captures the ingestor, or no session could be had.
async fn waiting(peers: &Peers, args: &ImportArgs, cause: &str) -> Failure {
    match owner(peers, args).await {
        Err(gone) => gone,
        Ok(owner) => {
            let owner = owner.unwrap_or_else(|| format!("nobody yet: {cause}"));
            let message = format!("the ingestor {} is captured by {owner}", args.ingestor);
            Failure::new(Exit::Refused, message).fix(format!(
                "sluice ingestors list --server {}   (then stop that capture)",
                peers.router.url()
            ))
        }
    }
}

fn summary(out: &mut Out, cell: &StatusCell) -> Result<(), Failure> {
    let status = cell.message();
    let height = status.head.as_ref().map_or(0, |head| head.height);
    if out.is_json() {
        out.json(&json!({
            "ingestor": status.ingestor,
            "blocks": status.blocks,
            "changes": status.changes,
            "height": height,
            "sourceHeight": status.source_height,
            "repairs": status.repairs,
        }))?;
        return out.flush();
    }
    out.line(format!(
        "{}: {} blocks and {} changes are durable now; height {} of {}",
        status.ingestor,
        count(status.blocks),
        count(status.changes),
        count(height),
        count(status.source_height)
    ))?;
    for repair in &status.repairs {
        out.line(format!("  {repair}"))?;
    }
    out.flush()
}
