use std::{
    collections::HashMap,
    fmt::Write as _,
    io::Read,
    path::{Path, PathBuf},
};

use config::{File, FileFormat};
use serde::de::DeserializeOwned;

use crate::{
    Config, ConfigError,
    explain::explain,
    layer::{self, Layer, origin_of},
};

/// Largest configuration file, in bytes.
const MAX_FILE: u64 = 4 << 20;

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

/// The environment of this process, only what configures Sluice or its telemetry. What is not
/// Unicode is replaced, and so refused where it matters.
pub fn process_environment() -> HashMap<String, String> {
    let all = std::env::vars_os();
    all.map(|(name, value)| {
        (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned())
    })
    .filter(|(name, _)| name.starts_with("SLUICE_") || name.starts_with("OTEL_"))
    .collect()
}

/// Merges the sources and checks the result. Errors name the key and where it was set.
pub fn load(sources: &Sources) -> Result<Config, ConfigError> {
    let layers = layers(sources)?;
    let mut builder = config::Config::builder();
    for layer in &layers {
        let text = layer.table.to_string();
        builder = builder.add_source(File::from_str(&text, FileFormat::Toml));
    }
    let merged = builder.build().map_err(|error| ConfigError::Syntax {
        origin: "the configuration".to_owned(),
        reason: error.to_string(),
    })?;
    let mut loaded: Config = serde_path_to_error::deserialize(merged.clone()).map_err(|error| {
        let path = error.path().to_string();
        let reason = variants(merged, &path).unwrap_or_else(|| bare(error.inner()));
        wrong_key(&layers, &path, &reason)
    })?;
    loaded.telemetry.prefer_standard(&sources.environment);
    let problems = loaded.problems();
    if problems.is_empty() {
        return Ok(loaded);
    }
    let told = problems.iter().map(|problem| {
        let mut line = problem.to_string();
        if let Some(origin) = origin_of(&layers, &problem.key) {
            // Writing to a string does not fail.
            write!(line, " ({origin})").ok();
        }
        line
    });
    Err(ConfigError::Invalid(told.collect()))
}

fn layers(sources: &Sources) -> Result<Vec<Layer>, ConfigError> {
    let mut layers: Vec<Layer> =
        sources.file.as_deref().map(file).transpose()?.into_iter().collect();
    let below = layers.first().map(|file| file.table.clone()).unwrap_or_default();
    layers.extend(layer::variables(&sources.environment, &below)?);
    for set in &sources.sets {
        layers.push(layer::flag(set)?);
    }
    Ok(layers)
}

fn file(path: &Path) -> Result<Layer, ConfigError> {
    let origin = path.display().to_string();
    let wrong = |reason: String| ConfigError::File { path: origin.clone(), reason };
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(|error| wrong(error.to_string()))?;
    file.take(MAX_FILE + 1).read_to_string(&mut text).map_err(|error| wrong(error.to_string()))?;
    if text.len() as u64 > MAX_FILE {
        return Err(wrong(format!("it is larger than {MAX_FILE} bytes")));
    }
    let table = text.parse::<toml::Table>().map_err(|error| ConfigError::Syntax {
        origin: origin.clone(),
        reason: error.to_string(),
    })?;
    Ok(Layer { origin, table })
}

fn wrong_key(layers: &[Layer], path: &str, reason: &str) -> ConfigError {
    let (key, mut reason) = explain(path, reason);
    if let Some(origin) = origin_of(layers, &key).or_else(|| origin_of(layers, path)) {
        // Writing to a string does not fail.
        write!(reason, " ({origin})").ok();
    }
    ConfigError::Key { key, reason }
}

/// The reason of an unknown variant with those that there are, which the library that merges leaves
/// out and the reader of TOML has.
fn variants(merged: config::Config, path: &str) -> Option<String> {
    let table: toml::Table = merged.try_deserialize().ok()?;
    let read: Result<Config, _> = serde_path_to_error::deserialize(toml::Value::Table(table));
    let error = read.err().filter(|error| error.path().to_string() == path)?;
    let reason = error.inner().message();
    reason.starts_with("unknown variant").then(|| reason.to_owned())
}

/// The reason without the library's own idea of key and origin, which ours replace.
fn bare(error: &config::ConfigError) -> String {
    match error {
        config::ConfigError::At { error, .. } => bare(error),
        config::ConfigError::Type { unexpected, expected, .. } => {
            format!("it is {unexpected}, expected {expected}")
        }
        other => other.to_string(),
    }
}

/// Reads a table that belongs to one type of source or sink. `path` is the table's place in the
/// file and begins the key in errors.
pub fn section<T: DeserializeOwned>(path: &str, table: &toml::Table) -> Result<T, ConfigError> {
    serde_path_to_error::deserialize(toml::Value::Table(table.clone())).map_err(|error| {
        let own = error.path().to_string();
        let full = match (path, own.as_str()) {
            ("", own) => own.to_owned(),
            (path, ".") => path.to_owned(),
            (path, own) => format!("{path}.{own}"),
        };
        let (key, reason) = explain(&full, error.inner().message());
        ConfigError::Key { key, reason }
    })
}
