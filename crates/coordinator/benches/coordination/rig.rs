//! An etcd, a coordinator process, and clients of it.

use std::{
    io::{BufRead, BufReader},
    net::{Ipv4Addr, SocketAddr},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use sluice_client::coordination::{Commit, Coordination, Member, Session, SessionOptions};
use sluice_coordination::{EtcdOptions, Kv, Op, Txn};
use sluice_coordinator::{Coordinator, CoordinatorOptions, StoreOptions};
use sluice_model::{Digest, Durability, Generation, IngestorName, JournalId, Pointer};
use sluice_service::{Listen, Service, Shutdown, transport};
use tonic::body::Body;
use tower::{ServiceExt, service_fn, util::BoxCloneSyncService};

use crate::{etcd::Etcd, spread};

/// As configured by default.
pub(crate) const TTL: Duration = Duration::from_secs(10);

pub(crate) struct Rig {
    etcd: Etcd,
    pub(crate) kv: Arc<dyn Kv>,
    child: Child,
    address: SocketAddr,
}

/// The coordinator process.
pub(crate) async fn serve(endpoint: &str, port: u16) {
    let store = StoreOptions::Etcd(EtcdOptions::new(vec![endpoint.to_owned()]));
    let coordinator = Coordinator::build(CoordinatorOptions::new(store)).await.unwrap();
    let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let listen = Listen { api: local(port), admin: local(0), tls: None };
    let (sender, bound) = tokio::sync::oneshot::channel::<sluice_service::Bound>();
    let services: Vec<Box<dyn Service>> = vec![Box::new(coordinator)];
    tokio::spawn(async move { println!("{}", bound.await.unwrap().api) });
    sluice_service::serve(services, listen, Some(sender), Shutdown::new(Duration::from_secs(1)))
        .await
        .unwrap();
}

fn start(endpoint: &str, port: u16) -> (Child, SocketAddr) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["serve", endpoint, &port.to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    (child, line.trim().parse().unwrap())
}

impl Rig {
    pub(crate) async fn start() -> Self {
        let etcd = Etcd::start().await;
        let kv = etcd.kv().await;
        let (child, address) = start(&etcd.options().endpoints[0], 0);
        Self { etcd, kv, child, address }
    }

    /// Ends the coordinator as a power cut would, and starts another one in its place.
    pub(crate) fn crash(&mut self) {
        self.stop();
        self.child = start(&self.etcd.options().endpoints[0], self.address.port()).0;
    }

    pub(crate) fn stop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn client(&self) -> Coordination {
        let url = format!("http://{}", self.address);
        Coordination::new(transport::remote(&url).unwrap())
    }

    /// A client that, once told so, is cut off as a dead process is.
    pub(crate) fn mortal(&self) -> (Coordination, Arc<AtomicBool>) {
        let url = format!("http://{}", self.address);
        let (inner, dead) = (transport::remote(&url).unwrap(), Arc::new(AtomicBool::new(false)));
        let switch = Arc::clone(&dead);
        let transport =
            BoxCloneSyncService::new(service_fn(move |request: http::Request<Body>| {
                let (inner, dead) = (inner.clone(), Arc::clone(&switch));
                async move {
                    if dead.load(Ordering::SeqCst) {
                        std::future::pending::<()>().await;
                    }
                    inner.oneshot(request).await
                }
            }));
        (Coordination::new(transport), dead)
    }

    /// The store's revision and its size on disk, in bytes.
    pub(crate) async fn store(&self) -> (u64, u64) {
        self.kv.status().await.unwrap()
    }

    /// What the coordinator process has in memory, in KiB.
    pub(crate) fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// The floor: one write after another, without any coordinator.
    pub(crate) async fn etcd_write(&self) -> String {
        let mut times = Vec::new();
        for n in 0..200u32 {
            let value = n.to_be_bytes().to_vec().into();
            let put = Op::Put { key: "/floor".to_owned(), value, lease: None };
            let begin = Instant::now();
            self.kv.txn(Txn::read(vec![put])).await.unwrap();
            times.push(begin.elapsed());
        }
        format!("a write {}", spread(times))
    }
}

pub(crate) async fn session(client: &Coordination, node: &str) -> Session {
    let member = Member::here(node, "");
    client.session(SessionOptions { ttl: TTL, member }).await.unwrap()
}

pub(crate) fn commit(ingestor: &IngestorName, journal: JournalId, height: u64) -> Commit {
    Commit {
        ingestor: ingestor.clone(),
        // Filled in by the writer.
        previous: Pointer::ORIGIN,
        journal,
        generation: Generation(0),
        pointer: Pointer::from_height(height),
        digest: Digest::from_array([1; 32]),
        durability: Durability::Fsynced,
    }
}
