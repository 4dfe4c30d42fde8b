//! The steps that run over every byte: scan, digest, splice, against decoding with protobuf.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a measurement ends at the first surprise"
)]

use std::{hint::black_box, sync::Arc};

use bytes::{Bytes, BytesMut};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use prost::Message;
use sluice_frame::{BlockBuilder, BlockStart, Digester, Frame, Splicer, put_change, scan};
use sluice_model::{Digest, Epoch, Filter, FilterSpec, Generation, Op, Pointer, TopicRules};
use sluice_proto::v1;

const CHANGES: usize = 1000;

/// A thousand changes of about 145 bytes, sorted by store.
fn region(stores: usize) -> Bytes {
    let mut out = BytesMut::new();
    for i in 0..CHANGES {
        let store = format!("store-{:02}", i * stores / CHANGES);
        let mut key = [0u8; 32];
        key[..8].copy_from_slice(&(i as u64).to_be_bytes());
        put_change(&store, Op::Set, &key, &[i as u8; 100], &mut out);
    }
    out.freeze()
}

fn frame(region: &Bytes) -> Frame {
    let start = BlockStart {
        ingestor: "bench".parse().unwrap(),
        generation: Generation(0),
        pointer: Pointer::from_height(2),
        parent: Pointer::from_height(1),
        height: 2,
        time: None,
        epoch: Epoch::ZERO,
    };
    let rules = TopicRules::default();
    let mut builder = BlockBuilder::new(start, &rules);
    builder.push_changes(region).unwrap();
    builder.finish("").pop_back().unwrap()
}

fn steps(c: &mut Criterion) {
    let region = region(16);
    let frame = frame(&region);
    let encoded = frame.encode();
    let mut group = c.benchmark_group("1000 changes in 16 stores");
    group.throughput(Throughput::Bytes(region.len() as u64));
    let rules = TopicRules::default();
    group.bench_function("scan and build the run table", |b| {
        b.iter(|| scan(black_box(&region), &rules).unwrap());
    });
    group.bench_function("verify a given run table", |b| {
        b.iter(|| black_box(&frame).verify().unwrap());
    });
    group.bench_function("decode with protobuf", |b| {
        b.iter(|| v1::Frame::decode(black_box(encoded.clone())).unwrap());
    });
    group.bench_function("digest", |b| {
        b.iter(|| {
            let header = &frame.header;
            let mut digester = Digester::new(
                Digest::ZERO,
                header.generation,
                header.pointer.clone(),
                header.height,
            );
            digester.add(black_box(&frame)).unwrap();
            digester.finish()
        });
    });
    for (name, stores) in [("everything", vec![]), ("1 of 16 stores", vec!["store-07".to_owned()])]
    {
        let spec = FilterSpec { stores, ..FilterSpec::default() };
        let mut splicer = Splicer::new(Arc::new(Filter::compile(&spec).unwrap()), false);
        group.bench_function(format!("splice {name}"), |b| {
            b.iter(|| splicer.splice(black_box(&frame.header), &frame.changes).unwrap());
        });
    }
    group.finish();
}

criterion_group!(benches, steps);
criterion_main!(benches);
