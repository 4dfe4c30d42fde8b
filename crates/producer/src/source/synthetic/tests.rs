use std::collections::BTreeMap;

use sluice_frame::Elements;
use sluice_model::{Digest, Generation, TopicRules};

use super::*;
use crate::tests::context;

fn generator(change: impl FnOnce(&mut Options)) -> Generator {
    let mut options = Options { rate: 0.0, ..Options::default() };
    change(&mut options);
    Generator::new(options).unwrap()
}

fn block(generator: &Generator, height: u64) -> Vec<u8> {
    let mut out = Vec::new();
    for store in 0..generator.options.stores {
        let mut changes = generator.store(height, store);
        while !changes.is_empty() {
            out.extend_from_slice(&changes.next_piece());
        }
    }
    out
}

async fn collect(source: &mut dyn Source, after: Option<&Head>) -> Vec<Item> {
    let mut feed = source.blocks(after).await.unwrap();
    let mut items = Vec::new();
    while let Some(item) = feed.next().await {
        let item = item.unwrap();
        let done = item == Item::Finished;
        items.push(item);
        if done {
            break;
        }
    }
    items
}

#[test]
fn blocks_depend_on_seed_and_height_alone() {
    let (a, b) = (generator(|_| {}), generator(|_| {}));
    assert_eq!(block(&a, 7), block(&b, 7));
    assert_ne!(block(&a, 7), block(&a, 8));
    assert_ne!(block(&a, 7), block(&generator(|o| o.seed = 2), 7));
    let pinned = blake3::hash(&block(&a, 1)).to_hex();
    assert_eq!(
        &pinned[..16],
        PINNED,
        "the content of a seed is a promise to those who recorded it"
    );
}

const PINNED: &str = "1cbe75bec543819c";

#[test]
fn blocks_are_canonical_sorted_and_of_the_asked_shape() {
    let made = generator(|o| (o.pairs, o.stores, o.keys, o.skew) = (1000, 3, 1 << 40, 0.0));
    let bytes = block(&made, 3);
    let table = sluice_frame::scan(&bytes, &TopicRules::default()).unwrap();
    assert_eq!(table.changes, 1000, "no two keys of so many are equal");
    assert_eq!(table.runs.len(), 3);
    let mut last: BTreeMap<&[u8], &[u8]> = BTreeMap::new();
    for element in Elements::new(&bytes) {
        let element = element.unwrap();
        if let Some(before) = last.insert(element.store, element.key) {
            assert!(before < element.key, "ascending and unique");
        }
        if element.op == Op::Set {
            assert!((16..=256).contains(&element.value.len()));
        }
    }
}

#[test]
fn popular_keys_come_first_and_deletes_have_their_share() {
    let made = generator(|o| (o.skew, o.keys) = (1.0, 1024));
    let mut random = Random::of(&[1]);
    let mut counts = [0u32; 1024];
    for _ in 0..100_000 {
        counts[usize::try_from(made.rank(&mut random)).unwrap()] += 1;
    }
    assert!(counts[0] > 5 * counts[15].max(1), "{} {}", counts[0], counts[15]);
    assert!(counts[1..].iter().filter(|count| **count > 0).count() > 900, "all keys are reached");
    let half = generator(|o| (o.deletes, o.pairs, o.keys, o.skew) = (0.5, 10_000, 1 << 40, 0.0));
    let bytes = block(&half, 1);
    let deletes = Elements::new(&bytes).filter(|e| e.as_ref().unwrap().op == Op::Delete).count();
    assert!((4_500..5_500).contains(&deletes), "{deletes}");
}

#[tokio::test]
async fn a_resumed_run_gives_the_same_items() {
    let table: toml::Table = "rate = 0\nblocks = 5\npairs = 50".parse().unwrap();
    let mut source = build(&context("s"), &table).unwrap();
    let all = collect(source.as_mut(), None).await;
    let head = Head {
        generation: Generation(0),
        pointer: Pointer::from_height(3),
        height: 3,
        digest: Digest::ZERO,
        time: None,
        appended: 0,
    };
    let rest = collect(source.as_mut(), Some(&head)).await;
    let begins =
        |items: &[Item]| items.iter().filter(|item| matches!(item, Item::Begin(_))).count();
    assert_eq!((begins(&all), begins(&rest)), (5, 2));
    assert!(all.ends_with(&rest));
}

#[test]
fn refuses_options_that_make_no_sense() {
    for written in ["skew = 1.5", "stores = 0", "value_min = 9\nvalue_max = 3", "rate = -1.0"] {
        let table: toml::Table = written.parse().unwrap();
        let error = build(&context("s"), &table).err().unwrap().to_string();
        assert!(error.contains("ingestors.s.source."), "{error}");
    }
}
