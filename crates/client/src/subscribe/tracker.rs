use sluice_frame::Frame;
use sluice_model::{
    Checkpoint, Digest, Generation, IngestorName, Pointer, Position, StartPosition,
};

use super::{Broken, Rewind, Start};

/// Where a subscription is: what was delivered, where to resume, and whether what arrives can be
/// what the router promised. Pure; time and the network are elsewhere.
#[derive(Debug)]
pub(super) struct Tracker {
    ingestor: IngestorName,
    start: Start,
    metadata: bool,
    /// Everything up to here is delivered; always the end of a block.
    base: Option<Checkpoint>,
    /// Where the router began, for starts that name no position. It stands in for the base until
    /// there is one: "latest" means the first time, and what comes while the connection is down
    /// counts.
    origin: Option<Position>,
    /// Height of the base, where it is known.
    height: Option<u64>,
    /// The block behind the base that is delivered in part.
    within: Option<Within>,
}

#[derive(Debug)]
struct Within {
    generation: Generation,
    pointer: Pointer,
    parent: Pointer,
    /// The last delivered part.
    part: u32,
    /// The last delivered change; `None` if only metadata was.
    index: Option<u32>,
}

impl Tracker {
    pub(super) fn new(ingestor: IngestorName, start: Start, metadata: bool) -> Self {
        let (base, height) = match &start {
            Start::After(checkpoint) if checkpoint.position.is_end_of_block() => {
                (Some(checkpoint.clone()), checkpoint.position.pointer.height())
            }
            _ => (None, None),
        };
        Self { ingestor, start, metadata, base, origin: None, height, within: None }
    }

    /// What to ask the router for, now.
    ///
    /// Inside a block that is the last delivered change, so that a large block makes progress
    /// however often the connection breaks. With metadata it is the block's begin: metadata has no
    /// index, and parts that were delivered are dropped here.
    pub(super) fn resume(&self) -> Start {
        if let Some(Within { generation, pointer, index: Some(index), .. }) = &self.within
            && !self.metadata
        {
            let position =
                Position { generation: *generation, pointer: pointer.clone(), index: *index };
            return Start::After(Checkpoint { position, digest: None });
        }
        if let Some(base) = &self.base {
            return Start::After(base.clone());
        }
        match &self.origin {
            // Before the first delivery "earliest" and the like still mean what they say; the
            // journal may have moved on without anything being missed.
            Some(origin)
                if self.within.is_some()
                    || matches!(self.start, Start::At(StartPosition::Latest)) =>
            {
                Start::After(Checkpoint { position: origin.clone(), digest: None })
            }
            _ => self.start.clone(),
        }
    }

    /// The last position that is delivered, and the digest of its block where it is complete.
    pub(super) fn checkpoint(&self) -> Option<Checkpoint> {
        match &self.within {
            Some(Within { generation, pointer, index: Some(index), .. }) => {
                let position =
                    Position { generation: *generation, pointer: pointer.clone(), index: *index };
                Some(Checkpoint { position, digest: None })
            }
            _ => self.base.clone(),
        }
    }

    /// True if everything up to this height is delivered.
    pub(super) fn reached(&self, height: u64) -> bool {
        self.within.is_none() && self.height.is_some_and(|own| own >= height)
    }

    /// Takes what the router says it understood. A router that begins later than it was asked to
    /// would skip changes without a word.
    pub(super) fn started(&mut self, after: &Position) -> Result<(), Broken> {
        if let Start::After(asked) = self.resume() {
            if *after > asked.position {
                return Err(Broken::StartedLate { asked: asked.position, got: after.clone() });
            }
            return Ok(());
        }
        self.origin = Some(after.clone());
        Ok(())
    }

    /// Takes a frame; `None` if it was delivered before.
    pub(super) fn frame(&mut self, frame: Frame) -> Result<Option<Frame>, Broken> {
        let header = &frame.header;
        if header.ingestor != self.ingestor {
            return Err(Broken::Ingestor { got: header.ingestor.clone() });
        }
        let first = header.runs.first().map(|run| header.first_index.saturating_add(run.skip));
        let last = first.map(|_| header.next_index().saturating_sub(1));
        if self.is_repeat(&frame, last) {
            return Ok(None);
        }
        self.check_order(&frame, first)?;
        self.check_parent(&frame)?;
        match &header.end {
            Some(end) => {
                let digest = (end.digest != Digest::ZERO).then_some(end.digest);
                self.complete(header.end_of_block(), digest, Some(header.height));
            }
            None => {
                let index = last.or_else(|| self.within.as_ref().and_then(|within| within.index));
                self.within = Some(Within {
                    generation: header.generation,
                    pointer: header.pointer.clone(),
                    parent: header.parent.clone(),
                    part: header.part,
                    index,
                });
            }
        }
        Ok(Some(frame))
    }

    /// Takes progress; false if it says nothing new.
    pub(super) fn through(
        &mut self,
        position: Position,
        digest: Option<Digest>,
        height: Option<u64>,
    ) -> Result<bool, Broken> {
        if let Some(base) = &self.base {
            if position < base.position {
                return Err(self.backwards(position));
            }
            if position == base.position && self.within.is_none() {
                if let Some((known, got)) = base.digest.zip(digest)
                    && known != got
                {
                    return Err(Broken::Digest { position, expected: known, got });
                }
                self.complete(position, digest.or(base.digest), height.or(self.height));
                return Ok(false);
            }
        }
        if let Some(within) = &self.within
            && (position.generation, &position.pointer) < (within.generation, &within.pointer)
        {
            return Err(self.backwards(position));
        }
        self.complete(position, digest, height);
        Ok(true)
    }

    /// Takes the begin of another history.
    pub(super) fn rewind(&mut self, rewind: &Rewind) -> Result<(), Broken> {
        let current = self.base.as_ref().map(|base| base.position.generation);
        if current.is_some_and(|current| rewind.through.generation <= current) {
            return Err(self.backwards(rewind.through.clone()));
        }
        let height = rewind.through.pointer.height();
        self.complete(rewind.through.clone(), Some(rewind.base_digest), height);
        Ok(())
    }

    fn complete(&mut self, position: Position, digest: Option<Digest>, height: Option<u64>) {
        self.base = Some(Checkpoint { position, digest });
        self.height = height;
        self.within = None;
    }

    fn is_repeat(&self, frame: &Frame, last: Option<u32>) -> bool {
        let header = &frame.header;
        let block = (header.generation, &header.pointer);
        let Some(within) = &self.within else { return false };
        if block != (within.generation, &within.pointer) {
            return false;
        }
        // Without metadata the router cuts at the index; with it the block comes again from its
        // begin, in the same parts: the stored cuts are the cuts on the wire.
        self.metadata
            && header.part <= within.part
            && last.is_none_or(|last| within.index.is_some_and(|index| last <= index))
    }

    fn check_order(&self, frame: &Frame, first: Option<u32>) -> Result<(), Broken> {
        let header = &frame.header;
        let block = (header.generation, &header.pointer);
        let at = || header.position(first.unwrap_or(header.first_index));
        if let Some(within) = &self.within {
            if block != (within.generation, &within.pointer) {
                // The end of the block before, or progress through it, must come first.
                return Err(Broken::Unfinished {
                    block: Position::end_of(within.generation, within.pointer.clone()),
                    got: at(),
                });
            }
            if header.parent != within.parent {
                return Err(Broken::Parent { block: header.end_of_block() });
            }
            if let Some((first, done)) = first.zip(within.index)
                && first <= done
            {
                return Err(self.backwards(at()));
            }
        } else if let Some(base) = &self.base
            && block <= (base.position.generation, &base.position.pointer)
        {
            return Err(self.backwards(at()));
        } else if let (None, Start::After(asked)) = (&self.base, &self.start)
            && first.is_some()
            && at() <= asked.position
        {
            return Err(self.backwards(at()));
        }
        Ok(())
    }

    /// The chain, where this subscriber has both ends of a link.
    fn check_parent(&self, frame: &Frame) -> Result<(), Broken> {
        let header = &frame.header;
        let (Some(base), Some(end)) = (&self.base, &header.end) else { return Ok(()) };
        let Some(expected) = base.digest else { return Ok(()) };
        let got = end.parent_digest;
        let linked =
            header.generation == base.position.generation && header.parent == base.position.pointer;
        if linked && got != Digest::ZERO && got != expected {
            let position = base.position.clone();
            return Err(Broken::Digest { position, expected, got });
        }
        Ok(())
    }

    fn backwards(&self, got: Position) -> Broken {
        let done = self.checkpoint().map(|checkpoint| checkpoint.position).unwrap_or_default();
        Broken::Backwards { done, got }
    }
}

#[cfg(test)]
mod tests;
