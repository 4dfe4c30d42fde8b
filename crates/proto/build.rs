//! Generates the gRPC code from `proto/`, without protoc.

use std::{error::Error, path::PathBuf};

use prost::Message;
use prost_types::{FileDescriptorSet, field_descriptor_proto::Type};

const FILES: [&str; 7] = [
    "cosmos/store/v1beta1/listening.proto",
    "sluice/v1/frame.proto",
    "sluice/v1/router.proto",
    "sluice/v1/producer.proto",
    "sluice/v1/coordinator.proto",
    "sluice/v1/sink.proto",
    "sluice/v1/spool.proto",
];

/// Fields whose message is kept as the bytes it came in: what passes through is never decoded.
/// A message and a `bytes` field are encoded alike, so the public contract is unchanged.
const RAW: [(&str, &str); 2] = [("CaptureRequest", "changes"), ("SpoolFetchResponse", "frame")];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=../../proto");
    let mut descriptors = protox::compile(FILES, ["../../proto"])?;
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    // The public contract, for reflection; written before the raw fields are changed.
    std::fs::write(out.join("sluice.bin"), descriptors.encode_to_vec())?;
    for (message, field) in RAW {
        keep_raw(&mut descriptors, message, field)?;
    }
    tonic_prost_build::configure()
        .bytes(".")
        .codec_path("crate::codec::Protobuf")
        // Written by hand: a frame is sent as a header and slices of stored bytes.
        .extern_path(".sluice.v1.AppendRequest", "crate::append::AppendRequest")
        .extern_path(".sluice.v1.SubscribeResponse", "crate::subscribe::SubscribeResponse")
        .compile_fds(descriptors)?;
    Ok(())
}

fn keep_raw(
    descriptors: &mut FileDescriptorSet,
    message: &str,
    field: &str,
) -> Result<(), Box<dyn Error>> {
    let found = descriptors
        .file
        .iter_mut()
        .flat_map(|file| &mut file.message_type)
        .filter(|candidate| candidate.name() == message)
        .flat_map(|candidate| &mut candidate.field)
        .find(|candidate| candidate.name() == field)
        .ok_or_else(|| format!("{message}.{field} is not in the protos"))?;
    found.set_type(Type::Bytes);
    found.type_name = None;
    Ok(())
}
