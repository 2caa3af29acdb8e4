//! Which spans of a trace are wanted: `q` and the levels around its matches, and whether similar ones are folded.

use query::{Levels, SpanPick};

use super::metrics::flag;
use super::{Params, Rules, check_length, refuse};
use crate::pruning::Pruning;
use crate::refusal::Refusal;

/// Reads `q`, `keep_hierarchy`, `match_depth` and `ancestor_depth`; each is checked also where it means nothing.
pub(crate) fn parse_pick(params: &Params, rules: &Rules<'_>) -> Result<Option<SpanPick>, Refusal> {
    let keeps_hierarchy = flag(params, "keep_hierarchy")?.unwrap_or(false);
    let below = levels(params, "match_depth")?.unwrap_or(Levels::UpTo(0));
    let above = levels(params, "ancestor_depth")?.unwrap_or(Levels::All);
    let above = if keeps_hierarchy { above } else { Levels::UpTo(0) };
    let query = params.get("q").map(str::trim).unwrap_or_default();
    if query.is_empty() {
        return Ok(None);
    }
    check_length(query, rules)?;
    let query = query::parse(query).map_err(|error| refuse(format!("invalid TraceQL query: {error}")))?;
    let pick = SpanPick::new(&query, above, below).map_err(|error| refuse(error.to_string()))?;
    Ok(Some(pick))
}

/// Reads `span_pruning` and what goes with it; each is checked also where it means nothing.
pub(crate) fn parse_pruning(params: &Params) -> Result<Option<Pruning>, Refusal> {
    let group_by = params.get("span_pruning_group_by");
    let spans_min = params.number("span_pruning_min_spans")?;
    let parent_levels = params.number("span_pruning_max_parent_depth")?;
    let pruning = Pruning::new(group_by, spans_min, parent_levels).map_err(refuse)?;
    Ok(flag(params, "span_pruning")?.unwrap_or(false).then_some(pruning))
}

/// A number of levels; -1 for all.
fn levels(params: &Params, name: &'static str) -> Result<Option<Levels>, Refusal> {
    Ok(match params.number::<i32>(name)? {
        None => None,
        Some(-1) => Some(Levels::All),
        Some(count) => match u32::try_from(count) {
            Ok(count) => Some(Levels::UpTo(count)),
            Err(_) => return Err(refuse(format!("invalid {name}: must be -1 or more"))),
        },
    })
}
