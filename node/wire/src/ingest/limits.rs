//! How much of everything one request and one span may carry, and what was done about more.

/// What happens to a span that carries more than allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Oversize {
    /// The excess is cut and the exporter is told so in a warning.
    #[default]
    Truncate,
    /// The span is rejected and the exporter is told so.
    Reject,
}

/// The limits of one tenant at one moment. Plain data: `server` fills it from settings and clock.
///
/// All maxima are inclusive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IngestLimits {
    /// Attributes of a span, and equally of a resource, a scope, an event or a link.
    pub attributes_max: usize,
    /// Events of a span.
    pub events_max: usize,
    /// Links of a span.
    pub links_max: usize,
    /// Bytes of an attribute key.
    pub key_bytes_max: usize,
    /// Bytes of one string or bytes value, nested ones included.
    pub value_bytes_max: usize,
    /// Bytes of one span, and equally of one resource or scope; never more than [`crate::frame::SPAN_BYTES_CEILING`].
    /// Larger ones are rejected under either policy: there is no honest way to cut them.
    pub span_bytes_max: usize,
    /// Attributes and list members in one request, at any depth. More refuses the whole request.
    pub nodes_max: usize,
    /// What happens to a span beyond the limits.
    pub oversize: Oversize,
    /// A span that ended and started before this is rejected; zero accepts any age. A span without times is accepted.
    pub oldest_unix_nanos: u64,
}

impl Default for IngestLimits {
    /// Tempo's limit for values, and generous ones where Tempo has none.
    fn default() -> Self {
        Self {
            attributes_max: 128,
            events_max: 1000,
            links_max: 1000,
            key_bytes_max: 256,
            value_bytes_max: 2048,
            span_bytes_max: 1 << 20,
            nodes_max: 2_000_000,
            oversize: Oversize::Truncate,
            oldest_unix_nanos: 0,
        }
    }
}

/// Nested lists and maps below an attribute, the attribute's own value included.
pub const VALUE_DEPTH_MAX: usize = 32;

/// Why a span was rejected. The text is for the exporter; [`Rejection::label`] is for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Rejection {
    /// The trace id is not 16 bytes or all zero.
    #[error("trace id is not 16 bytes of which one is not zero")]
    TraceId,
    /// The span id is not 8 bytes or all zero.
    #[error("span id is not 8 bytes of which one is not zero")]
    SpanId,
    /// Older than the tenant's retention.
    #[error("span is older than the retention")]
    TooOld,
    /// The span alone, its resource or its scope is too large.
    #[error("span, resource or scope is too large")]
    SpanBytes,
    /// Too many attributes, under [`Oversize::Reject`].
    #[error("too many attributes")]
    Attributes,
    /// Too many events, under [`Oversize::Reject`].
    #[error("too many events")]
    Events,
    /// Too many links, under [`Oversize::Reject`].
    #[error("too many links")]
    Links,
    /// A key too long, under [`Oversize::Reject`].
    #[error("attribute key is too long")]
    Key,
    /// A value too long, under [`Oversize::Reject`].
    #[error("attribute value is too long")]
    Value,
    /// The trace has as many live spans or bytes as it may.
    #[error("trace is too large")]
    TraceSize,
}

impl Rejection {
    /// Every reason, in the order of [`Outcome::rejections`].
    pub const ALL: [Self; 10] = [
        Self::TraceId,
        Self::SpanId,
        Self::TooOld,
        Self::SpanBytes,
        Self::Attributes,
        Self::Events,
        Self::Links,
        Self::Key,
        Self::Value,
        Self::TraceSize,
    ];

    /// The `reason` label of the discarded-spans counter; the first two and the last are Tempo's.
    pub fn label(self) -> &'static str {
        match self {
            Self::TraceId => "invalid_trace_id",
            Self::SpanId => "invalid_span_id",
            Self::TooOld => "too_old",
            Self::SpanBytes => "span_too_large",
            Self::Attributes => "too_many_attributes",
            Self::Events => "too_many_events",
            Self::Links => "too_many_links",
            Self::Key => "attribute_key_too_long",
            Self::Value => "attribute_value_too_long",
            Self::TraceSize => "trace_too_large",
        }
    }
}

/// How often something was beyond a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Excess {
    /// Attributes beyond the number allowed.
    pub attributes: u64,
    /// Events beyond the number allowed.
    pub events: u64,
    /// Links beyond the number allowed.
    pub links: u64,
    /// Keys too long.
    pub keys: u64,
    /// Values too long.
    pub values: u64,
}

impl Excess {
    /// Each part and its name in metrics.
    pub fn parts(&self) -> [(&'static str, u64); 5] {
        let Self {
            attributes,
            events,
            links,
            keys,
            values,
        } = *self;
        [
            ("attributes", attributes),
            ("events", events),
            ("links", links),
            ("keys", keys),
            ("values", values),
        ]
    }

    /// Whether nothing was beyond a limit.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// The reason that a span with this excess is rejected for.
    pub(super) fn rejection(&self) -> Rejection {
        match self {
            Self { attributes: 1.., .. } => Rejection::Attributes,
            Self { events: 1.., .. } => Rejection::Events,
            Self { links: 1.., .. } => Rejection::Links,
            Self { keys: 1.., .. } => Rejection::Key,
            _ => Rejection::Value,
        }
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.attributes += other.attributes;
        self.events += other.events;
        self.links += other.links;
        self.keys += other.keys;
        self.values += other.values;
    }
}

/// What became of a request that was read completely.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outcome {
    /// Spans in the request.
    pub received: u64,
    /// Spans rejected, by [`Rejection::ALL`].
    pub rejections: [u64; Rejection::ALL.len()],
    /// The first reason a span was rejected for.
    pub first_rejection: Option<Rejection>,
    /// What was cut from the accepted spans.
    pub cut: Excess,
}

impl Outcome {
    /// Spans rejected for any reason.
    pub fn rejected(&self) -> u64 {
        self.rejections.iter().sum()
    }

    /// How often a span was rejected, for each reason that there was.
    pub fn reasons(&self) -> impl Iterator<Item = (Rejection, u64)> + '_ {
        let counted = Rejection::ALL.into_iter().zip(self.rejections);
        counted.filter(|(_, count)| *count > 0)
    }

    pub(super) fn reject(&mut self, reason: Rejection, spans: u64) {
        self.first_rejection.get_or_insert(reason);
        let place = Rejection::ALL
            .iter()
            .zip(&mut self.rejections)
            .find(|(known, _)| **known == reason);
        if let Some((_, count)) = place {
            *count += spans;
        }
    }

    /// What the exporter is told beyond success: the number of rejected spans and a message. `None` when every span was
    /// kept as it came. A message with zero rejected spans is OTLP's form of a warning.
    pub fn partial_success(&self, limits: &IngestLimits) -> Option<(u64, String)> {
        let mut parts = Vec::new();
        if let Some(first) = self.first_rejection {
            parts.push(format!(
                "rejected {} of {} spans, first: {first}",
                self.rejected(),
                self.received
            ));
        }
        let cuts = [
            (
                self.cut.values,
                "cut",
                "attribute values over",
                limits.value_bytes_max,
                "bytes",
            ),
            (
                self.cut.keys,
                "cut",
                "attribute keys over",
                limits.key_bytes_max,
                "bytes",
            ),
            (
                self.cut.attributes,
                "dropped",
                "attributes over",
                limits.attributes_max,
                "each",
            ),
            (self.cut.events, "dropped", "events over", limits.events_max, "per span"),
            (self.cut.links, "dropped", "links over", limits.links_max, "per span"),
        ];
        for (count, verb, what, limit, unit) in cuts {
            if count > 0 {
                parts.push(format!("{verb} {count} {what} {limit} {unit}"));
            }
        }
        (!parts.is_empty()).then(|| (self.rejected(), parts.join("; ")))
    }
}
