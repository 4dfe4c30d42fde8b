//! What each source sets, as a table of its own: merged for the values, kept for the question
//! "where does this key come from?".

use std::collections::HashMap;

use crate::ConfigError;

/// Begins every environment variable of ours; `__` separates the parts of a key.
const PREFIX: &str = "SLUICE_";

/// One source: a file, a variable or a flag.
#[derive(Debug)]
pub(crate) struct Layer {
    /// As people name it: `sluice.toml`, `the environment variable SLUICE_…`, `--set a.b`.
    pub(crate) origin: String,
    /// The keys it sets.
    pub(crate) table: toml::Table,
}

/// The origin of a key: the strongest layer that sets it.
pub(crate) fn origin_of<'a>(layers: &'a [Layer], key: &str) -> Option<&'a str> {
    let strongest = layers.iter().rev().find(|layer| sets(&layer.table, key));
    strongest.map(|layer| layer.origin.as_str())
}

/// True if the table has a value at `a.b[0].c`, or a value that is no table on the way to it.
/// Names may contain dots, hence the search instead of a split.
fn sets(table: &toml::Table, key: &str) -> bool {
    table.iter().any(|(name, value)| match key.strip_prefix(name.as_str()) {
        None => false,
        Some("") => true,
        Some(rest) => match (rest.strip_prefix('.'), value) {
            (Some(rest), toml::Value::Table(inner)) => sets(inner, rest),
            (Some(_), _) => true,
            (None, _) => rest.starts_with('['),
        },
    })
}

/// One layer for every variable that configures us, in the order of their names. Names of tables
/// in `below` are found in any case and with `_` for what a variable cannot contain, so that
/// `SLUICE_INGESTORS__COSMOSHUB_4__ON_GAP` reaches `[ingestors.cosmoshub-4]`.
pub(crate) fn variables(
    environment: &HashMap<String, String>,
    below: &toml::Table,
) -> Result<Vec<Layer>, ConfigError> {
    let mut named: Vec<_> = environment.iter().filter(|(name, _)| configures(name)).collect();
    named.sort_unstable();
    let mut layers = Vec::with_capacity(named.len());
    for (name, text) in named {
        let origin = format!("the environment variable {name}");
        let parts: Vec<&str> = name.get(PREFIX.len()..).unwrap_or_default().split("__").collect();
        if parts.iter().any(|part| part.is_empty()) {
            let reason = "a part of the key is empty; write SLUICE_SECTION__KEY".to_owned();
            return Err(ConfigError::Syntax { origin, reason });
        }
        layers.push(Layer { origin, table: nested(&parts, Some(below), value(text)) });
    }
    Ok(layers)
}

/// Single underscores are left to the command line (`SLUICE_SERVER`) and to what Kubernetes puts
/// into every container (`SLUICE_ROUTER_PORT`).
fn configures(name: &str) -> bool {
    let ours = name.strip_prefix(PREFIX);
    ours.is_some_and(|key| key.contains("__") || matches!(key, "CLUSTER" | "DATA_DIR"))
}

fn nested(parts: &[&str], below: Option<&toml::Table>, leaf: toml::Value) -> toml::Table {
    let mut table = toml::Table::new();
    if let Some((part, rest)) = parts.split_first() {
        let name = known(part, below);
        let inner = below.and_then(|table| table.get(&name)).and_then(toml::Value::as_table);
        let value = match rest {
            [] => leaf,
            rest => toml::Value::Table(nested(rest, inner, leaf)),
        };
        table.insert(name, value);
    }
    table
}

/// The name in `below` that a part of a variable means; the part in lower case if there is none.
fn known(part: &str, below: Option<&toml::Table>) -> String {
    let lower = part.to_lowercase();
    let fold = |name: &str| name.to_lowercase().replace(['-', '.', ' '], "_");
    match below {
        Some(table) if !table.contains_key(&lower) => {
            let found = table.keys().find(|name| fold(name) == fold(&lower));
            found.cloned().unwrap_or(lower)
        }
        _ => lower,
    }
}

/// A `--set a.b=c` flag.
pub(crate) fn flag(set: &str) -> Result<Layer, ConfigError> {
    let (key, text) = set.split_once('=').unwrap_or((set, ""));
    // The value stays out of errors: it may be a secret in the wrong place.
    let origin = format!("--set {}", key.trim());
    let wrong =
        |reason: &str| ConfigError::Syntax { origin: origin.clone(), reason: reason.to_owned() };
    if !set.contains('=') {
        return Err(wrong("write --set key.path=value"));
    }
    let not_a_path = "the key is not a path such as a.b; quote other characters: a.\"b c\"";
    let mut table: toml::Table = format!("{key} = 0").parse().map_err(|_| wrong(not_a_path))?;
    plant(&mut table, value(text)).ok_or_else(|| wrong(not_a_path))?;
    Ok(Layer { origin, table })
}

/// Puts the value in the place of the only leaf.
fn plant(table: &mut toml::Table, leaf: toml::Value) -> Option<()> {
    if table.len() != 1 {
        return None;
    }
    match table.iter_mut().next()?.1 {
        toml::Value::Table(inner) => plant(inner, leaf),
        place => {
            *place = leaf;
            Some(())
        }
    }
}

/// A value outside a file: TOML where that loses nothing, else text. `007` and `1e5` stay text,
/// because a key that wants text must get what was written.
fn value(text: &str) -> toml::Value {
    use toml::Value;
    let parsed = format!("v = {text}").parse::<toml::Table>().ok();
    let only = parsed.filter(|table| table.len() == 1).and_then(|mut table| table.remove("v"));
    match only {
        Some(
            value @ (Value::Array(_) | Value::Table(_) | Value::String(_) | Value::Boolean(_)),
        ) => value,
        Some(Value::Integer(number)) if number.to_string() == text => Value::Integer(number),
        Some(Value::Float(number)) if number.to_string() == text => Value::Float(number),
        _ => Value::String(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(text: &str) -> toml::Table {
        text.parse().unwrap()
    }

    #[test]
    fn values_lose_nothing() {
        for text in ["007", "1e5", "1979-05-27", "64MiB", "", "a\nb = 2", "+1"] {
            assert_eq!(value(text), toml::Value::String(text.to_owned()), "{text}");
        }
        assert_eq!(value("17"), toml::Value::Integer(17));
        assert_eq!(value("0.5"), toml::Value::Float(0.5));
        assert_eq!(value("true"), toml::Value::Boolean(true));
        assert_eq!(value("['a', 'b']").as_array().map(Vec::len), Some(2));
    }

    #[test]
    fn flags_reach_quoted_names_and_nothing_else() {
        let layer = flag("ingestors.\"a.b\".on_gap=record").unwrap();
        assert_eq!(layer.table, table("[ingestors.\"a.b\"]\non_gap = 'record'"));
        for wrong in ["=1", "a b=1", "a..b=1", "a"] {
            let error = flag(wrong).unwrap_err().to_string();
            assert!(error.starts_with("--set"), "{wrong}: {error}");
        }
        // Everything behind the first `=` is the value.
        assert_eq!(flag("a=1\nb=2").unwrap().table, table("a = \"1\\nb=2\""));
    }

    #[test]
    fn variables_find_the_names_of_the_file() {
        let below = table("[ingestors.Cosmoshub-4]\non_gap = 'halt'");
        let environment = HashMap::from([
            ("SLUICE_INGESTORS__COSMOSHUB_4__ON_GAP".to_owned(), "record".to_owned()),
            ("SLUICE_ROUTER_PORT".to_owned(), "tcp://10.0.0.1:7400".to_owned()),
        ]);
        let layers = variables(&environment, &below).unwrap();
        assert_eq!(layers.len(), 1, "service links are not configuration");
        assert_eq!(layers[0].table, table("[ingestors.Cosmoshub-4]\non_gap = 'record'"));
        let odd = HashMap::from([("SLUICE___DIR".to_owned(), String::new())]);
        assert!(variables(&odd, &below).unwrap_err().to_string().contains("SLUICE___DIR"));
    }

    #[test]
    fn the_strongest_layer_is_the_origin() {
        let layer = |origin: &str, text| Layer { origin: origin.to_owned(), table: table(text) };
        let layers = [
            layer("file", "[a.\"b.c\"]\nx = 1\nlist = [{ y = 1 }]"),
            layer("flag", "[a.\"b.c\"]\nx = 2"),
        ];
        assert_eq!(origin_of(&layers, "a.b.c.x"), Some("flag"));
        assert_eq!(origin_of(&layers, "a.b.c.list[0].y"), Some("file"));
        assert_eq!(origin_of(&layers, "a.b"), None);
        assert_eq!(origin_of(&layers, "a.b.c.z"), None);
    }
}
