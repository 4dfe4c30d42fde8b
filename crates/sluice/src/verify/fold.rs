//! Frames become blocks, with digests computed anew from the bytes that came.

use std::sync::Arc;

use sluice_frame::{BlockEnd, Digester, Digests, Frame, StateDigest};
use sluice_model::{Digest, Generation, Pointer, Position};

use super::Scope;
use crate::exit::{Exit, Failure};

/// What counts of a block when it is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    /// Its height.
    pub(crate) height: u64,
    /// Its place.
    pub(crate) pointer: Pointer,
    /// Its history.
    pub(crate) generation: Generation,
    /// The digest that its journal gives it; `None` where nobody gave one.
    pub(crate) digest: Option<Digest>,
    /// Per store, computed from the changes, in order of first appearance.
    pub(crate) stores: Vec<StateDigest>,
    /// Of the metadata.
    pub(crate) metadata: Option<Digest>,
    /// The journal's digest was computed anew, from the bytes and the digest of the block before.
    pub(crate) linked: bool,
}

impl Block {
    /// True if the block has nothing that could be compared.
    pub(crate) fn is_empty(&self) -> bool {
        self.stores.is_empty() && self.metadata.is_none()
    }
}

/// Puts the frames of one journal together. Checks on the way that each block's bytes give the
/// digests that the journal says, also the one that chains it to the block before.
#[derive(Debug)]
pub(super) struct Fold {
    scope: Arc<Scope>,
    last: Option<Link>,
    open: Option<Open>,
}

/// The block before, where its digest is known.
#[derive(Debug)]
struct Link {
    generation: Generation,
    pointer: Pointer,
    digest: Digest,
}

/// A block whose end has not come.
#[derive(Debug)]
struct Open {
    generation: Generation,
    pointer: Pointer,
    height: u64,
    part: u32,
    /// The digest of the block before is known.
    linked: bool,
    digester: Digester,
}

impl Fold {
    pub(super) const fn new(scope: Arc<Scope>) -> Self {
        Self { scope, last: None, open: None }
    }

    /// True if this frame is a further part of the block at hand.
    pub(super) fn continues(&self, frame: &Frame) -> bool {
        let header = &frame.header;
        self.open.as_ref().is_some_and(|open| {
            (open.generation, &open.pointer) == (header.generation, &header.pointer)
                && header.part > open.part
        })
    }

    /// Takes the next frame; gives the block that it completes.
    pub(super) fn frame(&mut self, frame: &Frame) -> Result<Option<Block>, Failure> {
        let header = &frame.header;
        if !self.continues(frame) {
            self.open = Some(self.begin(frame));
        }
        let Some(open) = &mut self.open else { return Ok(None) };
        open.part = header.part;
        open.digester
            .add(frame)
            .map_err(|error| data(header.height, &format!("a frame is damaged: {error}")))?;
        match &header.end {
            Some(end) => {
                let digest = (end.digest != Digest::ZERO).then_some(end.digest);
                self.complete(digest, Some(end)).map(Some)
            }
            None => Ok(None),
        }
    }

    fn begin(&self, frame: &Frame) -> Open {
        let header = &frame.header;
        let parent = match &self.last {
            Some(link)
                if (link.generation, &link.pointer) == (header.generation, &header.parent) =>
            {
                Some(link.digest)
            }
            _ => header.parent.is_origin().then_some(Digest::ZERO),
        };
        let (generation, pointer) = (header.generation, header.pointer.clone());
        let before = parent.unwrap_or(Digest::ZERO);
        Open {
            generation,
            pointer: pointer.clone(),
            height: header.height,
            part: header.part,
            linked: parent.is_some(),
            digester: Digester::new(before, generation, pointer, header.height),
        }
    }

    /// Everything up to here came; gives the block at hand if this is its end.
    pub(super) fn through(
        &mut self,
        position: &Position,
        digest: Option<Digest>,
    ) -> Result<Option<Block>, Failure> {
        let place = (position.generation, &position.pointer);
        if self.open.as_ref().is_some_and(|open| (open.generation, &open.pointer) == place) {
            return self.complete(digest, None).map(Some);
        }
        self.jump(position, digest);
        Ok(None)
    }

    /// What follows builds on this place, whatever came before.
    pub(super) fn jump(&mut self, position: &Position, digest: Option<Digest>) {
        self.open = None;
        let (generation, pointer) = (position.generation, position.pointer.clone());
        self.last = digest.map(|digest| Link { generation, pointer, digest });
    }

    /// The block at hand will not be completed.
    pub(super) fn abort(&mut self) {
        self.open = None;
    }

    fn complete(
        &mut self,
        digest: Option<Digest>,
        end: Option<&BlockEnd>,
    ) -> Result<Block, Failure> {
        let Some(open) = self.open.take() else {
            return Err(Failure::new(Exit::Failed, "a block ended that was not begun"));
        };
        let (height, linked, whole) = (open.height, open.linked, self.scope.whole);
        let Digests { digest: computed, mut states, metadata } = open.digester.finish();
        if let Some(end) = end {
            check_states(height, &states, end, whole)?;
        }
        if let Some(said) = digest.filter(|said| whole && linked && *said != computed) {
            return Err(data(
                height,
                &format!("its bytes give the digest {computed}, its journal says {said}"),
            ));
        }
        states.retain(|state| self.scope.keeps(&state.store));
        let block = Block {
            height,
            pointer: open.pointer.clone(),
            generation: open.generation,
            digest,
            stores: states,
            metadata: metadata.filter(|_| whole),
            linked: whole && linked && digest.is_some(),
        };
        self.jump(&Position::end_of(open.generation, open.pointer), digest);
        Ok(block)
    }
}

/// The digests that came with a block against those of its bytes.
fn check_states(
    height: u64,
    states: &[StateDigest],
    end: &BlockEnd,
    whole: bool,
) -> Result<(), Failure> {
    for said in &end.states {
        let computed = states.iter().find(|state| state.store == said.store);
        let wrong = match computed {
            Some(computed) => computed.digest != said.digest,
            None => whole,
        };
        if wrong {
            let got = computed.map_or("none".to_owned(), |state| state.digest.to_string());
            return Err(data(
                height,
                &format!(
                    "the bytes of store {} give the digest {got}, its journal says {}",
                    said.store, said.digest
                ),
            ));
        }
    }
    Ok(())
}

fn data(height: u64, what: &str) -> Failure {
    Failure::new(Exit::Data, format!("block {height}: {what}"))
        .fix("sluice journal verify --dir DIR   (on the machine that holds this journal)")
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use sluice_frame::{BlockBuilder, BlockStart};
    use sluice_model::{Epoch, Op, TopicRules};

    use super::*;

    fn frames(height: u64, parent: (u64, Digest), pairs: &[(&str, &[u8])]) -> Vec<Frame> {
        let topics = TopicRules::default();
        let pointer = |height| match height {
            0 => Pointer::ORIGIN,
            height => Pointer::from_height(height),
        };
        let start = BlockStart {
            ingestor: "app".parse().unwrap(),
            generation: Generation(0),
            pointer: pointer(height),
            parent: pointer(parent.0),
            height,
            time: None,
            epoch: Epoch::ZERO,
        };
        let mut builder = BlockBuilder::new(start, &topics);
        for (store, key) in pairs {
            builder.push_change(store, Op::Set, key, b"value").unwrap();
        }
        let mut frames: Vec<Frame> = builder.finish("").into();
        // As the journal does it.
        let digester = Digester::new(parent.1, Generation(0), pointer(height), height);
        let digests = frames.iter().fold(digester, |mut digester, frame| {
            digester.add(frame).unwrap();
            digester
        });
        let end = frames.last_mut().unwrap().header.end.as_mut().unwrap();
        digests.finish().fill(parent.1, end);
        frames
    }

    fn digest(frames: &[Frame]) -> Digest {
        frames.last().unwrap().header.end.as_ref().unwrap().digest
    }

    fn fold(stores: &[&str]) -> Fold {
        let stores: Vec<String> = stores.iter().map(ToString::to_string).collect();
        Fold::new(Arc::new(Scope::new(&stores, None, None).unwrap()))
    }

    fn all(fold: &mut Fold, frames: &[Frame]) -> Result<Vec<Block>, Failure> {
        let mut blocks = Vec::new();
        for frame in frames {
            blocks.extend(fold.frame(frame)?);
        }
        Ok(blocks)
    }

    #[test]
    fn a_chain_gives_its_blocks() {
        let one = frames(1, (0, Digest::ZERO), &[("bank", b"a"), ("gov", b"b")]);
        let two = frames(2, (1, digest(&one)), &[("bank", b"c")]);
        let blocks = all(&mut fold(&[]), &[one, two].concat()).unwrap();
        let names: Vec<_> = blocks[0].stores.iter().map(|state| state.store.as_str()).collect();
        assert_eq!((blocks.len(), names), (2, vec!["bank", "gov"]));
        assert!(blocks.iter().all(|block| block.digest.is_some() && block.linked));
    }

    #[test]
    fn a_changed_byte_is_found_in_its_store() {
        let mut one = frames(1, (0, Digest::ZERO), &[("bank", b"a")]);
        let mut changed = one[0].changes.to_vec();
        *changed.last_mut().unwrap() ^= 1;
        one[0].changes = Bytes::from(changed);
        let failure = all(&mut fold(&[]), &one).unwrap_err();
        assert_eq!(failure.exit(), Exit::Data);
        assert!(failure.to_string().contains("block 1: the bytes of store bank"), "{failure}");
    }

    #[test]
    fn a_digest_that_does_not_chain_is_found_where_the_block_before_is_known() {
        let one = frames(1, (0, Digest::ZERO), &[("bank", b"a")]);
        let other = frames(1, (0, Digest::ZERO), &[("bank", b"z")]);
        let two = frames(2, (1, digest(&other)), &[("bank", b"c")]);
        let failure = all(&mut fold(&[]), &[one.clone(), two.clone()].concat()).unwrap_err();
        assert!(failure.to_string().contains("block 2: its bytes give the digest"), "{failure}");
        let alone = all(&mut fold(&[]), &two).unwrap();
        assert!(!alone[0].linked, "nothing is known before it");
        assert_eq!(all(&mut fold(&["bank"]), &[one, two].concat()).unwrap().len(), 2);
    }

    #[test]
    fn an_end_without_a_frame_completes_the_block() {
        let mut one = frames(1, (0, Digest::ZERO), &[("bank", b"a")]);
        let end = one[0].header.end.take().unwrap();
        let mut fold = fold(&[]);
        assert_eq!(all(&mut fold, &one).unwrap(), []);
        let position = one[0].header.end_of_block();
        let block = fold.through(&position, Some(end.digest)).unwrap().unwrap();
        assert_eq!((block.height, block.digest), (1, Some(end.digest)));
        let wrong = frames(2, (1, end.digest), &[("bank", b"a")]);
        let mut wrong = wrong[0].clone();
        wrong.header.end = None;
        assert_eq!(fold.frame(&wrong).unwrap(), None);
        let position = wrong.header.end_of_block();
        assert!(fold.through(&position, Some(end.digest)).is_err(), "another digest");
    }
}
