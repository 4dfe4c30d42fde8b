use std::collections::HashMap;

use bytes::Bytes;
use sluice_model::{Digest, Generation, Pointer, filter::PSEUDO_STORE_PREFIX};

use crate::{
    error::FrameError,
    frame::Frame,
    header::{BlockEnd, StateDigest},
};

// Contexts keep the digests of different things apart, so that none can pass for another.
const STATE_CONTEXT: &str = "sluice.v1 state digest";
const BLOCK_CONTEXT: &str = "sluice.v1 block digest";
const METADATA_CONTEXT: &str = "sluice.v1 metadata digest";

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
/// A store's digest covers the height and its changes in order, as they are encoded; the block's
/// covers parent digest, generation, pointer, height, the order of stores, their digests and the
/// metadata. Never covered: epoch, topics, frame cuts, times and pseudo stores.
#[derive(Debug)]
pub struct Digester {
    parent: Digest,
    generation: Generation,
    pointer: Pointer,
    height: u64,
    stores: Vec<(String, blake3::Hasher)>,
    index: HashMap<String, usize>,
    metadata: Option<blake3::Hasher>,
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

    /// Adds the next part of the block. The frame's table must be verified.
    pub fn add(&mut self, frame: &Frame) -> Result<(), FrameError> {
        if let Some(metadata) = &frame.header.metadata {
            let hasher = self.metadata.get_or_insert_with(|| {
                let mut hasher = blake3::Hasher::new_derive_key(METADATA_CONTEXT);
                put_text(&metadata.type_url, &mut hasher);
                hasher
            });
            hasher.update(&metadata.value);
        }
        let mut at = 0usize;
        for run in &frame.header.runs {
            let wrong = FrameError::Table("a run points beyond the changes");
            let route = frame.header.routes.get(run.route as usize).ok_or(wrong)?;
            let end = at + run.bytes as usize;
            let bytes = frame
                .changes
                .get(at..end)
                .ok_or(FrameError::Table("a run points beyond the changes"))?;
            if !route.store.starts_with(PSEUDO_STORE_PREFIX) {
                self.store(&route.store).update(bytes);
            }
            at = end;
        }
        Ok(())
    }

    fn store(&mut self, name: &str) -> &mut blake3::Hasher {
        let known = self.index.get(name).copied();
        let at = known.unwrap_or_else(|| {
            let mut hasher = blake3::Hasher::new_derive_key(STATE_CONTEXT);
            hasher.update(&self.height.to_le_bytes());
            self.stores.push((name.to_owned(), hasher));
            self.index.insert(name.to_owned(), self.stores.len() - 1);
            self.stores.len() - 1
        });
        &mut self.stores[at].1
    }

    /// The digests of everything added.
    pub fn finish(self) -> Digests {
        let states: Vec<StateDigest> = self
            .stores
            .into_iter()
            .map(|(store, hasher)| StateDigest { store, digest: hasher.finalize().into() })
            .collect();
        let metadata = self.metadata.map(|hasher| hasher.finalize().into());
        let mut hasher = blake3::Hasher::new_derive_key(BLOCK_CONTEXT);
        hasher.update(self.parent.as_bytes());
        hasher.update(&self.generation.0.to_le_bytes());
        put_bytes(self.pointer.as_bytes(), &mut hasher);
        hasher.update(&self.height.to_le_bytes());
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

/// The digest of a whole metadata value.
pub fn metadata_digest(type_url: &str, value: &Bytes) -> Digest {
    let mut hasher = blake3::Hasher::new_derive_key(METADATA_CONTEXT);
    put_text(type_url, &mut hasher);
    hasher.update(value);
    hasher.finalize().into()
}

fn put_text(text: &str, hasher: &mut blake3::Hasher) {
    put_bytes(text.as_bytes(), hasher);
}

fn put_bytes(bytes: &[u8], hasher: &mut blake3::Hasher) {
    hasher.update(&(bytes.len() as u64).to_le_bytes());
    hasher.update(bytes);
}
