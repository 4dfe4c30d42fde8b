//! What operators want, and the trail, through the client.

use std::{sync::Arc, time::Duration};

use futures_util::FutureExt;
use sluice_client::coordination::{
    ActionKind, AuditEntry, AuditKind, Control, ControlWatch, CoordinationError,
};
use sluice_coordination::{Kv, conformance::Case};
use sluice_model::{Digest, Generation, Position};
use tokio::time::timeout;

use crate::{
    cases::{LOCK, LONG, acquire, queue},
    node::{Fault, Node, ingestor, pointer},
};

pub(crate) fn all() -> Vec<Case> {
    vec![
        Case { name: "operators_and_the_owner", run: |kv| operators_and_the_owner(kv).boxed() },
        Case {
            name: "a_watch_survives_replicas_and_lost_calls",
            run: |kv| a_watch_survives_replicas_and_lost_calls(kv).boxed(),
        },
        Case { name: "the_trail_is_told", run: |kv| the_trail_is_told(kv).boxed() },
    ]
}

fn conflict(error: CoordinationError) -> String {
    match error {
        CoordinationError::Refused { reason, message, .. } if reason == "CONFLICT" => message,
        other => panic!("{other}"),
    }
}

/// Every verb, over lost replies, and the fence of the last one.
async fn operators_and_the_owner(kv: Arc<dyn Kv>) {
    let node = Node::new(kv, "operators");
    let client = node.client();
    let chain = ingestor("chain");
    let (one, two) = (node.session("one").await, node.session("two").await);
    let lock = acquire(&one, LOCK).await;
    for method in ["SetPaused", "RequestAction", "CancelAction", "FinishAction", "RecordAudit"] {
        node.fault(method, Some(Fault::LoseReplies(1)));
    }
    let paused = client.set_paused(&chain, true, "ops", "maintenance").await.unwrap();
    let pause = paused.paused.clone().unwrap();
    assert_eq!((pause.by.as_str(), pause.reason.as_str()), ("ops", "maintenance"));
    assert!(pause.at > 0 && paused.ingestor == chain && paused.version == 1);
    // What is asked for comes through as it was meant.
    let to = Position::end_of(Generation(2), pointer(5));
    let kinds = [
        ActionKind::Retry,
        ActionKind::Skip { pointer: pointer(7), through: pointer(7) },
        ActionKind::Skip { pointer: pointer(7), through: pointer(9) },
        ActionKind::Rewind { to: to.clone(), digest: None },
        ActionKind::Rewind { to, digest: Some(Digest::from_array([3; 32])) },
        ActionKind::AcceptLoss,
    ];
    let mut id = 0;
    for kind in kinds {
        let asked = client.request_action(&chain, "ops", "why", kind.clone()).await.unwrap();
        let action = asked.action.clone().unwrap();
        id += 1;
        assert_eq!((action.id, &action.kind, action.reason.as_str()), (id, &kind, "why"));
        let second = client.request_action(&chain, "x", "", ActionKind::HandOver).await;
        let message = conflict(second.unwrap_err());
        assert!(message.contains(kind.name()) && message.contains("ops"), "{message}");
        let ended = match id {
            1 => client.cancel_action(&chain, id, "ops", "").await.unwrap(),
            _ => lock.finish_action(&chain, id, true, "as asked").await.unwrap(),
        };
        let last = ended.last.clone().unwrap();
        assert_eq!((last.id, last.cancelled, last.done), (id, id == 1, id != 1));
        assert_eq!((last.kind.as_str(), ended.action), (kind.name(), None));
    }
    assert!(
        conflict(client.cancel_action(&chain, id, "ops", "").await.unwrap_err()).contains("ended")
    );
    // The next owner finds what the one before did not do, which can no longer end it.
    let waiter = queue(&node, &two, LOCK).await;
    client.request_action(&chain, "ops", "", ActionKind::HandOver).await.unwrap();
    node.delete_by_hand(&lock).await;
    let next = timeout(LONG, waiter).await.unwrap().unwrap();
    let refused = lock.finish_action(&chain, id + 1, true, "").await.unwrap_err();
    assert!(matches!(refused, CoordinationError::LostOwnership { .. }), "{refused}");
    let found = client.watch_control(&chain).next().await.unwrap();
    assert_eq!(found.action.unwrap().kind, ActionKind::HandOver);
    let ended = next.finish_action(&chain, id + 1, false, "nobody else waits").await.unwrap();
    assert!(!ended.last.unwrap().done && ended.paused.is_some());
}

async fn told(watch: &mut ControlWatch) -> Control {
    timeout(LONG, watch.next()).await.unwrap().unwrap()
}

/// The present state first, then every last one, whatever happens to calls and coordinators.
async fn a_watch_survives_replicas_and_lost_calls(kv: Arc<dyn Kv>) {
    let node = Node::new(kv, "watches");
    let client = node.client();
    let chain = ingestor("chain");
    let mut watch = client.watch_control(&chain);
    let first = told(&mut watch).await;
    assert_eq!((first.version, &first.paused, &first.action), (0, &None, &None));
    for round in 0..4 {
        let last = client.set_paused(&chain, round % 2 == 0, "ops", "").await.unwrap();
        assert_eq!(told(&mut watch).await, last, "the same state is not told twice");
        if round == 2 {
            node.fault("WatchControl", Some(Fault::LoseReplies(2)));
        }
        node.change_replica();
        let last = client.request_action(&chain, "ops", "", ActionKind::Retry).await.unwrap();
        let id = last.action.unwrap().id;
        let last = client.cancel_action(&chain, id, "ops", "").await.unwrap();
        while told(&mut watch).await != last {}
    }
    // Dropping a call in the middle loses nothing.
    for _ in 0..20 {
        assert!(timeout(Duration::from_millis(1), watch.next()).await.is_err());
    }
    let last = client.set_paused(&chain, true, "ops", "").await.unwrap();
    assert_eq!(told(&mut watch).await, last);
    let refused = client.set_paused(&chain, true, "", "").await.unwrap_err();
    assert!(matches!(&refused, CoordinationError::Refused { reason, .. } if reason == "INVALID"));
}

async fn the_trail_is_told(kv: Arc<dyn Kv>) {
    let node = Node::new(kv, "trail");
    let client = node.client();
    let chain = ingestor("chain");
    let session = node.session("one").await;
    let lock = acquire(&session, LOCK).await;
    let entry =
        |kind, detail: &str| AuditEntry::new(chain.clone(), kind, "one", lock.epoch(), detail);
    node.fault("RecordAudit", Some(Fault::LoseReplies(1)));
    let sequence = client.audit(&entry(AuditKind::Blocked, "a cause")).await.unwrap();
    client.audit(&entry(AuditKind::Other("noticed".to_owned()), "")).await.unwrap();
    lock.release().await.unwrap();
    let trail = client.list_audit(&chain, 0, 0).await.unwrap();
    let kinds: Vec<_> = trail.iter().map(|entry| entry.kind.as_str()).collect();
    assert_eq!(kinds, ["owned", "blocked", "noticed", "released"]);
    let blocked = &trail[1];
    assert_eq!((blocked.sequence, blocked.detail.as_str()), (sequence, "a cause"));
    assert_eq!((blocked.actor.as_str(), blocked.epoch), ("one", lock.epoch()));
    assert!(trail.iter().all(|entry| entry.at > 0 && entry.ingestor == chain));
    assert_eq!(client.list_audit(&chain, sequence, 0).await.unwrap(), trail[2..]);
    assert_eq!(client.list_audit(&chain, 0, 1).await.unwrap(), trail[3..]);
    let refused = client.audit(&entry(AuditKind::Owned, "")).await.unwrap_err();
    assert!(matches!(&refused, CoordinationError::Refused { reason, .. } if reason == "INVALID"));
}
