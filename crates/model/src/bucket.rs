//! Partition buckets: keys hash into 256 virtual buckets, fixed for ever.

use xxhash_rust::xxh3::Xxh3;

/// Number of buckets.
pub const BUCKETS: u16 = 256;

/// The bucket of a key: xxh3-64 of store, a zero byte and key, modulo 256. The zero byte keeps
/// (`ab`, `c`) and (`a`, `bc`) apart.
pub fn bucket(store: &str, key: &[u8]) -> u8 {
    let mut hasher = Xxh3::new();
    hasher.update(store.as_bytes());
    hasher.update(&[0]);
    hasher.update(key);
    hasher.digest().to_le_bytes()[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Changing any of these would move every key of every deployed partition.
    #[test]
    fn fixed_for_ever() {
        let seen = [bucket("bank", b""), bucket("bank", b"a"), bucket("ban", b"ka")];
        assert_eq!(seen, seen_once());
    }

    fn seen_once() -> [u8; 3] {
        [
            (xxhash_rust::xxh3::xxh3_64(b"bank\0") & 0xff) as u8,
            (xxhash_rust::xxh3::xxh3_64(b"bank\0a") & 0xff) as u8,
            (xxhash_rust::xxh3::xxh3_64(b"ban\0ka") & 0xff) as u8,
        ]
    }
}
