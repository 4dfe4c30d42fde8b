//! The scan accepts exactly what prost decodes and writes back unchanged, and reads the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use prost::Message;
use sluice_frame::{Elements, scan};
use sluice_model::{Op, TopicRules};
use sluice_proto::v1::Frame;

fuzz_target!(|bytes: &[u8]| {
    // Every field but `changes` is refused by the scan, so a frame of changes alone is the judge.
    let judged = Frame::decode(bytes);
    let canonical = judged.as_ref().is_ok_and(|frame| {
        let only_changes = Frame { changes: frame.changes.clone(), ..Frame::default() };
        only_changes.encode_to_vec() == bytes
            && frame.changes.iter().all(|pair| !pair.store_key.is_empty())
    });
    assert_eq!(scan(bytes, &TopicRules::default()).is_ok(), canonical);
    if let (true, Ok(frame)) = (canonical, judged) {
        for (pair, element) in frame.changes.iter().zip(Elements::new(bytes)) {
            let element = element.expect("the scan accepted it");
            assert_eq!(pair.store_key.as_bytes(), element.store);
            assert_eq!(pair.delete, element.op == Op::Delete);
            assert_eq!((&*pair.key, &*pair.value), (element.key, element.value));
        }
    }
});
