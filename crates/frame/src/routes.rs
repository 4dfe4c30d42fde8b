use std::{collections::HashMap, ops::Deref, sync::Arc};

use bytes::{BufMut, Bytes, BytesMut};
use xxhash_rust::xxh3::xxh3_64;

use crate::varint;

/// Field 10 of a frame, length-delimited.
pub(crate) const ROUTES_TAG: u8 = 10 << 3 | 2;

/// A distinct (store key, topic) in a frame.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    /// The store.
    pub store: Arc<str>,
    /// The topic; empty means the store's name.
    pub topic: Arc<str>,
}

impl Route {
    /// The topic as readers see it.
    pub fn topic(&self) -> &str {
        if self.topic.is_empty() { &self.store } else { &self.topic }
    }
}

/// The routes of a frame, with their encoding and its hash. Frames of one ingestor mostly have
/// the same few tables, so what is derived from a table is cached under the hash.
#[derive(Clone, Debug, Default)]
pub struct RouteTable(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    routes: Vec<Route>,
    encoded: Bytes,
    hash: u64,
}

impl RouteTable {
    /// A table of these routes.
    pub fn new(routes: Vec<Route>) -> Self {
        let mut encoded = BytesMut::new();
        for route in &routes {
            put_route(route, &mut encoded);
        }
        Self::with_encoding(routes, encoded.freeze())
    }

    pub(crate) fn with_encoding(routes: Vec<Route>, encoded: Bytes) -> Self {
        let hash = xxh3_64(&encoded);
        Self(Arc::new(Inner { routes, encoded, hash }))
    }

    /// Field 10 of the frame, tags and lengths included.
    pub fn encoded(&self) -> &Bytes {
        &self.0.encoded
    }

    /// Names the content of the table.
    pub fn hash(&self) -> u64 {
        self.0.hash
    }
}

impl Deref for RouteTable {
    type Target = [Route];
    fn deref(&self) -> &[Route] {
        &self.0.routes
    }
}

impl PartialEq for RouteTable {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.encoded == other.0.encoded
    }
}

impl Eq for RouteTable {}

fn put_route(route: &Route, out: &mut BytesMut) {
    let (store, topic) = (route.store.as_bytes(), route.topic.as_bytes());
    let field = |bytes: &[u8]| match bytes.len() {
        0 => 0,
        len => 1 + varint::len(len as u64) + len,
    };
    out.put_u8(ROUTES_TAG);
    varint::put((field(store) + field(topic)) as u64, out);
    for (tag, bytes) in [(0x0a, store), (0x12, topic)] {
        if !bytes.is_empty() {
            out.put_u8(tag);
            varint::put(bytes.len() as u64, out);
            out.put_slice(bytes);
        }
    }
}

/// Shares the tables of frames that are read one after the other, so that reading a header
/// allocates no strings. Bounded; forgets everything when full.
#[derive(Debug, Default)]
pub struct RouteInterner {
    tables: HashMap<u64, RouteTable>,
}

/// Most tables that an interner keeps.
const MAX_INTERNED: usize = 1024;

impl RouteInterner {
    /// The table with this encoding, if it was seen before.
    pub(crate) fn get(&self, encoded: &[u8]) -> Option<RouteTable> {
        let table = self.tables.get(&xxh3_64(encoded))?;
        (table.encoded() == encoded).then(|| table.clone())
    }

    pub(crate) fn insert(&mut self, table: &RouteTable) {
        if self.tables.len() >= MAX_INTERNED {
            self.tables.clear();
        }
        self.tables.insert(table.hash(), table.clone());
    }
}
