//! Literal values of the language, their text, and how they compare.
//!
//! Numbers of all three kinds (int, float, duration in nanoseconds) compare with each other; nothing else compares across
//! types. Comparison of unlike things is not an error at run time, it is "no": see [`Static::order`].

use std::cmp::Ordering;
use std::fmt::{self, Write as _};
use std::sync::Arc;

use crate::field::Type;

/// Status of a span, numbered as in OTLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Status {
    /// Nobody said.
    Unset = 0,
    /// Explicitly fine.
    Ok = 1,
    /// Failed.
    Error = 2,
}

impl Status {
    /// The status with this OTLP number; unknown numbers read as unset.
    pub fn from_code(code: i64) -> Status {
        match code {
            1 => Status::Ok,
            2 => Status::Error,
            _ => Status::Unset,
        }
    }

    /// As written in queries and answers.
    pub fn word(self) -> &'static str {
        match self {
            Status::Unset => "unset",
            Status::Ok => "ok",
            Status::Error => "error",
        }
    }

    /// Reverse of [`Status::word`].
    pub fn from_word(word: &str) -> Option<Status> {
        [Status::Unset, Status::Ok, Status::Error]
            .into_iter()
            .find(|s| s.word() == word)
    }
}

/// Kind of a span, numbered as in OTLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum SpanKind {
    /// Nobody said.
    Unspecified = 0,
    /// Inside one process.
    Internal = 1,
    /// Answers a call.
    Server = 2,
    /// Makes a call.
    Client = 3,
    /// Sends a message.
    Producer = 4,
    /// Takes a message.
    Consumer = 5,
}

impl SpanKind {
    /// All of them, by number.
    pub const ALL: [SpanKind; 6] = [
        SpanKind::Unspecified,
        SpanKind::Internal,
        SpanKind::Server,
        SpanKind::Client,
        SpanKind::Producer,
        SpanKind::Consumer,
    ];

    /// The kind with this OTLP number; unknown numbers read as unspecified.
    pub fn from_code(code: i64) -> SpanKind {
        usize::try_from(code)
            .ok()
            .and_then(|i| SpanKind::ALL.get(i).copied())
            .unwrap_or(SpanKind::Unspecified)
    }

    /// As written in queries and answers.
    pub fn word(self) -> &'static str {
        match self {
            SpanKind::Unspecified => "unspecified",
            SpanKind::Internal => "internal",
            SpanKind::Server => "server",
            SpanKind::Client => "client",
            SpanKind::Producer => "producer",
            SpanKind::Consumer => "consumer",
        }
    }

    /// Reverse of [`SpanKind::word`].
    pub fn from_word(word: &str) -> Option<SpanKind> {
        SpanKind::ALL.into_iter().find(|k| k.word() == word)
    }
}

/// One value, owned: a literal of a query or a cell of an answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Static {
    /// Absent.
    Nil,
    /// Integer.
    Int(i64),
    /// Float.
    Float(f64),
    /// Text.
    Str(Arc<str>),
    /// Boolean.
    Bool(bool),
    /// Nanoseconds.
    Duration(i64),
    /// Span status.
    Status(Status),
    /// Span kind.
    Kind(SpanKind),
    /// Several values of one attribute (an array, or one per event or link). Never a literal, never nested.
    List(Arc<[Static]>),
}

/// The comparison operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CompareOp {
    /// `=`
    Eq,
    /// `!=`
    Ne,
    /// `<`
    Lt,
    /// `<=`
    Le,
    /// `>`
    Gt,
    /// `>=`
    Ge,
    /// `=~`, whole-string match.
    Match,
    /// `!~`
    NotMatch,
}

impl CompareOp {
    /// As written.
    pub fn symbol(self) -> &'static str {
        match self {
            CompareOp::Eq => "=",
            CompareOp::Ne => "!=",
            CompareOp::Lt => "<",
            CompareOp::Le => "<=",
            CompareOp::Gt => ">",
            CompareOp::Ge => ">=",
            CompareOp::Match => "=~",
            CompareOp::NotMatch => "!~",
        }
    }

    /// The operator that says the same with its operands swapped. None for the regex operators, whose sides differ in kind.
    pub fn flipped(self) -> Option<CompareOp> {
        Some(match self {
            CompareOp::Eq => CompareOp::Eq,
            CompareOp::Ne => CompareOp::Ne,
            CompareOp::Lt => CompareOp::Gt,
            CompareOp::Le => CompareOp::Ge,
            CompareOp::Gt => CompareOp::Lt,
            CompareOp::Ge => CompareOp::Le,
            CompareOp::Match | CompareOp::NotMatch => return None,
        })
    }

    /// Whether a list must satisfy it with all its elements rather than with any.
    pub fn wants_all(self) -> bool {
        matches!(self, CompareOp::Ne | CompareOp::NotMatch)
    }

    /// Whether `ordering` of the left against the right side satisfies it. Regex operators never do.
    pub fn accepts(self, ordering: Ordering) -> bool {
        match self {
            CompareOp::Eq => ordering == Ordering::Equal,
            CompareOp::Ne => ordering != Ordering::Equal,
            CompareOp::Lt => ordering == Ordering::Less,
            CompareOp::Le => ordering != Ordering::Greater,
            CompareOp::Gt => ordering == Ordering::Greater,
            CompareOp::Ge => ordering != Ordering::Less,
            CompareOp::Match | CompareOp::NotMatch => false,
        }
    }
}

impl Static {
    /// Text value.
    pub fn str(text: &str) -> Static {
        Static::Str(text.into())
    }

    /// Its type; lists have the type of their first element.
    pub fn ty(&self) -> Type {
        match self {
            Static::Nil => Type::Nil,
            Static::Int(_) => Type::Int,
            Static::Float(_) => Type::Float,
            Static::Str(_) => Type::String,
            Static::Bool(_) => Type::Bool,
            Static::Duration(_) => Type::Duration,
            Static::Status(_) => Type::Status,
            Static::Kind(_) => Type::Kind,
            Static::List(items) => items.first().map_or(Type::Nil, Static::ty),
        }
    }

    /// Value as a number, durations in nanoseconds. None for everything that is not a number.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Static::Int(v) | Static::Duration(v) => Some(*v as f64),
            Static::Float(v) => Some(*v),
            _ => None,
        }
    }

    /// Order of two single values that can be compared at all; None for unlike types, nil, lists and NaN.
    ///
    /// Status and kind compare with integers by their OTLP number.
    pub fn order(&self, other: &Static) -> Option<Ordering> {
        use Static::*;
        match (self, other) {
            (Int(a) | Duration(a), Int(b) | Duration(b)) => Some(a.cmp(b)),
            (Int(a) | Duration(a), Float(b)) => compare_int_float(*a, *b),
            (Float(a), Int(b) | Duration(b)) => compare_int_float(*b, *a).map(Ordering::reverse),
            (Float(a), Float(b)) => a.partial_cmp(b),
            (Str(a), Str(b)) => Some(a.as_bytes().cmp(b.as_bytes())),
            (Bool(a), Bool(b)) => Some(a.cmp(b)),
            (Status(a), Status(b)) => Some(a.cmp(b)),
            (Kind(a), Kind(b)) => Some(a.cmp(b)),
            (Status(a), Int(b)) => Some((*a as i64).cmp(b)),
            (Int(a), Status(b)) => Some(a.cmp(&(*b as i64))),
            (Kind(a), Int(b)) => Some((*a as i64).cmp(b)),
            (Int(a), Kind(b)) => Some(a.cmp(&(*b as i64))),
            _ => None,
        }
    }

    /// A total order over all values, for sorting answers: by type first, then by value, NaN last.
    pub fn total_order(&self, other: &Static) -> Ordering {
        fn rank(v: &Static) -> u8 {
            match v {
                Static::Nil => 0,
                Static::Bool(_) => 1,
                Static::Int(_) => 2,
                Static::Float(_) => 3,
                Static::Duration(_) => 4,
                Static::Str(_) => 5,
                Static::Status(_) => 6,
                Static::Kind(_) => 7,
                Static::List(_) => 8,
            }
        }
        match (self, other) {
            (Static::Float(a), Static::Float(b)) => a.total_cmp(b),
            (Static::List(a), Static::List(b)) => {
                let by_item = a
                    .iter()
                    .zip(b.iter())
                    .map(|(x, y)| x.total_order(y))
                    .find(|o| o.is_ne());
                by_item.unwrap_or_else(|| a.len().cmp(&b.len()))
            }
            _ if rank(self) == rank(other) => self.order(other).unwrap_or(Ordering::Equal),
            _ => rank(self).cmp(&rank(other)),
        }
    }

    /// As answers show it: text bare, durations in Go's form, words for status and kind.
    pub fn display(&self) -> String {
        match self {
            Static::Str(text) => text.to_string(),
            Static::List(items) => {
                let items: Vec<_> = items.iter().map(Static::display).collect();
                format!("[{}]", items.join(","))
            }
            Static::Float(v) if v.fract() == 0.0 && v.abs() < 1e15 => format!("{v:.0}"),
            other => other.to_string(),
        }
    }
}

/// Exact comparison: converting the integer to f64 first would call 2^53 and 2^53+1 equal.
fn compare_int_float(int: i64, float: f64) -> Option<Ordering> {
    if float.is_nan() {
        return None;
    }
    if float >= 9_223_372_036_854_775_808.0 {
        return Some(Ordering::Less);
    }
    if float < -9_223_372_036_854_775_808.0 {
        return Some(Ordering::Greater);
    }
    let whole = float.trunc();
    Some(
        int.cmp(&(whole as i64))
            .then_with(|| 0.0f64.partial_cmp(&(float - whole)).unwrap_or(Ordering::Equal)),
    )
}

/// The value as the language writes it; parsing the text gives the value back (lists excepted, which have no literal form).
impl fmt::Display for Static {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Static::Nil => f.write_str("nil"),
            Static::Int(i64::MIN) => f.write_str("minInt"),
            Static::Int(v) => write!(f, "{v}"),
            Static::Float(v) => write!(f, "{v:?}"),
            Static::Str(text) => quote(f, text),
            Static::Bool(v) => write!(f, "{v}"),
            Static::Duration(v) => f.write_str(&duration_text(*v)),
            Static::Status(v) => f.write_str(v.word()),
            Static::Kind(v) => f.write_str(v.word()),
            Static::List(items) => {
                f.write_char('[')?;
                for (i, item) in items.iter().enumerate() {
                    if i > 0 {
                        f.write_str(", ")?;
                    }
                    write!(f, "{item}")?;
                }
                f.write_char(']')
            }
        }
    }
}

fn quote(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    f.write_char('"')?;
    for c in text.chars() {
        match c {
            '"' => f.write_str("\\\"")?,
            '\\' => f.write_str("\\\\")?,
            '\n' => f.write_str("\\n")?,
            '\r' => f.write_str("\\r")?,
            '\t' => f.write_str("\\t")?,
            c if c.is_control() => write!(f, "\\u{:04x}", u32::from(c))?,
            c => f.write_char(c)?,
        }
    }
    f.write_char('"')
}

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// A duration in Go's text form (`1h30m0s`, `1.5s`, `250ms`, `0s`), which every client of Tempo's API parses.
pub fn duration_text(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let nanos = nanos.unsigned_abs();
    let decimal = |unit_nanos: u64, unit: &str| {
        let (whole, rest) = (nanos / unit_nanos, nanos % unit_nanos);
        format!("{sign}{}{unit}", with_fraction(whole, rest, unit_nanos))
    };
    if nanos == 0 {
        return "0s".to_owned();
    }
    if nanos < 1_000 {
        return decimal(1, "ns");
    }
    if nanos < 1_000_000 {
        return decimal(1_000, "µs");
    }
    if nanos < NANOS_PER_SECOND {
        return decimal(1_000_000, "ms");
    }
    let (seconds, rest) = (nanos / NANOS_PER_SECOND, nanos % NANOS_PER_SECOND);
    let mut text = sign.to_owned();
    if seconds >= 3600 {
        let _ = write!(text, "{}h", seconds / 3600);
    }
    if seconds >= 60 {
        let _ = write!(text, "{}m", seconds / 60 % 60);
    }
    let _ = write!(text, "{}s", with_fraction(seconds % 60, rest, NANOS_PER_SECOND));
    text
}

fn with_fraction(whole: u64, rest: u64, unit: u64) -> String {
    if rest == 0 {
        return whole.to_string();
    }
    let digits = unit.ilog10() as usize;
    let fraction = format!("{rest:0digits$}");
    format!("{whole}.{}", fraction.trim_end_matches('0'))
}

/// Nanoseconds of a duration literal without sign (`1h30m`, `1.5s`, `2d`). None if it is not one or does not fit.
///
/// Exact integer arithmetic: what is below a nanosecond is cut.
pub fn parse_duration(text: &str) -> Option<i64> {
    const UNITS: [(&str, u64); 11] = [
        // Longer spellings first, so that `ms` is not read as `m`.
        ("ns", 1),
        ("us", 1_000),
        ("µs", 1_000),
        ("μs", 1_000),
        ("ms", 1_000_000),
        ("s", NANOS_PER_SECOND),
        ("m", 60 * NANOS_PER_SECOND),
        ("h", 3_600 * NANOS_PER_SECOND),
        ("d", 86_400 * NANOS_PER_SECOND),
        ("w", 7 * 86_400 * NANOS_PER_SECOND),
        ("y", 365 * 86_400 * NANOS_PER_SECOND),
    ];
    if text.is_empty() {
        return None;
    }
    let mut rest = text;
    let mut total: u128 = 0;
    while !rest.is_empty() {
        let number_len = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(number_len);
        let (unit, unit_nanos) = UNITS.iter().find(|(unit, _)| tail.starts_with(unit))?;
        rest = &tail[unit.len()..];
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || number.len() > 40 {
            return None;
        }
        let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        total = total.checked_add(whole.checked_mul(u128::from(*unit_nanos))?)?;
        let part: u128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
        let scale = 10u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
        total = total.checked_add(part.checked_mul(u128::from(*unit_nanos))? / scale)?;
    }
    i64::try_from(total).ok()
}
