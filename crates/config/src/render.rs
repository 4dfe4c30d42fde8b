use crate::{Config, ConfigError};

impl Config {
    /// The configuration as it is in force, as TOML. Secrets are references, so none is shown;
    /// user names and passwords inside URLs are.
    pub fn render_redacted(&self) -> Result<String, ConfigError> {
        let mut value = toml::Value::try_from(self)
            .map_err(|error| ConfigError::key("(all)", error.to_string()))?;
        redact(&mut value);
        toml::to_string_pretty(&value).map_err(|error| ConfigError::key("(all)", error.to_string()))
    }
}

/// Takes `user:password@` out of every URL.
fn redact(value: &mut toml::Value) {
    match value {
        toml::Value::String(text) => {
            if let Some((scheme, rest)) = text.split_once("://") {
                let host_end = rest.find('/').unwrap_or(rest.len());
                if let Some(at) = rest.get(..host_end).and_then(|host| host.rfind('@')) {
                    let host = rest.get(at + 1..).unwrap_or_default();
                    *text = format!("{scheme}://***@{host}");
                }
            }
        }
        toml::Value::Array(items) => items.iter_mut().for_each(redact),
        toml::Value::Table(table) => table.iter_mut().for_each(|(_, value)| redact(value)),
        _ => {}
    }
}
