//! The way to the catalog's owner. The ring implements it in a running node, [`LocalCatalog`] in tests and tools.

use std::sync::Arc;

use futures::future::BoxFuture;
use tokio::sync::watch;

use crate::catalog::{Catalog, CatalogView, Change, Command, RingTime};
use crate::error::Result;

/// Reads and changes the catalog.
pub trait CatalogPort: Send + Sync + 'static {
    /// The newest view this node has.
    fn view(&self) -> Arc<CatalogView>;

    /// Notified with every new view.
    fn watch(&self) -> watch::Receiver<Arc<CatalogView>>;

    /// Proposes a change. `Ok` means that it is agreed on and that [`CatalogPort::view`] shows it.
    ///
    /// Errors: [`crate::Error::Refused`] when the catalog refused and nothing changed; [`crate::Error::Ring`] when it is
    /// unknown whether the change happened: look at the view again before repeating it.
    fn change(&self, command: Command) -> BoxFuture<'_, Result<Change>>;

    /// The ring's time.
    fn now(&self) -> RingTime;
}

/// A catalog that lives in this process alone and is forgotten with it.
#[derive(Debug)]
pub struct LocalCatalog {
    catalog: parking_lot::Mutex<Catalog>,
    view: watch::Sender<Arc<CatalogView>>,
    now: parking_lot::Mutex<RingTime>,
}

impl LocalCatalog {
    /// Takes over `catalog`; time stands at `now` until [`LocalCatalog::set_now`].
    pub fn new(catalog: Catalog, now: RingTime) -> Self {
        let (view, _) = watch::channel(Arc::clone(catalog.view()));
        Self {
            catalog: parking_lot::Mutex::new(catalog),
            view,
            now: parking_lot::Mutex::new(now),
        }
    }

    /// Moves the ring's time.
    pub fn set_now(&self, now: RingTime) {
        *self.now.lock() = now;
    }

    /// Changes the catalog directly: open or retire a generation.
    pub fn edit<T>(&self, edit: impl FnOnce(&mut Catalog) -> T) -> T {
        let mut catalog = self.catalog.lock();
        let result = edit(&mut catalog);
        self.view.send_replace(Arc::clone(catalog.view()));
        result
    }
}

impl CatalogPort for LocalCatalog {
    fn view(&self) -> Arc<CatalogView> {
        Arc::clone(&self.view.borrow())
    }

    fn watch(&self) -> watch::Receiver<Arc<CatalogView>> {
        self.view.subscribe()
    }

    fn change(&self, command: Command) -> BoxFuture<'_, Result<Change>> {
        let now = self.now();
        Box::pin(async move { Ok(self.edit(|catalog| catalog.apply(command, now))?) })
    }

    fn now(&self) -> RingTime {
        *self.now.lock()
    }
}
