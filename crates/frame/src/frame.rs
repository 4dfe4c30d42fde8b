use bytes::{Buf, BufMut, Bytes, BytesMut};
use sluice_model::Change;
use smallvec::SmallVec;

use crate::{
    error::FrameError,
    header::{Header, Run},
    limits::MAX_FRAME,
    routes::{Route, RouteInterner},
    scan::Elements,
};

/// A piece of a block, or a control record: a parsed header and the changes as they stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Everything but the changes.
    pub header: Header,
    /// Field 15 of the frame: tags, lengths and changes, one after the other.
    pub changes: Bytes,
}

impl Frame {
    /// Reads a frame; the changes share the memory of `bytes` and are not looked at.
    pub fn parse(bytes: Bytes) -> Result<Self, FrameError> {
        Self::parse_interned(bytes, &mut RouteInterner::default())
    }

    /// Reads a frame and shares its routes with the frames read before.
    pub fn parse_interned(
        mut bytes: Bytes,
        interner: &mut RouteInterner,
    ) -> Result<Self, FrameError> {
        if bytes.len() > MAX_FRAME {
            return Err(FrameError::TooLarge(bytes.len()));
        }
        let (header, end) = Header::parse_prefix(&bytes, interner)?;
        bytes.advance(end);
        Ok(Self { header, changes: bytes })
    }

    /// Walks every change: canonical form, and the run table says exactly what is there. Topics
    /// are taken as given: they are labels of the capture, not derivable from the bytes.
    pub fn verify(&self) -> Result<(), FrameError> {
        let mut elements = Elements::new(&self.changes);
        for run in &self.header.runs {
            let route = self.route(run)?;
            let begin = elements.offset();
            for _ in 0..run.count {
                let element = elements
                    .next()
                    .ok_or(FrameError::Table("it counts more changes than there are"))??;
                if element.store != route.store.as_bytes() {
                    return Err(FrameError::Table("a run names another store than its changes"));
                }
            }
            if elements.offset() - begin != run.bytes as usize {
                return Err(FrameError::Table("a run's bytes differ from its changes"));
            }
        }
        match elements.next() {
            None => Ok(()),
            Some(Err(error)) => Err(error.into()),
            Some(Ok(_)) => Err(FrameError::Table("it counts fewer changes than there are")),
        }
    }

    /// The changes with their index in the block and their route.
    pub fn changes(&self) -> Changes<'_> {
        Changes {
            frame: self,
            elements: Elements::new(&self.changes),
            runs: self.header.runs.iter(),
            left: 0,
            route: None,
            index: self.header.first_index,
        }
    }

    /// The frame for sending; shares the changes.
    pub fn to_wire(&self) -> WireFrame {
        WireFrame {
            head: self.header.encode(),
            slices: SmallVec::from_iter([self.changes.clone()]),
        }
    }

    /// The frame as one stretch of bytes.
    pub fn encode(&self) -> Bytes {
        self.to_wire().into_bytes()
    }

    fn route(&self, run: &Run) -> Result<&Route, FrameError> {
        self.header
            .routes
            .get(run.route as usize)
            .ok_or(FrameError::Table("a run names a route that is not there"))
    }
}

/// The changes of a frame, in order.
#[derive(Debug)]
pub struct Changes<'a> {
    frame: &'a Frame,
    elements: Elements<'a>,
    runs: std::slice::Iter<'a, Run>,
    left: u32,
    route: Option<&'a Route>,
    index: u32,
}

impl<'a> Iterator for Changes<'a> {
    type Item = Result<(u32, &'a Route, Change<'a>), FrameError>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.left == 0 {
            let run = self.runs.next()?;
            self.left = run.count;
            self.index = self.index.saturating_add(run.skip);
            match self.frame.route(run) {
                Ok(route) => self.route = Some(route),
                Err(error) => return Some(Err(error)),
            }
        }
        self.left -= 1;
        let route = self.route?;
        let element = match self.elements.next() {
            Some(Ok(element)) => element,
            Some(Err(error)) => return Some(Err(error.into())),
            None => {
                return Some(Err(FrameError::Table("it counts more changes than there are")));
            }
        };
        let index = self.index;
        self.index = index.saturating_add(1);
        let change =
            Change { store: &route.store, op: element.op, key: element.key, value: element.value };
        Some(Ok((index, route, change)))
    }
}

/// A frame ready to send: a header, then slices of changes that need not be contiguous in memory.
#[derive(Clone, Debug, Default)]
pub struct WireFrame {
    /// The encoded header.
    pub head: Bytes,
    /// The changes, in order.
    pub slices: SmallVec<[Bytes; 4]>,
}

impl WireFrame {
    /// Bytes of the whole frame.
    pub fn len(&self) -> usize {
        self.slices.iter().fold(self.head.len(), |sum, slice| sum + slice.len())
    }

    /// True without any byte.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes the frame.
    pub fn put(&self, out: &mut impl BufMut) {
        out.put_slice(&self.head);
        for slice in &self.slices {
            out.put_slice(slice);
        }
    }

    /// The frame as one stretch of bytes; without a copy if it already is one.
    pub fn into_bytes(self) -> Bytes {
        if self.slices.is_empty() {
            return self.head;
        }
        let mut out = BytesMut::with_capacity(self.len());
        self.put(&mut out);
        out.freeze()
    }

    /// Reads the frame.
    pub fn parse(self) -> Result<Frame, FrameError> {
        Frame::parse(self.into_bytes())
    }
}

impl From<Bytes> for WireFrame {
    fn from(bytes: Bytes) -> Self {
        Self { head: bytes, slices: SmallVec::new() }
    }
}

impl PartialEq for WireFrame {
    /// Two frames are equal when their bytes are, however they are cut.
    fn eq(&self, other: &Self) -> bool {
        self.clone().into_bytes() == other.clone().into_bytes()
    }
}
