use proptest::prelude::*;

use super::*;

/// Published vectors: no pair; one set; a set, a delete and a set of one zero byte.
const V1: &str = "0000000000000000";
const V2: &str = "0000000000000017160a0462616e6b1a040261626322083130307374616b65";
const V3: &str = "00000000000000280b0a036163631a01612201310a0a0361636310011a0162\
                  100a077374616b696e671a02ff00220100";

fn v4() -> Vec<u8> {
    let mut file = hex::decode(
        "00000000000000ed0a0a036163631a0301aabb0b0a0462616e6b10011a016bd4010a0462616e6b1a010022c801",
    )
    .unwrap();
    file.extend(0..200u8);
    file
}

/// Reads a file as the source does, in pieces of `step` bytes.
fn read(file: &[u8], step: usize) -> Result<Vec<u8>, String> {
    let header = file.first_chunk::<8>().copied();
    let body = match completeness(header, file.len() as u64) {
        Completeness::Complete(body) => body,
        other => return Err(format!("{other:?}")),
    };
    let mut rewriter = Rewriter::new(body);
    let mut out = Vec::new();
    for piece in file[8..].chunks(step) {
        if let Some(region) = rewriter.push(piece).map_err(|e| e.to_string())? {
            out.extend_from_slice(&region.bytes);
        }
    }
    rewriter.finish().map_err(|e| e.to_string())?;
    Ok(out)
}

/// The body with a tag before every length, by the naive way.
fn tagged(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = body;
    while !rest.is_empty() {
        let Uvarint::Value(length, prefix) = uvarint(rest) else { panic!("bad vector") };
        let end = prefix + usize::try_from(length).unwrap();
        out.push(CHANGE_TAG);
        out.extend_from_slice(&rest[..end]);
        rest = &rest[end..];
    }
    out
}

#[test]
fn reads_the_published_vectors_in_pieces_of_every_size() {
    let files = [V1, V2, V3].map(|hex| hex::decode(hex).unwrap());
    for file in files.iter().chain([&v4()]) {
        for step in [1, 2, 3, 7, 64, 4096] {
            assert_eq!(read(file, step).unwrap(), tagged(&file[8..]), "step {step}");
        }
    }
    let digest = "8c14b86ce203ac3b8e17dc7d02beb0d4ab114de3ec259ee183254e1530fea844";
    assert_eq!(v4().len(), 245, "the vector with digest {digest}");
}

#[test]
fn the_vectors_hold_what_they_say() {
    let region = read(&hex::decode(V3).unwrap(), 5).unwrap();
    let table = sluice_frame::scan(&region, &sluice_model::TopicRules::default()).unwrap();
    assert_eq!(table.changes, 3);
    let stores: Vec<_> = table.routes.iter().map(|r| r.store.as_ref()).collect();
    assert_eq!(stores, ["acc", "staking"]);
    assert_eq!(table.runs.iter().map(|r| r.count).collect::<Vec<_>>(), [2, 1]);
}

#[test]
fn torn_files_are_short() {
    let v2 = hex::decode(V2).unwrap();
    let torn = &v2[..v2.len() - 1];
    assert_eq!(
        completeness(torn.first_chunk().copied(), torn.len() as u64),
        Completeness::Short { expected: Some(31), found: 30 }
    );
    let v1 = hex::decode(V1).unwrap();
    assert_eq!(
        completeness(v1[..7].first_chunk().copied(), 7),
        Completeness::Short { expected: None, found: 7 }
    );
}

#[test]
fn trailing_bytes_are_found() {
    let mut file = hex::decode(V2).unwrap();
    file[7] = 0x16;
    assert_eq!(
        completeness(file.first_chunk().copied(), 31),
        Completeness::Long { expected: 30, found: 31 }
    );
}

#[test]
fn an_absurd_length_is_only_short() {
    let header = (1u64 << 63).to_be_bytes();
    let Completeness::Short { expected: Some(expected), found: 8 } = completeness(Some(header), 8)
    else {
        panic!("not short")
    };
    assert_eq!(expected, (1u128 << 63) + 8);
    let header = u64::MAX.to_be_bytes();
    assert!(matches!(completeness(Some(header), 8), Completeness::Short { .. }));
}

#[test]
fn an_inner_length_that_overruns_is_named() {
    let file = hex::decode("0000000000000002050a").unwrap();
    let mut rewriter = Rewriter::new(2);
    assert_eq!(
        rewriter.push(&file[8..]),
        Err(FormatError::Overrun { pair: 0, offset: 8, length: 5, left: 1 })
    );
}

#[test]
fn an_inner_length_of_eleven_bytes_is_named() {
    let mut rewriter = Rewriter::new(100);
    let eleven = [0x80; 11];
    assert_eq!(rewriter.push(&eleven), Err(FormatError::Length { pair: 0, offset: 8 }));
    let mut rewriter = Rewriter::new(3);
    assert_eq!(
        rewriter.push(&[0x80, 0x80, 0x80]),
        Err(FormatError::Length { pair: 0, offset: 8 }),
        "the file ends inside the length"
    );
}

#[test]
fn a_pair_larger_than_the_journal_takes_allocates_nothing() {
    let mut rewriter = Rewriter::new(1 << 40);
    let mut length = BytesMut::new();
    put_uvarint(&mut length, 1 << 39);
    assert!(matches!(rewriter.push(&length), Err(FormatError::TooLarge { length, .. })
        if length == 1 << 39));
    assert!(rewriter.pending.capacity() < 4096);
}

#[test]
fn a_file_that_shrinks_while_read_is_noticed() {
    let file = hex::decode(V2).unwrap();
    let mut rewriter = Rewriter::new(0x17);
    assert_eq!(rewriter.push(&file[8..20]).unwrap(), None);
    assert_eq!(rewriter.finish(), Err(FormatError::Ended { pair: 0, offset: 20 }));
}

#[test]
fn regions_say_where_they_come_from() {
    let file = hex::decode(V3).unwrap();
    let mut rewriter = Rewriter::new(0x28);
    let first = rewriter.push(&file[8..21]).unwrap().unwrap();
    assert_eq!((first.offset, first.first_pair), (8, 0));
    let rest = rewriter.push(&file[21..]).unwrap().unwrap();
    assert_eq!((rest.offset, rest.first_pair), (20, 1));
    assert_eq!(rewriter.pairs(), 3);
}

proptest! {
    /// Any cut of any body gives the same elements, and rewriting loses nothing.
    #[test]
    fn cuts_do_not_matter(
        pairs in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..20),
        step in 1usize..600,
    ) {
        let mut body = BytesMut::new();
        for pair in &pairs {
            put_uvarint(&mut body, pair.len() as u64);
            body.extend_from_slice(pair);
        }
        let mut file = (body.len() as u64).to_be_bytes().to_vec();
        file.extend_from_slice(&body);
        prop_assert_eq!(read(&file, step).unwrap(), tagged(&body));
    }

    /// No bytes make the reader panic or hold more than it was given.
    #[test]
    fn garbage_is_an_error_or_pairs(body in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut rewriter = Rewriter::new(body.len() as u64);
        for piece in body.chunks(7) {
            if rewriter.push(piece).is_err() {
                return Ok(());
            }
        }
        rewriter.finish().ok();
    }
}
