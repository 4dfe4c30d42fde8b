//! What every block must hold and what its digest must be, worked out here from the height alone,
//! without the code under test.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use parking_lot::Mutex;

/// Every so many blocks one is larger than a frame.
const LARGE_EVERY: u64 = 400;
const STORES: [&str; 2] = ["bank", "gov"];

/// The one history that is captured. Clones share what was worked out.
#[derive(Clone, Debug, Default)]
pub struct Chain {
    digests: Arc<Mutex<Vec<[u8; 32]>>>,
}

impl Chain {
    /// The digest of a block; zeros for height 0.
    pub fn digest(&self, height: u64) -> [u8; 32] {
        let mut digests = self.digests.lock();
        for height in digests.len() as u64 + 1..=height {
            let parent = digests.last().copied().unwrap_or_default();
            digests.push(block_digest(parent, height, &states(height)));
        }
        let at = usize::try_from(height).unwrap();
        at.checked_sub(1).map(|at| digests[at]).unwrap_or_default()
    }
}

/// The changes of a block, as the capture API takes them.
pub fn changes(height: u64) -> Bytes {
    let mut region = BytesMut::new();
    for store in STORES {
        for change in store_changes(store, height) {
            region.extend_from_slice(&change);
        }
    }
    region.freeze()
}

/// Digest per store, by its definition.
fn states(height: u64) -> Vec<(&'static str, [u8; 32])> {
    let digest = |store| {
        let mut hasher = blake3::Hasher::new_derive_key("sluice.v1 state digest");
        for change in store_changes(store, height) {
            hasher.update(&change);
        }
        hasher.update(&height.to_le_bytes());
        (store, *hasher.finalize().as_bytes())
    };
    STORES.into_iter().map(digest).collect()
}

fn block_digest(parent: [u8; 32], height: u64, states: &[(&str, [u8; 32])]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("sluice.v1 block digest");
    let mut put = |bytes: &[u8]| _ = hasher.update(bytes);
    put(&parent);
    put(&0u32.to_le_bytes());
    put(&8u64.to_le_bytes());
    put(&height.to_be_bytes());
    put(&height.to_le_bytes());
    put(&(states.len() as u64).to_le_bytes());
    for (store, digest) in states {
        put(&(store.len() as u64).to_le_bytes());
        put(store.as_bytes());
        put(digest);
    }
    put(&[0]);
    *hasher.finalize().as_bytes()
}

fn store_changes(store: &str, height: u64) -> Vec<Bytes> {
    let (count, size) = match store {
        "bank" if height.is_multiple_of(LARGE_EVERY) => (40, 16 << 10),
        "bank" => (4, 256),
        _ => (1, 8),
    };
    let change = |i: u64| {
        let mut seed = blake3::Hasher::new();
        seed.update(store.as_bytes()).update(&height.to_le_bytes()).update(&i.to_le_bytes());
        let mut value = vec![0; size];
        seed.finalize_xof().fill(&mut value);
        encode(store, &i.to_be_bytes(), &value)
    };
    (0..count).map(change).collect()
}

/// A change by hand: field 15 of a frame, a message of store (1), key (3) and value (4).
fn encode(store: &str, key: &[u8], value: &[u8]) -> Bytes {
    let mut inner = BytesMut::new();
    for (field, bytes) in [(1, store.as_bytes()), (3, key), (4, value)] {
        put_field(field, bytes, &mut inner);
    }
    let mut out = BytesMut::new();
    put_field(15, &inner, &mut out);
    out.freeze()
}

fn put_field(field: u8, bytes: &[u8], out: &mut BytesMut) {
    out.put_u8(field << 3 | 2);
    let mut len = bytes.len();
    while len >= 0x80 {
        out.put_u8(u8::try_from(len & 0x7f).unwrap() | 0x80);
        len >>= 7;
    }
    out.put_u8(u8::try_from(len).unwrap());
    out.put_slice(bytes);
}
