//! The installation under test: processes, the links between them, and who plays which part.
//!
//! There are two kinds of it. In one every link goes through a proxy of ours, which can also hold
//! back, delay and reject. In the other every process has a host of its own, and packets between
//! hosts can be lost.

mod wiring;

use std::{path::PathBuf, time::Duration};

use sluice_client::coordination::{Coordination, LockStatus, Patience, ingestor_lock};
use sluice_model::Pointer;
use sluice_proto::v1 as pb;
use sluice_service::{Transport, transport};
use tempfile::TempDir;
use tokio::time::timeout;

use self::wiring::Wired;
use super::{INGESTOR, chain::Chain, clock::Clock, reader::Reader, recorder::Recorder};
use crate::{
    disk::SmallDisk, etcd_cluster::Cluster, eventually, network::Network, process::Process,
    proxy::Proxy, skipped,
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
    /// Program to producer, by producer. Proxies are there only without a network of hosts.
    pub(crate) capture: Vec<Proxy>,
    /// Producer to either coordinator, by producer.
    pub(crate) to_coordinator: Vec<Proxy>,
    /// Producer to router, by producer.
    pub(crate) to_router: Vec<Proxy>,
    /// Coordinator to etcd member, by coordinator and member.
    pub(crate) to_etcd: Vec<Vec<Proxy>>,
    /// The hosts, where each process has its own.
    pub(crate) network: Option<Network>,
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
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Another build of the program; `None` for the one beside the tests.
    pub(crate) program: Option<PathBuf>,
    /// The journal keeps only a few segments and uses them again.
    pub(crate) recycle: bool,
    /// Each process gets a host of its own, and there are no proxies.
    pub(crate) network: Option<Network>,
}

impl Site {
    /// Starts everything and waits until blocks are captured and two producers wait.
    pub(crate) async fn start(plan: Plan) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let small = dir.path().join("journal");
        std::fs::create_dir(&small).unwrap();
        let clock = Clock::build(dir.path());
        let clock = clock.map_err(|why| skipped("a stepped wall clock", &why)).ok();
        // The disk is a namespace of its own, like a host's names; what fills it is not played
        // between hosts.
        let disk = plan.network.is_none().then(|| SmallDisk::mount(&small, DISK));
        let disk = disk.transpose().unwrap_or_else(|why| {
            skipped("a full disk", &why);
            None
        });
        let wired = Wired::start(dir.path(), &plan, disk.as_ref(), clock.as_ref()).await;
        let chain = Chain::default();
        let journal = disk.as_ref().map_or(small, |disk| disk.path().to_path_buf());
        let this = Self {
            recorder: Recorder::start(&wired.doors, chain.clone()),
            reader: Reader::start(&wired.router.url(), chain.clone()),
            producers: wired.producers,
            router: wired.router,
            coordinators: wired.coordinators,
            etcd: wired.etcd,
            capture: wired.capture,
            to_coordinator: wired.to_coordinator,
            to_router: wired.to_router,
            to_etcd: wired.to_etcd,
            network: plan.network,
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
