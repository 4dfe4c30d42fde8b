//! The rules of the house that no lint knows.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failure here is a failed test")]

use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        let name = entry.file_name().into_string().unwrap();
        if path.is_dir() && !matches!(name.as_str(), "target" | "fuzz" | ".git") {
            sources(&path, found);
        } else if name.ends_with(".rs") {
            found.push(path);
        }
    }
}

/// `(crate, what it depends on outside its tests)` of every workspace crate.
fn arrows() -> Vec<(String, Vec<String>)> {
    let crates = std::fs::read_dir(root().join("crates")).unwrap().flatten();
    let manifest = |path: PathBuf| -> toml::Table {
        std::fs::read_to_string(path.join("Cargo.toml")).unwrap().parse().unwrap()
    };
    crates
        .map(|entry| {
            let manifest = manifest(entry.path());
            let name = manifest["package"]["name"].as_str().unwrap().to_owned();
            let own = manifest["dependencies"].as_table().unwrap().keys();
            let arrows = own.filter(|name| name.starts_with("sluice")).cloned().collect();
            (name.trim_start_matches("sluice-").to_owned(), arrows)
        })
        .collect()
}

fn level(name: &str) -> u8 {
    match name.trim_start_matches("sluice-") {
        "model" => 0,
        "frame" => 1,
        "proto" | "config" | "telemetry" => 2,
        "service" | "journal" | "coordination" => 3,
        "client" => 4,
        "sink" => 5,
        "sluice" => 7,
        _ => 6,
    }
}

#[test]
fn arrows_point_downwards() {
    for (name, arrows) in arrows() {
        for to in arrows {
            assert!(level(&to) < level(&name), "{name} must not depend on {to}");
        }
    }
}

#[test]
fn outside_things_stay_behind_their_seam() {
    for (word, allowed) in [
        ("etcd_client", &["crates/coordination"][..]),
        ("std::env::var", &["crates/config", "build.rs"]),
        ("reqwest", &["crates/sink-webhook", "crates/sluice/tests", "tests/"]),
        ("inotify", &["crates/producer"]),
    ] {
        let mut files = Vec::new();
        sources(&root(), &mut files);
        for file in files {
            let relative = file.strip_prefix(root()).unwrap().display().to_string();
            if allowed.iter().any(|place| relative.contains(place)) || relative.ends_with("tidy.rs")
            {
                continue;
            }
            let text = std::fs::read_to_string(&file).unwrap();
            let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
            for line in code {
                assert!(!line.contains(word), "{relative} names {word}: {line}");
            }
        }
    }
}
