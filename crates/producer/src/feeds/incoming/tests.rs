use bytes::BytesMut;
use proptest::prelude::*;
use sluice_frame::put_change;
use sluice_model::{Generation, Op, TopicRules};

use super::*;
use crate::{
    feeds::assemble::Assembler,
    source::{Begin, Item, Piece},
    stores::Stores,
};

fn ingestor() -> IngestorName {
    "chain".parse().unwrap()
}

/// The frames of a block as a standby cuts them.
fn block(height: u64, value: &[u8], metadata: usize) -> Vec<Frame> {
    let topics = TopicRules::default();
    let mut stores = Stores::new(&["*".to_owned()]).unwrap();
    let tail = Pointer::from_height(height - 1);
    let mut assembler = Assembler::new(ingestor(), Generation(0), &topics, 1 << 30, tail);
    let pointer = Pointer::from_height(height);
    let mut region = BytesMut::new();
    put_change("bank", Op::Set, b"key", value, &mut region);
    put_change("gov", Op::Delete, b"key", b"", &mut region);
    let mut items = vec![
        Item::Begin(Begin { height, pointer, parent: None, time: None }),
        Item::Changes(Piece::new(region.freeze())),
    ];
    if metadata > 0 {
        let value = vec![3; metadata].into();
        items.push(Item::Metadata { type_url: "/m".into(), value });
    }
    items.push(Item::End { changes: Some(2), traceparent: String::new() });
    let mut taken = |item| assembler.take(item, &mut stores).unwrap().frames;
    items.into_iter().flat_map(&mut taken).collect()
}

fn asked(height: u64) -> Asked {
    Asked {
        ingestor: ingestor(),
        place: (Generation(0), Pointer::from_height(height)),
        parent: Pointer::from_height(height - 1),
        limit: 4 << 20,
    }
}

fn check(asked: Asked, frames: &[Frame]) -> Result<bool, String> {
    let mut incoming = Incoming::new(asked);
    for frame in frames {
        incoming.take(frame.encode())?;
    }
    Ok(incoming.is_complete())
}

#[track_caller]
fn refused(asked: Asked, frames: &[Frame], why: &str) {
    let error = check(asked, frames).unwrap_err();
    assert!(error.contains(why), "{error}");
}

#[test]
fn a_whole_block_passes_and_a_cut_one_is_not_complete() {
    let frames = block(5, &[7; 700_000], 600_000);
    assert!(frames.len() >= 3, "{}", frames.len());
    assert_eq!(check(asked(5), &frames), Ok(true));
    assert_eq!(check(asked(5), &frames[..frames.len() - 1]), Ok(false));
}

#[test]
fn another_block_another_parent_and_another_ingestor_are_named() {
    let frames = block(5, b"x", 0);
    refused(asked(6), &frames, "it is block 5 of generation 0, but 6 of generation 0 was asked");
    let other = Asked { parent: Pointer::from_height(3), ..asked(5) };
    refused(other, &frames, "it has the parent 4, but the last block is 3");
    let other = Asked { ingestor: "osmosis".parse().unwrap(), ..asked(5) };
    refused(other, &frames, "no block of osmosis, but of chain");
    let later = Asked { place: (Generation(1), Pointer::from_height(5)), ..asked(5) };
    refused(later, &frames, "generation 1 was asked for");
}

#[test]
fn too_much_is_refused_before_it_is_taken() {
    let limited = Asked { limit: 600_000, ..asked(5) };
    refused(limited, &block(5, &[7; 700_000], 0), "more than 600000 bytes; raise spool_bytes");
}

#[test]
fn parts_and_counts_must_fit() {
    let mut frames = block(5, &[7; 700_000], 600_000);
    frames.remove(1);
    refused(asked(5), &frames, "part 2 came where part 1 was due");
    let mut frames = block(5, b"x", 0);
    frames[0].header.end.as_mut().unwrap().changes = 3;
    refused(asked(5), &frames, "1 parts and 3 changes, but 1 and 2 came");
    let frames = block(5, b"x", 0);
    refused(asked(5), &[frames.clone(), frames].concat(), "after the block's last");
    let mut incoming = Incoming::new(asked(5));
    assert!(incoming.take(Bytes::from_static(b"\xff\xff")).is_err());
}

#[test]
fn digests_must_be_those_of_the_changes() {
    let (mut frames, other) = (block(5, b"x", 0), block(5, b"y", 0));
    frames[0].changes = other[0].changes.clone();
    refused(asked(5), &frames, "digests are not those of its changes");
    let mut frames = block(5, b"x", 10);
    frames[0].header.metadata.as_mut().unwrap().value = vec![4; 10].into();
    refused(asked(5), &frames, "digests are not those of its changes");
}

proptest! {
    /// A flipped bit is refused, or it is one that says nothing about the block's content.
    #[test]
    fn a_flipped_bit_never_changes_what_is_given(
        value in prop::collection::vec(any::<u8>(), 0..50),
        at in any::<prop::sample::Index>(),
        bit in 0u8..8,
    ) {
        let frame = block(5, &value, 0).remove(0);
        let mut bytes = frame.encode().to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        let mut incoming = Incoming::new(asked(5));
        if let Ok(taken) = incoming.take(bytes.into()) {
            prop_assert_eq!(taken.changes, frame.changes);
        }
    }
}
