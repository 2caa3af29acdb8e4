//! What JSON needs to know about a protobuf message: the names, numbers and types of its fields.
//!
//! One set of tables drives both directions ([`crate::json`]): JSON into bytes at the door, bytes into JSON in answers. No
//! struct is ever built in between. The tables are generated from `proto/*.proto` together with the Rust types and checked
//! in; `tests/generated.rs` regenerates and compares.

/// One message.
#[derive(Debug)]
pub struct Message {
    /// Its name, for errors.
    pub name: &'static str,
    /// Its fields in the order of declaration, which is the order they are written in.
    pub fields: &'static [Field],
}

/// One field.
#[derive(Debug)]
pub struct Field {
    /// Its number on the wire.
    pub number: u32,
    /// Its name in JSON.
    pub json: &'static str,
    /// Its type.
    pub kind: Kind,
    /// How often it occurs.
    pub shape: Shape,
}

/// How often a field occurs and whether a zero is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// At most once; the last one counts; zero means absent.
    Singular,
    /// At most once, and zero differs from absent (`optional`).
    Optional,
    /// One of several members of which at most one is set. A message has at most one such group.
    Oneof,
    /// A list.
    Repeated,
    /// A map: a list of messages {key = 1, value = 2}.
    Map,
}

/// The type of a field.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// `double`
    Double,
    /// `int32`: a number in JSON.
    Int32,
    /// `int64`: a string in JSON.
    Int64,
    /// `uint32`: a number in JSON.
    Uint32,
    /// `uint64`: a string in JSON.
    Uint64,
    /// `fixed32`: a number in JSON.
    Fixed32,
    /// `fixed64`: a string in JSON.
    Fixed64,
    /// `bool`
    Bool,
    /// `string`
    Text,
    /// `bytes`: base64 in JSON.
    Bytes,
    /// `bytes` that hold an id: hex in OTLP/JSON, base64 in Tempo's answers.
    Id,
    /// An enumeration.
    Enum(&'static [(i32, &'static str)]),
    /// A message.
    Message(&'static Message),
}
