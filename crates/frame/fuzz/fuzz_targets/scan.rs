//! The scan accepts exactly what prost decodes and writes back unchanged, and reads the same; what
//! foreign encoders make of the same change is brought back into that form, or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use prost::Message;
use sluice_frame::{Elements, canonicalize, scan};
use sluice_model::{Op, TopicRules};
use sluice_proto::{cosmos::store::v1beta1::StoreKvPair, v1::Frame};

fuzz_target!(|bytes: &[u8]| {
    let Some(pairs) = judge(bytes) else { return };
    let Some(pair) = pairs.first().filter(|_| pairs.len() == 1) else { return };
    // One wrong bit in the right place is seldom found by chance: every way, for every change.
    for way in 0..WAYS {
        let foreign = foreign(pair, way);
        let same = judge(&foreign).is_some();
        assert_eq!(same, foreign == bytes, "way {way}");
        match canonicalize(&foreign) {
            Ok(canonical) => assert_eq!(&*canonical, bytes, "way {way}"),
            Err(_) => assert!(way == UNKNOWN_FIELD, "way {way}"),
        }
    }
});

/// Compares the scan with prost; the changes, if both accept.
fn judge(bytes: &[u8]) -> Option<Vec<StoreKvPair>> {
    // Every field but `changes` is refused by the scan, so a frame of changes alone is the judge.
    let pairs = Frame::decode(bytes).ok().map(|frame| frame.changes).filter(|pairs| {
        let only_changes = Frame { changes: pairs.clone(), ..Frame::default() };
        only_changes.encode_to_vec() == bytes && pairs.iter().all(|pair| !pair.store_key.is_empty())
    });
    assert_eq!(scan(bytes, &TopicRules::default()).is_ok(), pairs.is_some());
    let pairs = pairs?;
    for (pair, element) in pairs.iter().zip(Elements::new(bytes)) {
        let element = element.expect("the scan accepted it");
        assert_eq!(pair.store_key.as_bytes(), element.store);
        assert_eq!(pair.delete, element.op == Op::Delete);
        assert_eq!((&*pair.key, &*pair.value), (element.key, element.value));
    }
    Some(pairs)
}

const WAYS: u8 = 8;
const UNKNOWN_FIELD: u8 = 7;

/// A change as another encoder may write it; the ways are all legal protobuf.
fn foreign(pair: &StoreKvPair, way: u8) -> Vec<u8> {
    let store = field(1, pair.store_key.as_bytes(), way == 1, way == 2);
    let delete = vec![2 << 3, u8::from(pair.delete)];
    let key = field(3, &pair.key, way == 1, false);
    let value = field(4, &pair.value, way == 1, false);
    let mut fields = vec![store];
    fields.extend((pair.delete || way == 3).then_some(delete));
    fields.extend((!pair.key.is_empty() || way == 4).then_some(key));
    fields.extend((!pair.value.is_empty() || way == 4).then_some(value));
    match way {
        5 => fields.reverse(),
        // The last of a field counts.
        6 => fields.insert(0, field(1, b"another", false, false)),
        UNKNOWN_FIELD => fields.push(field(9, b"x", false, false)),
        _ => {}
    }
    field(15, &fields.concat(), way == 0, false)
}

/// A field of bytes; its length or its tag with a byte that is not needed.
fn field(number: u8, body: &[u8], long_length: bool, long_tag: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() + 12);
    varint(u64::from(number) << 3 | 2, long_tag, &mut out);
    varint(body.len() as u64, long_length, &mut out);
    out.extend_from_slice(body);
    out
}

fn varint(mut value: u64, long: bool, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    match long {
        true => out.extend([value as u8 | 0x80, 0]),
        false => out.push(value as u8),
    }
}
