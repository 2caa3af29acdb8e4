//! Which columns a block has: the fixed ones, and the attributes chosen for it.
//!
//! Choosing is pure: column statistics in, [`Schema`] out. The statistics come from live tables or from the catalogues
//! of blocks that are about to be merged ([`ColumnStats::gather`], `BlockIndex::column_stats`), so a streaming writer
//! knows its schema before the first row.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_schema::{DataType, Field as ArrowField, Schema as ArrowSchema};
use model::{SpanTable, ValueType};
use parquet::basic::{LogicalType, Repetition, TimeUnit, Type as Physical};
use parquet::schema::types::Type as ParquetType;

use crate::error::Result;
use crate::format::{
    ATTRIBUTE_COLUMNS_MAX, ID_LIKE_DISTINCT, ID_LIKE_MEAN_BYTES, PRESENCE_FLOOR_DIVISOR, ROW_GROUP_ROWS,
};

/// A column every block has. The number is its place in the file and its code in the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Field {
    /// The tenant's name, the same in a whole row group. For foreign readers of a block with several tenants.
    Tenant,
    /// 16 bytes.
    TraceId,
    /// 8 bytes.
    SpanId,
    /// 8 bytes, only where the parent's row is not in the row group.
    ParentSpanId,
    /// Rows of the subtree below the span.
    Descendants,
    /// Distance up to the parent's row; 0 for roots and orphans.
    ParentDistance,
    /// Earliest start of the trace (of its piece here), nanoseconds since the epoch.
    TraceStart,
    /// Start, nanoseconds after [`Field::TraceStart`].
    Start,
    /// Start in whole seconds since the epoch, clamped to 32 bits. For counting per interval without decoding times.
    StartSeconds,
    /// End minus start in nanoseconds, wrapping.
    Duration,
    /// [`crate::format::duration::bucket`] of the duration.
    DurationBucket,
    /// `SpanKind`.
    Kind,
    /// `StatusCode`; -1 where the span has no status at all.
    Status,
    /// W3C flags.
    Flags,
    /// The span's name.
    Name,
    /// `service.name` of the resource; null when it has none or it is not text.
    Service,
    /// Index into the section's resources.
    Resource,
    /// Index into the section's instrumentation scopes.
    Scope,
    /// `service.name` of the trace's root; null while no root is known.
    RootService,
    /// Name of the trace's root; null while no root is known.
    RootName,
    /// W3C `tracestate`.
    TraceState,
    /// Status text.
    StatusMessage,
    /// Attributes the sender dropped.
    DroppedAttributes,
    /// Events the sender dropped.
    DroppedEvents,
    /// Links the sender dropped.
    DroppedLinks,
    /// Raw `events` fields of OTLP, tags included.
    Events,
    /// Raw `links` fields of OTLP, tags included.
    Links,
    /// Raw fields that have no column, tags included.
    Extra,
    /// Raw `attributes` fields of OTLP (tag 9 included) of attributes without a column.
    Tail,
}

impl Field {
    /// All of them, in file order.
    pub const ALL: [Field; 29] = [
        Field::Tenant,
        Field::TraceId,
        Field::SpanId,
        Field::ParentSpanId,
        Field::Descendants,
        Field::ParentDistance,
        Field::TraceStart,
        Field::Start,
        Field::StartSeconds,
        Field::Duration,
        Field::DurationBucket,
        Field::Kind,
        Field::Status,
        Field::Flags,
        Field::Name,
        Field::Service,
        Field::Resource,
        Field::Scope,
        Field::RootService,
        Field::RootName,
        Field::TraceState,
        Field::StatusMessage,
        Field::DroppedAttributes,
        Field::DroppedEvents,
        Field::DroppedLinks,
        Field::Events,
        Field::Links,
        Field::Extra,
        Field::Tail,
    ];

    /// Its place in the file.
    pub fn ordinal(self) -> usize {
        self as usize
    }

    /// The column's name in the Parquet file. Part of the format.
    pub fn name(self) -> &'static str {
        match self {
            Field::Tenant => "tenant",
            Field::TraceId => "trace_id",
            Field::SpanId => "span_id",
            Field::ParentSpanId => "parent_span_id",
            Field::Descendants => "desc",
            Field::ParentDistance => "pdelta",
            Field::TraceStart => "trace_start",
            Field::Start => "start",
            Field::StartSeconds => "start_s",
            Field::Duration => "duration",
            Field::DurationBucket => "dur_b",
            Field::Kind => "kind",
            Field::Status => "status_code",
            Field::Flags => "flags",
            Field::Name => "name",
            Field::Service => "service",
            Field::Resource => "resource_id",
            Field::Scope => "scope_id",
            Field::RootService => "root_service",
            Field::RootName => "root_name",
            Field::TraceState => "trace_state",
            Field::StatusMessage => "status_message",
            Field::DroppedAttributes => "dropped_attributes",
            Field::DroppedEvents => "dropped_events",
            Field::DroppedLinks => "dropped_links",
            Field::Events => "events",
            Field::Links => "links",
            Field::Extra => "extra",
            Field::Tail => "attributes_tail",
        }
    }

    /// The physical form of its values.
    pub(crate) fn form(self) -> Form {
        match self {
            Field::TraceId => Form::Fixed16,
            Field::SpanId | Field::ParentSpanId => Form::Fixed8,
            Field::TraceStart => Form::Time,
            Field::Start | Field::Duration => Form::Int64,
            Field::Descendants
            | Field::ParentDistance
            | Field::StartSeconds
            | Field::DurationBucket
            | Field::Kind
            | Field::Status
            | Field::Resource
            | Field::Scope => Form::Int32,
            Field::Flags | Field::DroppedAttributes | Field::DroppedEvents | Field::DroppedLinks => Form::Unsigned32,
            Field::Tenant
            | Field::Name
            | Field::Service
            | Field::RootService
            | Field::RootName
            | Field::TraceState
            | Field::StatusMessage => Form::Text,
            Field::Events | Field::Links | Field::Extra | Field::Tail => Form::Bytes,
        }
    }

    /// Whether a row may have no value.
    pub(crate) fn is_optional(self) -> bool {
        matches!(
            self,
            Field::ParentSpanId
                | Field::Service
                | Field::RootService
                | Field::RootName
                | Field::TraceState
                | Field::StatusMessage
                | Field::DroppedAttributes
                | Field::DroppedEvents
                | Field::DroppedLinks
                | Field::Events
                | Field::Links
                | Field::Extra
                | Field::Tail
        )
    }
}

/// The physical form of a column's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Fixed8,
    Fixed16,
    Int32,
    Unsigned32,
    Int64,
    Time,
    Double,
    Bool,
    Text,
    Bytes,
}

impl Form {
    /// Bytes of one value in PLAIN encoding; 0 for byte arrays and booleans.
    pub(crate) fn width(self) -> usize {
        match self {
            Form::Fixed16 => 16,
            Form::Fixed8 | Form::Int64 | Form::Time | Form::Double => 8,
            Form::Int32 | Form::Unsigned32 => 4,
            Form::Bool | Form::Text | Form::Bytes => 0,
        }
    }
}

/// An attribute of spans: one key, one type.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AttributeKey {
    /// The key.
    pub key: Box<[u8]>,
    /// The type of its values.
    pub value_type: ValueType,
}

impl AttributeKey {
    /// Names an attribute.
    pub fn new(key: &[u8], value_type: ValueType) -> Self {
        Self {
            key: key.into(),
            value_type,
        }
    }

    /// The seed of its filter keys ([`crate::bloom::hash`]). Part of the format.
    pub fn seed(&self) -> u64 {
        // 0 and 1 name the filters of trace ids and of the tail.
        twox_hash::XxHash3_64::oneshot_with_seed(self.value_type as u64, &self.key).max(2)
    }

    pub(crate) fn form(&self) -> Form {
        match self.value_type {
            ValueType::String => Form::Text,
            ValueType::Int => Form::Int64,
            ValueType::Double => Form::Double,
            ValueType::Bool => Form::Bool,
            ValueType::Raw => Form::Bytes,
        }
    }
}

/// One attribute column of a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttributeDef {
    /// Which attribute.
    pub attribute: AttributeKey,
    /// Whether more than a tenth of the spans have it, so that its ids stay uncompressed.
    pub(crate) hot: bool,
    /// Whether its values look like ids and go into a filter.
    pub(crate) id_like: bool,
}

/// What is known of an attribute before a block is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ColumnStats {
    /// Spans that have it.
    pub values: u64,
    /// Distinct values, or a lower bound.
    pub distinct: u64,
    /// Bytes of the distinct values together; for text only.
    pub distinct_bytes: u64,
}

/// Statistics of all attributes of what will become one block.
#[derive(Debug, Clone, Default)]
pub struct BlockStats {
    /// Spans.
    pub spans: u64,
    /// By attribute.
    pub attributes: HashMap<AttributeKey, ColumnStats>,
}

impl BlockStats {
    /// Counts the columns of a live table.
    pub fn add_table(&mut self, table: &SpanTable) {
        self.spans += table.len() as u64;
        for column in table.attributes() {
            let (distinct, bytes) = match column.data() {
                model::AttributeData::Dict { dict, .. } => (dict.len(), dict.bytes().len()),
                model::AttributeData::Plain(values) => (values.rows().len(), values.bytes().len()),
                _ => (0, 0),
            };
            self.add(
                AttributeKey::new(column.key(), column.value_type()),
                ColumnStats {
                    values: column.rows().len() as u64,
                    distinct: distinct as u64,
                    distinct_bytes: bytes as u64,
                },
            );
        }
    }

    /// Adds one attribute's numbers.
    pub fn add(&mut self, key: AttributeKey, stats: ColumnStats) {
        let sum = self.attributes.entry(key).or_default();
        sum.values += stats.values;
        sum.distinct += stats.distinct;
        sum.distinct_bytes += stats.distinct_bytes;
    }
}

/// The columns of one block: [`Field::ALL`], then these.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Schema {
    attributes: Vec<AttributeDef>,
}

impl Schema {
    /// Chooses the attribute columns: the most frequent ones, at most 64, each in at least 0.5 % of the spans. Ordered
    /// by frequency, ties by key, so that equal inputs give equal blocks.
    pub fn choose(stats: &BlockStats) -> Self {
        let mut ranked: Vec<_> = stats
            .attributes
            .iter()
            .filter(|(_, s)| s.values > 0 && s.values * PRESENCE_FLOOR_DIVISOR >= stats.spans)
            .collect();
        ranked.sort_by(|(ka, a), (kb, b)| b.values.cmp(&a.values).then_with(|| ka.cmp(kb)));
        ranked.truncate(ATTRIBUTE_COLUMNS_MAX);
        let attributes = ranked
            .into_iter()
            .map(|(key, s)| AttributeDef {
                attribute: key.clone(),
                hot: s.values * crate::format::HOT_DIVISOR > stats.spans,
                id_like: key.value_type == ValueType::String && id_like(s, stats.spans),
            })
            .collect();
        Self { attributes }
    }

    /// The schema whose attribute columns are `attributes`, in file order.
    pub(crate) fn of(attributes: Vec<AttributeDef>) -> Self {
        Self { attributes }
    }

    /// The attribute columns in file order.
    pub fn attributes(&self) -> &[AttributeDef] {
        &self.attributes
    }

    /// Columns in the file.
    pub fn len(&self) -> usize {
        Field::ALL.len() + self.attributes.len()
    }

    /// Never: the fixed columns are always there.
    pub fn is_empty(&self) -> bool {
        false
    }

    pub(crate) fn form(&self, column: usize) -> Form {
        match Field::ALL.get(column) {
            Some(field) => field.form(),
            None => self.attributes[column - Field::ALL.len()].attribute.form(),
        }
    }

    pub(crate) fn is_optional(&self, column: usize) -> bool {
        Field::ALL.get(column).is_none_or(|field| field.is_optional())
    }

    /// Column names in the file. An attribute is `span.<key>`; where that name is taken (one key of two types, or a
    /// second spelling that is not UTF-8) the type and then a number are appended.
    pub(crate) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = Field::ALL.iter().map(|f| f.name().to_owned()).collect();
        for def in &self.attributes {
            let mut name = format!("span.{}", String::from_utf8_lossy(&def.attribute.key));
            let typed = match def.attribute.value_type {
                ValueType::String => "string",
                ValueType::Int => "int",
                ValueType::Double => "double",
                ValueType::Bool => "bool",
                ValueType::Raw => "any",
            };
            if names.contains(&name) {
                name = format!("{name}#{typed}");
            }
            let base = name.clone();
            let mut number = 2;
            while names.contains(&name) {
                name = format!("{base}#{number}");
                number += 1;
            }
            names.push(name);
        }
        names
    }

    /// The Parquet schema.
    pub(crate) fn parquet(&self) -> Result<Arc<ParquetType>> {
        let mut fields = Vec::with_capacity(self.len());
        for (column, name) in self.names().iter().enumerate() {
            let (physical, logical, length) = match self.form(column) {
                Form::Fixed8 => (Physical::FIXED_LEN_BYTE_ARRAY, None, 8),
                Form::Fixed16 => (Physical::FIXED_LEN_BYTE_ARRAY, None, 16),
                Form::Int32 => (Physical::INT32, None, -1),
                Form::Unsigned32 => (Physical::INT32, Some(LogicalType::integer(32, false)), -1),
                Form::Int64 => (Physical::INT64, None, -1),
                Form::Time => (Physical::INT64, Some(LogicalType::timestamp(true, TimeUnit::NANOS)), -1),
                Form::Double => (Physical::DOUBLE, None, -1),
                Form::Bool => (Physical::BOOLEAN, None, -1),
                Form::Text => (Physical::BYTE_ARRAY, Some(LogicalType::String), -1),
                Form::Bytes => (Physical::BYTE_ARRAY, None, -1),
            };
            let repetition = if self.is_optional(column) {
                Repetition::OPTIONAL
            } else {
                Repetition::REQUIRED
            };
            let field = ParquetType::primitive_type_builder(name, physical)
                .with_repetition(repetition)
                .with_logical_type(logical)
                .with_length(length)
                .build()?;
            fields.push(Arc::new(field));
        }
        Ok(Arc::new(
            ParquetType::group_type_builder("span").with_fields(fields).build()?,
        ))
    }

    /// The Arrow schema to embed: text comes back as dictionaries instead of one string per row.
    pub(crate) fn arrow(&self) -> ArrowSchema {
        let fields: Vec<ArrowField> = self
            .names()
            .into_iter()
            .enumerate()
            .map(|(column, name)| {
                let data_type = match self.form(column) {
                    Form::Fixed8 => DataType::FixedSizeBinary(8),
                    Form::Fixed16 => DataType::FixedSizeBinary(16),
                    Form::Int32 => DataType::Int32,
                    Form::Unsigned32 => DataType::UInt32,
                    Form::Int64 => DataType::Int64,
                    Form::Time => DataType::Timestamp(arrow_schema::TimeUnit::Nanosecond, Some("UTC".into())),
                    Form::Double => DataType::Float64,
                    Form::Bool => DataType::Boolean,
                    Form::Text => DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8)),
                    Form::Bytes => DataType::Binary,
                };
                ArrowField::new(name, data_type, self.is_optional(column))
            })
            .collect();
        ArrowSchema::new(fields)
    }
}

fn id_like(stats: &ColumnStats, spans: u64) -> bool {
    stats.distinct * u64::from(ROW_GROUP_ROWS) > ID_LIKE_DISTINCT * spans
        && stats.distinct >= 64
        && stats.distinct_bytes <= ID_LIKE_MEAN_BYTES * stats.distinct
}
