use std::{
    collections::HashMap,
    ops::Range,
    sync::{Arc, LazyLock},
};

use blake3::Hasher;
use bytes::Bytes;
use sluice_model::{Digest, Generation, Pointer, filter::PSEUDO_STORE_PREFIX};
use smallvec::SmallVec;

use crate::{
    error::FrameError,
    frame::Frame,
    header::{BlockEnd, StateDigest},
};

// Contexts keep the digests of different things apart, so that none can pass for another.
const STATE_CONTEXT: &str = "sluice.v1 state digest";
const BLOCK_CONTEXT: &str = "sluice.v1 block digest";
const METADATA_CONTEXT: &str = "sluice.v1 metadata digest";

/// Deriving a context costs as much as hashing a small store, so it is done once.
static STATE: LazyLock<Hasher> = LazyLock::new(|| Hasher::new_derive_key(STATE_CONTEXT));
static BLOCK: LazyLock<Hasher> = LazyLock::new(|| Hasher::new_derive_key(BLOCK_CONTEXT));
static METADATA: LazyLock<Hasher> = LazyLock::new(|| Hasher::new_derive_key(METADATA_CONTEXT));

/// The digests of a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digests {
    /// Of the whole block, chained to its parent.
    pub digest: Digest,
    /// Per store, in order of first appearance; pseudo stores are left out.
    pub states: Vec<StateDigest>,
    /// Of the metadata, if there is any.
    pub metadata: Option<Digest>,
}

/// Computes the digests of a block while its frames pass by, in one pass over the bytes.
///
/// A store's digest covers its changes in order, as they are encoded, and then the height; that
/// order keeps the changes aligned to the hash's own chunks. The block's covers parent digest, generation, pointer, height, the order of stores, their digests and the
/// metadata. Never covered: epoch, topics, frame cuts, times and pseudo stores.
#[derive(Debug)]
pub struct Digester {
    parent: Digest,
    generation: Generation,
    pointer: Pointer,
    height: u64,
    stores: Vec<Store>,
    index: HashMap<Arc<str>, usize>,
    metadata: Option<Hasher>,
}

#[derive(Debug)]
struct Store {
    name: Arc<str>,
    state: State,
    /// Where its changes lie in the frame at hand.
    stretches: SmallVec<[Range<usize>; 1]>,
}

#[derive(Debug)]
enum State {
    /// Nothing was added yet.
    Empty,
    /// Later parts may add more. A hasher is large, and few stores span parts.
    Open(Box<Hasher>),
    Done(Digest),
}

impl Digester {
    /// For the block of this place after the block of digest `parent`.
    pub fn new(parent: Digest, generation: Generation, pointer: Pointer, height: u64) -> Self {
        Self {
            parent,
            generation,
            pointer,
            height,
            stores: Vec::new(),
            index: HashMap::new(),
            metadata: None,
        }
    }

    /// Adds the next part of the block. The frame's table must be verified before the digests count.
    pub fn add(&mut self, frame: &Frame) -> Result<(), FrameError> {
        if let Some(metadata) = &frame.header.metadata {
            let hasher = self.metadata.get_or_insert_with(|| {
                let mut hasher = METADATA.clone();
                put_text(&metadata.type_url, &mut hasher);
                hasher
            });
            hasher.update(&metadata.value);
        }
        self.find_stretches(frame)?;
        let last = frame.header.end.is_some();
        let mut gathered = Vec::new();
        let mut only = STATE.clone();
        for store in self.stores.iter_mut().filter(|store| !store.stretches.is_empty()) {
            let stretch = |at: &Range<usize>| frame.changes.get(at.clone()).unwrap_or_default();
            let bytes = match store.stretches.as_slice() {
                [one] => stretch(one),
                // The hash is several times faster over long stretches than over short ones.
                several => {
                    gathered.clear();
                    several.iter().for_each(|at| gathered.extend_from_slice(stretch(at)));
                    &gathered
                }
            };
            match &mut store.state {
                State::Empty if last => {
                    only.reset();
                    store.state = State::Done(finish(only.update(bytes), self.height));
                }
                State::Empty => {
                    let mut hasher = Box::new(STATE.clone());
                    hasher.update(bytes);
                    store.state = State::Open(hasher);
                }
                State::Open(hasher) => _ = hasher.update(bytes),
                State::Done(_) => return Err(FrameError::Table("a part follows the last one")),
            }
            store.stretches.clear();
        }
        Ok(())
    }

    /// Notes per store where its changes lie.
    fn find_stretches(&mut self, frame: &Frame) -> Result<(), FrameError> {
        let mut end = 0usize;
        let mut of_route = vec![None; frame.header.routes.len()];
        for run in &frame.header.runs {
            let begin = end;
            end += run.bytes as usize;
            let route = frame.header.routes.get(run.route as usize);
            let Some(route) = route.filter(|_| end <= frame.changes.len()) else {
                return Err(FrameError::Table("a run points beyond the changes"));
            };
            if route.store.starts_with(PSEUDO_STORE_PREFIX) {
                continue;
            }
            let known = of_route.get(run.route as usize).copied().flatten();
            let at = known.unwrap_or_else(|| self.store(&route.store));
            of_route[run.route as usize] = Some(at);
            let store = &mut self.stores[at];
            match store.stretches.last_mut() {
                Some(last) if last.end == begin => last.end = end,
                _ => store.stretches.push(begin..end),
            }
        }
        Ok(())
    }

    fn store(&mut self, name: &Arc<str>) -> usize {
        if let Some(at) = self.index.get(name) {
            return *at;
        }
        self.index.insert(Arc::clone(name), self.stores.len());
        let store =
            Store { name: Arc::clone(name), state: State::Empty, stretches: SmallVec::new() };
        self.stores.push(store);
        self.stores.len() - 1
    }

    /// The digests of everything added.
    pub fn finish(self) -> Digests {
        let height = self.height;
        let states: Vec<StateDigest> = self
            .stores
            .into_iter()
            .map(|store| {
                let digest = match store.state {
                    State::Empty => finish(&mut STATE.clone(), height),
                    State::Open(mut hasher) => finish(&mut hasher, height),
                    State::Done(digest) => digest,
                };
                StateDigest { store: store.name.as_ref().to_owned(), digest }
            })
            .collect();
        let metadata = self.metadata.map(|hasher| hasher.finalize().into());
        let mut hasher = BLOCK.clone();
        hasher.update(self.parent.as_bytes());
        hasher.update(&self.generation.0.to_le_bytes());
        put_bytes(self.pointer.as_bytes(), &mut hasher);
        hasher.update(&height.to_le_bytes());
        hasher.update(&(states.len() as u64).to_le_bytes());
        for state in &states {
            put_text(&state.store, &mut hasher);
            hasher.update(state.digest.as_bytes());
        }
        match &metadata {
            Some(digest) => hasher.update(&[1]).update(Digest::as_bytes(digest)),
            None => hasher.update(&[0]),
        };
        Digests { digest: hasher.finalize().into(), states, metadata }
    }
}

impl Digests {
    /// Puts the digests into a block's end.
    pub fn fill(self, parent: Digest, end: &mut BlockEnd) {
        end.digest = self.digest;
        end.parent_digest = parent;
        end.states = self.states;
        end.metadata_digest = self.metadata;
    }
}

/// A store's digest, with all its changes in `hasher`.
fn finish(hasher: &mut Hasher, height: u64) -> Digest {
    hasher.update(&height.to_le_bytes()).finalize().into()
}

/// The digest of a whole metadata value.
pub fn metadata_digest(type_url: &str, value: &Bytes) -> Digest {
    let mut hasher = METADATA.clone();
    put_text(type_url, &mut hasher);
    hasher.update(value);
    hasher.finalize().into()
}

fn put_text(text: &str, hasher: &mut Hasher) {
    put_bytes(text.as_bytes(), hasher);
}

fn put_bytes(bytes: &[u8], hasher: &mut Hasher) {
    hasher.update(&(bytes.len() as u64).to_le_bytes());
    hasher.update(bytes);
}
