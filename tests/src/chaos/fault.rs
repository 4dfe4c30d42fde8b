//! The list of faults.

use std::time::Duration;

use super::{
    packets::{self, Loss},
    scenario::Scenario,
    site::LEASE,
};

/// One thing that goes wrong, and what may be expected then.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// What it is called in the schedule and the table.
    pub name: &'static str,
    pub(crate) kind: Kind,
    /// The longest that capture may stand still, where a promise is made.
    pub(crate) bound: Option<Duration>,
}

/// What is done.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// SIGKILL; started again when capture goes on without it.
    Kill(Target),
    /// SIGSTOP for three lease times, then SIGCONT.
    Freeze(Target),
    /// SIGTERM to the owner, which hands over.
    HandOver,
    /// A link is cut for two lease times.
    Partition(Link, Cut),
    /// Packets are lost between hosts.
    Lose(Loss),
    /// More than one step.
    Scenario(Scenario),
}

/// Which process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Owner,
    Standby,
    Waiter,
    Coordinator,
    Router,
    EtcdLeader,
    EtcdMajority,
    OwnerAndEtcdLeader,
    OwnerAndAllOfEtcd,
}

/// Which link of the owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    /// Producer to coordinator.
    Coordinator,
    /// Its coordinator to every etcd member.
    Etcd,
    /// Producer to router.
    Router,
}

/// How.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    Drop,
    Reject,
    Delay,
    NoRequests,
    NoAnswers,
}

/// How long a graceful hand-over may take.
const HAND_OVER: Duration = Duration::from_millis(500);
/// What a take-over may take beyond the lease.
const BEYOND: Duration = Duration::from_secs(2);
/// How long an owner waits for a router that does not answer before it lets others try.
const UNFIT: Duration = LEASE.saturating_mul(3);

/// Every fault that the links through proxies serve for, in a fixed order.
pub fn faults() -> Vec<Fault> {
    let plain = |name, kind| Fault { name, kind, bound: None };
    let bounded = |name, kind, bound| Fault { name, kind, bound: Some(bound) };
    let crash = LEASE + BEYOND;
    let mut all = vec![
        bounded("kill -9 owner", Kind::Kill(Target::Owner), crash),
        bounded("kill -9 owner and etcd leader", Kind::Kill(Target::OwnerAndEtcdLeader), LEASE * 2),
        bounded(
            "kill -9 owner, restart etcd",
            Kind::Kill(Target::OwnerAndAllOfEtcd),
            LEASE * 2 + BEYOND,
        ),
        bounded("hand-over (SIGTERM)", Kind::HandOver, HAND_OVER),
        bounded("kill -9 standby", Kind::Kill(Target::Standby), crash),
        bounded("kill -9 waiter", Kind::Kill(Target::Waiter), crash),
        plain("kill -9 coordinator", Kind::Kill(Target::Coordinator)),
        plain("kill -9 router", Kind::Kill(Target::Router)),
        plain("kill -9 etcd leader", Kind::Kill(Target::EtcdLeader)),
        plain("kill -9 two of etcd", Kind::Kill(Target::EtcdMajority)),
        bounded("freeze owner", Kind::Freeze(Target::Owner), crash),
        plain("freeze standby", Kind::Freeze(Target::Standby)),
        plain("freeze waiter", Kind::Freeze(Target::Waiter)),
        plain("freeze coordinator", Kind::Freeze(Target::Coordinator)),
        plain("freeze router", Kind::Freeze(Target::Router)),
        plain("freeze etcd leader", Kind::Freeze(Target::EtcdLeader)),
        plain("freeze two of etcd", Kind::Freeze(Target::EtcdMajority)),
    ];
    all.extend(
        PARTITIONS.iter().map(|(name, link, cut)| plain(name, Kind::Partition(*link, *cut))),
    );
    all.extend(SCENARIOS.iter().map(|(name, what)| plain(name, Kind::Scenario(*what))));
    all
}

/// Every fault of the network itself, for which each process needs a host.
pub fn losses() -> Vec<Fault> {
    let crash = LEASE + BEYOND;
    // A new leader of etcd gives every lease its whole time again; a member that comes back from
    // being alone may bring an election with it.
    let election = LEASE * 2 + BEYOND;
    let all = [
        ("packets: owner and coordinators", Kind::Lose(Loss::Coordinators), crash),
        ("packets: coordinators to owner", Kind::Lose(Loss::CoordinatorsAnswers), crash),
        ("packets: owner and router", Kind::Lose(Loss::Router), UNFIT + BEYOND),
        ("packets: owner isolated", Kind::Lose(Loss::Owner), crash),
        ("packets: coordinator isolated", Kind::Lose(Loss::Coordinator), crash),
        ("packets: coordinator to etcd", Kind::Lose(Loss::ToEtcd), crash),
        ("packets: etcd to coordinator", Kind::Lose(Loss::FromEtcd), crash),
        ("packets: etcd leader alone", Kind::Lose(Loss::EtcdLeader), election),
        ("packets: etcd follower alone", Kind::Lose(Loss::EtcdFollower), election),
        (
            "packets: every etcd member alone",
            Kind::Lose(Loss::EtcdMembers),
            packets::ALONE + election,
        ),
        ("packets: late open", Kind::Scenario(Scenario::LostOpen), crash),
    ];
    let bounded = |(name, kind, bound)| Fault { name, kind, bound: Some(bound) };
    all.map(bounded).into()
}

const PARTITIONS: [(&str, Link, Cut); 15] = [
    ("coordinator link: drop", Link::Coordinator, Cut::Drop),
    ("coordinator link: reject", Link::Coordinator, Cut::Reject),
    ("coordinator link: delay", Link::Coordinator, Cut::Delay),
    ("coordinator link: no requests", Link::Coordinator, Cut::NoRequests),
    ("coordinator link: no answers", Link::Coordinator, Cut::NoAnswers),
    ("etcd links: drop", Link::Etcd, Cut::Drop),
    ("etcd links: reject", Link::Etcd, Cut::Reject),
    ("etcd links: delay", Link::Etcd, Cut::Delay),
    ("etcd links: no requests", Link::Etcd, Cut::NoRequests),
    ("etcd links: no answers", Link::Etcd, Cut::NoAnswers),
    ("router link: drop", Link::Router, Cut::Drop),
    ("router link: reject", Link::Router, Cut::Reject),
    ("router link: delay", Link::Router, Cut::Delay),
    ("router link: no requests", Link::Router, Cut::NoRequests),
    ("router link: no answers", Link::Router, Cut::NoAnswers),
];

const SCENARIOS: [(&str, Scenario); 15] = [
    ("etcd disk stalls", Scenario::EtcdDiskStalls),
    ("journal: fsync fails", Scenario::SyncFails),
    ("journal: disk full", Scenario::DiskFull),
    ("owner's key deleted", Scenario::OwnersKeyDeleted),
    ("standby's key deleted", Scenario::StandbysKeyDeleted),
    ("frozen standby's turn comes", Scenario::FrozenStandbysTurn),
    ("etcd restarted", Scenario::EtcdRestarted),
    ("etcd restored from snapshot", Scenario::EtcdRestored),
    ("same-epoch reconnect, late frames", Scenario::SameEpoch),
    ("late open of an older epoch", Scenario::LateOpen),
    ("rogue writers", Scenario::RogueWriters),
    ("lost acks on capture", Scenario::LostAcks),
    ("keepalive answered late", Scenario::LateKeepAlive),
    ("wall clock stepped", Scenario::ClockStepped),
    ("owner's links cut, then frozen", Scenario::CutAndFrozen),
];
