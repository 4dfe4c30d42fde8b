//! Plain little-endian fields behind a magic number, a length and a checksum: what the small
//! files of the journal look like.

use bytes::Bytes;
use sluice_model::{Digest, Generation, Head, Pointer, Position};

/// Bytes in front of a sealed payload: magic, length, checksum.
pub(crate) const SEAL: usize = 16;

/// Writes fields.
#[derive(Debug, Default)]
pub(crate) struct Put(pub(crate) Vec<u8>);

impl Put {
    pub(crate) fn u8(&mut self, value: u8) -> &mut Self {
        self.0.push(value);
        self
    }

    pub(crate) fn u32(&mut self, value: u32) -> &mut Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub(crate) fn u64(&mut self, value: u64) -> &mut Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub(crate) fn i64(&mut self, value: i64) -> &mut Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// Bytes behind their length. Longer than 4 GiB does not occur: every caller is bounded.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        self.raw(bytes)
    }

    pub(crate) fn time(&mut self, time: Option<i64>) -> &mut Self {
        self.u8(u8::from(time.is_some())).i64(time.unwrap_or(0))
    }

    pub(crate) fn head(&mut self, head: &Head) -> &mut Self {
        self.u32(head.generation.0)
            .bytes(head.pointer.as_bytes())
            .u64(head.height)
            .raw(head.digest.as_bytes())
            .time(head.time)
            .i64(head.appended)
    }

    pub(crate) fn position(&mut self, position: &Position) -> &mut Self {
        self.u32(position.generation.0).bytes(position.pointer.as_bytes()).u32(position.index)
    }

    /// Everything written, sealed.
    pub(crate) fn seal(&self, magic: u64) -> Vec<u8> {
        let mut out = Self::default();
        out.u64(magic).u32(u32::try_from(self.0.len()).unwrap_or(u32::MAX));
        out.u32(crc32c::crc32c(&self.0)).raw(&self.0);
        out.0
    }
}

/// What of a magic number names the kind of file; the rest, two digits, is the format's version.
const KIND: u64 = (1 << 48) - 1;

/// What [`unseal`] says of a file of the right kind in another version.
pub(crate) const OTHER_VERSION: &str =
    "it is of a version of the format that this program does not read";

/// The payload behind a seal, if it is whole.
pub(crate) fn unseal(magic: u64, bytes: &[u8]) -> Result<&[u8], &'static str> {
    let mut fields = Get(bytes);
    let found = fields.u64().unwrap_or(0);
    if found != magic {
        return Err(if (found ^ magic) & KIND == 0 {
            OTHER_VERSION
        } else {
            "it does not begin with the expected magic number"
        });
    }
    let (Some(len), Some(crc)) = (fields.u32(), fields.u32()) else {
        return Err("it is too short");
    };
    let payload = fields.raw(len as usize).ok_or("it is too short")?;
    if crc32c::crc32c(payload) != crc {
        return Err("its checksum is wrong");
    }
    Ok(payload)
}

/// Reads fields; `None` where the bytes end or a value cannot be.
#[derive(Debug)]
pub(crate) struct Get<'a>(pub(crate) &'a [u8]);

impl<'a> Get<'a> {
    pub(crate) fn raw(&mut self, len: usize) -> Option<&'a [u8]> {
        let (field, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(field)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.raw(N)?.try_into().ok()
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array().map(|[byte]: [u8; 1]| byte)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_le_bytes)
    }

    pub(crate) fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = self.u32()?;
        self.raw(len as usize)
    }

    pub(crate) fn text(&mut self) -> Option<String> {
        String::from_utf8(self.bytes()?.to_vec()).ok()
    }

    pub(crate) fn digest(&mut self) -> Option<Digest> {
        self.array().map(Digest::from_array)
    }

    pub(crate) fn pointer(&mut self) -> Option<Pointer> {
        Pointer::new(Bytes::copy_from_slice(self.bytes()?)).ok()
    }

    pub(crate) fn time(&mut self) -> Option<Option<i64>> {
        let present = self.u8()? != 0;
        let time = self.i64()?;
        Some(present.then_some(time))
    }

    pub(crate) fn head(&mut self) -> Option<Head> {
        Some(Head {
            generation: Generation(self.u32()?),
            pointer: self.pointer()?,
            height: self.u64()?,
            digest: self.digest()?,
            time: self.time()?,
            appended: self.i64()?,
        })
    }

    pub(crate) fn position(&mut self) -> Option<Position> {
        Some(Position {
            generation: Generation(self.u32()?),
            pointer: self.pointer()?,
            index: self.u32()?,
        })
    }
}

/// The head before any block.
pub(crate) fn origin() -> Head {
    Head {
        generation: Generation(0),
        pointer: Pointer::ORIGIN,
        height: 0,
        digest: Digest::ZERO,
        time: None,
        appended: 0,
    }
}

/// The head as users see it: there is none before the first block.
pub(crate) fn visible(head: &Head) -> Option<Head> {
    (head.position() != Position::ORIGIN).then(|| head.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_tells_what_is_wrong_with_it() {
        let magic = |name: &[u8; 8]| u64::from_le_bytes(*name);
        let mut fields = Put::default();
        fields.u64(7);
        let sealed = fields.seal(magic(b"SLTEST02"));
        let told = |name, bytes: &[u8]| unseal(magic(name), bytes).map(<[u8]>::to_vec);
        assert_eq!(told(b"SLTEST02", &sealed).unwrap(), 7u64.to_le_bytes());
        let version = told(b"SLTEST01", &sealed).unwrap_err();
        assert_eq!(version, OTHER_VERSION);
        let other = told(b"SLELSE02", &sealed).unwrap_err();
        assert!(other.contains("magic number"), "{other}");
        assert_eq!(told(b"SLTEST02", &sealed[..SEAL]).unwrap_err(), "it is too short");
        let mut flipped = sealed;
        flipped[SEAL] ^= 1;
        assert_eq!(told(b"SLTEST02", &flipped).unwrap_err(), "its checksum is wrong");
    }
}
