//! The page on bad input and limits names the tests of each row; every name stands for a test that is there.
//!
//! How the last column of LIMITS.md is read: names are in backticks. `rooms::test` is a test function in a file whose path
//! has these rooms (crates, folders, files, modules in it), `a_test_…` any that begins so, `…_test` any that ends so,
//! `room` and `room::*` all tests of a room, `{a, b}` one of each; words before the last one are rooms too. Behind the word
//! "fuzz" come fuzz targets. `the same` is the row above.

use std::collections::BTreeSet;
use std::path::Path;

use crate::tidy::{files, rust_files, shown, workspace};

/// A test function and where it is.
struct Test {
    rooms: BTreeSet<String>,
    name: String,
}

/// Every test function of the repository.
fn tests() -> Vec<Test> {
    let mut found = Vec::new();
    for path in rust_files() {
        let text = std::fs::read_to_string(&path).unwrap();
        let mut rooms: BTreeSet<String> = shown(&path)
            .trim_end_matches(".rs")
            .split('/')
            .map(str::to_owned)
            .collect();
        let modules = text
            .lines()
            .filter_map(|line| line.trim().strip_prefix("mod ")?.strip_suffix(" {"));
        rooms.extend(modules.map(str::to_owned));
        let mut is_test = false;
        for line in text.lines().map(str::trim) {
            is_test |= ["#[test]", "#[tokio::test"]
                .iter()
                .any(|attribute| line.starts_with(attribute));
            let line = line.strip_prefix("async ").unwrap_or(line);
            if let Some((name, _)) = line.strip_prefix("fn ").and_then(|rest| rest.split_once('('))
                && std::mem::take(&mut is_test)
            {
                let name = name.to_owned();
                let rooms = rooms.clone();
                found.push(Test { rooms, name });
            }
        }
    }
    found
}

/// `a::{b, c}::d` is `a::b::d` and `a::c::d`.
fn spelled_out(name: &str) -> Vec<String> {
    let Some((before, rest)) = name.split_once('{') else {
        return vec![name.to_owned()];
    };
    let (inside, after) = rest.split_once('}').expect("a brace that is closed");
    inside
        .split(',')
        .flat_map(|choice| spelled_out(&format!("{before}{}{after}", choice.trim())))
        .collect()
}

/// Whether some test answers to a name.
fn is_there(tests: &[Test], name: &str) -> bool {
    let mut words: Vec<&str> = name.split([' ', ':']).filter(|word| !word.is_empty()).collect();
    let last = words.pop().expect("a name is not empty");
    let is_meant = |test: &Test| match (last.strip_suffix('…'), last.strip_prefix('…')) {
        (Some(begin), _) => test.name.starts_with(begin),
        (None, Some(end)) => test.name.ends_with(end),
        (None, None) => last == "*" || test.name == last || test.rooms.contains(last),
    };
    tests
        .iter()
        .any(|test| words.iter().all(|room| test.rooms.contains(*room)) && is_meant(test))
}

/// The names of fuzz targets that have a corpus.
fn fuzz_targets() -> BTreeSet<String> {
    let paths = files();
    let below = |folder: &str| {
        let found = paths
            .iter()
            .filter(|path| path.components().any(|part| part.as_os_str() == folder));
        found.map(|path| path.as_path()).collect::<Vec<&Path>>()
    };
    let corpora: BTreeSet<_> = below("corpus")
        .iter()
        .filter_map(|path| path.parent()?.file_name())
        .collect();
    below("fuzz_targets")
        .iter()
        .filter_map(|path| path.file_stem())
        .filter(|target| corpora.contains(target))
        .map(|target| target.to_string_lossy().into_owned())
        .collect()
}

fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// What is wrong with a row of the page, and how many tests it names.
fn check(row: &str, tests: &[Test], targets: &BTreeSet<String>) -> (usize, Vec<String>) {
    let row = row.replace("\\|", "/");
    let cell = row.trim_end_matches('|').rsplit('|').next().unwrap_or_default();
    let (named, fuzzed) = cell.split_once("fuzz ").unwrap_or((cell, ""));
    if cell.trim() == "the same" {
        return (0, Vec::new());
    }
    let mut names: Vec<String> = quoted(named).flat_map(spelled_out).collect();
    names.extend(quoted(fuzzed).map(str::to_owned));
    let mut wrong: Vec<String> = quoted(named)
        .flat_map(spelled_out)
        .filter(|name| !is_there(tests, name))
        .collect();
    wrong.extend(
        quoted(fuzzed)
            .filter(|target| match target.strip_suffix('*') {
                Some(begin) => !targets.iter().any(|known| known.starts_with(begin)),
                None => !targets.contains(*target),
            })
            .map(|target| format!("fuzz {target}")),
    );
    if names.is_empty() {
        wrong.push(format!("no test: {row}"));
    }
    (names.len(), wrong)
}

#[test]
fn tests_that_limits_name_exist() {
    let page = std::fs::read_to_string(workspace().join("LIMITS.md")).unwrap();
    let (tests, targets) = (tests(), fuzz_targets());
    let rows = page
        .lines()
        .filter(|line| line.starts_with('|') && !line.starts_with("|---"));
    let rows = rows.filter(|line| !line.trim_end_matches('|').trim_end().ends_with("| tests"));
    let (mut named, mut wrong) = (0, Vec::new());
    for row in rows {
        let (count, failures) = check(row, &tests, &targets);
        named += count;
        wrong.extend(failures);
    }
    assert!(wrong.is_empty() && named > 120, "{named} named, not there: {wrong:#?}");
}

#[test]
fn names_are_read_as_the_page_writes_them() {
    let test = |path: &str, name: &str| Test {
        rooms: path.split('/').map(str::to_owned).collect(),
        name: name.to_owned(),
    };
    let tests = [
        test("node/wire/src/inflate/tests", "a_bomb_is_stopped"),
        test("node/server/tests/it/api", "answers_at_the_limit"),
    ];
    let targets = BTreeSet::from(["block_open".to_owned()]);
    let wrong = |cell: &str| check(&format!("| a | b \\| c | {cell} |"), &tests, &targets);
    for right in [
        "`wire inflate::tests`",
        "`inflate::*`",
        "`a_bomb_is_stopped`",
        "`inflate::tests::{a_bomb_…, …_stopped}`, fuzz `block_*`",
        "`{api, it}::answers_…`, fuzz `block_open`",
    ] {
        assert_eq!(wrong(right).1, Vec::<String>::new(), "{right}");
    }
    for amiss in [
        "`server inflate::tests`",
        "`a_bomb`",
        "`inflate::tests::{a_bomb_…, …_stopping}`",
        "`api::answers_…`, fuzz `block_shut`",
        "`tests`, fuzz `blocks_*`",
        "",
    ] {
        assert_eq!(wrong(amiss).1.len(), 1, "{amiss}");
    }
    assert_eq!(wrong("`wire {inflate, it}::tests`").0, 2);
}
