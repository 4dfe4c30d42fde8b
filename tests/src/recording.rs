//! The recording of a real node, read with code of its own: what the tests expect is never
//! computed by what they test.

use std::path::{Path, PathBuf};

/// One change of the recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// Its bytes in the file, without the length before it.
    pub raw: Vec<u8>,
    /// Its store.
    pub store: String,
    /// Whether it deletes.
    pub delete: bool,
    /// Its key.
    pub key: Vec<u8>,
    /// Its value.
    pub value: Vec<u8>,
}

/// One block of the recording.
#[derive(Clone, Debug)]
pub struct Block {
    /// Its height.
    pub height: u64,
    /// Its changes.
    pub pairs: Vec<Pair>,
}

/// The directory of the recording.
pub fn dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/cosmos-recording")
}

/// Every block, in order.
pub fn blocks() -> Vec<Block> {
    let mut heights: Vec<u64> = std::fs::read_dir(dir())
        .unwrap()
        .filter_map(|entry| {
            let name = entry.unwrap().file_name().into_string().unwrap();
            name.strip_prefix("block-")?.strip_suffix("-data")?.parse().ok()
        })
        .collect();
    heights.sort_unstable();
    assert!(heights.len() > 100, "the recording is missing from testdata/");
    heights
        .into_iter()
        .map(|height| read(&dir().join(format!("block-{height}-data")), height))
        .collect()
}

/// The data file that a file streamer with only these stores would have written.
pub fn data_file(block: &Block, stores: &[&str]) -> Vec<u8> {
    let mut body = Vec::new();
    for pair in block.pairs.iter().filter(|pair| stores.contains(&pair.store.as_str())) {
        let mut length = pair.raw.len();
        while length >= 0x80 {
            body.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
            length >>= 7;
        }
        body.push(u8::try_from(length).unwrap());
        body.extend_from_slice(&pair.raw);
    }
    let mut file = u64::try_from(body.len()).unwrap().to_be_bytes().to_vec();
    file.extend(body);
    file
}

/// Sequence ids of the changes of these stores, in order.
pub fn ids(blocks: &[Block], stores: &[&str]) -> Vec<String> {
    let mut ids = Vec::new();
    for block in blocks {
        for (index, pair) in block.pairs.iter().enumerate() {
            if stores.contains(&pair.store.as_str()) {
                ids.push(format!("{:020}-{index:08x}", block.height));
            }
        }
    }
    ids
}

fn read(path: &Path, height: u64) -> Block {
    let file = std::fs::read(path).unwrap();
    let (head, mut rest) = file.split_at(8);
    assert_eq!(u64::from_be_bytes(head.try_into().unwrap()), rest.len() as u64);
    let mut pairs = Vec::new();
    while !rest.is_empty() {
        let length = usize::try_from(varint(&mut rest)).unwrap();
        let (raw, after) = rest.split_at(length);
        pairs.push(pair(raw));
        rest = after;
    }
    Block { height, pairs }
}

fn pair(raw: &[u8]) -> Pair {
    let mut pair = Pair {
        raw: raw.to_vec(),
        store: String::new(),
        delete: false,
        key: Vec::new(),
        value: Vec::new(),
    };
    let mut rest = raw;
    while !rest.is_empty() {
        let tag = varint(&mut rest);
        if tag == 0x10 {
            pair.delete = varint(&mut rest) == 1;
            continue;
        }
        let length = usize::try_from(varint(&mut rest)).unwrap();
        let (bytes, after) = rest.split_at(length);
        match tag {
            0x0a => pair.store = String::from_utf8(bytes.to_vec()).unwrap(),
            0x1a => pair.key = bytes.to_vec(),
            0x22 => pair.value = bytes.to_vec(),
            other => panic!("a field with tag {other} in the recording"),
        }
        rest = after;
    }
    pair
}

fn varint(rest: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..).step_by(7) {
        let (byte, after) = rest.split_first().unwrap();
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            break;
        }
    }
    value
}
