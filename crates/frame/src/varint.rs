//! Base-128 numbers, strict: only the shortest form is read.

use bytes::BufMut;

/// Reads a number at `at`; gives it and the offset behind it. `None` if it is cut off, longer
/// than 64 bits, or not in its shortest form.
#[inline]
pub fn read(bytes: &[u8], at: usize) -> Option<(u64, usize)> {
    let first = *bytes.get(at)?;
    if first < 0x80 {
        return Some((u64::from(first), at + 1));
    }
    read_long(bytes, at)
}

fn read_long(bytes: &[u8], at: usize) -> Option<(u64, usize)> {
    let mut value = 0u64;
    for i in 0..10 {
        let byte = *bytes.get(at + i)?;
        let low = u64::from(byte & 0x7f);
        if i == 9 && byte > 1 {
            return None;
        }
        value |= low << (7 * i);
        if byte < 0x80 {
            // A last byte of zero adds nothing: a shorter form exists.
            return (byte != 0).then_some((value, at + i + 1));
        }
    }
    None
}

/// Reads a number in any form, as protobuf decoders do. For what foreign encoders wrote.
pub fn read_lenient(bytes: &[u8], at: usize) -> Option<(u64, usize)> {
    let mut value = 0u64;
    for i in 0..10 {
        let byte = *bytes.get(at + i)?;
        if i == 9 && byte > 1 {
            return None;
        }
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte < 0x80 {
            return Some((value, at + i + 1));
        }
    }
    None
}

/// Writes a number in its shortest form.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "seven bits at a time")]
pub fn put(mut value: u64, out: &mut impl BufMut) {
    while value >= 0x80 {
        out.put_u8((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

/// Bytes that a number takes in its shortest form.
#[inline]
pub const fn len(value: u64) -> usize {
    let bits = 64 - (value | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_at_every_width() {
        for shift in 0..64 {
            for value in [1u64 << shift, (1u64 << shift) - 1, u64::MAX >> shift] {
                let mut out = Vec::new();
                put(value, &mut out);
                assert_eq!(out.len(), len(value));
                assert_eq!(read(&out, 0), Some((value, out.len())));
                assert_eq!(read_lenient(&out, 0), Some((value, out.len())));
                assert_eq!(read(&out[..out.len() - 1], 0), None);
            }
        }
    }

    #[test]
    fn longer_forms_are_only_read_leniently() {
        assert_eq!(read(&[0x80, 0x00], 0), None);
        assert_eq!(read_lenient(&[0x80, 0x00], 0), Some((0, 2)));
        let eleven = [0xff; 11];
        assert_eq!(read(&eleven, 0), None);
        assert_eq!(read_lenient(&eleven, 0), None);
        let beyond_64_bits = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02];
        assert_eq!(read(&beyond_64_bits, 0), None);
        assert_eq!(read_lenient(&beyond_64_bits, 0), None);
    }
}
