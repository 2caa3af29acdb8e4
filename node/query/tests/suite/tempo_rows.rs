//! Every row of what we know of Tempo's language has a golden case.
//!
//! `testdata/tempo_rows.txt` names them: a row, then lines of `rule :: golden file :: query`. Not here: the answers, which
//! are in the golden files and tested there (`golden`, `measured`).

use std::collections::BTreeMap;
use std::path::PathBuf;

/// The rows of Tempo's language, by section of what we know of it: language, operators, pipelines, types and matching,
/// metrics, hints, samples. The table in `tempo_rows.txt` names for each at least one golden case.
const TEMPO_ROWS: [(&str, &[&str]); 7] = [
    (
        "2.1",
        &[
            "Scopes",
            "Names",
            "Intrinsics, bare",
            "trace:",
            "span:",
            "event:",
            "link:",
            "instrumentation:",
            "Statics",
            "Comments",
        ],
    ),
    (
        "2.2",
        &[
            "Compare",
            "Regex",
            "Arithmetic",
            "Boolean",
            "Existence",
            "Spanset logic",
            "Structural",
            "Negated",
            "Union",
            "Precedence",
            "Structural notes",
        ],
    ),
    (
        "2.3",
        &[
            "count()",
            "min max avg sum",
            "scalar filter",
            "by(expr)",
            "coalesce()",
            "select(a,…)",
            "{ } and { true }",
            "scalar result",
        ],
    ),
    (
        "2.4",
        &[
            "int, float, duration",
            "string vs int",
            "missing attribute",
            "array attribute",
            "event./link.",
            "unscoped .x",
            "status / kind",
            "duration",
            "rootName/rootServiceName",
            "trace:id, span:id",
            "evaluation scope",
            "rewrites",
            "spss",
        ],
    ),
    (
        "2.5",
        &[
            "first",
            "second",
            "maths",
            "invalid",
            "Which spans",
            "rate",
            "Durations",
            "Labels",
            "quantile",
            "min/max/avg/sum",
            "compare",
            "topk",
            "comparison filter",
            "Recent + backend",
        ],
    ),
    ("2.6", &["Safe", "Unsafe", "Unknown or mistyped hint"]),
    (
        "2.7",
        &[
            "valid",
            "parse error",
            "validate error",
            "unsupported",
            "run-time error",
        ],
    ),
];

/// The cases of a golden file: the first line of each, and its answer.
fn cases_of(name: &str) -> Vec<(String, String)> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let (_, cases) = text.split_once("\n====\n").unwrap_or(("", &text));
    let body = |block: &str| {
        let lines = block.lines().skip_while(|line| line.starts_with('#'));
        lines.collect::<Vec<_>>().join("\n")
    };
    let blocks = cases.split("\n\n").map(|block| body(block.trim_matches('\n')));
    blocks
        .filter_map(|block| {
            let (input, answer) = block.split_once("\n----")?;
            let input = input.lines().next().unwrap_or_default();
            Some((input.to_owned(), answer.trim_matches('\n').to_owned()))
        })
        .collect()
}

#[test]
fn every_row_of_tempos_language_has_its_golden_case() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata/tempo_rows.txt");
    let table = std::fs::read_to_string(path).unwrap();
    let mut wanted = TEMPO_ROWS
        .iter()
        .flat_map(|(section, rows)| rows.iter().map(move |row| format!("{section} {row}")));
    let mut known = BTreeMap::new();
    for block in table.split("\n\n").map(str::trim).filter(|block| !block.is_empty()) {
        let mut lines = block.lines();
        let row = lines.next().unwrap();
        assert_eq!(
            Some(row),
            wanted.next().as_deref(),
            "rows in their order, none left out"
        );
        let mut rules = 0;
        for line in lines {
            let parts: Vec<&str> = line.split(" :: ").collect();
            let &[_, file, query] = parts.as_slice() else {
                panic!("rule :: file :: query, not {line}")
            };
            let cases = known.entry(file.to_owned()).or_insert_with(|| cases_of(file));
            let case = cases.iter().find(|(input, _)| input == query);
            let (_, answer) = case.unwrap_or_else(|| panic!("{row}: {file} has no case {query}"));
            assert!(!answer.is_empty(), "{row}: {query} has no answer in {file}");
            rules += 1;
        }
        assert!(rules > 0, "{row} has no rule");
    }
    assert_eq!(wanted.next(), None, "a row without a place in the table");
}
