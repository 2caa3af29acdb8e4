//! Fields: everything of a span that a query can name.
//!
//! A [`Field`] is an attribute in a [`Scope`] (or in none: then the first scope that has it counts) or an [`Intrinsic`],
//! read from the span itself or, with `parent.`, from its parent span. How a field was spelled is kept, because metrics
//! label series by it. Reading fields from chunks is in `engine`.

use std::sync::Arc;

use model::Scope;

/// The order in which an unscoped `.x` is looked for; the first scope that has it shadows the rest.
pub const PRECEDENCE: [Scope; 5] = [
    Scope::Span,
    Scope::Resource,
    Scope::Event,
    Scope::Link,
    Scope::Instrumentation,
];

/// The scope as written before the dot.
pub fn scope_word(scope: Scope) -> &'static str {
    match scope {
        Scope::Span => "span",
        Scope::Resource => "resource",
        Scope::Event => "event",
        Scope::Link => "link",
        Scope::Instrumentation => "instrumentation",
    }
}

/// Reverse of [`scope_word`].
pub fn scope_from_word(word: &str) -> Option<Scope> {
    PRECEDENCE.into_iter().find(|scope| scope_word(*scope) == word)
}

/// Whether a span has many of these, each with its own attributes.
pub(crate) fn scope_repeats(scope: Scope) -> bool {
    matches!(scope, Scope::Event | Scope::Link)
}

/// Static type of a field or expression, as far as the text alone tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// Only the data tells (attributes).
    Unknown,
    /// `nil`.
    Nil,
    /// 64-bit integer.
    Int,
    /// 64-bit float.
    Float,
    /// Text.
    String,
    /// true or false.
    Bool,
    /// Nanoseconds.
    Duration,
    /// ok, error or unset.
    Status,
    /// Span kind.
    Kind,
}

impl Type {
    /// Whether values of this type take part in arithmetic and order with the other numeric types.
    pub fn is_numeric(self) -> bool {
        matches!(self, Type::Int | Type::Float | Type::Duration)
    }
}

macro_rules! intrinsics {
    ($($(#[$doc:meta])* $name:ident $bare:expr, $scoped:expr, $ty:ident;)*) => {
        /// A value every span or trace has by nature.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Intrinsic { $($(#[$doc])* $name,)* }

        impl Intrinsic {
            /// All of them, in the order they are listed to clients.
            pub const ALL: &'static [Intrinsic] = &[$(Intrinsic::$name,)*];

            /// The spelling without a scope, where there is one.
            pub fn bare(self) -> Option<&'static str> {
                match self { $(Intrinsic::$name => $bare,)* }
            }

            /// The spelling with a scope, where there is one.
            pub fn scoped(self) -> Option<&'static str> {
                match self { $(Intrinsic::$name => $scoped,)* }
            }

            /// Its type, which the text alone tells.
            pub fn ty(self) -> Type {
                match self { $(Intrinsic::$name => Type::$ty,)* }
            }
        }
    };
}

intrinsics! {
    /// End minus start; 0 when the end is before the start.
    Duration Some("duration"), Some("span:duration"), Duration;
    /// The operation's name.
    Name Some("name"), Some("span:name"), String;
    /// Status code.
    Status Some("status"), Some("span:status"), Status;
    /// Status text.
    StatusMessage Some("statusMessage"), Some("span:statusMessage"), String;
    /// Span kind.
    Kind Some("kind"), Some("span:kind"), Kind;
    /// Number of direct children in the trace.
    ChildCount None, Some("span:childCount"), Int;
    /// Span id, 16 hex digits.
    SpanId None, Some("span:id"), String;
    /// Parent's span id, 16 hex digits; missing on roots.
    ParentId None, Some("span:parentID"), String;
    /// Span id of the parent if that span is in the trace, otherwise nil.
    Parent Some("parent"), None, String;
    /// Preorder number on the way down.
    NestedSetLeft Some("nestedSetLeft"), None, Int;
    /// Number on the way up.
    NestedSetRight Some("nestedSetRight"), None, Int;
    /// `nestedSetLeft` of the parent; -1 for roots, 0 when the parent is not in the trace.
    NestedSetParent Some("nestedSetParent"), None, Int;
    /// Name of the trace's root span.
    RootName Some("rootName"), Some("trace:rootName"), String;
    /// `service.name` of the trace's root span.
    RootService Some("rootServiceName"), Some("trace:rootService"), String;
    /// Last end minus first start.
    TraceDuration Some("traceDuration"), Some("trace:duration"), Duration;
    /// Trace id, 32 hex digits.
    TraceId None, Some("trace:id"), String;
    /// Name of any event.
    EventName None, Some("event:name"), String;
    /// Time of any event minus start of the span.
    EventTimeSinceStart None, Some("event:timeSinceStart"), Duration;
    /// Trace id of any link.
    LinkTraceId None, Some("link:traceID"), String;
    /// Span id of any link.
    LinkSpanId None, Some("link:spanID"), String;
    /// Name of the instrumentation scope.
    InstrumentationName None, Some("instrumentation:name"), String;
    /// Version of the instrumentation scope.
    InstrumentationVersion None, Some("instrumentation:version"), String;
}

impl Intrinsic {
    /// The intrinsic spelled `word` without a scope.
    pub fn from_bare(word: &str) -> Option<Intrinsic> {
        Intrinsic::ALL.iter().copied().find(|i| i.bare() == Some(word))
    }

    /// The intrinsic spelled `word` with a scope (`span:name`).
    pub fn from_scoped(word: &str) -> Option<Intrinsic> {
        Intrinsic::ALL.iter().copied().find(|i| i.scoped() == Some(word))
    }

    /// Whether a span can be without it, so that comparing it with nil says something.
    pub(crate) fn may_be_nil(self) -> bool {
        use Intrinsic::*;
        matches!(
            self,
            ParentId | Parent | EventName | EventTimeSinceStart | LinkTraceId | LinkSpanId
        )
    }

    /// Whether its value depends on spans other than the one it is asked of.
    pub(crate) fn needs_whole_trace(self) -> bool {
        use Intrinsic::*;
        matches!(
            self,
            ChildCount
                | Parent
                | NestedSetLeft
                | NestedSetRight
                | NestedSetParent
                | RootName
                | RootService
                | TraceDuration
        )
    }

    /// Whether search answers already carry it in a place of its own, so that it is not repeated as an attribute.
    pub(crate) fn has_own_place_in_answer(self) -> bool {
        use Intrinsic::*;
        matches!(
            self,
            Name | Duration | TraceDuration | RootName | RootService | TraceId | SpanId
        )
    }
}

/// What of the span (or of its parent) a [`Field`] reads.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Name {
    /// An intrinsic, and whether it was spelled with its scope.
    Intrinsic(Intrinsic, Spelling),
    /// An attribute; without a scope the first of [`PRECEDENCE`] that has the key counts.
    Attribute(Option<Scope>, Arc<str>),
}

/// How an intrinsic was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Spelling {
    /// `name`.
    Bare,
    /// `span:name`.
    Scoped,
}

/// Something of a span that a query names.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Field {
    /// Read from the span's parent (`parent.`) rather than from the span.
    pub of_parent: bool,
    /// What is read.
    pub name: Name,
}

impl Field {
    /// An intrinsic of the span, in its usual spelling.
    pub fn intrinsic(which: Intrinsic) -> Field {
        let spelling = if which.bare().is_some() {
            Spelling::Bare
        } else {
            Spelling::Scoped
        };
        Field {
            of_parent: false,
            name: Name::Intrinsic(which, spelling),
        }
    }

    /// An attribute of the span.
    pub fn attribute(scope: Option<Scope>, key: &str) -> Field {
        Field {
            of_parent: false,
            name: Name::Attribute(scope, key.into()),
        }
    }

    /// What the text tells about its type.
    pub fn ty(&self) -> Type {
        match &self.name {
            Name::Intrinsic(which, _) => which.ty(),
            Name::Attribute(..) => Type::Unknown,
        }
    }

    /// Whether its value depends on spans other than the one it is asked of.
    pub fn needs_whole_trace(&self) -> bool {
        self.of_parent || matches!(self.name, Name::Intrinsic(which, _) if which.needs_whole_trace())
    }

    /// Key under which answers show it: attribute names without their scope, intrinsics as spelled.
    pub fn key(&self) -> &str {
        match &self.name {
            Name::Intrinsic(which, _) => which.bare().or(which.scoped()).unwrap_or_default(),
            Name::Attribute(_, key) => key,
        }
    }
}
