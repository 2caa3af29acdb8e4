//! What is wrong with a settings file: one line per problem, each naming the field.
//!
//! Owns [`Problem`], [`Problems`] and the public [`SettingsError`].

use std::fmt;
use std::path::PathBuf;

use crate::quantity::{ByteSize, Period};

/// One thing to fix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Dotted path of the field, `limits.tenants.acme.retention`. Empty when the file as a whole is meant.
    pub field: String,
    /// What is wrong and what would be right.
    pub message: String,
}

/// Why there are no settings. Printed one problem per line.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file cannot be opened or is not UTF-8.
    #[error("cannot read {path}: {source}", path = .path.display())]
    Read { path: PathBuf, source: std::io::Error },
    /// The file can be read, but must not be used.
    #[error("{}", Lines(.0))]
    Invalid(Vec<Problem>),
}

impl SettingsError {
    /// The problems, for callers that print or count them themselves; empty when the file could not be read.
    pub fn problems(&self) -> &[Problem] {
        match self {
            Self::Read { .. } => &[],
            Self::Invalid(problems) => problems,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A message from the YAML reader may hold line breaks; one problem stays one line.
        let message = self.message.split_whitespace().collect::<Vec<_>>().join(" ");
        if self.field.is_empty() {
            f.write_str(&message)
        } else {
            write!(f, "{}: {message}", self.field)
        }
    }
}

struct Lines<'a>(&'a [Problem]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

/// Collects problems while a section checks itself; remembers where it is.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    found: Vec<Problem>,
    prefix: String,
}

impl Problems {
    /// Runs `check` with `section` in front of the field names it reports.
    pub(crate) fn at(&mut self, section: impl Into<String>, check: impl FnOnce(&mut Self)) {
        let outer = std::mem::replace(&mut self.prefix, section.into());
        check(self);
        self.prefix = outer;
    }

    /// `field` may be empty: then the section itself is meant.
    pub(crate) fn add(&mut self, field: &str, message: impl Into<String>) {
        let dot = if self.prefix.is_empty() || field.is_empty() {
            ""
        } else {
            "."
        };
        self.found.push(Problem {
            field: format!("{}{dot}{field}", self.prefix),
            message: message.into(),
        });
    }

    pub(crate) fn not_zero(&mut self, field: &str, size: ByteSize) {
        if size.0 == 0 {
            self.add(field, "must not be 0: there is no \"unlimited\"");
        }
    }

    pub(crate) fn at_least<T: PartialOrd + fmt::Display>(&mut self, field: &str, value: T, least: T) {
        if value < least {
            self.add(field, format!("{value} is too small: at least {least}"));
        }
    }

    pub(crate) fn at_most<T: PartialOrd + fmt::Display>(&mut self, field: &str, value: T, most: T) {
        if value > most {
            self.add(field, format!("{value} is too large: at most {most}"));
        }
    }

    pub(crate) fn between(&mut self, field: &str, value: Period, least: Period, most: Period) {
        self.at_least(field, value, least);
        self.at_most(field, value, most);
    }

    pub(crate) fn into_result(self) -> Result<(), SettingsError> {
        if self.found.is_empty() {
            Ok(())
        } else {
            Err(SettingsError::Invalid(self.found))
        }
    }
}
