//! From what a deserializer says to what a person can act on.

/// The key and the reason of an error at `path` (`.` is the top).
pub(crate) fn explain(path: &str, reason: &str) -> (String, String) {
    let path = if path == "." { "" } else { path };
    if let Some((name, known)) = unknown("unknown field `", reason) {
        let parent = path.strip_suffix(name).map_or(path, |rest| rest.trim_end_matches('.'));
        let near = closest(name, known.iter().copied()).map(|near| join(parent, near));
        return (join(parent, name), unknown_key(near.as_deref(), &known));
    }
    let missing = reason
        .strip_prefix("missing field `")
        .or_else(|| reason.strip_prefix("missing configuration field \""));
    if let Some(name) = missing.and_then(|rest| rest.split(['`', '"']).next()) {
        let key = if name.starts_with(path) && !path.is_empty() {
            name.to_owned()
        } else {
            join(path, name)
        };
        return (key, "it is missing, and has no default; add it".to_owned());
    }
    let key = if path.is_empty() { "(top level)".to_owned() } else { path.to_owned() };
    if let Some((name, known)) = unknown("unknown variant `", reason) {
        return (key, format!("{name:?} is not one of its values; write {}", known.join(" or ")));
    }
    let hint = match reason.rsplit("expected ").next().unwrap_or_default() {
        "an array" | "a sequence" => "; write [\"a\", \"b\"]",
        "a map" | "map" => "; write { key = value } or a table of its own",
        _ => "",
    };
    (key, format!("{reason}{hint}"))
}

fn join(parent: &str, name: &str) -> String {
    if parent.is_empty() { name.to_owned() } else { format!("{parent}.{name}") }
}

/// The unknown name, and the known ones, out of serde's sentence.
fn unknown<'a>(begins: &str, reason: &'a str) -> Option<(&'a str, Vec<&'a str>)> {
    let (name, rest) = reason.strip_prefix(begins)?.split_once('`')?;
    Some((name, rest.split('`').skip(1).step_by(2).collect()))
}

fn unknown_key(near: Option<&str>, known: &[&str]) -> String {
    let known = match known {
        [] => "no key is known here".to_owned(),
        known => format!("known here: {}", known.join(", ")),
    };
    match near {
        Some(near) => format!("unknown key; did you mean `{near}`? ({known})"),
        None => format!("unknown key; remove it ({known})"),
    }
}

/// The known name that a mistyped one most likely means.
pub(crate) fn closest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let far = (name.chars().count() / 3).max(2);
    let ranked = known.into_iter().map(|candidate| (distance(name, candidate), candidate));
    ranked.min().filter(|(distance, _)| *distance <= far).map(|(_, candidate)| candidate)
}

/// How many characters must be added, removed or replaced, ignoring case and `-` against `_`.
fn distance(a: &str, b: &str) -> usize {
    let fold =
        |text: &str| -> Vec<char> { text.to_lowercase().replace('-', "_").chars().collect() };
    let (a, b) = (fold(a), fold(b));
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, of_a) in a.iter().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (of_b, cell) in b.iter().zip(row.iter_mut().skip(1)) {
            let replaced = diagonal + usize::from(of_a != of_b);
            diagonal = *cell;
            left = replaced.min(left + 1).min(diagonal + 1);
            *cell = left;
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

    #[test]
    fn unknown_keys_have_their_path_and_a_guess() {
        let reason = "unknown field `retension`, expected one of `backend`, `retention`";
        for path in ["journal", "journal.retension"] {
            let (key, reason) = explain(path, reason);
            assert_eq!(key, "journal.retension");
            assert!(reason.contains("did you mean `journal.retention`?"), "{reason}");
        }
        let (key, reason) = explain(".", "unknown field `zzzzzz`, expected `a` or `b`");
        assert_eq!(key, "zzzzzz");
        assert!(reason.contains("known here: a, b") && !reason.contains("mean"), "{reason}");
    }

    #[test]
    fn missing_keys_are_named_in_full() {
        for reason in [
            "missing field `source`",
            "missing configuration field \"source\"",
            "missing configuration field \"ingestors.a.source\"",
        ] {
            assert_eq!(explain("ingestors.a", reason).0, "ingestors.a.source");
        }
    }

    #[test]
    fn distances() {
        for (a, b, expected) in
            [("", "", 0), ("a", "", 1), ("", "ab", 2), ("kitten", "sitting", 3), ("A-b", "a_b", 0)]
        {
            assert_eq!(distance(a, b), expected, "{a} {b}");
        }
        assert_eq!(closest("lak", ["webhook", "lake"]), Some("lake"));
        assert_eq!(closest("kafka", ["webhook", "lake"]), None);
    }
}
