//! What nodes log, as part of the record; and a panic anywhere is the end of a run.

use std::fmt::Write as _;
use std::sync::Arc;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

use crate::world::World;

struct Log(Arc<World>);

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let _ = match field.name() {
            "message" => write!(self.0, " {value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
    }
}

impl<S: Subscriber> Layer<S> for Log {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let meta = event.metadata();
        if *meta.level() > Level::INFO || meta.target().starts_with("openraft") && *meta.level() > Level::WARN {
            return;
        }
        let mut text = Text(meta.level().to_string());
        event.record(&mut text);
        self.0.note(meta.target(), &text.0);
    }
}

/// From now on.
pub(crate) fn watch(world: &Arc<World>) -> anyhow::Result<()> {
    let registry = tracing_subscriber::registry().with(Log(Arc::clone(world)));
    tracing::subscriber::set_global_default(registry)?;
    let world = Arc::clone(world);
    std::panic::set_hook(Box::new(move |panic| world.broken(format!("panic: {panic}"))));
    Ok(())
}
