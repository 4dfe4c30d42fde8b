//! The installation under test: processes, proxies on every link, and who plays which part.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use sluice_client::coordination::{Coordination, LockStatus, Patience, ingestor_lock};
use sluice_model::Pointer;
use sluice_proto::v1 as pb;
use sluice_service::{Transport, transport};
use tempfile::TempDir;
use tokio::time::timeout;

use super::{INGESTOR, chain::Chain, clock::Clock, reader::Reader, recorder::Recorder};
use crate::{
    disk::SmallDisk, etcd_cluster::Cluster, eventually, process::Process, proxy::Proxy, skipped,
};

/// How long a silent owner keeps its lock.
pub(crate) const LEASE: Duration = Duration::from_secs(3);
const PRODUCERS: usize = 3;
const COORDINATORS: usize = 2;
/// Size of the journal's disk, so that it can be filled.
const DISK: u64 = 768 << 20;
const ASK: Duration = Duration::from_millis(600);

/// Everything that runs. Ends with it.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) recorder: Recorder,
    pub(crate) reader: Reader,
    pub(crate) producers: Vec<Process>,
    pub(crate) router: Process,
    pub(crate) coordinators: Vec<Process>,
    pub(crate) etcd: Cluster,
    /// Program to producer, by producer.
    pub(crate) capture: Vec<Proxy>,
    /// Producer to either coordinator, by producer.
    pub(crate) to_coordinator: Vec<Proxy>,
    /// Producer to router, by producer.
    pub(crate) to_router: Vec<Proxy>,
    /// Coordinator to etcd member, by coordinator and member.
    pub(crate) to_etcd: Vec<Vec<Proxy>>,
    pub(crate) disk: Option<SmallDisk>,
    pub(crate) clock: Option<Clock>,
    pub(crate) chain: Chain,
    /// The journal as this process reads it.
    pub(crate) journal: PathBuf,
    pub(crate) dir: TempDir,
}

/// Who plays which part at the moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Roles {
    pub(crate) owner: usize,
    /// The next in the queue.
    pub(crate) standby: usize,
    /// The one behind it.
    pub(crate) waiter: usize,
    pub(crate) epoch: u64,
}

/// What a producer says of itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Claim {
    pub(crate) epoch: u64,
    pub(crate) state: pb::IngestorState,
    pub(crate) cause: String,
    /// The height that is committed.
    pub(crate) committed: u64,
}

/// What is started.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plan {
    /// Another build of the program; `None` for the one beside the tests.
    pub(crate) program: Option<PathBuf>,
    /// The journal keeps only a few segments and uses them again.
    pub(crate) recycle: bool,
}

impl Site {
    /// Starts everything and waits until blocks are captured and two producers wait.
    pub(crate) async fn start(plan: &Plan) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (config, small) = (config(dir.path(), plan), dir.path().join("journal"));
        std::fs::create_dir(&small).unwrap();
        let disk = SmallDisk::mount(&small, DISK);
        let disk = disk.map_err(|why| skipped("a full disk", &why)).ok();
        let clock = Clock::build(dir.path());
        let clock = clock.map_err(|why| skipped("a stepped wall clock", &why)).ok();
        let plain = launcher(plan, &[], clock.as_ref());
        let journal =
            launcher(plan, disk.as_ref().map_or(&[], SmallDisk::launcher), clock.as_ref());
        let service = |kind: &str, at: usize, launcher: &[String]| {
            let name = format!("{kind}-{at}");
            Process::new(&name, dir.path(), &[kind, "--config", &config]).behind(launcher)
        };
        let etcd = Cluster::start(dir.path()).await;
        let mut coordinators: Vec<_> =
            (0..COORDINATORS).map(|at| service("coordinator", at, &plain)).collect();
        let mut router = service("router", 0, &journal);
        let mut producers: Vec<_> =
            (0..PRODUCERS).map(|at| service("producer", at, &plain)).collect();

        let to_etcd = start_coordinators(&mut coordinators, &etcd).await;
        router.start(&set("connect.coordinator", &coordinators[0].url())).await;
        let links = start_producers(&mut producers, &coordinators, &router).await;
        let chain = Chain::default();
        let doors: Vec<String> = links.capture.iter().map(Proxy::url).collect();
        let journal = disk.as_ref().map_or(small, |disk| disk.path().to_path_buf());
        let this = Self {
            recorder: Recorder::start(&doors, chain.clone()),
            reader: Reader::start(&router.url(), chain.clone()),
            producers,
            router,
            coordinators,
            etcd,
            capture: links.capture,
            to_coordinator: links.to_coordinator,
            to_router: links.to_router,
            to_etcd,
            disk,
            clock,
            chain,
            journal,
            dir,
        };
        this.recorder.progresses(10, "at the beginning").await;
        this.roles().await;
        this
    }

    /// Where files of a scenario may be put.
    pub(crate) fn scratch(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The lock as the first coordinator that answers sees it.
    pub(crate) async fn lock(&self) -> Option<LockStatus> {
        let name = ingestor_lock(&INGESTOR.parse().unwrap());
        for coordinator in &self.coordinators {
            let patience = Patience { call: ASK, total: ASK };
            let transport = transport::remote(&coordinator.url()).unwrap();
            let coordination = Coordination::with_patience(transport, patience);
            if let Ok(locks) = coordination.locks(&name).await {
                return locks.into_iter().find(|lock| lock.lock == name);
            }
        }
        None
    }

    /// Waits until one producer owns, the others wait, and each says of itself what the lock says.
    pub(crate) async fn roles(&self) -> Roles {
        eventually("one producer owns and the others wait", || self.look()).await
    }

    async fn look(&self) -> Option<Roles> {
        let lock = self.lock().await?;
        let owner = self.with_pid(lock.owner.as_ref()?.pid)?;
        let waiters: Option<Vec<usize>> =
            lock.waiters.iter().map(|waiter| self.with_pid(waiter.pid)).collect();
        let [standby, waiter] = waiters?[..] else { return None };
        let roles = Roles { owner, standby, waiter, epoch: lock.epoch.as_u64() };
        for at in 0..PRODUCERS {
            let claim = self.claim(at).await?;
            let expected = if at == owner { roles.epoch } else { 0 };
            if claim.epoch != expected {
                return None;
            }
        }
        let active = self.claim(owner).await?.state == pb::IngestorState::Active;
        active.then_some(roles)
    }

    fn with_pid(&self, pid: u32) -> Option<usize> {
        self.producers.iter().position(|producer| producer.is_running() && producer.pid() == pid)
    }

    /// What a producer says of itself; `None` if it does not answer.
    pub(crate) async fn claim(&self, at: usize) -> Option<Claim> {
        claim_of(&self.producers[at].url()).await
    }

    /// What the router says of the journal.
    pub(crate) async fn journal_status(&self) -> Option<pb::JournalStatus> {
        let mut client = pb::router_client::RouterClient::new(self.router_transport());
        let request = pb::HeadRequest { ingestor: INGESTOR.to_owned() };
        let answer = timeout(ASK, client.head(request)).await.ok()?.ok()?;
        answer.into_inner().journal
    }

    /// A way to the router past every proxy.
    pub(crate) fn router_transport(&self) -> Transport {
        transport::remote(&self.router.url()).unwrap()
    }

    /// What every producer says, for people.
    pub(crate) async fn describe(&self) -> String {
        let mut text = format!("lock: {:?}\n", self.lock().await);
        for at in 0..PRODUCERS {
            text += &match self.claim(at).await {
                None => format!("producer {at} does not answer\n"),
                Some(Claim { epoch, state, cause, committed }) => format!(
                    "producer {at}: {} epoch {epoch} committed {committed} {cause}\n",
                    state.as_str_name()
                ),
            };
        }
        text
    }
}

/// What the producer behind a URL says of itself.
pub(crate) async fn claim_of(url: &str) -> Option<Claim> {
    let transport = transport::remote(url).unwrap();
    let mut client = pb::producer_client::ProducerClient::new(transport);
    let asked = timeout(ASK, client.list_ingestors(pb::ListIngestorsRequest {}));
    let answer = asked.await.ok()?.ok()?.into_inner();
    let own = answer.ingestors.into_iter().find(|own| own.ingestor == INGESTOR)?;
    let committed = Pointer::new(own.committed_pointer.clone()).ok()?.height().unwrap_or(0);
    Some(Claim { epoch: own.epoch, state: own.state(), cause: own.cause, committed })
}

async fn start_coordinators(coordinators: &mut [Process], etcd: &Cluster) -> Vec<Vec<Proxy>> {
    let mut links = Vec::new();
    for coordinator in coordinators {
        let mut own = Vec::new();
        for port in etcd.ports() {
            own.push(Proxy::start(vec![port]).await);
        }
        let urls: Vec<String> = own.iter().map(|proxy| format!("{:?}", proxy.url())).collect();
        let endpoints = format!("coordinator.etcd.endpoints=[{}]", urls.join(","));
        coordinator.start(&["--set".to_owned(), endpoints]).await;
        links.push(own);
    }
    links
}

/// The links of the producers, by producer.
#[derive(Default)]
struct Links {
    capture: Vec<Proxy>,
    to_coordinator: Vec<Proxy>,
    to_router: Vec<Proxy>,
}

async fn start_producers(
    producers: &mut [Process],
    coordinators: &[Process],
    router: &Process,
) -> Links {
    let mut links = Links::default();
    for (at, producer) in producers.iter_mut().enumerate() {
        // Each prefers another coordinator.
        let mut ports: Vec<u16> = coordinators.iter().map(|one| one.api).collect();
        ports.rotate_left(at % COORDINATORS);
        let to_coordinator = Proxy::start(ports).await;
        let to_router = Proxy::start(vec![router.api]).await;
        let capture = Proxy::start(vec![producer.api]).await;
        let connect = [
            set("connect.coordinator", &to_coordinator.url()),
            set("connect.router", &to_router.url()),
            set("connect.advertise", &capture.url()),
        ];
        producer.start(&connect.concat()).await;
        links.capture.push(capture);
        links.to_coordinator.push(to_coordinator);
        links.to_router.push(to_router);
    }
    links
}

fn set(key: &str, value: &str) -> Vec<String> {
    vec!["--set".to_owned(), format!("{key}={value}")]
}

/// What stands before the program: its disk, its clock, another build of it.
fn launcher(plan: &Plan, disk: &[String], clock: Option<&Clock>) -> Vec<String> {
    let mut launcher = disk.to_vec();
    launcher.extend(clock.map(Clock::launcher).into_iter().flatten());
    if let Some(program) = &plan.program {
        // The program given comes instead of the one that follows.
        let exec = format!("exec '{}' \"$@\"", program.display());
        launcher.extend(["sh".to_owned(), "-c".to_owned(), exec]);
    }
    launcher
}

fn config(dir: &Path, plan: &Plan) -> String {
    let journal = match plan.recycle {
        true => "segment_bytes = \"128KiB\"\nretention = { bytes = \"512KiB\" }",
        false => "segment_bytes = \"4MiB\"",
    };
    let text = format!(
        r#"
cluster = "chaos"
data_dir = "{data}"
[ingestors.{INGESTOR}]
source = {{ type = "capture" }}
[journal]
dir = "{small}"
{journal}
[coordinator]
store = "etcd"
lease_ttl = "{lease}s"
[coordinator.etcd]
endpoints = ["http://127.0.0.1:1"]
"#,
        data = dir.join("data").display(),
        small = dir.join("journal").display(),
        lease = LEASE.as_secs(),
    );
    let path = dir.join("sluice.toml");
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}
