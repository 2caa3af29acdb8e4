//! `section!`: a settings section as a table of `field: type = default`.
//!
//! One of the few macros of this house. Without it every default stands in two or three places (the field's comment,
//! `Default`, the per-tenant override), and projects that did so have shipped three different defaults for one field.
//! Always holds: unknown keys are refused, an absent key means its default, and rustdoc shows that default.

/// Declares a section; every field needs a doc comment saying what it is and in which unit it is read.
macro_rules! section {
    ($(#[$meta:meta])* pub struct $name:ident { $($(#[$field_meta:meta])* $field:ident: $type:ty = $default:expr,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct $name {
            $($(#[$field_meta])* #[doc = concat!("\n\nDefault: `", stringify!($default), "`.")] pub $field: $type,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }
    };
}

/// Declares limits and their per-tenant override: the same fields, each of which may be absent.
macro_rules! limits {
    ($(#[$meta:meta])* pub struct $name:ident, $patch:ident { $($(#[$field_meta:meta])* $field:ident: $type:ty = $default:expr,)* }) => {
        $crate::section::section! { $(#[$meta])* pub struct $name { $($(#[$field_meta])* $field: $type = $default,)* } }

        /// The fields one tenant has otherwise; absent ones follow the defaults of the file.
        #[derive(Debug, Clone, PartialEq, Default, serde::Serialize, serde::Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct $patch {
            $($(#[$field_meta])* #[serde(skip_serializing_if = "Option::is_none")] pub $field: Option<$type>,)*
        }

        impl $name {
            /// These limits with what `patch` names put in their place.
            pub fn patched(&self, patch: &$patch) -> Self {
                Self { $($field: patch.$field.clone().unwrap_or_else(|| self.$field.clone()),)* }
            }
        }
    };
}

pub(crate) use {limits, section};
