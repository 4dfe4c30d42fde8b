//! The file streamer's part of a Cosmos SDK `app.toml`, as it stands.

use std::path::{Path, PathBuf};

use crate::ConfigError;

/// The settings of the SDK's file streamer, with its defaults (SDK 0.45.12 to 0.47).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CosmosFileStreamer {
    /// Store keys; `*` anywhere means all.
    pub keys: Vec<String>,
    /// Where the files go. The SDK's default is the node's home itself.
    pub write_dir: PathBuf,
    /// Goes before every file name, with a `-`.
    pub prefix: String,
    /// Write `block-N-meta` too.
    pub output_metadata: bool,
    /// Halt on a failed write instead of going on.
    pub stop_node_on_error: bool,
    /// Sync every file.
    pub fsync: bool,
}

/// Reads the file streamer out of the text of an `app.toml`. `home` resolves a relative
/// `write_dir`, as the node does. `None` if the node streams nothing.
///
/// Tolerant where the SDK is: booleans may be quoted (its own template quotes them), and the
/// streamer may be called `file` or `f` in any case.
pub fn cosmos_app_toml(text: &str, home: &Path) -> Result<Option<CosmosFileStreamer>, ConfigError> {
    let root: toml::Table = text.parse().map_err(|error: toml::de::Error| ConfigError::Syntax {
        origin: "app.toml".to_owned(),
        reason: error.to_string(),
    })?;
    let streamers = match root.get("store").and_then(|store| store.get("streamers")) {
        None => Vec::new(),
        Some(value) => texts("store.streamers", value)?,
    };
    for name in &streamers {
        if !matches!(name.to_lowercase().as_str(), "file" | "f") {
            let reason = format!("unknown streamer {name:?}; known: file");
            return Err(ConfigError::key("store.streamers", reason));
        }
    }
    let options = root.get("streamers").and_then(|all| all.get("file"));
    let Some(options) = options.filter(|_| !streamers.is_empty()) else {
        return Ok(None);
    };
    let keys = match options.get("keys") {
        None => Vec::new(),
        Some(value) => texts("streamers.file.keys", value)?,
    };
    // Without keys the SDK does not start the service.
    if keys.is_empty() {
        return Ok(None);
    }
    Ok(Some(CosmosFileStreamer {
        keys,
        write_dir: home.join(plain(options, "write_dir")?),
        prefix: plain(options, "prefix")?.to_owned(),
        output_metadata: boolean(options, "output-metadata", true)?,
        stop_node_on_error: boolean(options, "stop-node-on-error", true)?,
        fsync: boolean(options, "fsync", false)?,
    }))
}

fn texts(key: &str, value: &toml::Value) -> Result<Vec<String>, ConfigError> {
    let wrong = || ConfigError::key(key, "expected a list of names, such as [\"*\"]");
    let items = value.as_array().ok_or_else(wrong)?;
    items.iter().map(|item| item.as_str().map(str::to_owned).ok_or_else(wrong)).collect()
}

fn plain<'a>(options: &'a toml::Value, key: &str) -> Result<&'a str, ConfigError> {
    let wrong = || ConfigError::key(format!("streamers.file.{key}"), "expected text in quotes");
    options.get(key).map_or(Ok(""), |value| value.as_str().ok_or_else(wrong))
}

/// The words that Go's `strconv.ParseBool` takes, quoted or not, and numbers, of which 0 is false.
fn boolean(options: &toml::Value, key: &str, default: bool) -> Result<bool, ConfigError> {
    let Some(value) = options.get(key) else {
        return Ok(default);
    };
    let word = match value {
        toml::Value::Boolean(value) => return Ok(*value),
        toml::Value::Integer(number) => return Ok(*number != 0),
        toml::Value::String(word) => word.clone(),
        other => other.to_string(),
    };
    match word.as_str() {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(ConfigError::key(
            format!("streamers.file.{key}"),
            format!("{word:?} is not true or false"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AS_GENERATED: &str = r#"
        [store]
        streamers = ["file", ]
        [streamers]
        [streamers.file]
        keys = ["*", ]
        write_dir = "data/file_streamer"
        prefix = ""
        output-metadata = "true"
        stop-node-on-error = "false"
        fsync = "1"
    "#;

    #[test]
    fn takes_quoted_booleans_and_relative_directories() {
        let read = cosmos_app_toml(AS_GENERATED, Path::new("/home/node")).unwrap().unwrap();
        assert_eq!(read.write_dir, Path::new("/home/node/data/file_streamer"));
        assert!(read.output_metadata && !read.stop_node_on_error && read.fsync);
        assert_eq!(read.keys, ["*"]);
    }

    #[test]
    fn defaults_are_the_sdks() {
        let text = "[store]\nstreamers=['F']\n[streamers.file]\nkeys=['bank']";
        let read = cosmos_app_toml(text, Path::new("/n")).unwrap().unwrap();
        assert_eq!(read.write_dir, Path::new("/n/"));
        assert!(read.output_metadata && read.stop_node_on_error && !read.fsync);
    }

    #[test]
    fn off_without_streamers_or_keys_and_strict_about_names() {
        assert_eq!(cosmos_app_toml("", Path::new("/")).unwrap(), None);
        let no_keys = "[store]\nstreamers=['file']\n[streamers.file]\nprefix='x'";
        assert_eq!(cosmos_app_toml(no_keys, Path::new("/")).unwrap(), None);
        let kafka = cosmos_app_toml("[store]\nstreamers=['kafka']", Path::new("/"));
        assert!(kafka.unwrap_err().to_string().contains("known: file"));
        let maybe = "[store]\nstreamers=['file']\n[streamers.file]\nkeys=['*']\nfsync='maybe'";
        let error = cosmos_app_toml(maybe, Path::new("/")).unwrap_err().to_string();
        assert!(error.contains("streamers.file.fsync"), "{error}");
        let number = "[store]\nstreamers=['file']\n[streamers.file]\nkeys=['*']\nprefix=7";
        let error = cosmos_app_toml(number, Path::new("/")).unwrap_err().to_string();
        assert!(error.contains("streamers.file.prefix"), "{error}");
    }

    #[test]
    fn booleans_as_go_reads_them() {
        for (written, expected) in [
            ("true", Some(true)),
            ("false", Some(false)),
            ("'t'", Some(true)),
            ("'F'", Some(false)),
            ("'TRUE'", Some(true)),
            ("'0'", Some(false)),
            ("2", Some(true)),
            ("0", Some(false)),
            ("'yes'", None),
            ("'tRue'", None),
            ("[]", None),
        ] {
            let text = format!(
                "[store]\nstreamers=['file']\n[streamers.file]\nkeys=['*']\nfsync={written}"
            );
            let read = cosmos_app_toml(&text, Path::new("/"));
            assert_eq!(read.ok().map(|file| file.unwrap().fsync), expected, "{written}");
        }
    }
}
