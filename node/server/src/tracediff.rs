//! What differs between two traces: spans that came, went or changed, by what they are and not by their ids.
//!
//! ```text
//! Trace ─► spans in order of the tree ─┐
//!                                      ├─► pairs ─► changes ─► patch, summary
//! Trace ─► spans in order of the tree ─┘
//! ```
//! Pure: traces in, plain data out that spells itself as the JSON of Tempo's `trace-patch-v0` and
//! `trace-summary-v0-native`. A span is matched with one of the same service, name and kind, preferably one whose parent
//! is alike too; the first that is left, in order of the tree.

mod flatten;
mod patch;
mod summary;

use serde::Serialize;
use wire::tempopb::Trace;

use patch::compare;
use summary::Summary;

/// Largest patch that goes with a summary.
pub(crate) const PATCH_BYTES_MAX: usize = 64 << 10;

/// Which document is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Patch,
    Summary,
    /// The summary, and the patch if it is small.
    Composed,
}

impl Format {
    pub(crate) fn from_word(word: &str) -> Option<Self> {
        Some(match word {
            "trace-patch-v0" => Self::Patch,
            "trace-summary-v0-native" => Self::Summary,
            "trace-summary-v0-composed" => Self::Composed,
            _ => return None,
        })
    }
}

/// A summary with what it is made of.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Composed {
    version: &'static str,
    summary: Summary,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch: Option<Box<serde_json::value::RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch_omitted: Option<Omitted>,
}

/// A patch that is left out rather than cut: half a list of changes would be a lie.
#[derive(Debug, Serialize)]
struct Omitted {
    bytes: usize,
    reason: &'static str,
}

/// The document as JSON.
pub(crate) fn document(base: &Trace, compared: &Trace, format: Format) -> serde_json::Result<Vec<u8>> {
    let (base, compared) = (flatten::flatten(base, "base"), flatten::flatten(compared, "compare"));
    let patch = compare(&base, &compared);
    match format {
        Format::Patch => serde_json::to_vec(&patch),
        Format::Summary => serde_json::to_vec(&Summary::of(&base, &compared, &patch)),
        Format::Composed => {
            let summary = Summary::of(&base, &compared, &patch);
            let text = serde_json::to_string(&patch)?;
            let fits = text.len() <= PATCH_BYTES_MAX;
            let patch_omitted = (!fits).then_some(Omitted {
                bytes: text.len(),
                reason: "over_budget",
            });
            let patch = if fits {
                Some(serde_json::value::RawValue::from_string(text)?)
            } else {
                None
            };
            serde_json::to_vec(&Composed {
                version: "trace-summary-v0-composed",
                summary,
                patch,
                patch_omitted,
            })
        }
    }
}

/// Something a reader should know beside the differences.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Warning {
    pub(crate) code: &'static str,
    pub(crate) message: String,
}

#[cfg(test)]
mod tests;
