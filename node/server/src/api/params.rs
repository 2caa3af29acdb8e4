//! Query strings into questions: pure, and as Tempo reads them.
//!
//! Owns [`Params`] (the decoded pairs) and one `parse_*` per endpoint. Every fault is a 400 that names the parameter.
//!
//! Where we differ from Tempo, on purpose:
//! - there is no cutoff at the end: a span is found as soon as it is acknowledged;
//! - a search without `start` and `end` looks at live spans and at the last [`QuerySettings::recent_window`];
//! - a parameter given twice, a broken percent escape or a NUL are refused instead of guessed at.

mod metrics;
mod pick;

use model::TraceId;
use query::answer::Place;
use query::source::TimeRange;
use settings::Limits;
use settings::query::QuerySettings;

use crate::querier::Places;
use crate::refusal::{Kind, Refusal};

pub(crate) use metrics::{MetricsParams, Shape, flag, parse_metrics, unix_seconds, window_of};
pub(crate) use pick::{parse_pick, parse_pruning};

const NANOS: u64 = 1_000_000_000;
/// Parameters of one request, and bytes of one value beyond which nothing sensible is meant.
const PARAMS_MAX: usize = 64;
/// Largest `limit` of tags and values answers; 0 means this.
pub(crate) const NAMES_UNLIMITED: usize = usize::MAX;

/// The pairs of a query string, decoded.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Params {
    pairs: Vec<(String, String)>,
}

/// A checked search, before its query is planned.
#[derive(Debug, PartialEq)]
pub(crate) struct SearchParams {
    /// TraceQL, from `q` or made from `tags`.
    pub(crate) query: String,
    pub(crate) window: TimeRange,
    pub(crate) limit: u32,
    pub(crate) spans_per_spanset: u32,
    /// Where the page before this one ended.
    pub(crate) after: Option<Place>,
}

/// A checked trace lookup.
#[derive(Debug, PartialEq)]
pub(crate) struct TraceParams {
    pub(crate) window: Option<TimeRange>,
    pub(crate) places: Places,
    /// Which spans of the trace; only the second API picks.
    pub(crate) pick: Option<query::SpanPick>,
}

impl TraceParams {
    /// The whole trace, wherever it is.
    pub(crate) fn anywhere() -> Self {
        Self {
            window: None,
            places: Places::All,
            pick: None,
        }
    }
}

/// Which scopes a tags request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TagScope {
    All,
    Intrinsic,
    Only(model::Scope),
}

/// A checked tags request.
#[derive(Debug, PartialEq)]
pub(crate) struct TagsParams {
    pub(crate) scope: TagScope,
    pub(crate) query: String,
    pub(crate) window: Option<TimeRange>,
    pub(crate) names_max: usize,
}

/// A checked tag values request.
#[derive(Debug, PartialEq)]
pub(crate) struct ValuesParams {
    pub(crate) query: String,
    pub(crate) window: Option<TimeRange>,
    pub(crate) values_max: usize,
}

/// What parsing needs to know besides the request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules<'a> {
    pub(crate) query: &'a QuerySettings,
    pub(crate) limits: &'a Limits,
    pub(crate) now_unix_nanos: u64,
}

pub(crate) fn refuse(message: impl Into<String>) -> Refusal {
    Refusal::new(Kind::Rejected, message.into())
}

impl Params {
    /// Decodes `a=1&b=2`.
    pub(crate) fn parse(query: Option<&str>) -> Result<Self, Refusal> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decode(name).ok_or_else(|| refuse("invalid URL escape in a parameter name"))?;
            let value = decode(value).ok_or_else(|| refuse(format!("invalid {}: invalid URL escape", shown(&name))))?;
            if name.contains('\0') || value.contains('\0') {
                return Err(refuse(format!("invalid {}: NUL character", shown(&name))));
            }
            if pairs.iter().any(|(known, _)| *known == name) {
                return Err(refuse(format!("invalid {}: given twice", shown(&name))));
            }
            if pairs.len() == PARAMS_MAX {
                return Err(refuse(format!("more than {PARAMS_MAX} parameters")));
            }
            pairs.push((name, value));
        }
        Ok(Self { pairs })
    }

    /// Pairs that were never a query string: gRPC requests are checked by the same rules.
    pub(crate) fn from_pairs(pairs: Vec<(&'static str, String)>) -> Self {
        Self {
            pairs: pairs
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
        }
    }

    /// The value, unless absent or empty, which Tempo takes for absent.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.pairs
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
            .filter(|value| !value.is_empty())
    }

    fn number<T: std::str::FromStr>(&self, name: &'static str) -> Result<Option<T>, Refusal> {
        let parse = |text: &str| {
            text.parse()
                .map_err(|_| refuse(format!("invalid {name}: {:?} is not a number that fits", shown(text))))
        };
        self.get(name).map(parse).transpose()
    }

    fn duration_nanos(&self, name: &'static str) -> Result<Option<u64>, Refusal> {
        let parse = |text: &str| {
            let nanos = query::value::parse_duration(text).and_then(|nanos| u64::try_from(nanos).ok());
            nanos.ok_or_else(|| {
                refuse(format!(
                    "invalid {name}: {:?} is not a duration such as 100ms or 1h30m",
                    shown(text)
                ))
            })
        };
        self.get(name).map(parse).transpose()
    }

    /// How Tempo's frontend tells its queriers which blocks are theirs: a UUID. Our nodes share the work by themselves, and
    /// the whole trace is an answer to a part of it, so it is checked and of no effect.
    fn block_bound(&self, name: &'static str) -> Result<(), Refusal> {
        let is_uuid = |text: &str| {
            let digits = text.bytes().filter(u8::is_ascii_hexdigit).count();
            let dashes = text.match_indices('-').map(|(at, _)| at);
            digits == 32 && (text.len() == 32 || (text.len() == 36 && dashes.eq([8, 13, 18, 23])))
        };
        match self.get(name) {
            Some(text) if !is_uuid(text) => Err(refuse(format!("invalid {name}: {:?} is not a UUID", shown(text)))),
            _ => Ok(()),
        }
    }

    /// `start` and `end` in unix seconds, or `since`; `None` when none is given.
    fn window(&self, now_unix_nanos: u64) -> Result<Option<(u64, u64)>, Refusal> {
        let (start, end) = (self.number::<u64>("start")?, self.number::<u64>("end")?);
        let since = self.duration_nanos("since")?;
        let (start, end) = match (start, end, since) {
            (None, None, None) => return Ok(None),
            (None, None, Some(since)) => {
                let now = now_unix_nanos.div_ceil(NANOS);
                (now.saturating_sub(since.div_ceil(NANOS)), now)
            }
            (Some(start), Some(end), _) => (start, end),
            _ => return Err(refuse("please provide both http parameters start and end")),
        };
        // Zero for both is how some clients say "no window".
        if start == 0 && end == 0 {
            return Ok(None);
        }
        if start >= end {
            return Err(refuse(format!(
                "http parameter start must be before end. received start={start} end={end}"
            )));
        }
        if end > u64::MAX / NANOS {
            return Err(refuse(format!(
                "invalid end: {end} is too far in the future; start and end are unix seconds"
            )));
        }
        Ok(Some((start, end)))
    }
}

fn range((start, end): (u64, u64)) -> TimeRange {
    TimeRange {
        start_unix_nanos: start * NANOS,
        end_unix_nanos: end * NANOS,
    }
}

/// A bounded piece of what the client sent, so that an answer is never as large as the request.
fn shown(text: &str) -> String {
    text.chars().take(64).collect()
}

/// Undoes percent escapes and `+`. `None` for broken escapes and what is not UTF-8.
pub(crate) fn decode(text: &str) -> Option<String> {
    percent_decode(&text.replace('+', " "))
}

/// Undoes percent escapes alone, as in a path.
pub(crate) fn percent_decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let mut nibble = || bytes.next().and_then(|digit| char::from(digit).to_digit(16));
        let (high, low) = (nibble()?, nibble()?);
        out.push(u8::try_from(high << 4 | low).ok()?);
    }
    String::from_utf8(out).ok()
}

pub(crate) fn parse_trace(params: &Params, now_unix_nanos: u64) -> Result<TraceParams, Refusal> {
    let places = match params.get("mode").unwrap_or("all") {
        "all" | "external" => Places::All,
        "ingesters" | "recent" => Places::Recent,
        "blocks" => Places::Blocks,
        other => return Err(refuse(format!("invalid value for mode {}", shown(other)))),
    };
    for name in ["blockStart", "blockEnd"] {
        params.block_bound(name)?;
    }
    Ok(TraceParams {
        window: params.window(now_unix_nanos)?.map(range),
        places,
        pick: None,
    })
}

pub(crate) fn parse_search(params: &Params, rules: &Rules<'_>) -> Result<SearchParams, Refusal> {
    let durations = durations(params)?;
    let query = match (params.get("q"), params.get("tags")) {
        (Some(_), Some(_)) => return Err(refuse("invalid request: can't specify tags and q in the same query")),
        // As in Tempo, a query says itself how long its traces are: durations beside it are checked and of no effect.
        (Some(query), None) => query.to_owned(),
        (None, tags) => legacy_query(params, tags, durations)?,
    };
    check_length(&query, rules)?;
    let limit = match params.number::<u32>("limit")? {
        Some(0) => return Err(refuse("invalid limit: must be a positive number")),
        // Clamped, as Tempo does, so that "as many as there are" can be asked for with a large number.
        Some(limit) => limit.min(rules.limits.search_limit_max),
        None => rules.query.search_limit.min(rules.limits.search_limit_max),
    };
    let spans_max = rules.limits.spans_per_spanset_max;
    let spans_per_spanset = match params.number::<u32>("spss")? {
        Some(spans) if spans > spans_max => {
            return Err(refuse(format!(
                "spans per span set exceeds {spans_max}. received {spans}"
            )));
        }
        Some(spans) => spans,
        None => rules.query.spans_per_spanset.min(spans_max),
    };
    let window = match params.window(rules.now_unix_nanos)? {
        Some((start, end)) => {
            let range_max = rules.limits.search_range_max.duration();
            if end - start > range_max.as_secs() {
                let text = query::value::duration_text(i64::try_from(range_max.as_nanos()).unwrap_or(i64::MAX));
                return Err(refuse(format!(
                    "range specified by start and end exceeds {text}. received start={start} end={end}"
                )));
            }
            range((start, end))
        }
        None => recent(rules),
    };
    Ok(SearchParams {
        query,
        window,
        limit,
        spans_per_spanset,
        after: params.get("cursor").map(parse_cursor).transpose()?,
    })
}

/// The place of the last trace of a page, as the header of its answer writes it: start in nanoseconds, trace id.
pub(crate) fn cursor_text(place: Place) -> String {
    format!("{}-{}", place.start_unix_nanos(), place.trace_id())
}

fn parse_cursor(text: &str) -> Result<Place, Refusal> {
    let place = text.split_once('-').and_then(|(start, trace)| {
        let trace = (trace.len() == 32).then(|| TraceId::parse_hex(trace)).flatten()?;
        Some(Place::new(start.parse().ok()?, trace))
    });
    place.ok_or_else(|| {
        refuse(format!(
            "invalid cursor: {:?} did not come from a header of a search answer",
            shown(text)
        ))
    })
}

/// From the recent window on; open at the end, because clocks of senders run ahead.
fn recent(rules: &Rules<'_>) -> TimeRange {
    let recent = u64::try_from(rules.query.recent_window.duration().as_nanos()).unwrap_or(u64::MAX);
    TimeRange {
        start_unix_nanos: rules.now_unix_nanos.saturating_sub(recent),
        end_unix_nanos: u64::MAX,
    }
}

fn check_length(query: &str, rules: &Rules<'_>) -> Result<(), Refusal> {
    let max = rules.query.expression_bytes_max.as_usize();
    if query.len() > max {
        return Err(refuse(format!(
            "invalid q: query expression is {} bytes long, more than {max}",
            query.len()
        )));
    }
    Ok(())
}

pub(crate) fn parse_tags(params: &Params, rules: &Rules<'_>) -> Result<TagsParams, Refusal> {
    let scope = match params.get("scope").unwrap_or("none") {
        "none" => TagScope::All,
        "intrinsic" => TagScope::Intrinsic,
        word => match query::field::scope_from_word(word) {
            Some(scope) => TagScope::Only(scope),
            None => return Err(refuse(format!("invalid scope: {}", shown(word)))),
        },
    };
    let query = params.get("q").unwrap_or_default().to_owned();
    check_length(&query, rules)?;
    let window = params.window(rules.now_unix_nanos)?.map(range);
    let names_max = limit_or_all(params)?.min(rules.limits.tag_names_max as usize);
    Ok(TagsParams {
        scope,
        query,
        window,
        names_max,
    })
}

pub(crate) fn parse_values(params: &Params, rules: &Rules<'_>) -> Result<ValuesParams, Refusal> {
    let query = params.get("q").unwrap_or_default().to_owned();
    check_length(&query, rules)?;
    let window = params.window(rules.now_unix_nanos)?.map(range);
    Ok(ValuesParams {
        query,
        window,
        values_max: limit_or_all(params)?,
    })
}

fn limit_or_all(params: &Params) -> Result<usize, Refusal> {
    // Grafana and tempo-cli send it; we have nothing that goes stale, so it is checked and then of no effect.
    params.number::<u32>("maxStaleValues")?;
    Ok(match params.number::<u32>("limit")? {
        None | Some(0) => NAMES_UNLIMITED,
        Some(limit) => limit as usize,
    })
}

/// Names that are parameters and can therefore not be tags of a search without `q` and `tags`.
const RESERVED: [&str; 11] = [
    "tags",
    "q",
    "minDuration",
    "maxDuration",
    "limit",
    "start",
    "end",
    "spss",
    "since",
    "cursor",
    "explain",
];

/// `minDuration` and `maxDuration` in nanoseconds.
fn durations(params: &Params) -> Result<(Option<u64>, Option<u64>), Refusal> {
    let (min, max) = (
        params.duration_nanos("minDuration")?,
        params.duration_nanos("maxDuration")?,
    );
    if let (Some(min), Some(max)) = (min, max)
        && min > max
    {
        return Err(refuse("invalid maxDuration: must be greater than minDuration"));
    }
    Ok((min, max))
}

/// A search by `tags=k=v k2=v2` and durations as TraceQL: each tag in any span of the trace, as a case-insensitive part.
fn legacy_query(
    params: &Params,
    tags: Option<&str>,
    (min, max): (Option<u64>, Option<u64>),
) -> Result<String, Refusal> {
    let pairs = match tags {
        Some(tags) => logfmt(tags)?,
        // The first Grafana versions sent each tag as a parameter of its own.
        None => params
            .pairs
            .iter()
            .filter(|(name, value)| !RESERVED.contains(&name.as_str()) && !value.is_empty())
            .cloned()
            .collect(),
    };
    let mut filters: Vec<String> = pairs.iter().map(|(key, value)| tag_filter(key, value)).collect();
    filters.extend(min.map(|nanos| format!("{{ traceDuration >= {nanos}ns }}")));
    filters.extend(max.map(|nanos| format!("{{ traceDuration <= {nanos}ns }}")));
    Ok(if filters.is_empty() {
        "{ }".to_owned()
    } else {
        filters.join(" && ")
    })
}

fn tag_filter(key: &str, value: &str) -> String {
    let pattern = format!("(?i).*{}.*", regex_escape(value));
    match key {
        "name" => format!("{{ name =~ {} }}", quoted(&pattern)),
        "root.name" => format!("{{ rootName =~ {} }}", quoted(&pattern)),
        "root.service.name" => format!("{{ rootServiceName =~ {} }}", quoted(&pattern)),
        "status.code" if ["ok", "error", "unset"].contains(&value) => format!("{{ status = {value} }}"),
        // A number or a truth value as text: the attribute may have either type.
        _ if value.parse::<f64>().is_ok_and(f64::is_finite) || value == "true" || value == "false" => {
            format!("{{ .{0} =~ {1} || .{0} = {value} }}", name(key), quoted(&pattern))
        }
        _ => format!("{{ .{} =~ {} }}", name(key), quoted(&pattern)),
    }
}

/// An attribute's name; it may hold anything.
fn name(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// A string; it ends at its line's end.
fn quoted(text: &str) -> String {
    name(text).replace('\n', "\\n")
}

fn regex_escape(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut out, c| {
        if r"\.+*?()|[]{}^$#&-~".contains(c) {
            out.push('\\');
        }
        out.push(c);
        out
    })
}

/// `key=value key2="quoted value" key3`; a key alone has an empty value.
fn logfmt(text: &str) -> Result<Vec<(String, String)>, Refusal> {
    let mut pairs: Vec<(String, String)> = Vec::new();
    let mut rest = text.trim_start();
    let position = |rest: &str| text.len() - rest.len() + 1;
    while !rest.is_empty() {
        let end = rest
            .find(|c: char| c == '=' || c.is_whitespace() || c == '"')
            .unwrap_or(rest.len());
        let (key, after) = rest.split_at(end);
        if key.is_empty() {
            return Err(refuse(format!(
                "invalid tags: a tag name is expected at pos {}",
                position(rest)
            )));
        }
        let (value, after) = match after.strip_prefix('=') {
            None if after.starts_with('"') => {
                return Err(refuse(format!(
                    "invalid tags: unexpected '\"' at pos {}",
                    position(after)
                )));
            }
            None => (String::new(), after),
            Some(quoted) if quoted.starts_with('"') => unquote(quoted).ok_or_else(|| {
                refuse(format!(
                    "invalid tags: unterminated quoted value at pos {}",
                    position(quoted)
                ))
            })?,
            Some(bare) => {
                let end = bare.find(char::is_whitespace).unwrap_or(bare.len());
                let (value, after) = bare.split_at(end);
                if let Some(bad) = value.find(['=', '"']) {
                    return Err(refuse(format!(
                        "invalid tags: unexpected {:?} at pos {}",
                        &value[bad..=bad],
                        position(bare) + bad
                    )));
                }
                (value.to_owned(), after)
            }
        };
        if pairs.iter().any(|(known, _)| known == key) {
            return Err(refuse(format!("invalid tags: tag {} has been set twice", shown(key))));
        }
        pairs.push((key.to_owned(), value));
        rest = after.trim_start();
    }
    Ok(pairs)
}

/// Reads a value in quotes and gives what follows; `None` when it does not end.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match chars.next()?.1 {
                'n' => value.push('\n'),
                't' => value.push('\t'),
                'r' => value.push('\r'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests;
