//! YAML text into settings, by shape alone: keys that exist, values of the right kind.
//!
//! The YAML reader stops at the first fault. So that a person need not mend a file line by line, a file with a fault is
//! read once more for each of its sections, all others passed over. **Always holds:** at most one problem of each section
//! is reported, the first one as the reader words it; the work is bounded by [`SECTIONS_MAX`]
//! and [`READ_AGAIN_BYTES_MAX`].

use std::fmt;

use serde::Deserialize as _;
use serde::de::value::{MapAccessDeserializer, StrDeserializer};
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor};

use crate::NodeSettings;
use crate::problem::Problem;

/// Sections of a wrong file that are looked at; there are fifteen that mean something.
const SECTIONS_MAX: usize = 32;
/// Larger texts say their first problem only: a running node reads its file every few seconds, and thirty readings of
/// thousands of tenants would hold it up.
const READ_AGAIN_BYTES_MAX: usize = 1 << 20;

pub(crate) fn read(text: &str) -> Result<NodeSettings, Vec<Problem>> {
    let first = match read_part(
        text,
        Part {
            only: None,
            seen: &mut Vec::new(),
        },
    ) {
        Ok(settings) => return Ok(settings),
        Err(problem) => problem,
    };
    if text.len() > READ_AGAIN_BYTES_MAX {
        return Err(vec![first]);
    }
    let mut seen = Vec::new();
    // What this finds beyond the keys is the first problem again.
    let _ = read_part(
        text,
        Part {
            only: Some(""),
            seen: &mut seen,
        },
    );
    let mut problems = vec![first];
    for section in &seen {
        let part = Part {
            only: Some(section),
            seen: &mut Vec::new(),
        };
        if let Err(problem) = read_part(text, part)
            // A fault of the text itself ends every reading at the same place, whatever was looked for.
            && problems.iter().all(|known| known.message != problem.message)
        {
            problems.push(problem);
        }
    }
    Err(problems)
}

fn read_part(text: &str, part: Part<'_>) -> Result<NodeSettings, Problem> {
    let only = part.only.unwrap_or_default();
    let mut field = String::new();
    let options = serde_saphyr::options! { with_snippet: false };
    let read = serde_saphyr::with_deserializer_from_str_with_options(text, options, |yaml| {
        let mut track = serde_path_to_error::Track::new();
        let read = part.deserialize(serde_path_to_error::Deserializer::new(yaml, &mut track));
        field = track.path().to_string();
        read
    });
    read.map_err(|error| Problem {
        // "." and "?" are what the path is called where there is none; a section that does not exist has none.
        field: if field == "." || field == "?" {
            only.to_owned()
        } else {
            field
        },
        message: error.to_string(),
    })
}

/// The settings in a file, or those of one section of it.
struct Part<'a> {
    only: Option<&'a str>,
    /// The sections met, in their order.
    seen: &'a mut Vec<String>,
}

impl<'de> DeserializeSeed<'de> for Part<'_> {
    type Value = NodeSettings;

    fn deserialize<D: Deserializer<'de>>(self, yaml: D) -> Result<NodeSettings, D::Error> {
        match self.only {
            None => Option::<NodeSettings>::deserialize(yaml).map(Option::unwrap_or_default),
            Some(_) => yaml.deserialize_map(self),
        }
    }
}

impl<'de> Visitor<'de> for Part<'_> {
    type Value = NodeSettings;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sections")
    }

    fn visit_map<A: MapAccess<'de>>(self, sections: A) -> Result<NodeSettings, A::Error> {
        NodeSettings::deserialize(MapAccessDeserializer::new(Filtered { part: self, sections }))
    }
}

/// A map of which one key is let through.
struct Filtered<'a, A> {
    part: Part<'a>,
    sections: A,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Filtered<'_, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        while let Some(section) = self.sections.next_key::<String>()? {
            if self.part.only == Some(section.as_str()) {
                return seed.deserialize(StrDeserializer::<A::Error>::new(&section)).map(Some);
            }
            self.sections.next_value::<IgnoredAny>()?;
            if self.part.seen.len() == SECTIONS_MAX {
                return Err(A::Error::custom(format!("more than {SECTIONS_MAX} sections")));
            }
            self.part.seen.push(section);
        }
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        self.sections.next_value_seed(seed)
    }
}
