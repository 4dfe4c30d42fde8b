use proptest::prelude::*;

use super::*;

/// Roots over the leaves of `tx-0`, `tx-1`, …, computed by a program of another language.
const ROOTS: [(usize, &str); 6] = [
    (0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
    (1, "7636d7269eee246fc4d46ee503608d2b1d480c224aed83c07f3426c061b31a1a"),
    (2, "9e6daa69b4c25c466e679da5fe9b4543b9ed862bd24c52fde6df70117f9f5286"),
    (3, "231353e3a71a85a22c29ebd4220ae5e4bd1a49704fd5fdf304af3bad55f282cd"),
    (5, "dbcd7f3044c0aa3fb8bb140209d5115bbc57fe43d22c56399639e149f15f35f9"),
    (7, "8f2edfe30fd1c1892faef97ca878137774bee9b37af97e02a168c772e97f682f"),
];

fn tx(number: usize) -> Vec<u8> {
    format!("tx-{number}").into_bytes()
}

fn ending(txs: impl IntoIterator<Item = usize>) -> Ending {
    let mut ending = Ending::default();
    txs.into_iter().for_each(|number| ending.push(&tx(number)));
    ending
}

/// The definition, word for word.
fn defined(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => array(&digest(&SHA256, b"")),
        [one] => *one,
        more => {
            let (left, right) = more.split_at(more.len().next_power_of_two() / 2);
            inner(&defined(left), &defined(right))
        }
    }
}

#[test]
fn roots_are_those_of_other_programs() {
    for (count, expected) in ROOTS {
        assert_eq!(hex::encode(root((0..count).map(|n| leaf(&tx(n))))), expected, "{count} leaves");
    }
}

#[test]
fn the_end_with_a_known_root_is_found_whatever_is_guessed() {
    for (count, expected) in ROOTS {
        let hash = hex::decode(expected).unwrap().try_into().unwrap();
        let list = ending((100..150).chain(0..count));
        for guess in [0, 1, count as u64, 50, 57, 58, u64::MAX] {
            assert_eq!(list.own(&hash, guess), Some(count as u64), "guessed {guess}");
        }
        let behind = ending((0..count).chain([200]));
        assert_eq!(behind.own(&hash, 1), (count == 0).then_some(0));
    }
}

#[test]
fn only_so_many_are_remembered_and_an_unknown_one_ends_them() {
    let mut list = ending(0..KEPT + 10);
    assert_eq!(list.leaves.len(), KEPT);
    let all = root(list.leaves.iter().copied());
    assert_eq!(list.own(&all, 0), Some(KEPT as u64), "the longest end");
    assert_eq!(list.own(&[7; 32], 3), None);
    let last = leaf(&tx(KEPT + 9));
    list.push_unknown();
    assert_eq!(list.own(&last, 1), None);
    list.push(b"x");
    assert_eq!(list.own(&leaf(b"x"), 0), Some(1));
}

proptest! {
    #[test]
    fn both_ways_to_a_root_keep_to_the_definition(count in 0usize..300) {
        let leaves: Vec<Hash> = (0..count).map(|n| leaf(&tx(n))).collect();
        prop_assert_eq!(root(leaves.iter().copied()), defined(&leaves));
        let mut ends = Ends::default();
        for (length, leaf) in leaves.iter().rev().enumerate() {
            prop_assert_eq!(ends.root(), defined(&leaves[count - length..]));
            ends.lengthen(*leaf);
        }
        prop_assert_eq!(ends.root(), defined(&leaves));
    }
}
