use std::{fmt, str::FromStr};

use crate::{Generation, Pointer, Position};

/// The id of one event: `<pointer>-<index>`, derived from its place and never random.
///
/// Heights are 20 zero-padded digits, other pointers `x` and hex, the index 8 hex digits; from
/// generation 1 on the id begins with `z<4 hex>-`. Ids of one ingestor sort as text in the order
/// of the events.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SequenceId(Position);

/// Why a text is not a sequence id.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{text:?} is not a sequence id: {why}; an id looks like 00000000000000000042-0000001f")]
pub struct SequenceIdError {
    text: String,
    why: &'static str,
}

impl SequenceId {
    /// The id of a position.
    pub const fn new(position: Position) -> Self {
        Self(position)
    }

    /// The place that the id names.
    pub const fn position(&self) -> &Position {
        &self.0
    }

    /// The place that the id names.
    pub fn into_position(self) -> Position {
        self.0
    }
}

impl fmt::Display for SequenceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Position { generation, pointer, index } = &self.0;
        if generation.0 > 0 {
            write!(f, "z{:04x}-", generation.0)?;
        }
        match pointer.height() {
            Some(height) => write!(f, "{height:020}-{index:08x}"),
            None => write!(f, "x{}-{index:08x}", hex::encode(pointer.as_bytes())),
        }
    }
}

impl FromStr for SequenceId {
    type Err = SequenceIdError;

    fn from_str(text: &str) -> Result<Self, SequenceIdError> {
        parse(text).map_err(|why| SequenceIdError { text: text.to_owned(), why })
    }
}

fn parse(text: &str) -> Result<SequenceId, &'static str> {
    let (generation, rest) = match text.strip_prefix('z') {
        Some(rest) => {
            let (generation, rest) =
                rest.split_once('-').ok_or("the generation must end with '-'")?;
            (hex_u32(generation, 4..=8, "the generation must be 4 hex digits")?, rest)
        }
        None => (0, text),
    };
    let (pointer, index) =
        rest.rsplit_once('-').ok_or("it needs a '-' between pointer and index")?;
    let index = hex_u32(index, 8..=8, "the index must be 8 hex digits")?;
    let pointer = match pointer.strip_prefix('x') {
        Some(digits) => {
            let bytes = hex::decode(digits).map_err(|_| "the pointer after 'x' must be hex")?;
            Pointer::new(bytes).map_err(|_| "the pointer is too long")?
        }
        None if pointer.len() == 20 && pointer.bytes().all(|b| b.is_ascii_digit()) => {
            Pointer::from_height(pointer.parse().map_err(|_| "the height is beyond 64 bits")?)
        }
        None => return Err("the height must be 20 digits"),
    };
    Ok(SequenceId(Position { generation: Generation(generation), pointer, index }))
}

fn hex_u32(
    text: &str,
    lengths: std::ops::RangeInclusive<usize>,
    why: &'static str,
) -> Result<u32, &'static str> {
    if !lengths.contains(&text.len()) || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(why);
    }
    u32::from_str_radix(text, 16).map_err(|_| why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(generation: u32, height: u64, index: u32) -> SequenceId {
        SequenceId::new(Position {
            generation: Generation(generation),
            pointer: Pointer::from_height(height),
            index,
        })
    }

    #[test]
    fn text_round_trips_and_sorts_like_positions() {
        let ids =
            [id(0, 9, 0xffff_fffe), id(0, 10, 0), id(0, u64::MAX, 1), id(1, 3, 0), id(2, 0, 7)];
        let texts: Vec<String> = ids.iter().map(ToString::to_string).collect();
        assert!(texts.is_sorted());
        for (id, text) in ids.iter().zip(&texts) {
            assert_eq!(&text.parse::<SequenceId>().unwrap(), id);
        }
        assert_eq!(texts[0], "00000000000000000009-fffffffe");
        assert_eq!(texts[3], "z0001-00000000000000000003-00000000");
    }

    #[test]
    fn opaque_pointers_sort_between_heights_and_generations() {
        let opaque = SequenceId::new(Position {
            generation: Generation(0),
            pointer: Pointer::new(vec![0xab, 0xcd, 0xef]).unwrap(),
            index: 31,
        });
        assert_eq!(opaque.to_string(), "xabcdef-0000001f");
        assert_eq!("xabcdef-0000001f".parse::<SequenceId>().unwrap(), opaque);
    }

    #[test]
    fn refuses_what_would_not_sort() {
        for text in ["", "42-0000001f", "00000000000000000042-1f", "00000000000000000042", "z1-x-0"]
        {
            assert!(text.parse::<SequenceId>().is_err(), "{text}");
        }
        assert!("99999999999999999999-00000000".parse::<SequenceId>().is_err());
    }
}
