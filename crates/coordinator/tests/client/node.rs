//! A coordinator in this process, behind a transport that can misbehave.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use sluice_client::coordination::{
    Commit, Coordination, Lock, Member, Patience, Session, SessionOptions,
};
use sluice_coordination::Kv;
use sluice_coordinator::{Coordinator, CoordinatorOptions, StoreOptions};
use sluice_model::{Digest, Durability, Generation, IngestorName, JournalId, Pointer};
use sluice_service::{Service, Shutdown, Transport, transport};
use tonic::{Status, body::Body};
use tower::{ServiceExt, service_fn, util::BoxCloneSyncService};

/// Of every session here: two thirds of it are left when the margin is taken off, which a busy
/// machine does not use up between two renewals.
pub(crate) const TTL: Duration = Duration::from_secs(3);

/// What happens to calls of one method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// They are never answered, nor do they arrive.
    Hang,
    /// So many of them arrive, and their answers do not.
    LoseReplies(u32),
}

/// Any number of replicas over one store, seen through one transport.
#[derive(Clone)]
pub(crate) struct Node {
    kv: Arc<dyn Kv>,
    options: CoordinatorOptions,
    faults: Arc<Mutex<BTreeMap<&'static str, Fault>>>,
    replica: Arc<Mutex<(Transport, Shutdown)>>,
}

impl Node {
    pub(crate) fn new(kv: Arc<dyn Kv>, case: &str) -> Self {
        let mut options = CoordinatorOptions::new(StoreOptions::Memory);
        options.root = format!("/client/{case}");
        let replica = Arc::new(Mutex::new(replica(&kv, &options)));
        Self { kv, options, faults: Arc::default(), replica }
    }

    /// Ends the replica in use; another one answers from now on.
    pub(crate) fn change_replica(&self) {
        let next = replica(&self.kv, &self.options);
        let (_, shutdown) = std::mem::replace(&mut *self.replica.lock(), next);
        shutdown.stop();
    }

    pub(crate) fn fault(&self, method: &'static str, fault: Option<Fault>) {
        match fault {
            Some(fault) => drop(self.faults.lock().insert(method, fault)),
            None => drop(self.faults.lock().remove(method)),
        }
    }

    /// A client, whose calls suffer the faults.
    pub(crate) fn client(&self) -> Coordination {
        let patience = Patience { call: Duration::from_millis(900), total: Duration::from_secs(4) };
        Coordination::with_patience(self.transport(), patience)
    }

    pub(crate) async fn session(&self, name: &str) -> Session {
        let member = Member::here(name, "");
        self.client().session(SessionOptions { ttl: TTL, member }).await.unwrap()
    }

    /// The store's own view.
    pub(crate) fn core(&self) -> sluice_coordination::Coordination {
        let options = sluice_coordination::Options {
            root: self.options.root.clone(),
            ..sluice_coordination::Options::default()
        };
        sluice_coordination::Coordination::new(Arc::clone(&self.kv), &options)
    }

    /// Deletes a lock's key behind everybody's back.
    pub(crate) async fn delete_by_hand(&self, lock: &Lock) {
        let (session, nonce) = lock.credentials();
        self.delete_candidate(lock.name(), session, &nonce).await;
    }

    pub(crate) async fn delete_candidate(&self, lock: &str, session: u64, nonce: &[u8]) {
        let ticket = sluice_coordination::Ticket {
            lock: lock.to_owned(),
            session,
            nonce: nonce.to_vec().into(),
        };
        self.core().release(&ticket).await.unwrap();
    }

    fn transport(&self) -> Transport {
        let node = self.clone();
        BoxCloneSyncService::new(service_fn(move |request: http::Request<Body>| {
            let node = node.clone();
            async move {
                let method = request.uri().path().rsplit('/').next().unwrap_or("").to_owned();
                let lost = match node.strike(&method) {
                    Some(Fault::Hang) => std::future::pending().await,
                    Some(Fault::LoseReplies(_)) => true,
                    None => false,
                };
                let transport = node.replica.lock().0.clone();
                let answer = transport.oneshot(request).await?;
                if lost {
                    return Ok(Status::unavailable("the reply was lost").into_http());
                }
                Ok(answer)
            }
        }))
    }

    fn strike(&self, method: &str) -> Option<Fault> {
        let mut faults = self.faults.lock();
        let fault = *faults.get(method)?;
        if let Fault::LoseReplies(left) = fault {
            let key = *faults.keys().find(|key| **key == method)?;
            match left.checked_sub(1) {
                None => return None,
                Some(left) => drop(faults.insert(key, Fault::LoseReplies(left))),
            }
        }
        Some(fault)
    }
}

fn replica(kv: &Arc<dyn Kv>, options: &CoordinatorOptions) -> (Transport, Shutdown) {
    let coordinator = Coordinator::over(Arc::clone(kv), options);
    let transport = transport::local(coordinator.routes());
    let shutdown = Shutdown::new(Duration::from_secs(5));
    tokio::spawn(Box::new(coordinator).run(shutdown.clone()));
    (transport, shutdown)
}

pub(crate) fn ingestor(name: &str) -> IngestorName {
    name.parse().unwrap()
}

pub(crate) fn pointer(height: u64) -> Pointer {
    if height == 0 { Pointer::ORIGIN } else { Pointer::from_height(height) }
}

/// A commit of `to` after `from`; 0 is the origin.
pub(crate) fn commit(journal: JournalId, from: u64, to: u64) -> Commit {
    Commit {
        ingestor: ingestor("chain"),
        previous: pointer(from),
        journal,
        generation: Generation(0),
        pointer: pointer(to),
        digest: Digest::from_array([1; 32]),
        durability: Durability::Fsynced,
    }
}
