//! Everything that the services know of ingestors, put together by name.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    time::Duration,
};

use sluice_model::IngestorName;
use sluice_proto::v1 as pb;
use tokio::task::JoinSet;

use super::{
    Peers,
    feeds::{self, Feed},
    list, member, reachable,
};
use crate::{
    connect::{Access, Server},
    exit::{Exit, Failure},
};

/// How long a process that owns an ingestor has for its answer; the others are not kept waiting.
pub(super) const OWNER_PATIENCE: Duration = Duration::from_secs(3);
/// Questions of one kind that are under way at a time.
const AT_ONCE: usize = 32;
/// Processes that own ingestors, or wait for one, and are asked, at most.
pub(super) const MOST: usize = 64;
/// Locks of ingestors are called like this.
const LOCK: &str = "ingestor/";

/// What is known of one ingestor, and what is not.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    pub(super) name: String,
    /// Owner and standbys, as the coordinator has them.
    pub(super) lock: Option<pb::LockStatus>,
    /// As the router has it.
    pub(super) journal: Option<pb::JournalStatus>,
    /// The last commit.
    pub(super) commit: Option<pb::CommitRecord>,
    /// What operators want.
    pub(super) control: Option<pb::IngestorControl>,
    /// The owner's own word; a standby's where nobody else answered.
    pub(super) status: Option<pb::IngestorStatus>,
    /// Where that came from.
    pub(super) told_by: Option<Server>,
    /// What those that wait say of their own feeds, by address.
    pub(super) feeds: BTreeMap<String, Feed>,
    /// The coordinator answered, so that an absent lock means something.
    pub(super) locks_asked: bool,
    /// What could not be asked, and why.
    pub(super) not_asked: Vec<String>,
}

impl Known {
    /// Who holds the lock.
    pub(super) fn owner(&self) -> Option<&pb::Member> {
        self.lock.as_ref()?.owner.as_ref()
    }

    /// The owner's status; never a standby's.
    pub(super) fn owned(&self) -> Option<&pb::IngestorStatus> {
        self.status.as_ref().filter(|status| is_owner(status))
    }

    /// The last durable block.
    pub(super) fn head(&self) -> Option<&pb::Head> {
        let told = self.status.as_ref().and_then(|status| status.head.as_ref());
        self.journal.as_ref().and_then(|journal| journal.head.as_ref()).or(told)
    }
}

fn is_owner(status: &pb::IngestorStatus) -> bool {
    !matches!(status.state(), pb::IngestorState::Standby | pb::IngestorState::Unspecified)
}

/// Asks everybody who can be reached. Fails only if nobody answers.
pub(super) async fn survey(
    access: &Access,
    peers: &Peers,
    only: Option<&IngestorName>,
) -> Result<Vec<Known>, Failure> {
    let (locks, journals, near) =
        tokio::join!(locks(peers, only), journals(peers), list(&peers.producer));
    let mut gathered = Gathered { only: only.map(ToString::to_string), ..Gathered::default() };
    match (&locks, &journals, &near) {
        (Err(a), Err(b), Err(c)) => return Err(silence([a, b, c])),
        _ => gathered.locks_asked = locks.is_ok(),
    }
    gathered.missing("coordinator", locks.as_ref().err());
    gathered.missing("router", journals.as_ref().err());
    for lock in locks.unwrap_or_default() {
        let name = lock.lock.strip_prefix(LOCK).unwrap_or_default().to_owned();
        gathered.known(&name, |known| known.lock = Some(lock));
    }
    for journal in journals.unwrap_or_default() {
        gathered.known(&journal.ingestor.clone(), |known| known.journal = Some(journal));
    }
    let answers = owners(access, &peers.producer, &gathered).await;
    let near = (peers.producer.clone(), near);
    for (server, answer) in std::iter::once(near).chain(answers) {
        gathered.told(&server, answer);
    }
    if gathered.locks_asked {
        details(peers, &mut gathered.all).await;
        feeds::ask(access, &mut gathered.all).await;
    }
    gathered.finish()
}

/// One failure for all; the most telling.
fn silence(failures: [&Failure; 3]) -> Failure {
    let unreachable = failures.iter().find(|failure| failure.exit() == Exit::Unreachable);
    let told = unreachable.copied().unwrap_or(failures[0]);
    told.clone()
}

async fn locks(peers: &Peers, only: Option<&IngestorName>) -> Result<Vec<pb::LockStatus>, Failure> {
    let mut client = peers.coordinator.coordinator();
    let prefix = only.map_or_else(|| LOCK.to_owned(), |name| format!("{LOCK}{name}"));
    let request = pb::ListLocksRequest { prefix };
    Ok(peers.coordinator.ask(client.list_locks(request)).await?.locks)
}

async fn journals(peers: &Peers) -> Result<Vec<pb::JournalStatus>, Failure> {
    let mut client = peers.router.router();
    Ok(peers.router.ask(client.list_journals(pb::ListJournalsRequest {})).await?.journals)
}

type Told = Result<Vec<pb::IngestorStatus>, Failure>;

/// Asks the processes that own ingestors, at the addresses that they told.
async fn owners(access: &Access, near: &Server, gathered: &Gathered) -> Vec<(Server, Told)> {
    let addresses: BTreeSet<&str> = gathered
        .all
        .values()
        .filter_map(|known| known.owner())
        .map(|owner| owner.address.trim_end_matches('/'))
        .filter(|address| reachable(address) && *address != near.url().trim_end_matches('/'))
        .collect();
    // An address that needs certificates that we do not have is one that cannot be asked.
    let servers = addresses.into_iter().take(MOST).filter_map(|at| access.server(at).ok());
    let questions = servers.map(|server| async move {
        let told = match tokio::time::timeout(OWNER_PATIENCE, list(&server)).await {
            Ok(told) => told,
            Err(_) => Err(server.silent(&format!("no answer within {OWNER_PATIENCE:?}"))),
        };
        (server, told)
    });
    all(questions).await
}

/// Commits, and what operators want, of everybody.
async fn details(peers: &Peers, all_known: &mut BTreeMap<String, Known>) {
    let questions = all_known.keys().cloned().map(|name| {
        let server = peers.coordinator.clone();
        async move {
            let (commit, control) = tokio::join!(latest(&server, &name), control(&server, &name));
            (name, commit, control)
        }
    });
    for (name, commit, control) in all(questions).await {
        let Some(known) = all_known.get_mut(&name) else { continue };
        match commit {
            Ok(commit) => known.commit = commit,
            Err(failure) => known.not_asked.push(cause("commit", &failure)),
        }
        match control {
            Ok(control) => known.control = Some(control),
            Err(failure) => known.not_asked.push(cause("control", &failure)),
        }
    }
}

async fn latest(server: &Server, name: &str) -> Result<Option<pb::CommitRecord>, Failure> {
    let mut client = server.coordinator();
    let request = pb::LatestRequest { ingestor: name.to_owned() };
    Ok(server.ask(client.latest(request)).await?.commit)
}

/// What operators want of an ingestor at this moment.
pub(super) async fn control(server: &Server, name: &str) -> Result<pb::IngestorControl, Failure> {
    let mut client = server.coordinator();
    let request = pb::WatchControlRequest { ingestor: name.to_owned() };
    let first = async {
        let mut states = client.watch_control(request).await?.into_inner();
        Ok(tonic::Response::new(states.message().await?.unwrap_or_default()))
    };
    server.ask(first).await
}

/// Runs questions side by side, a bounded number at a time.
pub(super) async fn all<T: Send + 'static>(
    questions: impl Iterator<Item = impl Future<Output = T> + Send + 'static>,
) -> Vec<T> {
    let (mut running, mut answers) = (JoinSet::new(), Vec::new());
    for question in questions {
        if running.len() >= AT_ONCE
            && let Some(Ok(answer)) = running.join_next().await
        {
            answers.push(answer);
        }
        running.spawn(question);
    }
    while let Some(answer) = running.join_next().await {
        answers.extend(answer.ok());
    }
    answers
}

fn cause(what: &str, failure: &Failure) -> String {
    format!("{what}: {}", failure.message())
}

/// The answers, by name.
#[derive(Default)]
struct Gathered {
    only: Option<String>,
    all: BTreeMap<String, Known>,
    /// Services that did not answer, for every row.
    missing: Vec<String>,
    locks_asked: bool,
}

impl Gathered {
    fn missing(&mut self, what: &str, failure: Option<&Failure>) {
        self.missing.extend(failure.map(|failure| cause(what, failure)));
    }

    fn known(&mut self, name: &str, learn: impl FnOnce(&mut Known)) {
        if name.is_empty() || self.only.as_ref().is_some_and(|only| only != name) {
            return;
        }
        let known = self.all.entry(name.to_owned()).or_default();
        known.name = name.to_owned();
        learn(known);
    }

    /// Of several producers the one that owns the ingestor counts.
    fn told(&mut self, server: &Server, answer: Told) {
        for status in answer.unwrap_or_default() {
            self.known(&status.ingestor.clone(), |known| {
                let rank = |status: &pb::IngestorStatus| (is_owner(status), status.epoch);
                if known.status.as_ref().is_none_or(|own| rank(&status) > rank(own)) {
                    (known.status, known.told_by) = (Some(status), Some(server.clone()));
                }
            });
        }
    }

    fn finish(self) -> Result<Vec<Known>, Failure> {
        let mut all: Vec<Known> = self.all.into_values().collect();
        for known in &mut all {
            known.locks_asked = self.locks_asked;
            known.not_asked.splice(0..0, self.missing.iter().cloned());
            let silent = known.owner().filter(|_| known.owned().is_none()).map(|owner| {
                let who = member(owner);
                match reachable(&owner.address) {
                    true => format!("owner: {who} does not answer at {}", owner.address),
                    false => format!("owner: {who} has no connect.advertise to be asked at"),
                }
            });
            known.not_asked.extend(silent);
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gathered() -> Gathered {
        Gathered { locks_asked: true, ..Gathered::default() }
    }

    fn server(port: u16) -> Server {
        Server::new(&format!("http://127.0.0.1:{port}")).unwrap()
    }

    fn status(state: pb::IngestorState, epoch: u64) -> pb::IngestorStatus {
        let ingestor = "hub".to_owned();
        pb::IngestorStatus { ingestor, state: state.into(), epoch, ..Default::default() }
    }

    #[tokio::test]
    async fn the_owner_counts_and_not_whoever_answered_last() {
        let mut all = gathered();
        all.told(&server(1), Ok(vec![status(pb::IngestorState::Active, 7)]));
        all.told(&server(2), Ok(vec![status(pb::IngestorState::Standby, 0)]));
        // Another that has lost the lock and has not noticed.
        all.told(&server(3), Ok(vec![status(pb::IngestorState::Active, 6)]));
        let known = all.finish().unwrap().remove(0);
        assert_eq!(known.owned().unwrap().epoch, 7);
        assert_eq!(known.told_by.unwrap().url(), "http://127.0.0.1:1");
    }

    #[tokio::test]
    async fn a_row_says_what_it_does_not_know() {
        let mut all = gathered();
        let failure = Failure::new(Exit::Unreachable, "nothing answers at X");
        all.missing("router", Some(&failure));
        let owner = pb::Member {
            node: "n1".into(),
            pid: 7,
            address: "http://10.0.0.7:7400".into(),
            ..Default::default()
        };
        let lock = pb::LockStatus { owner: Some(owner), ..Default::default() };
        all.known("hub", |known| known.lock = Some(lock));
        all.told(&server(2), Ok(vec![status(pb::IngestorState::Standby, 0)]));
        let known = all.finish().unwrap().remove(0);
        assert_eq!(known.not_asked[0], "router: nothing answers at X");
        assert!(known.not_asked[1].starts_with("owner: n1 (pid 7) does not answer"));
        assert!(known.owned().is_none() && known.status.is_some());
    }

    #[tokio::test]
    async fn one_is_one() {
        let mut all = Gathered { only: Some("hub".into()), ..gathered() };
        all.told(&server(1), Ok(vec![status(pb::IngestorState::Active, 7)]));
        all.known("hub-2", |_| {});
        assert_eq!(all.finish().unwrap().len(), 1);
    }
}
