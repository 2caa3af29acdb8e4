//! What a question is about to read of a chunk, said in one breath: storage that is far away then fetches it in one go
//! instead of column by column, each waiting for the one before.
//!
//! Only what is certainly or very likely read: the columns of filters, of groups and of what is measured. What depends on
//! the rows that are left is said when they are known.

use super::read::intrinsic_column;
use crate::field::{Field, Name};
use crate::predicate::{Predicate, attribute_columns};
use crate::source::{ColumnRef, Expected};

impl Expected {
    /// The columns behind these fields.
    pub(crate) fn fields<'f>(&mut self, fields: impl IntoIterator<Item = &'f Field>) {
        for field in fields {
            self.structure |= field.of_parent;
            match &field.name {
                Name::Attribute(scope, key) => {
                    let columns = attribute_columns(*scope, key).into_iter();
                    self.columns.extend(columns.map(|(_, column)| column));
                }
                Name::Intrinsic(which, _) => self
                    .columns
                    .extend(intrinsic_column(*which).map(|(column, _, _)| column)),
            }
        }
    }

    /// The columns a filter looks at.
    pub(crate) fn filter(&mut self, predicate: &Predicate) {
        let mut fields = Vec::new();
        predicate.fields(&mut fields);
        self.fields(&fields);
        self.structure |= predicate.asks_for_roots();
    }

    pub(crate) fn add(&mut self, other: Expected) {
        self.columns.extend(other.columns);
        self.traces |= other.traces;
        self.structure |= other.structure;
    }

    pub(crate) fn column(&mut self, column: ColumnRef) {
        self.columns.push(column);
    }
}
