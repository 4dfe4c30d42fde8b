use sluice_frame::{BlockBuilder, BlockStart, Header};
use sluice_model::{Digest, Epoch, Generation, Pointer, TopicRules};

use super::*;

/// A record as it lies in the journal: the frame and its writer.
type Lying = (Frame, u64);

fn pointer(height: u64) -> Pointer {
    if height == 0 { Pointer::ORIGIN } else { Pointer::from_height(height) }
}

fn open(writer: u64, epoch: u64) -> Lying {
    let mut header = Header::new(Kind::Epoch, "app-1".parse().unwrap(), pointer(1), 1);
    header.epoch = Epoch::from_u64(epoch);
    let (nonce, holder) = (bytes::Bytes::new(), String::new());
    header.record = Some(Record::EpochStart { writer_id: writer, nonce, holder });
    (Frame { header, changes: bytes::Bytes::new() }, writer)
}

/// The frames of a block with the content of a height; the last with the digests of the chain.
fn block(chain: &Chain, height: u64, content: u64, writer: u64, epoch: u64) -> Vec<Lying> {
    let start = BlockStart {
        ingestor: "app-1".parse().unwrap(),
        generation: Generation(0),
        pointer: pointer(height),
        parent: pointer(height - 1),
        height,
        time: None,
        epoch: Epoch::from_u64(epoch),
    };
    let topics = TopicRules::default();
    let mut builder = BlockBuilder::new(start, &topics);
    builder.push_changes(&changes(content)).unwrap();
    let mut frames: Vec<Frame> = std::iter::from_fn(|| builder.take()).collect();
    frames.extend(builder.finish(""));
    for end in frames.iter_mut().filter_map(|frame| frame.header.end.as_mut()) {
        end.digest = Digest::from_array(chain.digest(height));
        end.parent_digest = Digest::from_array(chain.digest(height - 1));
    }
    frames.into_iter().map(|frame| (frame, writer)).collect()
}

fn judged(records: &[Vec<Lying>], acked: u64) -> Verdict {
    let chain = Chain::default();
    let mut walk = Walk::new(&chain);
    for (frame, writer) in records.concat() {
        walk.take(&frame, writer, 0, "here");
    }
    walk.compare(&(1..=acked).map(|height| (height, chain.digest(height))).collect())
}

fn counts(verdict: &Verdict) -> (u64, u64, u64) {
    (verdict.lost, verdict.duplicated, verdict.forked)
}

#[test]
fn a_sound_journal_passes() {
    let chain = Chain::default();
    let good = |height, writer, epoch| block(&chain, height, height, writer, epoch);
    let records = vec![vec![open(1, 7)], good(1, 1, 7), vec![open(2, 7)], good(2, 2, 7)];
    let verdict = judged(&records, 2);
    assert_eq!(counts(&verdict), (0, 0, 0), "{verdict:?}");
    assert_eq!((verdict.blocks, verdict.head, verdict.epochs), (2, 2, vec![7]));
    // A large block lies in several frames; one that was cut off does not count.
    let large = 400;
    let mut parts = good(large, 2, 7);
    assert!(parts.len() > 1);
    parts.pop();
    let records = vec![vec![open(2, 7)], parts, vec![open(3, 8)], good(large, 3, 8)];
    let verdict = judged(&records, 0);
    assert_eq!((counts(&verdict), verdict.blocks), ((0, 0, 0), 1), "{verdict:?}");
}

#[test]
fn every_kind_of_wrong_shows() {
    let chain = Chain::default();
    let good = |height, writer, epoch| block(&chain, height, height, writer, epoch);
    let head = || vec![vec![open(1, 7)], good(1, 1, 7)];
    let with = |more: Vec<Vec<Lying>>| judged(&[head(), more].concat(), 1);

    assert_eq!(counts(&judged(&head(), 3)), (2, 0, 0), "acknowledged and not there");
    assert_eq!(counts(&with(vec![good(3, 1, 7)])), (1, 0, 0), "a hole");
    assert_eq!(counts(&with(vec![good(1, 1, 7)])), (0, 1, 0), "the same again");
    let foreign = block(&chain, 2, 9, 1, 7);
    assert_eq!(counts(&with(vec![foreign])), (0, 0, 1), "other content");
    let mut parent = good(2, 1, 7);
    parent[0].0.header.end.as_mut().unwrap().parent_digest = Digest::from_array([1; 32]);
    assert_eq!(counts(&with(vec![parent])), (0, 0, 1), "another parent");
    let late = vec![vec![open(2, 8)], good(2, 1, 7)];
    assert_eq!(counts(&with(late)), (0, 0, 1), "a writer that was fenced");
    assert_eq!(counts(&with(vec![vec![open(2, 6)]])), (0, 0, 1), "an older epoch");
    assert_eq!(counts(&with(vec![vec![open(1, 7)]])), (0, 0, 1), "an open that fences nobody");
    assert_eq!(with(vec![vec![open(2, 8)]]).epochs, [7, 8]);
}

#[test]
fn a_foreign_acknowledgement_shows() {
    let chain = Chain::default();
    let mut walk = Walk::new(&chain);
    for (frame, writer) in [vec![open(1, 7)], block(&chain, 1, 1, 1, 7)].concat() {
        walk.take(&frame, writer, 0, "here");
    }
    let verdict = walk.compare(&[(1, [3; 32])].into());
    assert_eq!(counts(&verdict), (0, 0, 1));
}
