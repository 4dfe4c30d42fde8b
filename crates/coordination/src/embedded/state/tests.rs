use proptest::prelude::*;

use super::*;

fn op() -> impl Strategy<Value = Op> {
    let key = prop::sample::select(vec!["a", "b", "c", "d/1", "d/2"]).prop_map(str::to_owned);
    let lease = prop::option::of(1..4u64);
    prop_oneof![
        (key.clone(), prop::collection::vec(any::<u8>(), 0..4), lease)
            .prop_map(|(key, value, lease)| Op::Put { key, value: value.into(), lease }),
        key.clone().prop_map(Op::Delete),
        key.prop_map(Op::Get),
        Just(Op::Range("d/".to_owned(), 10)),
    ]
}

#[derive(Clone, Debug)]
enum Step {
    Txn(Vec<Op>),
    Grant(u64),
    Revoke(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => prop::collection::vec(op(), 1..4).prop_map(Step::Txn),
        1 => (1..4u64).prop_map(Step::Grant),
        1 => (1..4u64).prop_map(Step::Revoke),
    ]
}

proptest! {
    /// Replaying the mutations, from nothing or from a snapshot in the middle, gives the state.
    #[test]
    fn replay_gives_the_same_state(steps in prop::collection::vec(step(), 1..60), cut in 0..60usize) {
        let mut state = State::default();
        let mut all = Vec::new();
        let mut from_snapshot = Vec::new();
        for (at, step) in steps.into_iter().enumerate() {
            if at == cut {
                from_snapshot = state.snapshot();
            }
            let before = state.clone();
            let mutation = match step {
                Step::Txn(ops) => match state.txn(&Txn::read(ops)) {
                    Ok((_, mutation)) => mutation,
                    Err(_) => { prop_assert_eq!(&state, &before); None }
                },
                Step::Grant(lease) => state.grant(lease, 1000 * lease),
                Step::Revoke(lease) => state.revoke(lease).map(|(mutation, _)| mutation),
            };
            all.extend(mutation.clone());
            if at >= cut {
                from_snapshot.extend(mutation);
            }
        }
        for log in [all, from_snapshot] {
            if log.is_empty() { continue; }
            let mut again = State::default();
            for mutation in log {
                again.replay(mutation).unwrap();
            }
            if again.revision() == state.revision() {
                prop_assert_eq!(&again, &state);
            }
        }
    }
}

#[test]
fn replay_refuses_a_hole() {
    let mut state = State::default();
    let put = Change::Delete { key: "a".to_owned() };
    assert!(state.replay(Mutation::Commit(2, vec![put])).is_err());
}

#[test]
fn a_key_moved_to_another_lease_survives_the_first() {
    let mut state = State::default();
    state.grant(1, 1);
    state.grant(2, 1);
    for lease in [1, 2] {
        let put = Op::Put { key: "a".into(), value: Bytes::new(), lease: Some(lease) };
        state.txn(&Txn::read(vec![put])).unwrap();
    }
    state.revoke(1);
    assert_eq!(state.range("", 10).entries.len(), 1);
    state.revoke(2);
    assert!(state.range("", 10).entries.is_empty());
}
