//! What operators want of an ingestor.

use std::sync::Arc;

use sluice_model::{Epoch, Generation, IngestorName, Position};
use tokio::time::{Duration, Instant, timeout};

use super::{
    LossyKv,
    helpers::{
        LONG, candidate, candidate_under, coordination, delete_by_hand, nonce, own, pointer,
        session, waiting,
    },
};
use crate::{
    ActionKind, Control, ControlWatch, Coordination, Error, Ticket,
    control::{Finish, Request},
    kv::{Kv, Op, Txn},
};

const LOCK: &str = "ingestor/chain";

fn chain() -> IngestorName {
    "chain".parse().unwrap()
}

fn request(actor: &str, kind: ActionKind) -> Request {
    Request { nonce: nonce(), actor: actor.to_owned(), reason: "a test".to_owned(), kind }
}

fn finish(id: u64, done: bool, message: &str) -> Finish {
    Finish { id, done, message: message.to_owned() }
}

async fn ask(c: &Coordination, actor: &str, kind: ActionKind) -> Result<Control, Error> {
    c.request_action(&chain(), &request(actor, kind)).await
}

/// The kinds in the trail, in order.
async fn kinds(c: &Coordination) -> Vec<String> {
    let entries = c.list_audit(&chain(), 0, usize::MAX).await.unwrap();
    entries.into_iter().map(|entry| entry.kind).collect()
}

async fn told(watch: &mut ControlWatch) -> Control {
    timeout(Duration::from_secs(20), watch.next()).await.unwrap().unwrap().unwrap()
}

/// Follows until the state is this one; what comes before must be older.
async fn until_told(watch: &mut ControlWatch, last: &Control) {
    let mut version = None;
    loop {
        let control = told(watch).await;
        assert!(Some(control.version) > version, "{version:?}, then {}", control.version);
        version = Some(control.version);
        if control == *last {
            return;
        }
    }
}

pub(super) async fn pausing_is_idempotent_and_audited_once(kv: Arc<dyn Kv>) {
    let c = coordination(kv, "pause");
    assert_eq!(c.control(&chain()).await.unwrap(), Control::default());
    assert_eq!(c.set_paused(&chain(), false, "ops", "").await.unwrap(), Control::default());
    let paused = c.set_paused(&chain(), true, "ops", "maintenance").await.unwrap();
    let pause = paused.paused.clone().unwrap();
    assert_eq!((pause.by.as_str(), pause.reason.as_str()), ("ops", "maintenance"));
    assert_eq!(paused.version, 1);
    assert_eq!(c.set_paused(&chain(), true, "other", "again").await.unwrap(), paused);
    assert_eq!(c.control(&chain()).await.unwrap(), paused);
    assert_eq!(c.control(&"chain/2".parse().unwrap()).await.unwrap(), Control::default());
    let resumed = c.set_paused(&chain(), false, "other", "").await.unwrap();
    assert_eq!((resumed.version, resumed.paused), (2, None));
    let trail = c.list_audit(&chain(), 0, usize::MAX).await.unwrap();
    let trail: Vec<_> = trail.iter().map(|e| (e.kind.as_str(), e.actor.as_str())).collect();
    assert_eq!(trail, [("paused", "ops"), ("resumed", "other")]);
    for actor in ["", " ", &"x".repeat(300)] {
        let refused = c.set_paused(&chain(), true, actor, "").await;
        assert!(matches!(refused, Err(Error::Key(_))), "{refused:?}");
    }
}

/// An alarm holds the ingestor as a pause does, and neither passes for the other.
pub(super) async fn an_alarm_is_no_persons_pause(kv: Arc<dyn Kv>) {
    let c = coordination(kv, "alarm");
    let alarmed = c.raise_alarm(&chain(), "feed", "block 7 differs").await.unwrap();
    assert!(alarmed.paused.as_ref().unwrap().alarm);
    assert_eq!(c.raise_alarm(&chain(), "other feed", "again").await.unwrap(), alarmed);
    assert_eq!(c.set_paused(&chain(), true, "ops", "me too").await.unwrap(), alarmed);
    let resumed = c.set_paused(&chain(), false, "ops", "mended").await.unwrap();
    assert_eq!(resumed.paused, None);
    c.set_paused(&chain(), true, "ops", "upgrade").await.unwrap();
    let refused = c.raise_alarm(&chain(), "feed", "block 9 differs").await.unwrap_err();
    assert!(matches!(&refused, Error::PausedBefore { by, .. } if by == "ops"), "{refused}");
    assert!(!c.control(&chain()).await.unwrap().paused.unwrap().alarm);
    let trail = c.list_audit(&chain(), 0, usize::MAX).await.unwrap();
    let trail: Vec<_> = trail.iter().map(|e| (e.kind.as_str(), e.actor.as_str())).collect();
    assert_eq!(trail, [("diverged", "feed"), ("resumed", "ops"), ("paused", "ops")]);
}

/// Every change compares what it read: none of many at once is lost, none is doubled.
pub(super) async fn racing_changes_are_one_after_another(kv: Arc<dyn Kv>) {
    let c = coordination(kv, "control-race");
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..32 {
        let c = c.clone();
        tasks.spawn(async move {
            let actor = format!("ops {n}");
            match n % 2 {
                0 => c.set_paused(&chain(), true, &actor, "").await.map(|_| None),
                _ => ask(&c, &actor, ActionKind::Retry).await.map(|_| Some(actor)),
            }
        });
    }
    let mut won = Vec::new();
    let mut named = Vec::new();
    for result in tasks.join_all().await {
        match result {
            Ok(winner) => won.extend(winner),
            Err(Error::ActionWaits { action, .. }) => named.push(action.actor),
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!((won.len(), named.len()), (1, 15), "one of the actions is taken");
    assert!(named.iter().all(|name| *name == won[0]), "the others hear which");
    let control = c.control(&chain()).await.unwrap();
    assert_eq!(control.version, 2, "one pause and one action");
    assert_eq!(control.action.unwrap().actor, won[0]);
    let mut kinds = kinds(&c).await;
    kinds.sort();
    assert_eq!(kinds, ["action-requested", "paused"]);
}

/// The comparison is in the writing transaction, not only in what was read before it.
pub(super) async fn a_change_between_read_and_write(kv: Arc<dyn Kv>) {
    let lossy = Arc::new(LossyKv::new(Arc::clone(&kv)));
    let c = coordination(Arc::clone(&lossy) as Arc<dyn Kv>, "control-between");
    // Another operator is faster with an action: the second one is refused, and hears of it.
    let other = c.clone();
    lossy.before_next_write(async move {
        ask(&other, "first", ActionKind::AcceptLoss).await.unwrap();
    });
    let refused = ask(&c, "second", ActionKind::Retry).await.unwrap_err();
    let Error::ActionWaits { action, .. } = &refused else { panic!("{refused}") };
    assert_eq!((action.actor.as_str(), action.kind.name()), ("first", "accept-loss"));
    // Another one pauses meanwhile: both take effect.
    let other = c.clone();
    lossy.before_next_write(async move {
        other.set_paused(&chain(), true, "ops", "").await.unwrap();
    });
    let cancelled = c.cancel_action(&chain(), 1, "ops", "").await.unwrap();
    assert!(cancelled.paused.is_some() && cancelled.action.is_none());
    assert_eq!(cancelled.version, 3);
}

pub(super) async fn actions_come_one_at_a_time(kv: Arc<dyn Kv>) {
    let c = coordination(kv, "actions");
    let (owner, epoch) = own(&c, LOCK, LONG).await;
    let skip = ActionKind::Skip { pointer: pointer(7), through: pointer(9) };
    let asked = ask(&c, "ops", skip.clone()).await.unwrap();
    let action = asked.action.clone().unwrap();
    assert_eq!((action.id, &action.kind, asked.version), (1, &skip, 1));
    let refused = ask(&c, "other", ActionKind::Retry).await.unwrap_err();
    assert!(matches!(&refused, Error::ActionWaits { .. }), "{refused}");
    let text = refused.to_string();
    assert!(text.contains('1') && text.contains("skip") && text.contains("ops"), "{text}");
    let ended = c.finish_action(&owner, epoch, &chain(), &finish(1, true, "gap")).await.unwrap();
    let last = ended.last.clone().unwrap();
    assert_eq!((last.id, last.done, last.kind.as_str()), (1, true, "skip"));
    assert_eq!((last.actor.as_str(), last.message.as_str(), last.epoch), ("ops", "gap", epoch));
    assert_eq!((ended.action, ended.version), (None, 2));
    let to = Position::end_of(Generation(0), pointer(3));
    let rewind = ActionKind::Rewind { to, digest: None };
    let asked = ask(&c, "other", rewind).await.unwrap();
    assert_eq!(asked.action.unwrap().id, 2);
    assert_eq!(asked.last, ended.last, "how the one before ended stays");
    let failed = c.finish_action(&owner, epoch, &chain(), &finish(2, false, "no")).await.unwrap();
    assert!(!failed.last.unwrap().done);
    let kinds = kinds(&c).await;
    let expected =
        ["owned", "action-requested", "action-done", "action-requested", "action-failed"];
    assert_eq!(kinds, expected);
    let backwards = ActionKind::Skip { pointer: pointer(9), through: pointer(7) };
    let refused = ask(&c, "ops", backwards).await;
    assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
}

pub(super) async fn a_repeated_request_is_one_action(kv: Arc<dyn Kv>) {
    let lossy = Arc::new(LossyKv::new(kv));
    let c = coordination(Arc::clone(&lossy) as Arc<dyn Kv>, "action-lost");
    let (owner, epoch) = own(&c, LOCK, LONG).await;
    let request = request("ops", ActionKind::HandOver);
    lossy.lose(1);
    let asked = c.request_action(&chain(), &request).await.unwrap();
    assert_eq!((lossy.left(), asked.version), (0, 1));
    assert_eq!(c.request_action(&chain(), &request).await.unwrap(), asked);
    lossy.lose(1);
    let ended = c.finish_action(&owner, epoch, &chain(), &finish(1, true, "")).await.unwrap();
    assert_eq!((lossy.left(), ended.version), (0, 2));
    // Its reply was so late that it is done already: it is not asked for once more.
    assert_eq!(c.request_action(&chain(), &request).await.unwrap(), ended);
    assert_eq!(kinds(&c).await, ["owned", "action-requested", "action-done"]);
}

/// The fence: who does not own the ingestor's lock ends no action.
pub(super) async fn only_the_owner_finishes(kv: Arc<dyn Kv>) {
    let lossy = Arc::new(LossyKv::new(Arc::clone(&kv)));
    let c = coordination(Arc::clone(&lossy) as Arc<dyn Kv>, "finish-fence");
    let (old, old_epoch) = own(&c, LOCK, LONG).await;
    let asked = ask(&c, "ops", ActionKind::Retry).await.unwrap();
    c.end_session(old.session).await.unwrap();
    let done = finish(1, true, "done by a ghost");
    let refused = async |ticket: &Ticket, epoch: Epoch| {
        let refused = c.finish_action(ticket, epoch, &chain(), &done).await;
        assert!(matches!(refused, Err(Error::LostOwnership { .. })), "{refused:?}");
    };
    refused(&old, old_epoch).await;
    let (new, epoch) = own(&c, LOCK, LONG).await;
    refused(&old, old_epoch).await;
    // Nor with the new owner's key and another epoch, nor as one who waits, nor with the lock of
    // something else.
    refused(&new, old_epoch).await;
    let under = session(&c, LONG).await;
    let (waiter, mut queued) = candidate_under(&c, LOCK, under);
    waiting(&mut queued).await;
    for claim in [epoch, Epoch::ZERO, Epoch::from_u64(u64::MAX)] {
        refused(&waiter, claim).await;
    }
    let (other, other_epoch) = own(&c, "ingestor/other", LONG).await;
    let wrong = c.finish_action(&other, other_epoch, &chain(), &done).await;
    assert!(matches!(wrong, Err(Error::Invalid(_))), "{wrong:?}");
    // Ownership goes between the read and the write.
    let key = c.candidate_key(&new).unwrap();
    lossy.before_next_write(async move {
        kv.txn(Txn::read(vec![Op::Delete(key)])).await.unwrap();
    });
    refused(&new, epoch).await;
    assert_eq!(c.control(&chain()).await.unwrap(), asked, "nothing of all that took effect");
    let later = super::helpers::owned(&mut queued).await;
    c.finish_action(&waiter, later, &chain(), &finish(1, true, "")).await.unwrap();
}

pub(super) async fn finishing_twice_is_finishing_once(kv: Arc<dyn Kv>) {
    let c = coordination(kv, "finish-twice");
    let (owner, epoch) = own(&c, LOCK, LONG).await;
    let end = async |id, done, message: &str| {
        c.finish_action(&owner, epoch, &chain(), &finish(id, done, message)).await
    };
    for id in [0, 1] {
        assert!(matches!(end(id, true, "").await, Err(Error::Invalid(_))), "nothing was asked");
    }
    ask(&c, "ops", ActionKind::Retry).await.unwrap();
    assert!(matches!(end(2, true, "").await, Err(Error::Invalid(_))));
    let ended = end(1, true, "first").await.unwrap();
    assert_eq!(end(1, false, "second").await.unwrap(), ended, "the first answer stays");
    let next = ask(&c, "ops", ActionKind::Retry).await.unwrap();
    assert_eq!(end(1, true, "late").await.unwrap(), next, "the next one still waits");
    end(2, true, "").await.unwrap();
    assert_eq!(end(1, true, "later").await.unwrap().last.unwrap().id, 2);
    let done = kinds(&c).await.iter().filter(|kind| *kind == "action-done").count();
    assert_eq!(done, 2);
    let long = "ü".repeat(4000);
    ask(&c, "ops", ActionKind::Retry).await.unwrap();
    assert!(end(3, true, &long).await.unwrap().last.unwrap().message.len() <= 1024);
}

pub(super) async fn withdrawn_actions(kv: Arc<dyn Kv>) {
    let c = coordination(kv, "cancel");
    let (owner, epoch) = own(&c, LOCK, LONG).await;
    let none = c.cancel_action(&chain(), 1, "ops", "").await;
    assert!(matches!(none, Err(Error::Invalid(_))), "{none:?}");
    ask(&c, "ops", ActionKind::AcceptLoss).await.unwrap();
    let cancelled = c.cancel_action(&chain(), 1, "other", "not so fast").await.unwrap();
    let last = cancelled.last.clone().unwrap();
    assert!(last.cancelled && !last.done && last.epoch == Epoch::ZERO);
    assert!(last.message.contains("other") && last.message.contains("not so fast"));
    assert_eq!(c.cancel_action(&chain(), 1, "other", "").await.unwrap(), cancelled, "once");
    // An owner that hears of it in time says that it did nothing; one that did it, that it did.
    let end = async |id, done| {
        c.finish_action(&owner, epoch, &chain(), &finish(id, done, "so it is")).await.unwrap()
    };
    assert_eq!(end(1, false).await, cancelled);
    let truth = end(1, true).await.last.unwrap();
    assert!(truth.done && !truth.cancelled && truth.epoch == epoch);
    // What ended cannot be withdrawn.
    ask(&c, "ops", ActionKind::Retry).await.unwrap();
    end(2, true).await;
    let late = c.cancel_action(&chain(), 2, "ops", "").await;
    assert!(matches!(late, Err(Error::ActionEnded { id: 2, .. })), "{late:?}");
}

pub(super) async fn watch_tells_the_present_and_every_last_state(kv: Arc<dyn Kv>) {
    let c = coordination(kv, "control-watch");
    let mut early = c.watch_control(&chain());
    assert_eq!(told(&mut early).await, Control::default(), "before there is anything");
    let follower = tokio::spawn(async move {
        let mut seen = Vec::new();
        while seen.last().is_none_or(|seen: &Control| seen.version < 60) {
            seen.push(told(&mut early).await);
        }
        (seen, early)
    });
    for n in 0..60 {
        c.set_paused(&chain(), n % 2 == 0, "ops", &n.to_string()).await.unwrap();
    }
    let (seen, mut early) = follower.await.unwrap();
    assert!(seen.windows(2).all(|pair| pair[0].version < pair[1].version), "in order, once each");
    let mut late = c.watch_control(&chain());
    assert_eq!(Some(&told(&mut late).await), seen.last());
    for round in 0..20 {
        let control = c.set_paused(&chain(), round % 2 == 0, "ops", "").await.unwrap();
        assert_eq!(told(&mut early).await, control);
        assert_eq!(told(&mut late).await, control);
    }
    // Other ingestors' controls are not seen.
    c.set_paused(&"chain/2".parse().unwrap(), true, "ops", "").await.unwrap();
    c.set_paused(&"chai".parse().unwrap(), true, "ops", "").await.unwrap();
    let quiet = timeout(Duration::from_millis(300), early.next()).await;
    assert!(quiet.is_err(), "{quiet:?}");
}

pub(super) async fn watch_survives_lost_watches(kv: Arc<dyn Kv>) {
    let lossy = Arc::new(LossyKv::new(kv));
    let c = coordination(Arc::clone(&lossy) as Arc<dyn Kv>, "control-cut");
    let mut watch = c.watch_control(&chain());
    told(&mut watch).await;
    for round in 0..5 {
        let before = c.set_paused(&chain(), round % 2 == 0, "ops", "").await.unwrap();
        until_told(&mut watch, &before).await;
        // What happens while nobody watches is told all the same.
        lossy.cut_watches();
        ask(&c, "ops", ActionKind::Retry).await.unwrap();
        let id = u64::try_from(round).unwrap() + 1;
        let last = c.cancel_action(&chain(), id, "ops", "").await.unwrap();
        until_told(&mut watch, &last).await;
    }
    // A control deleted by hand is as if nobody had wanted anything.
    let key = c.keys.control(&chain());
    c.kv().txn(Txn::read(vec![Op::Delete(key.clone())])).await.unwrap();
    assert_eq!(told(&mut watch).await, Control::default());
    // And a damaged one is an error that names it.
    let value = "not a control".into();
    c.kv().txn(Txn::read(vec![Op::Put { key: key.clone(), value, lease: None }])).await.unwrap();
    let error = timeout(Duration::from_secs(20), watch.next()).await.unwrap().unwrap();
    assert!(matches!(&error, Err(Error::Record { key: named, .. }) if *named == key), "{error:?}");
    assert!(watch.next().await.is_none());
}

/// Must have the store to itself.
pub(super) async fn watch_survives_compaction(kv: Arc<dyn Kv>) {
    let c = coordination(kv, "control-compacted");
    let mut watch = c.watch_control(&chain());
    told(&mut watch).await;
    for round in 0..3 {
        c.set_paused(&chain(), true, "ops", "").await.unwrap();
        let last = c.set_paused(&chain(), false, "ops", "").await.unwrap();
        let (revision, _) = c.kv().status().await.unwrap();
        c.kv().compact(revision).await.unwrap();
        let since = Instant::now();
        until_told(&mut watch, &last).await;
        assert!(since.elapsed() < Duration::from_secs(5), "round {round}");
    }
}

/// An operator's word outlives the owner: whoever owns the ingestor next finds it.
pub(super) async fn the_next_owner_finds_what_waits(kv: Arc<dyn Kv>) {
    let c = coordination(kv, "control-next");
    let (first, _) = own(&c, LOCK, LONG).await;
    let (second, mut queued) = candidate(&c, LOCK, LONG).await;
    waiting(&mut queued).await;
    ask(&c, "ops", ActionKind::AcceptLoss).await.unwrap();
    delete_by_hand(&c, &first).await;
    let epoch = super::helpers::owned(&mut queued).await;
    let mut watch = c.watch_control(&chain());
    let action = told(&mut watch).await.action.unwrap();
    assert_eq!(action.kind, ActionKind::AcceptLoss);
    let ended =
        c.finish_action(&second, epoch, &chain(), &finish(action.id, true, "")).await.unwrap();
    assert_eq!(told(&mut watch).await, ended);
    let kinds = kinds(&c).await;
    assert_eq!(kinds, ["owned", "action-requested", "lost", "owned", "action-done"]);
}
