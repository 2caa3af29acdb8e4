//! `section!`: a part of a custom resource as a table of `field: type = default`.
//!
//! The same idea as in the node's settings: a default is written once and rustdoc, `Default`, serde and the schema all take
//! it from there. Always holds: an absent field means its default; a section that is absent means its fields' defaults.
//! The schema keeps only defaults of plain values (see [`crate::definition`]), so that applying a minimal manifest does
//! not store a hundred lines that nobody wrote.

/// Declares a section; every field needs a doc comment: what it is, how its default comes about where that is computed,
/// and what a change does.
macro_rules! section {
    ($(#[$meta:meta])* pub struct $name:ident { $($(#[$field_meta:meta])* $field:ident: $type:ty = $default:expr,)* }) => {
        #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
        #[serde(rename_all = "camelCase", default)]
        $(#[$meta])*
        pub struct $name {
            $($(#[$field_meta])* pub $field: $type,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }
    };
}

pub(crate) use section;
