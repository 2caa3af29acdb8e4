//! What somebody should do something about: one sentence each, shown at `/status` for as long as it is so.
//!
//! Whoever finds it sets it and takes it back. Not here: the log and the metrics, which say the same for machines.

use std::collections::BTreeMap;

use parking_lot::Mutex;

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Notices {
    /// By subject and part of it.
    said: Mutex<BTreeMap<(&'static str, u64), String>>,
}

impl Notices {
    /// Says something about a subject instead of what was said before; `None`: all is well.
    pub fn set(&self, subject: &'static str, notice: Option<String>) {
        self.set_of(subject, 0, notice);
    }

    /// The same about one part of a subject, such as a shard, while others may be well or not.
    pub fn set_of(&self, subject: &'static str, part: u64, notice: Option<String>) {
        let mut said = self.said.lock();
        match notice {
            Some(notice) => said.insert((subject, part), notice),
            None => said.remove(&(subject, part)),
        };
    }

    /// A line each; empty when all is well. What is the same of several parts is said once.
    pub fn lines(&self) -> String {
        let said = self.said.lock();
        let mut lines: Vec<_> = said
            .iter()
            .map(|(&(subject, _), notice)| format!("{subject}: {notice}\n"))
            .collect();
        lines.sort_unstable();
        lines.dedup();
        lines.concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notice_is_shown_until_it_is_taken_back() {
        let notices = Notices::default();
        assert_eq!(notices.lines(), "");
        notices.set("b", Some("one".to_owned()));
        notices.set("a", Some("two".to_owned()));
        notices.set("b", Some("three".to_owned()));
        assert_eq!(notices.lines(), "a: two\nb: three\n");
        notices.set("a", None);
        notices.set("a", None);
        assert_eq!(notices.lines(), "b: three\n");
        for (part, notice) in [(1, "four"), (2, "five"), (3, "four")] {
            notices.set_of("c", part, Some(notice.to_owned()));
        }
        assert_eq!(notices.lines(), "b: three\nc: five\nc: four\n");
        notices.set_of("c", 1, None);
        notices.set_of("c", 2, None);
        assert_eq!(notices.lines(), "b: three\nc: four\n");
    }
}
