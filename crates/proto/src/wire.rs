//! Fields of messages that are written by hand, because they carry frames as slices.

use bytes::{Buf, BufMut, Bytes};
use prost::{
    DecodeError,
    encoding::{self, DecodeContext, WireType},
};
use sluice_frame::WireFrame;

/// Writes a frame as a field: what it consists of is copied once, into the connection's buffer.
pub(crate) fn encode(tag: u32, frame: &WireFrame, buf: &mut impl BufMut) {
    encoding::encode_key(tag, WireType::LengthDelimited, buf);
    encoding::encode_varint(frame.len() as u64, buf);
    frame.put(buf);
}

/// Reads a frame as one stretch of the receive buffer, without a copy.
pub(crate) fn decode(
    wire_type: WireType,
    buf: &mut impl Buf,
    ctx: DecodeContext,
) -> Result<WireFrame, DecodeError> {
    let mut bytes = Bytes::new();
    encoding::bytes::merge(wire_type, &mut bytes, buf, ctx)?;
    Ok(WireFrame::from(bytes))
}

/// Reads a message that is generated.
pub(crate) fn message<M: prost::Message + Default>(
    wire_type: WireType,
    buf: &mut impl Buf,
    ctx: DecodeContext,
) -> Result<M, DecodeError> {
    let mut message = M::default();
    encoding::message::merge(wire_type, &mut message, buf, ctx)?;
    Ok(message)
}

/// Bytes of a field with so many bytes of content. Tags below 16 have the same length.
pub(crate) fn field_len(tag: u32, len: usize) -> usize {
    encoding::key_len(tag) + encoding::encoded_len_varint(len as u64) + len
}
