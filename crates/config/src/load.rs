use std::{collections::HashMap, path::PathBuf};

use config::{Environment, File, FileFormat};
use serde::de::DeserializeOwned;

use crate::{Config, ConfigError};

/// Prefix of environment variables; `__` separates the parts of a key.
const PREFIX: &str = "SLUICE";

/// Where a configuration comes from, weakest first.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The file.
    pub file: Option<PathBuf>,
    /// The environment; see [`process_environment`].
    pub environment: HashMap<String, String>,
    /// `key=value` flags.
    pub sets: Vec<String>,
}

/// The environment of this process, only what configures Sluice.
pub fn process_environment() -> HashMap<String, String> {
    std::env::vars().filter(|(name, _)| name.starts_with("SLUICE_")).collect()
}

/// Merges the sources and checks the result.
pub fn load(sources: &Sources) -> Result<Config, ConfigError> {
    let mut builder = config::Config::builder();
    if let Some(path) = &sources.file {
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError::File {
            path: path.display().to_string(),
            reason: error.to_string(),
        })?;
        // Read here first: this error has line and column.
        text.parse::<toml::Table>().map_err(|error| ConfigError::Syntax {
            origin: path.display().to_string(),
            reason: error.to_string(),
        })?;
        builder = builder.add_source(File::from_str(&text, FileFormat::Toml));
    }
    let mut variables = sources.environment.clone();
    // Read by the command line itself, not a part of the configuration.
    variables.retain(|name, _| name.contains("__") || known_top_level(name));
    builder = builder.add_source(
        Environment::with_prefix(PREFIX)
            .prefix_separator("_")
            .separator("__")
            .try_parsing(true)
            .source(Some(variables)),
    );
    for set in &sources.sets {
        builder = builder.add_source(File::from_str(&assignment(set)?, FileFormat::Toml));
    }
    let merged = builder.build().map_err(|error| ConfigError::Syntax {
        origin: "configuration".to_owned(),
        reason: error.to_string(),
    })?;
    let loaded: Config = serde_path_to_error::deserialize(merged).map_err(|error| keyed(&error))?;
    loaded.validate()?;
    Ok(loaded)
}

fn known_top_level(name: &str) -> bool {
    matches!(name, "SLUICE_CLUSTER" | "SLUICE_DATA_DIR")
}

/// `a.b=c` as a line of TOML: the value as it is if that is TOML, else as text.
fn assignment(set: &str) -> Result<String, ConfigError> {
    let wrong = |reason: &str| ConfigError::Syntax {
        origin: format!("--set {set}"),
        reason: reason.to_owned(),
    };
    let (key, value) = set.split_once('=').ok_or_else(|| wrong("write --set key.path=value"))?;
    let as_toml = format!("{key} = {value}");
    if as_toml.parse::<toml::Table>().is_ok() {
        return Ok(as_toml);
    }
    let as_text = format!("{key} = {}", toml::Value::String(value.to_owned()));
    as_text.parse::<toml::Table>().map_err(|_| wrong("the key is not a path such as a.b"))?;
    Ok(as_text)
}

fn keyed(error: &serde_path_to_error::Error<config::ConfigError>) -> ConfigError {
    let path = error.path().to_string();
    let reason = error.inner().to_string();
    let key = if path == "." { "(top level)".to_owned() } else { path };
    ConfigError::Key { key, reason }
}

/// Reads a table that belongs to one type of source or sink. `path` is the table's place in the
/// file and begins the key in errors.
pub fn section<T: DeserializeOwned>(path: &str, table: &toml::Table) -> Result<T, ConfigError> {
    serde_path_to_error::deserialize(toml::Value::Table(table.clone())).map_err(|error| {
        let own = error.path().to_string();
        let key = if own == "." { path.to_owned() } else { format!("{path}.{own}") };
        ConfigError::Key { key, reason: error.inner().message().to_owned() }
    })
}
