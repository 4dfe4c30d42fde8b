//! `synthetic`: blocks made up from a seed, for tests and measurements. The bytes of a block
//! depend on the options and its height alone, so a resumed run gives the same ones.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::BytesMut;
use serde::Deserialize;
use sluice_frame::put_change;
use sluice_model::{Head, Op, Pointer};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::{
    Begin, Feed, FeedWriter, Item, Piece, Source, SourceContext, SourceError,
    registry::{BuildError, parse_section},
};

/// The name of this source in the configuration.
pub const TYPE: &str = "synthetic";

/// Changes of a block are handed over in pieces of about this many bytes.
const PIECE: usize = 256 << 10;
/// Time of height 0, seconds since 1970. Blocks are one second apart: a clock would make the
/// bytes of a block depend on when it was made.
const EPOCH_SECONDS: i64 = 1_700_000_000;

/// `source = { type = "synthetic", … }`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// What all content is derived from.
    pub seed: u64,
    /// Number of stores.
    pub stores: u32,
    /// Keys per store.
    pub keys: u64,
    /// Share of the changes (0 to 1) whose keys are picked by popularity, the n-th key about 1/n
    /// as often as the first; the others are picked evenly.
    pub skew: f64,
    /// Smallest value, in bytes.
    pub value_min: u32,
    /// Largest value, in bytes.
    pub value_max: u32,
    /// Changes per block; equal keys in a block become one change.
    pub pairs: u32,
    /// Share of deletes among the changes, 0 to 1.
    pub deletes: f64,
    /// Blocks per second; 0 is as fast as they are taken.
    pub rate: f64,
    /// The last height; 0 goes on for ever.
    pub blocks: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            seed: 1,
            stores: 8,
            keys: 10_000,
            skew: 0.8,
            value_min: 16,
            value_max: 256,
            pairs: 200,
            deletes: 0.1,
            rate: 1.0,
            blocks: 0,
        }
    }
}

/// The source.
#[derive(Debug)]
pub struct Synthetic {
    generator: Arc<Generator>,
}

/// Builds the source from its table; for the registry.
pub fn build(context: &SourceContext, table: &toml::Table) -> Result<Box<dyn Source>, BuildError> {
    let options: Options = parse_section(context, table)?;
    let generator = Generator::new(options).map_err(|(key, message)| BuildError::Invalid {
        path: format!("{}.{key}", context.path()),
        message,
    })?;
    Ok(Box::new(Synthetic { generator: Arc::new(generator) }))
}

#[async_trait]
impl Source for Synthetic {
    async fn blocks(&mut self, after: Option<&Head>) -> Result<Feed, SourceError> {
        let first = after.map_or(1, |head| head.height.saturating_add(1));
        let generator = self.generator.clone();
        Ok(Feed::spawn(move |feed| run(generator, first, feed)))
    }
}

async fn run(generator: Arc<Generator>, first: u64, feed: FeedWriter) -> Result<(), SourceError> {
    let options = &generator.options;
    let mut clock = (options.rate > 0.0).then(|| {
        let mut clock = interval_at(Instant::now(), Duration::from_secs_f64(1.0 / options.rate));
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        clock
    });
    let last = if options.blocks == 0 { u64::MAX } else { options.blocks };
    for height in first..=last {
        if let Some(clock) = &mut clock {
            clock.tick().await;
        }
        // With an end the newest height is known; without one it is the one being made.
        let source_height = if options.blocks == 0 { height } else { last };
        feed.send(Item::Progress { source_height }).await?;
        let (pointer, time) = (Pointer::from_height(height), Some(time_of(height)));
        feed.send(Item::Begin(Begin { height, pointer, parent: None, time })).await?;
        for store in 0..options.stores {
            let mut rest = generator.store(height, store);
            while !rest.is_empty() {
                let bytes = rest.next_piece();
                feed.send(Item::Changes(Piece::new(bytes))).await?;
            }
        }
        feed.send(Item::End { changes: None, traceparent: String::new() }).await?;
    }
    feed.send(Item::Finished).await
}

/// The first byte of a key: groups the keys, as a module's prefixes do.
const fn group(rank: u64) -> u8 {
    (rank & 3) as u8
}

/// The time of a block, nanoseconds since 1970.
fn time_of(height: u64) -> i64 {
    let seconds = EPOCH_SECONDS.saturating_add_unsigned(height);
    seconds.saturating_mul(1_000_000_000)
}

/// Makes blocks up.
#[derive(Debug)]
pub struct Generator {
    options: Options,
    skew: Chance,
    deletes: Chance,
    /// Width of the number in a store's name, so that names sort like numbers.
    digits: usize,
}

/// The changes of one store in one block, encoded piece by piece.
struct StoreChanges<'g> {
    generator: &'g Generator,
    store: String,
    mix: Random,
    ranks: std::vec::IntoIter<u64>,
}

impl Generator {
    /// Checks the options; an error names the key.
    pub fn new(options: Options) -> Result<Self, (&'static str, String)> {
        let share = |key, value: f64| {
            Chance::new(value).ok_or((key, format!("{value} is no share between 0 and 1")))
        };
        if options.stores == 0 || options.keys == 0 {
            return Err(("stores", "at least one store with one key is needed".to_owned()));
        }
        if options.value_min > options.value_max || options.value_max > 16 << 20 {
            return Err(("value_max", "must be at least value_min and at most 16 MiB".to_owned()));
        }
        if !(options.rate.is_finite() && (0.0..=1e6).contains(&options.rate)) {
            return Err(("rate", format!("{} is no number from 0 to 1000000", options.rate)));
        }
        if options.rate > 0.0 && options.rate < 1e-6 {
            return Err(("rate", format!("{} is less than a block in 11 days", options.rate)));
        }
        Ok(Self {
            skew: share("skew", options.skew)?,
            deletes: share("deletes", options.deletes)?,
            digits: (options.stores - 1).to_string().len(),
            options,
        })
    }

    /// The changes of one store at a height: keys ascending, each once, as chains write them.
    fn store(&self, height: u64, store: u32) -> StoreChanges<'_> {
        let options = &self.options;
        // The pairs of a block are dealt to its stores as evenly as the numbers allow.
        let base = options.pairs / options.stores;
        let extra = u32::from(store < options.pairs % options.stores);
        let mut random = Random::of(&[options.seed, height, u64::from(store)]);
        let mut ranks: Vec<u64> = (0..base + extra).map(|_| self.rank(&mut random)).collect();
        ranks.sort_unstable_by_key(|rank| (group(*rank), *rank));
        ranks.dedup();
        let name = format!("store{store:0width$}", width = self.digits);
        StoreChanges { generator: self, store: name, mix: random, ranks: ranks.into_iter() }
    }

    /// Which key: evenly, or evenly within a power of two chosen evenly, which makes the n-th key
    /// about 1/n as likely as the first. Integers only, so that every machine agrees.
    fn rank(&self, random: &mut Random) -> u64 {
        let keys = self.options.keys;
        if !self.skew.hits(random) {
            return random.below(keys);
        }
        let octave = random.below(u64::from(keys.ilog2()) + 1);
        let low = 1u64 << octave;
        let width = low.min(keys.saturating_sub(low).max(1));
        (low - 1 + random.below(width)).min(keys - 1)
    }
}

impl StoreChanges<'_> {
    fn is_empty(&self) -> bool {
        self.ranks.len() == 0
    }

    fn next_piece(&mut self) -> bytes::Bytes {
        let options = &self.generator.options;
        let mut out = BytesMut::with_capacity(PIECE + PIECE / 8);
        let mut value = Vec::new();
        while out.len() < PIECE {
            let Some(rank) = self.ranks.next() else { break };
            let mut key = [0; 9];
            key[0] = group(rank);
            if let Some(tail) = key.last_chunk_mut::<8>() {
                *tail = rank.to_be_bytes();
            }
            value.clear();
            let delete = self.generator.deletes.hits(&mut self.mix);
            if !delete {
                let span = u64::from(options.value_max - options.value_min) + 1;
                let size = u64::from(options.value_min) + self.mix.below(span);
                self.mix.fill(&mut value, size);
            }
            let op = if delete { Op::Delete } else { Op::Set };
            put_change(&self.store, op, &key, &value, &mut out);
        }
        out.freeze()
    }
}

/// An event of a given probability, decided on 32 bits of a random number.
#[derive(Clone, Copy, Debug)]
struct Chance(u64);

impl Chance {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the share is checked to lie between 0 and 1"
    )]
    fn new(share: f64) -> Option<Self> {
        (0.0..=1.0).contains(&share).then_some(Self((share * 4_294_967_296.0) as u64))
    }

    fn hits(self, random: &mut Random) -> bool {
        (random.next() >> 32) < self.0
    }
}

/// A small generator of well-mixed numbers (a counter run through a bijective mixer). Written out
/// here because its numbers are a format: a library may change its own with a release.
#[derive(Clone, Debug)]
struct Random(u64);

impl Random {
    fn of(parts: &[u64]) -> Self {
        let mut own = Self(0x5851_f42d_4c95_7f2d);
        for part in parts {
            own.0 ^= *part;
            own.0 = own.next();
        }
        own
    }

    const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is not 0.
    fn below(&mut self, bound: u64) -> u64 {
        let wide = u128::from(self.next()) * u128::from(bound);
        u64::try_from(wide >> 64).unwrap_or_default()
    }

    fn fill(&mut self, out: &mut Vec<u8>, size: u64) {
        let size = usize::try_from(size).unwrap_or_default();
        while out.len() < size {
            let bytes = self.next().to_le_bytes();
            let take = bytes.len().min(size - out.len());
            out.extend_from_slice(bytes.get(..take).unwrap_or_default());
        }
    }
}

#[cfg(test)]
mod tests;
