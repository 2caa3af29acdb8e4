//! The words of the language, and which of them somebody may have meant.

use super::metrics;
use crate::field::Intrinsic;
use crate::value::{SpanKind, Status};

const OTHER_WORDS: [&str; 13] = [
    "true", "false", "nil", "minInt", "maxInt", "by", "coalesce", "select", "with", "topk", "bottomk", "count",
    "compare",
];

fn known_words() -> impl Iterator<Item = &'static str> {
    let statuses = [Status::Ok, Status::Error, Status::Unset].into_iter().map(Status::word);
    OTHER_WORDS
        .into_iter()
        .chain(Intrinsic::ALL.iter().filter_map(|i| i.bare()))
        .chain(statuses)
        .chain(SpanKind::ALL.into_iter().map(SpanKind::word))
        .chain(["min", "max", "avg", "sum"])
        .chain(metrics::FIRST_STAGES)
}

pub(super) fn is_known_word(word: &str) -> bool {
    known_words().any(|known| known == word)
}

/// The known word at most two edits away, if any. Only for short words, so that the work is bounded.
pub(super) fn nearest_word(word: &str) -> Option<&'static str> {
    if word.len() > 24 {
        return None;
    }
    let scored = known_words().map(|known| (edits(word, known), known));
    scored
        .filter(|(n, known)| *n <= 2 && *n * 2 < known.len())
        .min_by_key(|(n, _)| *n)
        .map(|(_, known)| known)
}

/// Levenshtein distance, letter case aside.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().flat_map(char::to_lowercase).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().flat_map(char::to_lowercase).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
