//! Runs the architecture checks over this checkout.

use dynamo_architecture::{judge_edge, judge_source, production_lines};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// No file may hold more production lines than this; half of it is the point to think.
const MOST_PRODUCTION_LINES: usize = 800;

/// Names that say nothing about what a module holds.
const EMPTY_NAMES: &[&str] = &[
    "utils", "util", "common", "helpers", "helper", "manager", "misc", "v2", "mod",
];

/// Crates that another way serves better: see `deny.toml` for the reasons.
const BANNED: &[&str] = &[
    "openssl",
    "openssl-sys",
    "native-tls",
    "chrono",
    "ai-dynamo",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .expect("the checkout is there")
}

/// Files of an extension, in a fixed order, without what is built or hidden.
fn files(extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![root()];
    while let Some(folder) = open.pop() {
        let entries = fs::read_dir(&folder).expect("the folder can be read");
        let mut entries: Vec<_> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .collect();
        entries.sort();
        for path in entries {
            let name = path
                .file_name()
                .map(|name| name.to_string_lossy().into_owned());
            if path.is_dir() {
                open.extend(
                    name.filter(|it| it != "target" && !it.starts_with('.'))
                        .map(|_| path),
                );
            } else if path.extension().is_some_and(|it| it == extension) {
                found.push(path);
            }
        }
    }
    found
}

#[test]
fn no_crate_depends_upward() {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--no-deps",
            "--offline",
            "--format-version",
            "1",
        ])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut wrong = Vec::new();
    for package in metadata["packages"].as_array().unwrap() {
        let from = package["name"].as_str().unwrap();
        wrong.extend(judge_edge(from, ""));
        for dependency in package["dependencies"].as_array().unwrap() {
            let to = dependency["name"].as_str().unwrap();
            // A test may reach up: a double of an upper layer exercises a lower one.
            if dependency["kind"] != "dev" {
                wrong.extend(judge_edge(from, to));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn source_files_keep_the_house_rules() {
    let mut wrong = Vec::new();
    for path in files("rs") {
        let text = fs::read_to_string(&path).unwrap();
        let shown = path.strip_prefix(root()).unwrap().display().to_string();
        for finding in judge_source(&text) {
            wrong.push(format!("{shown}:{}: {}", finding.line, finding.message));
        }
        let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
        if EMPTY_NAMES.contains(&stem.as_str()) {
            wrong.push(format!("{shown}: name the module after what it holds"));
        }
        if production_lines(&text) > MOST_PRODUCTION_LINES && !shown.contains("tests") {
            wrong.push(format!(
                "{shown}: more than {MOST_PRODUCTION_LINES} lines: split it by reason to change"
            ));
        }
        let is_code = shown.contains("/src/") && stem != "tests";
        if is_code && shown.matches('/').count() > 4 {
            wrong.push(format!("{shown}: a third folder level asks for a crate"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_lock_file_has_no_banned_crate_and_one_source() {
    let lock = fs::read_to_string(root().join("Cargo.lock")).unwrap();
    let mut wrong = Vec::new();
    for line in lock.lines() {
        if let Some(name) = line.strip_prefix("name = ")
            && BANNED.contains(&name.trim_matches('"'))
        {
            wrong.push(format!("banned crate {name}"));
        }
        if let Some(source) = line.strip_prefix("source = ")
            && !source.starts_with("\"registry+")
        {
            wrong.push(format!("source outside the registry: {source}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn nothing_is_left_of_a_merge() {
    let kinds = ["md", "rs", "toml", "sh", "py", "json", "yml"];
    for path in kinds.into_iter().flat_map(files) {
        let text = fs::read_to_string(&path).unwrap();
        let left = text
            .lines()
            .position(|line| line.starts_with("<<<<<<< ") || line.starts_with(">>>>>>> "));
        assert_eq!(left, None, "{} has both sides of a merge", path.display());
    }
}
