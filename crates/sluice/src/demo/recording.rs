//! What a recording says should arrive, computed from its files by code of its own: nothing here
//! uses the codecs that are being verified.

use std::path::{Path, PathBuf};

use ring::digest::{SHA256, digest};

use crate::exit::{Exit, Failure, on_path};

/// Most transactions of a block for which its metadata is computed: the way is short, not fast.
const MOST_TXS: usize = 1000;

/// One pair of a data file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pair {
    pub(crate) store: String,
    pub(crate) delete: bool,
    pub(crate) key: Vec<u8>,
    pub(crate) value: Vec<u8>,
    /// The bytes in the file, with their length in front.
    raw: Vec<u8>,
}

/// One height.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    pub(crate) height: u64,
    pub(crate) pairs: Vec<Pair>,
    pub(crate) data: Vec<u8>,
    pub(crate) meta: Vec<u8>,
}

/// Heights 1 to N of a node.
#[derive(Clone, Debug)]
pub(crate) struct Recording {
    pub(crate) blocks: Vec<Block>,
}

impl Recording {
    /// Reads the heights from 1 on.
    pub(crate) fn read(dir: &Path) -> Result<Self, Failure> {
        let mut blocks = Vec::new();
        for height in 1.. {
            let data = data_file(dir, height);
            if !data.exists() {
                break;
            }
            blocks.push(Block::read(height, &data, &meta_file(dir, height))?);
        }
        if blocks.is_empty() {
            let message = format!("{} has no block-1-data", dir.display());
            return Err(Failure::new(Exit::NotFound, message)
                .fix("sluice demo --recording testdata/cosmos-recording"));
        }
        Ok(Self { blocks })
    }

    pub(crate) fn changes(&self) -> usize {
        self.blocks.iter().map(|block| block.pairs.len()).sum()
    }
}

impl Block {
    fn read(height: u64, data_path: &Path, meta_path: &Path) -> Result<Self, Failure> {
        let data = std::fs::read(data_path).map_err(on_path(data_path))?;
        let meta = std::fs::read(meta_path).map_err(on_path(meta_path))?;
        let pairs = pairs(&data).ok_or_else(|| {
            Failure::new(Exit::Data, format!("{} is no data file", data_path.display()))
                .fix(format!("sluice files decode {}", data_path.display()))
        })?;
        Ok(Self { height, pairs, data, meta })
    }

    /// The data file as it would be if the node had written these stores only.
    pub(crate) fn filtered(&self, stores: &[&str]) -> Vec<u8> {
        let wanted = self.pairs.iter().filter(|pair| stores.contains(&pair.store.as_str()));
        let body: Vec<u8> = wanted.flat_map(|pair| pair.raw.iter().copied()).collect();
        let mut file = (body.len() as u64).to_be_bytes().to_vec();
        file.extend(body);
        file
    }
}

impl Block {
    /// The meta file without the transactions that are not the block's own: the node repeats those
    /// of earlier blocks. Which are, the hash in the header tells; `None` if it does not.
    pub(crate) fn own_meta(&self) -> Option<Vec<u8>> {
        let (_, mut body) = self.meta.split_first_chunk::<8>()?;
        let mut fields = Vec::new();
        while !body.is_empty() {
            let whole = body;
            let tag = take_number(&mut body)?;
            let content = take_bytes(&mut body)?;
            fields.push((tag, content, whole.get(..whole.len() - body.len())?));
        }
        let (_, request, _) = fields.iter().find(|(tag, ..)| *tag == 0x0a)?;
        let data_hash = inside(inside(request, 0x12)?, 0x3a)?;
        let delivered = fields.iter().filter(|(tag, ..)| *tag == 0x1a);
        let hashes: Vec<_> = delivered
            .map(|(_, tx, _)| inside(tx, 0x0a).and_then(|request| inside(request, 0x0a)))
            .map(|tx| hash(&[tx.unwrap_or_default()]))
            .collect();
        let mut repeated = (0..=hashes.len())
            .rev()
            .take(MOST_TXS)
            .find(|own| hashes.get(*own..).is_some_and(|own| tree(own) == data_hash))?;
        let mut file = vec![0; 8];
        for (tag, _, raw) in fields {
            if tag == 0x1a && repeated > 0 {
                repeated -= 1;
            } else {
                file.extend(raw);
            }
        }
        let length = (file.len() - 8) as u64;
        file.splice(..8, length.to_be_bytes());
        Some(file)
    }
}

fn hash(parts: &[&[u8]]) -> Vec<u8> {
    digest(&SHA256, &parts.concat()).as_ref().to_vec()
}

/// The root of a node's tree over hashes of transactions.
fn tree(hashes: &[Vec<u8>]) -> Vec<u8> {
    match hashes {
        [] => hash(&[]),
        [one] => hash(&[&[0], one]),
        more => {
            let (left, right) = more.split_at(more.len().next_power_of_two() / 2);
            hash(&[&[1], &tree(left), &tree(right)])
        }
    }
}

/// The content of the first field with this tag, among numbers and length-delimited fields.
fn inside(mut message: &[u8], wanted: u64) -> Option<&[u8]> {
    loop {
        let tag = take_number(&mut message)?;
        if tag & 7 == 0 {
            take_number(&mut message)?;
            continue;
        }
        let content = (tag & 7 == 2).then(|| take_bytes(&mut message))??;
        if tag == wanted {
            return Some(content);
        }
    }
}

pub(crate) fn data_file(dir: &Path, height: u64) -> PathBuf {
    dir.join(format!("block-{height}-data"))
}

pub(crate) fn meta_file(dir: &Path, height: u64) -> PathBuf {
    dir.join(format!("block-{height}-meta"))
}

/// All pairs of a data file; `None` if it is not one.
fn pairs(file: &[u8]) -> Option<Vec<Pair>> {
    let (length, mut body) = file.split_first_chunk::<8>()?;
    if u64::from_be_bytes(*length) != body.len() as u64 {
        return None;
    }
    let mut pairs = Vec::new();
    while !body.is_empty() {
        let whole = body;
        let message = take_bytes(&mut body)?;
        let raw = whole.get(..whole.len() - body.len())?.to_vec();
        pairs.push(pair(message, raw)?);
    }
    Some(pairs)
}

/// store_key = 1, delete = 2, key = 3, value = 4.
fn pair(mut message: &[u8], raw: Vec<u8>) -> Option<Pair> {
    let mut pair =
        Pair { store: String::new(), delete: false, key: Vec::new(), value: Vec::new(), raw };
    while !message.is_empty() {
        match take_number(&mut message)? {
            0x0a => pair.store = String::from_utf8(take_bytes(&mut message)?.to_vec()).ok()?,
            0x10 => pair.delete = take_number(&mut message)? != 0,
            0x1a => pair.key = take_bytes(&mut message)?.to_vec(),
            0x22 => pair.value = take_bytes(&mut message)?.to_vec(),
            _ => return None,
        }
    }
    Some(pair)
}

fn take_bytes<'a>(from: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(take_number(from)?).ok()?;
    let (bytes, rest) = from.split_at_checked(length)?;
    *from = rest;
    Some(bytes)
}

/// Seven bits per byte, lowest first; the high bit says that more follow.
fn take_number(from: &mut &[u8]) -> Option<u64> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = from.split_first()?;
        *from = rest;
        number |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two pairs, the second a delete, written by hand.
    const FILE: &[u8] =
        b"\0\0\0\0\0\0\0\x19\x0d\x0a\x04bank\x1a\x01k\x22\x02vv\x0a\x0a\x03gov\x10\x01\x1a\x01k";

    #[test]
    fn reads_pairs_and_writes_what_a_narrower_node_would() {
        let all = pairs(FILE).unwrap();
        assert_eq!(all.len(), 2);
        assert_eq!(
            (all[0].store.as_str(), &all[0].value[..], all[0].delete),
            ("bank", &b"vv"[..], false)
        );
        assert_eq!(
            (all[1].store.as_str(), &all[1].key[..], all[1].delete),
            ("gov", &b"k"[..], true)
        );
        let block = Block { height: 1, pairs: all, data: FILE.to_vec(), meta: Vec::new() };
        assert_eq!(block.filtered(&["bank", "gov"]), FILE);
        assert_eq!(block.filtered(&["gov"]), b"\0\0\0\0\0\0\0\x0b\x0a\x0a\x03gov\x10\x01\x1a\x01k");
        assert_eq!(block.filtered(&[]), [0; 8]);
    }

    #[test]
    fn metadata_has_the_transactions_that_the_summary_counts() {
        let testdata = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata");
        let summary = std::fs::read(testdata.join("cosmos-recording.json")).unwrap();
        let summary: serde_json::Value = serde_json::from_slice(&summary).unwrap();
        let mut expected = vec![0; 300];
        for block in summary["blocks_with_txs"].as_array().unwrap() {
            let height = usize::try_from(block["height"].as_u64().unwrap()).unwrap();
            expected[height - 1] = block["txs"].as_u64().unwrap();
        }
        let recording = Recording::read(&testdata.join("cosmos-recording")).unwrap();
        let found: Vec<u64> = recording
            .blocks
            .iter()
            .map(|block| {
                let meta = block.own_meta().unwrap();
                assert_eq!(meta[..8], (meta.len() as u64 - 8).to_be_bytes());
                let (mut rest, mut txs) = (&meta[8..], 0);
                while !rest.is_empty() {
                    txs += u64::from(take_number(&mut rest).unwrap() == 0x1a);
                    take_bytes(&mut rest).unwrap();
                }
                txs
            })
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn metadata_without_a_hash_that_fits_is_none() {
        let block = |meta: &[u8]| {
            let meta = meta.to_vec();
            Block { height: 1, pairs: Vec::new(), data: Vec::new(), meta }.own_meta()
        };
        let empty = [&b"\0\0\0\0\0\0\0\x26\x0a\x24\x12\x22\x3a\x20"[..], &hash(&[])].concat();
        assert_eq!(block(&empty), Some(empty.clone()));
        let mut other = empty;
        *other.last_mut().unwrap() ^= 1;
        assert_eq!(block(&other), None);
        assert_eq!(block(b"\0\0\0\0\0\0\0\x04\x0a\x02\x12\0"), None, "no hash");
        assert_eq!(block(b"\0\0\0\0\0\0\0\x02mm"), None, "no message");
    }

    #[test]
    fn a_torn_file_is_none() {
        for cut in 0..FILE.len() {
            assert_eq!(pairs(&FILE[..cut]), None, "cut at {cut}");
        }
    }
}
