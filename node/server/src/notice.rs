//! What somebody should do something about: one sentence each, shown at `/status` for as long as it is so.
//!
//! Whoever finds it sets it and takes it back. Not here: the log and the metrics, which say the same for machines.

use std::collections::BTreeMap;

use parking_lot::Mutex;

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Notices {
    by_subject: Mutex<BTreeMap<&'static str, String>>,
}

impl Notices {
    /// Says something about a subject instead of what was said before; `None`: all is well.
    pub fn set(&self, subject: &'static str, notice: Option<String>) {
        let mut by_subject = self.by_subject.lock();
        match notice {
            Some(notice) => by_subject.insert(subject, notice),
            None => by_subject.remove(subject),
        };
    }

    /// A line each; empty when all is well.
    pub fn lines(&self) -> String {
        let by_subject = self.by_subject.lock();
        let lines = by_subject
            .iter()
            .map(|(subject, notice)| format!("{subject}: {notice}\n"));
        lines.collect()
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
    }
}
