//! Rules about the repository that a machine can check: which crate may know which, how a file opens and is called, and
//! that no file names the machine it was written on.
//!
//! The crates' arrows come from what cargo itself reads. When a rule makes a piece worse, change the rule here, with its
//! reason.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Who may know whom, directly. A crate that is not here fails the test: decide where it stands.
const ARROWS: &[(&str, &[&str])] = &[
    // Planted bugs, off unless the simulation asks: everybody may have one.
    ("vivace-plants", &[]),
    ("vivace-model", &[]),
    ("vivace-settings", &["model"]),
    ("vivace-wire", &["model"]),
    // The log never heard of spans.
    ("vivace-wal", &["plants"]),
    // Blocks and queries are strangers: the shard introduces them.
    ("vivace-block", &["model"]),
    ("vivace-query", &["model"]),
    (
        "vivace-shard",
        &["plants", "wal", "block", "query", "wire", "settings", "model"],
    ),
    (
        "vivace-consensus",
        &["plants", "shard", "wal", "block", "query", "wire", "settings", "model"],
    ),
    (
        "vivace-server",
        &[
            "plants",
            "consensus",
            "shard",
            "wal",
            "block",
            "query",
            "wire",
            "settings",
            "model",
        ],
    ),
    (
        "vivace-sim",
        &[
            "plants",
            "server",
            "consensus",
            "shard",
            "wal",
            "block",
            "query",
            "wire",
            "settings",
            "model",
        ],
    ),
    ("vivace-crds", &[]),
    ("vivace-operator", &["crds", "settings", "wire", "model"]),
    // The suites meet binaries only.
    ("vivace-e2e", &[]),
];

/// Names that gather what belongs elsewhere.
const JUNK_DRAWERS: &[&str] = &[
    "utils", "util", "common", "helpers", "types", "models", "manager", "misc",
];

/// Folders that are not ours to judge.
const FOREIGN: &[&str] = &["target", ".git", "node_modules"];

pub(crate) fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// Every file of the repository that git would take, in order.
pub(crate) fn files() -> Vec<PathBuf> {
    let root = workspace();
    let listed = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(&root)
        .output();
    if let Ok(listed) = listed
        && listed.status.success()
    {
        let names = String::from_utf8(listed.stdout).unwrap();
        return names
            .split_terminator('\0')
            .map(|name| root.join(name))
            .filter(|path| path.is_file())
            .collect();
    }
    // An unpacked archive has no history; its files are all there is.
    let mut found = Vec::new();
    let mut folders = vec![root];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let foreign = path
                .file_name()
                .and_then(|name| name.to_str())
                .is_some_and(|name| FOREIGN.contains(&name));
            match (path.is_dir(), foreign) {
                (true, false) => folders.push(path),
                (false, _) => found.push(path),
                (true, true) => {}
            }
        }
    }
    found.sort();
    found
}

pub(crate) fn rust_files() -> Vec<PathBuf> {
    files()
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .collect()
}

pub(crate) fn shown(path: &Path) -> String {
    path.strip_prefix(workspace()).unwrap_or(path).display().to_string()
}

/// Workspace crates and the workspace crates that each needs to be built (tests aside).
fn arrows() -> BTreeMap<String, BTreeSet<String>> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(workspace())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let names: BTreeSet<&str> = packages.iter().filter_map(|package| package["name"].as_str()).collect();
    let needs = |package: &Value| {
        let dependencies = package["dependencies"].as_array().unwrap().iter();
        let built = dependencies.filter(|dependency| dependency["kind"] != "dev");
        let names = built
            .filter_map(|dependency| dependency["name"].as_str())
            .filter(|name| names.contains(name));
        names.map(str::to_owned).collect()
    };
    packages
        .iter()
        .map(|package| (package["name"].as_str().unwrap().to_owned(), needs(package)))
        .collect()
}

/// `cargo deny` is for where advisories can be fetched; that it would not stumble over the crates themselves is seen here.
#[test]
fn the_policy_knows_every_crate_that_is_there_twice() {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = Command::new(cargo)
        .args(["tree", "--workspace", "--offline", "--locked", "--prefix", "none"])
        .args(["--edges", "normal,build,dev", "--target", "x86_64-unknown-linux-gnu"])
        .current_dir(workspace())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let tree = String::from_utf8_lossy(&output.stdout);
    for line in tree.lines() {
        if let Some((name, rest)) = line.split_once(" v") {
            let version = rest.split(' ').next().unwrap_or_default();
            versions.entry(name).or_default().insert(version);
        }
    }
    assert!(versions.len() > 300, "{} crates", versions.len());
    let policy = std::fs::read_to_string(workspace().join("deny.toml")).unwrap();
    let skipped: BTreeSet<(&str, &str)> = policy
        .lines()
        .filter_map(|line| {
            line.trim()
                .strip_prefix("{ crate = \"")?
                .split('"')
                .next()?
                .split_once(':')
        })
        .collect();
    let is_skipped = |name: &str, version: &str| {
        skipped.iter().any(|(of, start)| {
            *of == name
                && version
                    .strip_prefix(start)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        })
    };
    let mut wrong = Vec::new();
    for (name, versions) in &versions {
        let counted: Vec<_> = versions.iter().filter(|version| !is_skipped(name, version)).collect();
        if counted.len() > 1 {
            wrong.push(format!(
                "{name} is there as {counted:?}: bring them together or say who holds them"
            ));
        }
    }
    for (name, start) in &skipped {
        if versions.get(name).is_none_or(|versions| versions.len() < 2) {
            wrong.push(format!("{name}:{start} is skipped, but is not there twice"));
        }
    }
    assert!(wrong.is_empty(), "deny.toml:\n{}", wrong.join("\n"));
}

/// Crates name each other by path alone, which the policy allows to those only that are not published.
#[test]
fn no_crate_is_published_by_accident() {
    for path in files() {
        let is_ours = path.ends_with("Cargo.toml") && path.parent() != Some(&workspace());
        if is_ours {
            let manifest = std::fs::read_to_string(&path).unwrap();
            assert!(
                manifest.contains("\npublish = false\n"),
                "{} lacks publish = false",
                shown(&path)
            );
        }
    }
}

#[test]
fn arrows_point_down() {
    let mut wrong = Vec::new();
    for (name, needs) in arrows() {
        let Some((_, allowed)) = ARROWS.iter().find(|(known, _)| *known == name) else {
            wrong.push(format!("{name} has no place in ARROWS yet"));
            continue;
        };
        let allowed: BTreeSet<String> = allowed.iter().map(|short| format!("vivace-{short}")).collect();
        wrong.extend(
            needs
                .difference(&allowed)
                .map(|need| format!("{name} must not know {need}")),
        );
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn dependencies_are_declared_once() {
    let mut wrong = Vec::new();
    for path in files()
        .into_iter()
        .filter(|path| path.ends_with("Cargo.toml") && *path != workspace().join("Cargo.toml"))
    {
        let text = std::fs::read_to_string(&path).unwrap();
        // A fuzzing crate is a workspace of its own, because it needs flags that nothing else may have.
        if text.lines().any(|line| line.trim() == "[workspace]") {
            continue;
        }
        let mut inside = false;
        for line in text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
        {
            if line.starts_with('[') {
                inside = line.ends_with("dependencies]");
            } else if inside && line.contains('=') && !line.contains("workspace = true") {
                wrong.push(format!("{}: {line}", shown(&path)));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "say `x.workspace = true` and declare x in the root: {wrong:#?}"
    );
}

#[test]
fn files_open_with_what_they_are_for() {
    let headless: Vec<String> = rust_files()
        .into_iter()
        .filter(|path| {
            let text = std::fs::read_to_string(path).unwrap();
            let first = text.lines().next().unwrap_or_default();
            !first.starts_with("//!") && !first.contains("generated")
        })
        .map(|path| shown(&path))
        .collect();
    assert!(headless.is_empty(), "no `//!` on the first line: {headless:#?}");
}

#[test]
fn files_are_named_after_their_noun() {
    let junk = |path: &PathBuf| {
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        JUNK_DRAWERS.contains(&stem) || stem.ends_with("_v2")
    };
    let junk: Vec<String> = rust_files().into_iter().filter(junk).map(|path| shown(&path)).collect();
    assert!(junk.is_empty(), "{junk:#?}");
}

#[test]
fn no_file_knows_a_machine() {
    // Written in pieces, or this file would find itself.
    let paths = ["/ro_ot/", "/ho_me/", "/Us_ers/", "/wo_rk/"].map(|path| path.replace('_', ""));
    let mut wrong = Vec::new();
    for path in files() {
        // What is not text holds no paths that anyone reads.
        let Ok(text) = std::fs::read_to_string(&path) else {
            continue;
        };
        for (number, line) in text.lines().enumerate() {
            if paths.iter().any(|machine| line.contains(machine.as_str())) {
                wrong.push(format!("{}:{}: {}", shown(&path), number + 1, line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The page on conformance names tests as `file::function` and golden rows as `file.txt: Section`.
#[test]
fn tests_that_conformance_names_exist() {
    let page = std::fs::read_to_string(workspace().join("CONFORMANCE.md")).unwrap();
    let sources: Vec<(Vec<String>, String)> = rust_files()
        .into_iter()
        .map(|path| {
            let rooms = shown(&path)
                .trim_end_matches(".rs")
                .split('/')
                .map(str::to_owned)
                .collect();
            (rooms, std::fs::read_to_string(&path).unwrap())
        })
        .collect();
    let is_test = |(room, function): (&str, &str)| {
        let opening = format!("fn {function}(");
        sources
            .iter()
            .any(|(rooms, text)| rooms.iter().any(|known| known == room) && text.contains(&opening))
    };
    let is_section = |(file, section): (&str, &str)| {
        let path = workspace().join("node/query/testdata").join(file);
        let heading = format!("# {}", section.replace("\\|", "|"));
        std::fs::read_to_string(path).is_ok_and(|text| text.lines().any(|line| line == heading))
    };
    let (mut named, mut wrong) = (0, Vec::new());
    for quoted in page.split('`').skip(1).step_by(2) {
        let holds = match (quoted.split_once(".txt: "), quoted.split_once("::")) {
            (Some((stem, section)), _) => is_section((&format!("{stem}.txt"), section)),
            (None, Some(test)) => is_test(test),
            (None, None) => continue,
        };
        named += 1;
        if !holds {
            wrong.push(quoted);
        }
    }
    assert!(wrong.is_empty() && named > 80, "{named} named, not there: {wrong:#?}");
}
