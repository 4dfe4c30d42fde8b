use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::SequenceId;

/// Where a reader starts: `earliest | latest | height:N | time:RFC3339 | after:<sequence id>`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum StartPosition {
    /// The oldest retained block.
    #[default]
    Earliest,
    /// After the head at the moment of asking.
    Latest,
    /// The first block at or above this height.
    Height(u64),
    /// The first block at or after this time, in nanoseconds since 1970.
    Time(i64),
    /// The first change after this event.
    After(SequenceId),
}

/// Why a text is not a start position.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "{0:?} is not a position: use earliest, latest, height:N, time:2026-01-31T12:00:00Z or after:<sequence id>"
)]
pub struct StartError(String);

impl FromStr for StartPosition {
    type Err = StartError;

    fn from_str(text: &str) -> Result<Self, StartError> {
        let wrong = || StartError(text.to_owned());
        Ok(match text.split_once(':') {
            None if text == "earliest" => Self::Earliest,
            None if text == "latest" => Self::Latest,
            Some(("height", height)) => Self::Height(height.parse().map_err(|_| wrong())?),
            Some(("time", time)) => {
                let time: jiff::Timestamp = time.parse().map_err(|_| wrong())?;
                Self::Time(i64::try_from(time.as_nanosecond()).map_err(|_| wrong())?)
            }
            Some(("after", id)) => Self::After(id.parse().map_err(|_| wrong())?),
            _ => return Err(wrong()),
        })
    }
}

impl fmt::Display for StartPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Earliest => f.write_str("earliest"),
            Self::Latest => f.write_str("latest"),
            Self::Height(height) => write!(f, "height:{height}"),
            Self::Time(nanos) => match jiff::Timestamp::from_nanosecond(i128::from(*nanos)) {
                Ok(time) => write!(f, "time:{time}"),
                Err(_) => write!(f, "time:{nanos}ns"),
            },
            Self::After(id) => write!(f, "after:{id}"),
        }
    }
}

impl TryFrom<String> for StartPosition {
    type Error = StartError;
    fn try_from(text: String) -> Result<Self, StartError> {
        text.parse()
    }
}

impl From<StartPosition> for String {
    fn from(start: StartPosition) -> Self {
        start.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips() {
        for text in [
            "earliest",
            "latest",
            "height:42",
            "time:2026-01-31T12:00:00Z",
            "after:00000000000000000042-0000001f",
        ] {
            assert_eq!(text.parse::<StartPosition>().unwrap().to_string(), text);
        }
        for text in ["", "oldest", "height:", "height:-1", "time:noon", "after:42"] {
            assert!(text.parse::<StartPosition>().is_err(), "{text}");
        }
    }
}
