use std::{fs, path::Path, time::Duration};

use bytes::{BufMut as _, BytesMut};
use sluice_frame::put_change;
use sluice_model::{Digest, Durability, Generation, Op, Pointer};
use tempfile::TempDir;
use tokio::time::timeout;

use super::*;
use crate::{
    source::{Item, OnGap},
    tests::context,
};

/// Long enough for a slow machine; nothing here waits for it to pass.
const SOON: Duration = Duration::from_secs(20);

/// A block as a test wants it: the pairs' region, and the transactions in its meta file.
struct Written<'a> {
    keys: &'a [&'a str],
    txs: Option<&'a [&'a [u8]]>,
}

fn region(keys: &[&str]) -> Vec<u8> {
    let mut out = BytesMut::new();
    for key in keys {
        put_change("bank", Op::Set, key.as_bytes(), b"1", &mut out);
    }
    out.to_vec()
}

fn with_header(body: &[u8]) -> Vec<u8> {
    let mut file = BytesMut::new();
    file.put_u64(body.len() as u64);
    file.extend_from_slice(body);
    file.to_vec()
}

/// A data file: the region without the tags.
fn data_file(keys: &[&str]) -> Vec<u8> {
    let mut body = Vec::new();
    for key in keys {
        body.extend_from_slice(&region(&[key])[1..]);
    }
    with_header(&body)
}

fn meta_body(height: u64, txs: &[&[u8]]) -> Vec<u8> {
    let time = meta::field(4, &[0x08, 100]);
    let mut header = vec![0x18];
    let mut number = BytesMut::new();
    format::put_uvarint(&mut number, height);
    header.extend_from_slice(&number);
    header.extend(time);
    let mut out = meta::field(1, &meta::field(2, &header));
    for tx in txs {
        out.extend(meta::field(3, tx));
    }
    out.extend(meta::field(6, b"\x18\x01"));
    out
}

fn write(dir: &Path, height: u64, block: &Written<'_>) {
    if let Some(txs) = block.txs {
        let body = meta_body(height, txs);
        fs::write(dir.join(format!("block-{height}-meta")), with_header(&body)).unwrap();
    }
    fs::write(dir.join(format!("block-{height}-data")), data_file(block.keys)).unwrap();
}

fn plain(dir: &Path, heights: impl IntoIterator<Item = u64>) {
    for height in heights {
        write(dir, height, &Written { keys: &[&format!("k{height}")], txs: None });
    }
}

fn options(dir: &TempDir, more: &str) -> Options {
    let text = format!("dir = {:?}\nrescan = \"20ms\"\n{more}", dir.path());
    toml::from_str(&text).unwrap()
}

fn source(dir: &TempDir, more: &str) -> CosmosFiles {
    CosmosFiles::new(&context("hub"), options(dir, more)).unwrap()
}

fn head(height: u64) -> Head {
    Head {
        generation: Generation(0),
        pointer: Pointer::from_height(height),
        height,
        digest: Digest::ZERO,
        time: None,
        appended: 0,
    }
}

fn ack(height: u64) -> Ack {
    Ack {
        pointer: Pointer::from_height(height),
        height,
        generation: Generation(0),
        digest: Digest::ZERO,
        time: None,
        durability: Durability::Fsynced,
        duplicate: false,
        unverifiable: false,
    }
}

/// A block put together again from its pieces.
#[derive(Debug, Default, PartialEq, Eq)]
struct Block {
    height: u64,
    time: Option<i64>,
    region: Vec<u8>,
    metadata: Option<Vec<u8>>,
}

/// What a feed gave: whole blocks, gaps, and how it ended.
#[derive(Debug, Default)]
struct Given {
    blocks: Vec<Block>,
    /// Blocks that the journal has and is to compare.
    again: Vec<Block>,
    gaps: Vec<(u64, u64)>,
    end: Option<Result<(), SourceError>>,
}

impl Given {
    fn heights(&self) -> Vec<u64> {
        self.blocks.iter().map(|block| block.height).collect()
    }

    fn error(&self) -> String {
        match &self.end {
            Some(Err(error)) => error.to_string(),
            other => panic!("no error but {other:?}"),
        }
    }
}

/// Reads until the end, or until so many blocks.
async fn read(feed: &mut Feed, blocks: usize) -> Given {
    let mut given = Given::default();
    let (mut current, mut again) = (Block::default(), false);
    while given.blocks.len() < blocks {
        match timeout(SOON, feed.next()).await.expect("the feed gives something") {
            None => panic!("the feed ended without saying why"),
            Some(Err(error)) => {
                given.end = Some(Err(error));
                break;
            }
            Some(Ok(Item::Finished)) => {
                given.end = Some(Ok(()));
                break;
            }
            Some(Ok(Item::Begin(begin))) => {
                assert_eq!(begin.pointer, Pointer::from_height(begin.height));
                again = begin.parent.is_some();
                current = Block { height: begin.height, time: begin.time, ..Block::default() };
            }
            Some(Ok(Item::Changes(piece))) => current.region.extend_from_slice(&piece.bytes),
            Some(Ok(Item::Metadata { value, .. })) => {
                current.metadata.get_or_insert_default().extend_from_slice(&value);
            }
            Some(Ok(Item::End { .. })) => {
                let blocks = if again { &mut given.again } else { &mut given.blocks };
                blocks.push(std::mem::take(&mut current));
            }
            Some(Ok(Item::Gap { from, to, .. })) => {
                given.gaps.push((from.height().unwrap(), to.height().unwrap()));
            }
            Some(Ok(Item::Progress { .. } | Item::Abort)) => {}
        }
    }
    given
}

/// Looks a few times and sees no block.
async fn silent(feed: &mut Feed, when: &str) {
    let block = async { while matches!(feed.next().await, Some(Ok(Item::Progress { .. }))) {} };
    assert!(timeout(Duration::from_millis(80), block).await.is_err(), "{when}");
}

async fn import(dir: &TempDir, more: &str, after: Option<u64>) -> Given {
    let mut own = source(dir, &format!("follow = false\n{more}"));
    let head = after.map(head);
    let mut feed = own.blocks(head.as_ref()).await.unwrap();
    read(&mut feed, usize::MAX).await
}

#[tokio::test]
async fn imports_in_numeric_order_and_ends() {
    let dir = TempDir::new().unwrap();
    plain(dir.path(), 8..=11);
    fs::write(dir.path().join(".touch"), b"").unwrap();
    fs::write(dir.path().join("block-100-data.tmp"), b"junk").unwrap();
    let given = import(&dir, "", None).await;
    assert_eq!(given.heights(), [8, 9, 10, 11]);
    assert!(matches!(given.end, Some(Ok(()))));
    assert_eq!(given.blocks[1].region, region(&["k9"]));
}

#[tokio::test]
async fn an_empty_block_is_a_block_and_an_empty_directory_is_none() {
    let dir = TempDir::new().unwrap();
    assert!(import(&dir, "", None).await.blocks.is_empty());
    fs::write(dir.path().join("block-3-data"), [0; 8]).unwrap();
    let given = import(&dir, "", None).await;
    assert_eq!(given.blocks, [Block { height: 3, ..Block::default() }]);
}

#[tokio::test]
async fn resumes_after_the_head_with_the_same_blocks() {
    let dir = TempDir::new().unwrap();
    plain(dir.path(), 1..=5);
    let all = import(&dir, "", None).await;
    let rest = import(&dir, "", Some(3)).await;
    assert_eq!(rest.blocks, all.blocks[3..]);
    let none = import(&dir, "", Some(5)).await;
    assert!(none.blocks.is_empty() && matches!(none.end, Some(Ok(()))));
}

#[tokio::test]
async fn a_prefix_selects_its_own_files() {
    let dir = TempDir::new().unwrap();
    plain(dir.path(), 1..=2);
    for height in 5..=6 {
        fs::write(dir.path().join(format!("x-block-{height}-data")), data_file(&["a"])).unwrap();
    }
    assert_eq!(import(&dir, "prefix = 'x'", None).await.heights(), [5, 6]);
    assert_eq!(import(&dir, "", None).await.heights(), [1, 2]);
    let slash = CosmosFiles::new(&context("hub"), options(&dir, "prefix = 'a/b'")).unwrap_err();
    assert!(slash.to_string().contains("ingestors.hub.source.prefix"), "{slash}");
}

#[tokio::test]
async fn foreign_files_are_left_alone_and_counted() {
    let dir = TempDir::new().unwrap();
    plain(dir.path(), 1..=1);
    fs::write(dir.path().join("README"), b"x").unwrap();
    fs::write(dir.path().join("block-1-begin"), b"x").unwrap();
    let own = context("hub");
    let mut source =
        CosmosFiles::new(&own, options(&dir, "follow = false\nconsumed = 'delete'")).unwrap();
    let mut feed = source.blocks(None).await.unwrap();
    read(&mut feed, usize::MAX).await;
    let notes = own.notes.list().join("\n");
    assert!(notes.contains("1 files are no block files") && notes.contains("README"), "{notes}");
    assert!(notes.contains("0.45.9"), "{notes}");
    assert!(dir.path().join("README").exists());
}

#[tokio::test]
async fn a_gap_is_named_or_recorded() {
    let dir = TempDir::new().unwrap();
    plain(dir.path(), [1, 2, 5, 6]);
    let given = import(&dir, "", None).await;
    assert_eq!(given.heights(), [1, 2]);
    let error = given.error();
    assert!(error.contains("blocks 3 to 4 are missing"), "{error}");
    assert!(error.contains("block-3-data") && error.contains("block-5-data"), "{error}");

    let recording = SourceContext { on_gap: OnGap::Record, ..context("hub") };
    let mut source = CosmosFiles::new(&recording, options(&dir, "follow = false")).unwrap();
    let mut feed = source.blocks(None).await.unwrap();
    let given = read(&mut feed, usize::MAX).await;
    assert_eq!((given.heights(), given.gaps), (vec![1, 2, 5, 6], vec![(3, 4)]));
}

#[tokio::test]
async fn a_directory_that_begins_behind_the_head_has_a_gap() {
    let dir = TempDir::new().unwrap();
    plain(dir.path(), 10..=11);
    assert!(import(&dir, "", Some(5)).await.error().contains("blocks 6 to 9"));
}

#[tokio::test]
async fn torn_and_corrupt_files_are_named_with_both_sizes() {
    let dir = TempDir::new().unwrap();
    plain(dir.path(), 1..=2);
    let path = dir.path().join("block-2-data");
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    let given = import(&dir, "", None).await;
    assert_eq!(given.heights(), [1]);
    let error = given.error();
    let (promised, found) = (whole.len(), whole.len() - 1);
    assert!(error.contains("block-2-data is torn"), "{error}");
    assert!(error.contains(&format!("promises {promised} bytes, it has {found}")), "{error}");

    fs::write(&path, [&whole[..], b"x"].concat()).unwrap();
    let error = import(&dir, "", None).await.error();
    assert!(error.contains("block-2-data is corrupt"), "{error}");
    fs::write(&path, &whole[..7]).unwrap();
    assert!(import(&dir, "", None).await.error().contains("not even the 8 bytes"));
}

#[tokio::test]
async fn damage_inside_is_named_with_offset_and_pair() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("block-1-data"), with_header(&[5, 0x0a])).unwrap();
    let error = import(&dir, "", None).await.error();
    assert!(error.contains("block-1-data: pair 0 at byte 8 says it has 5 bytes"), "{error}");
    fs::write(dir.path().join("block-1-data"), with_header(&[0x80; 11])).unwrap();
    assert!(import(&dir, "", None).await.error().contains("no number of at most 64 bits"));
}

#[tokio::test]
async fn follows_a_file_that_is_still_being_written() {
    let dir = TempDir::new().unwrap();
    plain(dir.path(), 1..=1);
    let mut own = source(&dir, "");
    let mut feed = own.blocks(None).await.unwrap();
    assert_eq!(read(&mut feed, 1).await.heights(), [1]);
    let path = dir.path().join("block-2-data");
    let whole = data_file(&["a", "b"]);
    for cut in [3, 8, whole.len() - 1] {
        fs::write(&path, &whole[..cut]).unwrap();
        silent(&mut feed, &format!("at {cut} bytes")).await;
    }
    fs::write(&path, &whole).unwrap();
    let given = read(&mut feed, 1).await;
    assert_eq!((given.heights(), &given.blocks[0].region), (vec![2], &region(&["a", "b"])));
    feed.close().await;
}

#[tokio::test]
async fn waits_for_the_first_block_of_an_empty_directory() {
    let dir = TempDir::new().unwrap();
    let mut own = source(&dir, "");
    let mut feed = own.blocks(None).await.unwrap();
    silent(&mut feed, "an empty directory").await;
    plain(dir.path(), 7..=7);
    assert_eq!(read(&mut feed, 1).await.heights(), [7]);
}

#[tokio::test]
async fn a_torn_file_with_a_later_block_is_an_error_while_following() {
    let dir = TempDir::new().unwrap();
    plain(dir.path(), [1, 3]);
    fs::write(dir.path().join("block-2-data"), [0, 0, 0, 0, 0, 0, 0, 9, 1]).unwrap();
    let mut own = source(&dir, "");
    let mut feed = own.blocks(None).await.unwrap();
    let given = read(&mut feed, usize::MAX).await;
    assert_eq!(given.heights(), [1]);
    assert!(given.error().contains("block-2-data is torn"));
}

#[tokio::test]
async fn a_gap_while_following_waits_before_it_is_one() {
    let dir = TempDir::new().unwrap();
    plain(dir.path(), [1, 3]);
    let mut own = source(&dir, "torn_after = '150ms'");
    let mut feed = own.blocks(None).await.unwrap();
    assert_eq!(read(&mut feed, 1).await.heights(), [1]);
    plain(dir.path(), [2]);
    assert_eq!(read(&mut feed, 2).await.heights(), [2, 3], "it came in time");
    plain(dir.path(), [5]);
    assert!(read(&mut feed, usize::MAX).await.error().contains("blocks 4 to 4"));
}

#[tokio::test]
async fn repeated_transactions_are_left_out_across_a_restart() {
    let dir = TempDir::new().unwrap();
    let blocks: [&[&[u8]]; 5] = [
        &[b"a"],
        &[b"a", b"b", b"c"],
        &[b"a", b"b", b"c"],
        // The node was started again.
        &[b"d"],
        &[b"d", b"e"],
    ];
    for (height, txs) in (1u64..).zip(blocks) {
        write(dir.path(), height, &Written { keys: &["k"], txs: Some(txs) });
    }
    let own: [&[&[u8]]; 5] = [&[b"a"], &[b"b", b"c"], &[], &[b"d"], &[b"e"]];
    let expected: Vec<_> =
        (1u64..).zip(own).map(|(height, txs)| Some(meta_body(height, txs))).collect();
    let all = import(&dir, "", None).await;
    let metadata =
        |given: &Given| given.blocks.iter().map(|block| block.metadata.clone()).collect::<Vec<_>>();
    assert_eq!(metadata(&all), expected);
    assert_eq!(all.blocks[0].time, Some(100_000_000_000));
    for after in 1..5u64 {
        let rest = import(&dir, "", Some(after)).await;
        let from = usize::try_from(after).unwrap();
        assert_eq!(metadata(&rest), expected[from..], "resumed after {after}");
    }
    let without = import(&dir, "metadata = false", None).await;
    assert!(metadata(&without).iter().all(Option::is_none));
}

/// A meta file that lists transactions, with the hash of those that the block has.
fn hashed_meta(height: u8, data_hash: &[u8], txs: &[&[u8]]) -> Vec<u8> {
    let header = [&[0x18, height][..], &meta::field(7, data_hash)].concat();
    let mut out = meta::field(1, &meta::field(2, &header));
    for tx in txs {
        out.extend(meta::field(3, &meta::field(1, &meta::field(1, tx))));
    }
    out
}

fn data_hash(txs: &[&[u8]]) -> Vec<u8> {
    txs::root(txs.iter().map(|tx| txs::leaf(tx))).to_vec()
}

type Txs = &'static [&'static [u8]];

/// Blocks 1 to 4 of a node whose genesis has a transaction: what they list, and their own.
const GENESIS: [(Txs, Txs); 4] = [
    (&[b"g"], &[]),
    (&[b"g", b"a"], &[b"a"]),
    (&[b"g", b"a", b"b", b"c"], &[b"b", b"c"]),
    // The node was started again.
    (&[b"d"], &[b"d"]),
];

fn write_genesis(dir: &Path) -> Vec<Option<Vec<u8>>> {
    let mut expected = Vec::new();
    for (height, (listed, own)) in (1u8..).zip(GENESIS) {
        plain(dir, [u64::from(height)]);
        let file = with_header(&hashed_meta(height, &data_hash(own), listed));
        fs::write(dir.join(format!("block-{height}-meta")), file).unwrap();
        expected.push(Some(hashed_meta(height, &data_hash(own), own)));
    }
    expected
}

async fn metadata_and_notes(dir: &TempDir, after: Option<u64>) -> (Vec<Option<Vec<u8>>>, String) {
    let context = context("hub");
    let mut own = CosmosFiles::new(&context, options(dir, "follow = false")).unwrap();
    let head = after.map(head);
    let mut feed = own.blocks(head.as_ref()).await.unwrap();
    let given = read(&mut feed, usize::MAX).await;
    assert!(matches!(given.end, Some(Ok(()))), "{:?}", given.end);
    let metadata = given.blocks.into_iter().map(|block| block.metadata).collect();
    (metadata, context.notes.list().join("\n"))
}

#[tokio::test]
async fn the_data_hash_tells_a_blocks_own_transactions_without_the_file_before() {
    let dir = TempDir::new().unwrap();
    let expected = write_genesis(dir.path());
    let (all, notes) = metadata_and_notes(&dir, None).await;
    assert_eq!(all, expected);
    assert!(notes.starts_with("4 repeated transactions"), "{notes}");
    assert_eq!(notes.lines().count(), 1, "{notes}");
    for after in 1..4u8 {
        fs::remove_file(dir.path().join(format!("block-{after}-meta"))).unwrap();
        let (rest, notes) = metadata_and_notes(&dir, Some(u64::from(after))).await;
        assert_eq!(rest, expected[usize::from(after)..], "resumed after {after}");
        assert!(!notes.contains("may repeat") && !notes.contains("comparison"), "{notes}");
    }
}

#[tokio::test]
async fn without_a_data_hash_that_fits_the_file_before_tells_and_a_note_says_so() {
    for (hash, why) in [(&[][..], "has no data_hash"), (&[7; 32], "is not that of the last")] {
        let dir = TempDir::new().unwrap();
        let mut expected = write_genesis(dir.path());
        let (listed, own) = GENESIS[2];
        let path = dir.path().join("block-3-meta");
        fs::write(&path, with_header(&hashed_meta(3, hash, listed))).unwrap();
        expected[2] = Some(hashed_meta(3, hash, own));
        for after in [None, Some(1), Some(2)] {
            let (rest, notes) = metadata_and_notes(&dir, after).await;
            let from = usize::try_from(after.unwrap_or(0)).unwrap();
            assert_eq!(rest, expected[from..], "after {after:?}");
            assert!(notes.contains("in 1 meta files the block's own"), "{notes}");
            assert!(notes.contains("block-3-meta: ") && notes.contains(why), "{notes}");
            assert!(!notes.contains("may repeat"), "{notes}");
        }
        fs::remove_file(dir.path().join("block-2-meta")).unwrap();
        let (rest, notes) = metadata_and_notes(&dir, Some(2)).await;
        assert_eq!(rest[0], Some(hashed_meta(3, hash, listed)), "nothing tells");
        assert!(notes.contains("block-3-meta may repeat transactions"), "{notes}");
        assert!(notes.contains("block-2-meta to compare it with is not there"), "{notes}");
    }
}

#[tokio::test]
async fn data_without_meta_is_legal_and_meta_of_another_block_is_not() {
    let dir = TempDir::new().unwrap();
    write(dir.path(), 1, &Written { keys: &["a"], txs: Some(&[]) });
    plain(dir.path(), 2..=2);
    let given = import(&dir, "", None).await;
    assert_eq!(given.heights(), [1, 2]);
    assert_eq!(given.blocks[1].metadata, None);
    let meta = with_header(&meta_body(9, &[]));
    fs::write(dir.path().join("block-2-meta"), &meta).unwrap();
    let error = import(&dir, "", None).await.error();
    assert!(error.contains("block-2-meta: it holds the metadata of block 9"), "{error}");
    fs::write(dir.path().join("block-2-meta"), &meta[..meta.len() - 1]).unwrap();
    assert!(import(&dir, "", None).await.error().contains("block-2-meta is torn"));
}

#[tokio::test]
async fn files_are_consumed_only_when_durable() {
    let dir = TempDir::new().unwrap();
    for height in 1..=3 {
        write(dir.path(), height, &Written { keys: &["a"], txs: Some(&[b"t"]) });
    }
    let mut own = source(&dir, "follow = false\nconsumed = 'delete'");
    let mut feed = own.blocks(None).await.unwrap();
    read(&mut feed, usize::MAX).await;
    let names = || {
        let mut names: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names().len(), 6, "reading consumes nothing");
    own.durable(&ack(1)).await.unwrap();
    assert!(!names().contains(&"block-1-data".to_owned()));
    assert!(names().contains(&"block-1-meta".to_owned()), "the next one is compared with it");
    own.durable(&ack(2)).await.unwrap();
    own.durable(&ack(2)).await.unwrap();
    assert_eq!(names(), ["block-2-meta", "block-3-data", "block-3-meta"]);
    let rest = import(&dir, "consumed = 'delete'", Some(2)).await;
    assert_eq!(rest.blocks[0].metadata, Some(meta_body(3, &[])), "t is of an earlier block");
}

#[tokio::test]
async fn moved_files_are_found_for_the_comparison() {
    let (dir, attic) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    for height in 1..=2 {
        write(dir.path(), height, &Written { keys: &["a"], txs: Some(&[b"t"]) });
    }
    let to = attic.path().join("done");
    let more = format!("consumed = 'move:{}'", to.display());
    let mut own = source(&dir, &format!("follow = false\n{more}"));
    let mut feed = own.blocks(None).await.unwrap();
    read(&mut feed, usize::MAX).await;
    own.durable(&ack(1)).await.unwrap();
    assert!(to.join("block-1-data").exists() && to.join("block-1-meta").exists());
    assert!(!dir.path().join("block-1-data").exists());
    let rest = import(&dir, &more, Some(1)).await;
    assert_eq!(rest.blocks[0].metadata, Some(meta_body(2, &[])));
}

#[tokio::test]
async fn large_files_pass_in_pieces() {
    let dir = TempDir::new().unwrap();
    let keys: Vec<String> = (0..200_000).map(|i| format!("key-{i:020}")).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    fs::write(dir.path().join("block-1-data"), data_file(&keys)).unwrap();
    let mut own = source(&dir, "follow = false");
    let mut feed = own.blocks(None).await.unwrap();
    let (mut largest, mut total) = (0, 0);
    while let Some(item) = feed.next().await {
        let item = item.unwrap();
        largest = largest.max(item.weight());
        total += item.weight();
        if item == Item::Finished {
            break;
        }
    }
    assert_eq!(total, region(&keys).len());
    assert!(largest < 300 << 10, "{largest}");
}

#[tokio::test]
async fn a_directory_that_is_not_there_is_named() {
    let dir = TempDir::new().unwrap();
    let gone = dir.path().join("gone");
    let text = format!("dir = {gone:?}");
    let mut own = CosmosFiles::new(&context("hub"), toml::from_str(&text).unwrap()).unwrap();
    let mut feed = own.blocks(None).await.unwrap();
    let error = feed.next().await.unwrap().unwrap_err().to_string();
    assert!(error.contains("listing the directory") && error.contains("gone"), "{error}");
}

#[test]
fn consumed_is_one_of_three() {
    let parse = |text: &str| Consumed::try_from(text.to_owned());
    assert_eq!(parse("keep"), Ok(Consumed::Keep));
    assert_eq!(parse("move:/a b"), Ok(Consumed::Move("/a b".into())));
    for wrong in ["move:", "Keep", "remove", ""] {
        assert!(parse(wrong).is_err(), "{wrong}");
    }
}

#[tokio::test]
async fn the_block_at_the_joint_is_given_again_if_it_is_there() {
    let dir = TempDir::new().unwrap();
    plain(dir.path(), 1..=4);
    let given = import(&dir, "", Some(2)).await;
    assert_eq!((given.again[0].height, given.again.len()), (2, 1));
    assert_eq!(given.again[0].region, region(&["k2"]));
    assert_eq!(given.heights(), [3, 4]);
    fs::remove_file(dir.path().join("block-2-data")).unwrap();
    let given = import(&dir, "", Some(2)).await;
    assert_eq!((given.again.len(), given.heights()), (0, vec![3, 4]));
    // Half of it is there: it is being written, or was torn, and the journal has it.
    fs::write(dir.path().join("block-2-data"), [0; 5]).unwrap();
    assert_eq!(import(&dir, "", Some(2)).await.heights(), [3, 4]);
    // Whole but not what it should be: the journal has the block, so nothing is in the way.
    fs::write(dir.path().join("block-2-data"), with_header(&[0xff; 4])).unwrap();
    let mut own = source(&dir, "follow = false");
    let mut feed = own.blocks(Some(&head(2))).await.unwrap();
    let given = read(&mut feed, usize::MAX).await;
    assert_eq!((given.again.len(), given.heights()), (0, vec![3, 4]));
    let notes = own.context.notes.list().join("\n");
    assert!(notes.contains("block 2") && notes.contains("was not compared"), "{notes}");
}

#[tokio::test]
async fn files_that_a_node_writes_again_are_given_again_from_the_lowest() {
    let dir = TempDir::new().unwrap();
    plain(dir.path(), 1..=5);
    let mut own = source(&dir, "");
    let mut feed = own.blocks(None).await.unwrap();
    assert_eq!(read(&mut feed, 5).await.heights(), [1, 2, 3, 4, 5]);
    // Rolled back to 3; nothing comes while nothing is written.
    silent(&mut feed, "at the tip").await;
    for height in 4..=6u64 {
        write(dir.path(), height, &Written { keys: &["other"], txs: None });
    }
    let given = read(&mut feed, 1).await;
    assert_eq!(given.heights(), [6]);
    let again: Vec<_> = given.again.iter().map(|block| block.height).collect();
    assert!(again.ends_with(&[4, 5]), "{again:?}");
    assert_eq!(given.again.last().unwrap().region, region(&["other"]));
    feed.close().await;
}

#[tokio::test]
async fn goes_back_as_far_as_the_files_reach() {
    let dir = TempDir::new().unwrap();
    plain(dir.path(), [1, 2, 4, 5, 6, 7]);
    for (more, made_anew) in [("", false), ("consumed = 'delete'", true)] {
        let mut own = source(&dir, &format!("follow = false\n{more}"));
        let at = |height| Pointer::from_height(height);
        let again = own.again(&head(6), &at(1), &at(6)).await.unwrap().unwrap();
        assert_eq!((again.first, again.made_anew), (at(4), made_anew));
        let mut feed = again.feed;
        let given = read(&mut feed, usize::MAX).await;
        let again: Vec<_> = given.again.iter().map(|block| block.height).collect();
        assert_eq!((again, given.heights()), (vec![4, 5, 6], vec![7]));
        let near = own.again(&head(6), &at(4), &at(6)).await.unwrap().unwrap();
        assert_eq!(near.first, at(5));
        let gone = own.again(&head(6), &at(1), &at(3)).await;
        assert!(matches!(gone, Err(SourceError::Block { .. })));
    }
}
