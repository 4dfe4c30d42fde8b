use async_trait::async_trait;
use sluice_model::{Generation, Pointer};

use super::*;

/// A side that gives what it was made of.
struct Made {
    first: u64,
    steps: VecDeque<Step>,
}

#[async_trait]
impl Side for Made {
    fn first(&self) -> u64 {
        self.first
    }

    fn last(&self) -> Option<u64> {
        None
    }

    async fn next(&mut self) -> Result<Option<Step>, Failure> {
        Ok(self.steps.pop_front())
    }
}

fn digest(byte: u8) -> Digest {
    Digest::from_array([byte; 32])
}

fn block(height: u64, stores: &[(&str, u8)]) -> Block {
    let state = |(store, byte): &(&str, u8)| StateDigest {
        store: (*store).to_owned(),
        digest: digest(*byte),
    };
    Block {
        height,
        pointer: Pointer::from_height(height),
        generation: Generation(0),
        digest: Some(digest(u8::try_from(height).unwrap())),
        stores: stores.iter().map(state).collect(),
        metadata: None,
        linked: true,
    }
}

fn side(steps: impl IntoIterator<Item = Step>) -> Made {
    let steps: VecDeque<Step> = steps.into_iter().collect();
    let first = steps.iter().find_map(|step| match step {
        Step::Block(block) => Some(block.height),
        _ => None,
    });
    Made { first: first.unwrap_or(0), steps }
}

fn blocks(heights: impl IntoIterator<Item = u64>) -> Vec<Step> {
    heights.into_iter().map(|height| Step::Block(block(height, &[("bank", 1)]))).collect()
}

async fn found(here: Made, there: Made) -> Report {
    within(here, there, &Scope::new(&[], None, None).unwrap()).await
}

async fn within(mut here: Made, mut there: Made, scope: &Scope) -> Report {
    let mut last = 0;
    let mut tell = |height| {
        assert!(height >= last, "progress goes one way");
        last = height;
    };
    compare(&mut here, &mut there, scope, &mut tell).await.unwrap()
}

fn what(report: &Report) -> (u64, &What) {
    let difference = report.difference.as_ref().unwrap();
    (difference.height, &difference.what)
}

#[tokio::test]
async fn the_common_stretch_of_equal_sides_is_the_same() {
    let report = found(side(blocks(1..=9)), side(blocks(4..=12))).await;
    assert_eq!((report.blocks, report.chained, report.difference), (6, 6, None));
    assert_eq!(report.range, Some((4, 9)));
    let apart = found(side(blocks(1..=3)), side(blocks(7..=9))).await;
    assert_eq!((apart.blocks, apart.range, apart.difference), (0, None, None));
}

#[tokio::test]
async fn the_first_store_that_differs_is_named() {
    let mut other = blocks(1..=9);
    other[4] = Step::Block(block(5, &[("bank", 2), ("gov", 3)]));
    other[6] = Step::Block(block(7, &[("bank", 2)]));
    let report = found(side(blocks(1..=9)), side(other)).await;
    let (height, What::Stores(stores)) = what(&report) else { panic!("{report:?}") };
    assert_eq!((height, report.range), (5, Some((1, 5))));
    let names: Vec<_> = stores.iter().map(|store| (&*store.store, store.here.is_some())).collect();
    assert_eq!(names, [("bank", true), ("gov", false)]);
}

#[tokio::test]
async fn a_block_that_is_missing_in_the_middle_is_a_difference() {
    let holed = || side(blocks((1..=9).filter(|height| *height != 5)));
    let report = found(holed(), side(blocks(1..=9))).await;
    assert_eq!(what(&report), (5, &What::OnlyThere(None)));
    let report = found(side(blocks(1..=9)), holed()).await;
    assert_eq!(what(&report), (5, &What::OnlyHere(None)));
    // Also at the very end, where a side says that it has everything up to there.
    let mut short = blocks(1..=8);
    short.push(Step::Through(9));
    let report = found(side(short), side(blocks(1..=9))).await;
    assert_eq!(what(&report), (9, &What::OnlyThere(None)));
}

#[tokio::test]
async fn a_recorded_gap_says_why() {
    let mut gap = blocks([1, 2]);
    gap.push(Step::Gap { from: 3, to: 4, cause: "pruned".to_owned() });
    gap.extend(blocks([5]));
    let report = found(side(gap), side(blocks(1..=5))).await;
    let (3, What::OnlyThere(Some(why))) = what(&report) else { panic!("{report:?}") };
    assert!(why.contains("3 to 4: pruned"), "{why}");
}

#[tokio::test]
async fn blocks_without_content_may_be_left_out() {
    let mut full = blocks([1, 2]);
    full.push(Step::Block(block(3, &[])));
    full.extend(blocks([4]));
    let report = found(side(full), side(blocks([1, 2, 4]))).await;
    assert_eq!((report.blocks, report.difference), (3, None));
}

#[tokio::test]
async fn equal_blocks_on_another_history_are_a_difference() {
    let mut other = blocks(1..=3);
    let mut late = block(2, &[("bank", 1)]);
    late.digest = Some(digest(99));
    other[1] = Step::Block(late.clone());
    let report = found(side(blocks(1..=3)), side(other)).await;
    assert!(matches!(what(&report), (2, What::Chain { .. })), "{report:?}");
    // In another generation every digest is another one, and nothing is said about the chain.
    late.generation = Generation(1);
    let report = found(side(blocks([2])), side([Step::Block(late)])).await;
    assert_eq!((report.difference, report.chained, report.notes.len()), (None, 0, 1));
}

#[tokio::test]
async fn a_side_without_digests_leaves_the_chain_to_the_journal() {
    let bare = |height| {
        let own = block(height, &[("bank", 1)]);
        Step::Block(Block { digest: None, linked: false, ..own })
    };
    let mut here = blocks(1..=3);
    // After a gap the digest before is not known; after a rewind the generation is another one.
    here[1] = Step::Block(Block { linked: false, ..block(2, &[("bank", 1)]) });
    here[2] = Step::Block(Block { generation: Generation(1), ..block(3, &[("bank", 1)]) });
    let report = found(side(here), side((1..=3).map(bare))).await;
    assert_eq!((report.blocks, report.chained), (3, 2), "{report:?}");
    assert_eq!((report.difference, report.notes), (None, Vec::new()));
}

#[tokio::test]
async fn metadata_counts_where_both_have_it() {
    let with = |byte: Option<u8>| {
        let mut own = block(1, &[("bank", 1)]);
        own.metadata = byte.map(digest);
        side([Step::Block(own)])
    };
    let report = found(with(Some(1)), with(Some(2))).await;
    assert!(matches!(what(&report), (1, What::Metadata { .. })));
    let report = found(with(Some(1)), with(None)).await;
    assert_eq!((report.difference, report.notes.len()), (None, 1));
    assert!(report.notes[0].contains("here and not there"), "{:?}", report.notes);
}

#[tokio::test]
async fn stores_in_another_order_differ_only_in_whole_blocks() {
    let a = || side([Step::Block(block(1, &[("a", 1), ("b", 2)]))]);
    let b = || side([Step::Block(block(1, &[("b", 2), ("a", 1)]))]);
    assert_eq!(what(&found(a(), b()).await), (1, &What::Order));
    let scope = Scope::new(&["a".to_owned(), "b".to_owned()], None, None).unwrap();
    assert_eq!(within(a(), b(), &scope).await.difference, None);
}

#[tokio::test]
async fn heights_outside_of_the_range_do_not_count() {
    let mut other = blocks(1..=9);
    other[1] = Step::Block(block(2, &[("bank", 9)]));
    other[7] = Step::Block(block(8, &[("bank", 9)]));
    let scope = Scope::new(&[], Some(3), Some(7)).unwrap();
    let report = within(side(blocks(1..=9)), side(other), &scope).await;
    assert_eq!((report.blocks, report.range, report.difference), (5, Some((3, 7)), None));
}
