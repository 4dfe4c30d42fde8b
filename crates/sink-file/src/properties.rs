//! The law of both formats for any stream: however it is cut into batches and wherever the
//! process or the power goes, the tree is that of an undisturbed run.

use proptest::prelude::*;
use sluice_config::ByteSize;

use crate::{
    config::{FileOptions, Format},
    layer::memory::Cut,
    names::Layout,
    testing::{Pair, Rig, Step, assert_same, part, set, visible, with_metadata},
};

/// What comes next in a stream.
#[derive(Clone, Debug)]
enum Move {
    /// A block after some without a match, in parts, each with changes in these stores.
    Block {
        skip: u64,
        parts: Vec<Vec<u8>>,
        metadata: bool,
    },
    Unmatched(u64),
    Gap(u64),
    Rewind(u64),
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let parts = prop::collection::vec(prop::collection::vec(0u8..3, 0..4), 1..4);
    let block = (0u64..6, parts, any::<bool>()).prop_map(|(skip, parts, metadata)| Move::Block {
        skip,
        parts,
        metadata,
    });
    prop::collection::vec(
        prop_oneof![
            6 => block,
            2 => (1u64..25).prop_map(Move::Unmatched),
            1 => (1u64..15).prop_map(Move::Gap),
            1 => (0u64..12).prop_map(Move::Rewind),
        ],
        1..14,
    )
}

fn steps(moves: &[Move]) -> Vec<Step> {
    let (mut generation, mut height) = (0, 0u64);
    let mut steps = Vec::new();
    for next in moves {
        match next {
            Move::Block { skip, parts, metadata } => {
                height += skip + 1;
                steps.extend(block(generation, height, parts, *metadata));
            }
            Move::Unmatched(blocks) => {
                height += blocks;
                steps.push(Step::Through(generation, height));
            }
            Move::Gap(blocks) => {
                steps.push(Step::Gap(generation, height + 1, height + blocks));
                height += blocks;
            }
            Move::Rewind(back) => {
                // A batch does not tell how far an old history went without a match, so the last
                // block before a rewind has one.
                height += 1;
                steps.extend(block(generation, height, &[vec![0]], false));
                (generation, height) = (generation + 1, height.saturating_sub(*back));
                steps.push(Step::Rewind(generation, height));
            }
        }
    }
    steps
}

fn block(generation: u32, height: u64, parts: &[Vec<u8>], metadata: bool) -> Vec<Step> {
    const STORES: [&str; 3] = ["acc", "bank", "staking"];
    let mut first = 0;
    let mut steps = Vec::new();
    for (i, stores) in parts.iter().enumerate() {
        let keys: Vec<[u8; 4]> = (first..).take(stores.len()).map(u32::to_be_bytes).collect();
        let pairs: Vec<Pair<'_>> = stores
            .iter()
            .zip(&keys)
            .map(|(store, key)| set(STORES[usize::from(*store)], key, b"value"))
            .collect();
        let number = u32::try_from(i).unwrap();
        let frame = part(generation, height, number, first, &pairs, i + 1 == parts.len());
        first += u32::try_from(stores.len()).unwrap();
        steps.push(Step::Frame(if metadata { with_metadata(frame, b"\x0a\x00") } else { frame }));
    }
    steps
}

fn options() -> impl Strategy<Value = FileOptions> {
    let layouts = [(Format::Jsonl, Layout::StoreHeight), (Format::Jsonl, Layout::Flat)]
        .into_iter()
        .chain([(Format::Cosmos, Layout::Flat), (Format::Cosmos, Layout::Height)])
        .collect::<Vec<_>>();
    (prop::sample::select(layouts), 1u64..12, prop_oneof![Just(600u64), Just(1 << 20)]).prop_map(
        |((format, layout), align_blocks, max_bytes)| FileOptions {
            format,
            layout: Some(layout),
            align_blocks,
            max_bytes: ByteSize(max_bytes),
            ..FileOptions::default()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn a_crash_anywhere_leaves_no_trace(
        moves in moves(), options in options(), at in any::<u64>(),
        cut in prop::sample::select(vec![Cut::Process, Cut::Everything, Cut::Bytes]),
    ) {
        Rig::new(steps(&moves), options).survives_one_crash(at, cut);
    }

    #[test]
    fn batches_leave_no_trace(moves in moves(), options in options(), per_batch in 1usize..9) {
        let rig = Rig::new(steps(&moves), options);
        assert_same(&visible(&rig.run(per_batch)), &visible(&rig.run(1)), "cut otherwise");
    }
}
