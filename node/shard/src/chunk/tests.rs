//! What a live table shows to queries, column by column.

use model::Value;
use model::column::slice_at;
use model::proto::{write_bytes, write_fixed64, write_varint_field};
use model::value::key_value;

use super::*;

/// `(row, value)` of every column of `column`, as text.
fn check(table: &SpanTable, column: ColumnRef) -> Vec<(u32, String)> {
    let chunk = TableChunk::new(table);
    let mut found = Vec::new();
    for column in chunk.columns(&column).unwrap() {
        let view = column.view();
        for position in 0..view.values.len() {
            let row = match view.rows {
                Rows::All => position as u32,
                Rows::Sparse(rows) => rows[position],
            };
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let value = match view.values {
                Values::Dict {
                    ids,
                    dict: DictView::Bytes { offsets, bytes },
                } => text(slice_at(offsets, bytes, ids[position] as usize)),
                Values::Dict {
                    ids,
                    dict: DictView::Values(values),
                } => match &values[ids[position] as usize] {
                    Some(Value::String(text)) => text.clone(),
                    other => format!("{other:?}"),
                },
                Values::Bytes { offsets, bytes } => text(slice_at(offsets, bytes, position)),
                Values::Raw { offsets, bytes } => format!("raw{:?}", slice_at(offsets, bytes, position)),
                Values::Int(values) => values[position].to_string(),
                Values::Double(values) => values[position].to_string(),
                Values::Bool(values) => values[position].to_string(),
                Values::Fixed8(values) => format!("{}", values[position][7]),
                Values::Fixed16(values) => format!("{}", values[position][15]),
            };
            found.push((row, value));
        }
    }
    found
}

fn attribute(scope: Scope, key: &str) -> ColumnRef {
    ColumnRef::Attribute(scope, Arc::from(key))
}

fn table() -> SpanTable {
    let text = |text: &str| Value::String(text.into());
    let mut resource = Vec::new();
    write_bytes(&mut resource, 1, &key_value(b"service.name", &text("cart")));
    let mut scope = Vec::new();
    write_bytes(&mut scope, 1, b"lib");
    write_bytes(&mut scope, 2, b"1.2");
    let mut event = Vec::new();
    write_fixed64(&mut event, 1, 1_500);
    write_bytes(&mut event, 2, b"exception");
    write_bytes(&mut event, 3, &key_value(b"exception.type", &text("IO")));
    let mut link = Vec::new();
    write_bytes(&mut link, 1, &[9; 16]);
    write_bytes(&mut link, 2, &[8; 8]);
    write_bytes(&mut link, 4, &key_value(b"why", &Value::Int(3)));
    let mut span = Vec::new();
    write_bytes(&mut span, 1, &[1; 16]);
    write_bytes(&mut span, 2, &[2; 8]);
    write_bytes(&mut span, 5, b"GET /");
    write_varint_field(&mut span, 6, 2);
    write_fixed64(&mut span, 7, 1_000);
    write_fixed64(&mut span, 8, 3_000);
    write_bytes(&mut span, 9, &key_value(b"http.status", &Value::Int(500)));
    write_bytes(&mut span, 9, &key_value(b"http.status", &text("again")));
    write_bytes(&mut span, 9, &key_value(b"http.status", &Value::Int(501)));
    write_bytes(&mut span, 11, &event);
    write_bytes(&mut span, 11, &event);
    write_bytes(&mut span, 13, &link);
    write_bytes(&mut span, 15, &[0x18, 2]);
    let mut table = SpanTable::new();
    let resource = table.intern_resource(Some(&resource), b"");
    let none = table.intern_resource(None, b"");
    let scope = table.intern_scope(Some(&scope), b"");
    let mut plain = Vec::new();
    write_bytes(&mut plain, 1, &[1; 16]);
    write_bytes(&mut plain, 2, &[3; 8]);
    table.append(none, scope, &plain).unwrap();
    table.append(resource, scope, &span).unwrap();
    table
}

#[test]
fn a_live_table_shows_every_column_a_query_may_ask_for() {
    let table = table();
    let one = |row: u32, value: &str| (row, value.to_owned());
    assert_eq!(check(&table, ColumnRef::Name), [one(0, ""), one(1, "GET /")]);
    assert_eq!(check(&table, ColumnRef::Kind), [one(0, "0"), one(1, "2")]);
    assert_eq!(check(&table, ColumnRef::Status), [one(0, "0"), one(1, "2")]);
    assert_eq!(check(&table, ColumnRef::Start), [one(0, "0"), one(1, "1000")]);
    assert_eq!(check(&table, ColumnRef::Duration), [one(0, "0"), one(1, "2000")]);
    assert_eq!(check(&table, ColumnRef::SpanId), [one(0, "3"), one(1, "2")]);
    assert_eq!(
        check(&table, ColumnRef::EventName),
        [one(1, "exception"), one(1, "exception")]
    );
    assert_eq!(
        check(&table, ColumnRef::EventTimeSinceStart),
        [one(1, "500"), one(1, "500")]
    );
    assert_eq!(check(&table, ColumnRef::LinkTraceId), [one(1, "9")]);
    assert_eq!(check(&table, ColumnRef::LinkSpanId), [one(1, "8")]);
    assert_eq!(
        check(&table, ColumnRef::InstrumentationName),
        [one(0, "lib"), one(1, "lib")]
    );
    assert_eq!(
        check(&table, ColumnRef::InstrumentationVersion),
        [one(0, "1.2"), one(1, "1.2")]
    );
    assert_eq!(
        check(&table, attribute(Scope::Resource, "service.name")),
        [one(0, "None"), one(1, "cart")]
    );
    assert_eq!(
        check(&table, attribute(Scope::Event, "exception.type")),
        [one(1, "IO"), one(1, "IO")]
    );
    assert_eq!(check(&table, attribute(Scope::Link, "why")), [one(1, "3")]);
    // Two types under one key are two columns; a second value of one type stands in the tail and is found there.
    assert_eq!(
        check(&table, attribute(Scope::Span, "http.status")),
        [one(1, "again"), one(1, "500"), one(1, "501")]
    );
    assert_eq!(check(&table, attribute(Scope::Span, "absent")), []);
    assert_eq!(check(&table, attribute(Scope::Resource, "absent")), []);
}

#[test]
fn keys_are_listed_by_scope() {
    let table = table();
    let keys = |scope| -> Vec<String> {
        let keys = TableChunk::new(&table).attribute_keys(scope).unwrap();
        keys.iter().map(|key| key.to_string()).collect()
    };
    assert_eq!(keys(Scope::Span), ["http.status"]);
    assert_eq!(keys(Scope::Resource), ["service.name"]);
    assert_eq!(keys(Scope::Event), ["exception.type"]);
    assert_eq!(keys(Scope::Link), ["why"]);
    assert!(keys(Scope::Instrumentation).is_empty());
}
