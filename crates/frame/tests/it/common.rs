//! What the tests of this crate share: generated changes and the protobuf decoder as the judge.

use bytes::Bytes;
use proptest::prelude::*;
use prost::Message;
use sluice_frame::{BlockBuilder, BlockStart, Frame};
use sluice_model::{Epoch, Generation, Op, Pointer, TopicRules};
use sluice_proto::cosmos::store::v1beta1::StoreKvPair;

/// A change that owns its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Owned {
    pub(crate) store: String,
    pub(crate) op: Op,
    pub(crate) key: Vec<u8>,
    pub(crate) value: Vec<u8>,
}

impl Owned {
    pub(crate) fn pair(&self) -> StoreKvPair {
        StoreKvPair {
            store_key: self.store.clone(),
            delete: self.op == Op::Delete,
            key: self.key.clone().into(),
            value: self.value.clone().into(),
        }
    }
}

/// The message that a region of changes is.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Region {
    #[prost(message, repeated, tag = "15")]
    pub(crate) changes: Vec<StoreKvPair>,
}

pub(crate) fn region(changes: &[Owned]) -> Bytes {
    Region { changes: changes.iter().map(Owned::pair).collect() }.encode_to_vec().into()
}

pub(crate) fn change() -> impl Strategy<Value = Owned> {
    let store = prop_oneof![
        Just("bank".to_owned()),
        Just("staking".to_owned()),
        Just("abci.events".to_owned()),
        "[a-zé]{1,4}",
    ];
    let bytes = |max| prop::collection::vec(any::<u8>(), 0..max);
    (store, any::<bool>(), bytes(6), bytes(200)).prop_map(|(store, delete, key, value)| Owned {
        store,
        op: if delete { Op::Delete } else { Op::Set },
        key,
        value: if delete { Vec::new() } else { value },
    })
}

pub(crate) fn changes(max: usize) -> impl Strategy<Value = Vec<Owned>> {
    prop::collection::vec(change(), 0..max)
}

pub(crate) fn start(height: u64) -> BlockStart {
    BlockStart {
        ingestor: "chain-1".parse().unwrap(),
        generation: Generation(0),
        pointer: Pointer::from_height(height),
        parent: Pointer::from_height(height - 1),
        height,
        time: Some(1_700_000_000_000_000_001),
        epoch: Epoch::new(1, 9),
    }
}

pub(crate) fn topics() -> TopicRules {
    TopicRules::new(vec![
        serde_rule("bank", Some("hex:02"), "bank.balances"),
        serde_rule("bank", Some("hex:03"), "bank.denoms"),
        serde_rule("staking", None, "validators"),
    ])
}

fn serde_rule(store: &str, prefix: Option<&str>, topic: &str) -> sluice_model::TopicRule {
    sluice_model::TopicRule {
        store: store.into(),
        prefix: prefix.map(|prefix| prefix.parse().unwrap()),
        topic: topic.into(),
    }
}

pub(crate) fn block(changes: &[Owned], topics: &TopicRules) -> Vec<Frame> {
    let mut builder = BlockBuilder::new(start(7), topics);
    builder.push_changes(&region(changes)).unwrap();
    builder.finish("").into()
}
