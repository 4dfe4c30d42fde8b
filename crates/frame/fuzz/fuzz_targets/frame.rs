//! What is read as a frame and verified is also read by prost, is written back the same, and a
//! splice of it holds exactly the changes that a filter lets through one by one.
#![no_main]

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use prost::Message;
use sluice_frame::{Frame, Splicer};
use sluice_model::{Filter, FilterSpec, Op};
use sluice_proto::v1;

static FILTERS: LazyLock<Vec<Arc<Filter>>> = LazyLock::new(|| {
    let none = FilterSpec::default;
    let specs = [
        none(),
        FilterSpec { stores: vec!["bank".into()], ..none() },
        FilterSpec { stores: vec!["*".into(), "!bank".into()], ..none() },
        FilterSpec { topics: Some("bank\\..*".into()), ..none() },
        FilterSpec { ops: vec![Op::Delete], ..none() },
        FilterSpec { prefixes: vec!["hex:02".parse().expect("a prefix")], ..none() },
        FilterSpec { buckets: vec![(0, 99)], ..none() },
    ];
    specs.iter().map(|spec| Arc::new(Filter::compile(spec).expect("a filter"))).collect()
});

/// Store, topic, operation, key and value of what passes, decided change by change.
type Passed = Vec<(String, String, Op, Vec<u8>, Vec<u8>)>;

fn passed(frame: &Frame, filter: &Filter) -> Passed {
    let changes = frame.changes().map(|change| change.expect("the frame was verified"));
    changes
        .filter(|(_, route, change)| {
            filter.matches_route(&route.store, route.topic())
                && filter.matches_change(&route.store, change.op, change.key)
        })
        .map(|(_, route, change)| {
            let (store, topic) = (route.store.to_string(), route.topic().to_owned());
            (store, topic, change.op, change.key.to_vec(), change.value.to_vec())
        })
        .collect()
}

fuzz_target!(|bytes: &[u8]| {
    let Ok(frame) = Frame::parse(Bytes::copy_from_slice(bytes)) else { return };
    if frame.verify().is_err() {
        return;
    }
    v1::Frame::decode(bytes).expect("what is accepted, everybody can read");
    let again = Frame::parse(frame.encode()).expect("what we write, we read");
    assert_eq!(again, frame);
    for filter in &*FILTERS {
        let expected = passed(&frame, filter);
        match Splicer::new(filter.clone(), false).splice(&frame.header, &frame.changes) {
            None => assert_eq!(expected, []),
            Some(wire) => {
                let spliced = wire.parse().expect("a splice is a frame");
                spliced.verify().expect("a splice is verified");
                assert_eq!(passed(&spliced, filter), expected);
                assert_eq!(spliced.changes().count(), expected.len());
            }
        }
    }
});
