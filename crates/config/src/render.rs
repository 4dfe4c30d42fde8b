use crate::{Config, ConfigError, Secret};

impl Config {
    /// The configuration as it is in force, as TOML. Secrets are references and shown as such; what
    /// looks like a literal secret in the table of a type, and user names and passwords inside
    /// URLs, are hidden.
    pub fn render_redacted(&self) -> Result<String, ConfigError> {
        let mut value = toml::Value::try_from(self)
            .map_err(|error| ConfigError::key("(all)", error.to_string()))?;
        redact(&mut value);
        toml::to_string_pretty(&value).map_err(|error| ConfigError::key("(all)", error.to_string()))
    }
}

/// True for keys, and names of HTTP headers, whose values people keep to themselves.
fn is_secret(key: &str) -> bool {
    let key = key.to_lowercase().replace('-', "_");
    ["secret", "password", "token", "authorization", "cookie", "api_key", "apikey"]
        .iter()
        .any(|word| key.contains(word))
}

/// Hides literal secrets, and takes `user:password@` out of every URL.
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
        toml::Value::Table(table) => {
            for (key, value) in table.iter_mut() {
                match value {
                    toml::Value::String(text) if is_secret(key) => {
                        // A literal is refused by the owner of the table; until then it is here.
                        if !text.is_empty() && text.parse::<Secret>().is_err() {
                            "***".clone_into(text);
                        }
                    }
                    value => redact(value),
                }
            }
        }
        _ => {}
    }
}
