//! Sources by the name that the configuration calls them.

use std::{collections::BTreeMap, fmt};

use serde::de::DeserializeOwned;
pub use sluice_config::OnGap;
use sluice_model::IngestorName;

use super::{Source, capture::Doors};
use crate::notes::Notes;

/// What a source is built with beside its own table.
#[derive(Clone, Debug)]
pub struct SourceContext {
    /// Whose source it is.
    pub ingestor: IngestorName,
    /// What to do about missing blocks.
    pub on_gap: OnGap,
    /// Where the source says what it repaired or left out.
    pub notes: Notes,
    /// Where the capture API finds the sources that take part in it.
    pub doors: Doors,
}

impl SourceContext {
    /// The configuration key of the source's table.
    pub fn path(&self) -> String {
        format!("ingestors.{}.source", self.ingestor)
    }
}

/// Why a source cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// No source is called like this.
    #[error(
        "{path}.type: there is no source {name:?}; known are {known}{}",
        closest.map(|name| format!("; did you mean {name:?}?")).unwrap_or_default()
    )]
    Unknown {
        /// The configuration key of the table.
        path: String,
        /// What was written.
        name: String,
        /// All names there are.
        known: String,
        /// The one that looks most like what was written.
        closest: Option<&'static str>,
    },
    /// The table cannot be read.
    #[error(transparent)]
    Config(#[from] sluice_config::ConfigError),
    /// A value that the source cannot work with.
    #[error("{path}: {message}")]
    Invalid {
        /// The configuration key.
        path: String,
        /// What is wrong and what to do.
        message: String,
    },
}

/// Builds a source from its table (without the `type` key).
pub type Build = fn(&SourceContext, &toml::Table) -> Result<Box<dyn Source>, BuildError>;

/// All kinds of sources.
#[derive(Clone)]
pub struct Registry {
    kinds: BTreeMap<&'static str, Build>,
}

impl Default for Registry {
    /// The sources of this crate.
    fn default() -> Self {
        Self { kinds: BTreeMap::new() }
            .with(super::cosmos::TYPE, super::cosmos::build)
            .with(super::capture::TYPE, super::capture::build)
            .with(super::synthetic::TYPE, super::synthetic::build)
    }
}

impl Registry {
    /// The same with one more kind; replaces one of that name.
    #[must_use]
    pub fn with(mut self, name: &'static str, build: Build) -> Self {
        self.kinds.insert(name, build);
        self
    }

    /// Builds the source called `name` from its table.
    pub fn build(
        &self,
        name: &str,
        context: &SourceContext,
        table: &toml::Table,
    ) -> Result<Box<dyn Source>, BuildError> {
        let Some(build) = self.kinds.get(name) else {
            let known: Vec<_> = self.kinds.keys().copied().collect();
            return Err(BuildError::Unknown {
                path: context.path(),
                name: name.to_owned(),
                closest: closest(name, &known),
                known: known.join(", "),
            });
        };
        build(context, table)
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.kinds.keys()).finish()
    }
}

/// Reads a source's own table.
pub(super) fn parse_section<T: DeserializeOwned>(
    context: &SourceContext,
    table: &toml::Table,
) -> Result<T, BuildError> {
    let mut own = table.clone();
    own.remove("type");
    Ok(sluice_config::section(&context.path(), &own)?)
}

/// The known name that takes the fewest edits, if it takes fewer than half of the letters.
fn closest(written: &str, known: &[&'static str]) -> Option<&'static str> {
    let nearest = known.iter().map(|name| (distance(written, name), *name)).min()?;
    (nearest.0 * 2 <= nearest.1.len()).then_some(nearest.1)
}

/// Insertions, deletions and substitutions between two names.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (to, above) in b.iter().zip(row.iter_mut().skip(1)) {
            let cost = (diagonal + usize::from(from != *to)).min(left + 1).min(*above + 1);
            diagonal = std::mem::replace(above, cost);
            left = cost;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::context;

    #[test]
    fn an_unknown_name_lists_the_known_ones_and_the_closest() {
        let registry = Registry::default();
        let error =
            registry.build("cosmos-file", &context("hub"), &toml::Table::new()).err().unwrap();
        let text = error.to_string();
        assert!(text.contains("ingestors.hub.source.type"), "{text}");
        assert!(text.contains("capture, cosmos-files, synthetic"), "{text}");
        assert!(text.contains("did you mean \"cosmos-files\""), "{text}");
        let far = registry.build("kafka", &context("hub"), &toml::Table::new()).err().unwrap();
        assert!(!far.to_string().contains("did you mean"), "{far}");
    }

    #[test]
    fn a_wrong_key_is_named_with_its_path() {
        let table: toml::Table = "dir = '/x'\nprefx = 'a'".parse().unwrap();
        let registry = Registry::default();
        let error = registry.build("cosmos-files", &context("hub"), &table).err().unwrap();
        let text = error.to_string();
        assert!(text.contains("ingestors.hub.source") && text.contains("prefx"), "{text}");
    }

    #[test]
    fn distances() {
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("same", "same"), 0);
    }
}
