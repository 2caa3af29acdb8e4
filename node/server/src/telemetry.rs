//! The node's own log lines, on stderr.
//!
//! Owns the subscriber and [`RepeatGuard`], which lets a line through only so often per minute. A node that cannot
//! reach its bucket would otherwise write the same line thousands of times a second, and fill the disk it needs.
//! What never is in a line: bodies, attribute values, credentials.

use std::collections::HashMap;
use std::io::IsTerminal as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use settings::node::{LogFormat, LogSettings};
use tracing::callsite::Identifier;
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Filter};
use tracing_subscriber::{EnvFilter, Layer as _, layer::SubscriberExt as _, util::SubscriberInitExt as _};

const WINDOW: Duration = Duration::from_secs(60);

/// Installs the subscriber of this process. Once per process; tests do without.
///
/// Errors: a level that is none, or a second call.
pub fn install(settings: &LogSettings) -> anyhow::Result<Arc<RepeatGuard>> {
    let levels = levels(settings).map_err(|error| anyhow::anyhow!("log.level: {error}"))?;
    let guard = Arc::new(RepeatGuard::new(settings.repeats_per_minute));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let filter = RepeatFilter(Arc::clone(&guard));
    let registry = tracing_subscriber::registry().with(levels);
    match settings.format {
        LogFormat::Text => {
            registry
                .with(lines.with_ansi(std::io::stderr().is_terminal()).with_filter(filter))
                .try_init()?;
        }
        LogFormat::Json => registry.with(lines.json().with_filter(filter)).try_init()?,
    }
    Ok(guard)
}

/// Which lines are printed, or what is wrong with `level`; a check of settings asks the same as a start.
pub(crate) fn levels(settings: &LogSettings) -> Result<EnvFilter, String> {
    EnvFilter::try_new(directives(&settings.level))
        .map_err(|error| format!("{:?} is neither a level nor directives: {error}", settings.level))
}

/// A level alone is about our own rooms: libraries speak only when something is wrong, and openraft takes every
/// election of a group of one for worth telling.
fn directives(level: &str) -> String {
    if level.contains(['=', ',']) {
        level.to_owned()
    } else {
        format!("warn,openraft=error,{}", own_rooms(level))
    }
}

fn own_rooms(level: &str) -> String {
    [
        "vivace",
        "server",
        "shard",
        "consensus",
        "block",
        "query",
        "wal",
        "wire",
    ]
    .map(|room| format!("{room}={level}"))
    .join(",")
}

/// Counts lines per place in the code.
#[derive(Debug)]
pub struct RepeatGuard {
    per_window: u32,
    places: Mutex<HashMap<Identifier, Place>>,
}

#[derive(Debug)]
struct Place {
    name: &'static str,
    window_began: Instant,
    lines: u32,
    dropped: u64,
}

/// Lines of one place that were not printed.
#[derive(Debug, PartialEq, Eq)]
pub struct Dropped {
    pub place: &'static str,
    pub lines: u64,
}

impl RepeatGuard {
    fn new(per_window: u32) -> Self {
        Self {
            per_window,
            places: Mutex::default(),
        }
    }

    /// Whether this line may be printed. The number of places is the number of log calls in the program.
    fn admit(&self, place: &'static Metadata<'static>, now: Instant) -> bool {
        let mut places = self.places.lock();
        let place = places.entry(place.callsite()).or_insert_with(|| Place {
            name: place.name(),
            window_began: now,
            lines: 0,
            dropped: 0,
        });
        if now.duration_since(place.window_began) >= WINDOW {
            place.window_began = now;
            place.lines = 0;
        }
        if place.lines < self.per_window {
            place.lines += 1;
            return true;
        }
        place.dropped += 1;
        false
    }

    /// What was dropped since the last call, for a summary line.
    pub fn take_dropped(&self) -> Vec<Dropped> {
        let mut places = self.places.lock();
        let dropped = places.values_mut().filter(|place| place.dropped > 0);
        let mut dropped: Vec<_> = dropped
            .map(|place| Dropped {
                place: place.name,
                lines: std::mem::take(&mut place.dropped),
            })
            .collect();
        dropped.sort_by_key(|dropped| dropped.place);
        dropped
    }
}

struct RepeatFilter(Arc<RepeatGuard>);

impl<S: Subscriber> Filter<S> for RepeatFilter {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        self.0.admit(event.metadata(), Instant::now())
    }
}

#[cfg(test)]
mod tests {
    //! The guard, driven through a subscriber of its own.

    use super::*;

    #[test]
    fn a_line_that_repeats_is_counted_instead_of_printed() {
        let guard = Arc::new(RepeatGuard::new(3));
        let written = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&written);
        let lines = tracing_subscriber::fmt::layer()
            .with_ansi(false)
            .with_writer(move || Sink(Arc::clone(&sink)));
        let subscriber = tracing_subscriber::registry().with(lines.with_filter(RepeatFilter(Arc::clone(&guard))));
        tracing::subscriber::with_default(subscriber, || {
            for number in 0..10 {
                tracing::warn!(number, "again");
            }
            tracing::warn!("another place");
        });
        let text = String::from_utf8(written.lock().clone()).unwrap();
        assert_eq!(text.matches("again").count(), 3, "{text}");
        assert_eq!(text.matches("another place").count(), 1, "{text}");
        let dropped = guard.take_dropped();
        assert_eq!(dropped.iter().map(|dropped| dropped.lines).collect::<Vec<_>>(), [7]);
        assert_eq!(guard.take_dropped(), []);
    }

    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
}
