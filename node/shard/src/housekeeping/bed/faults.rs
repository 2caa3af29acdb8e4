//! A store and a catalog that fail when told to.

use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::catalog::{CatalogView, Change, Command, RingTime};
use crate::port::{CatalogPort, LocalCatalog};

/// What the store refuses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Refuse {
    #[default]
    Nothing,
    Lists,
    Deletes,
    Puts,
}

/// How a listing ends.
type AfterList = Box<dyn FnOnce() + Send>;
/// Is told what was uploaded.
type AfterPut = Box<dyn FnMut(&Path) + Send>;

/// A store in memory.
#[derive(Default)]
pub(crate) struct FaultyStore {
    inner: InMemory,
    pub(crate) refuse: Mutex<Refuse>,
    /// While true, reads wait.
    pub(crate) hold_reads: watch::Sender<bool>,
    /// How many deletions were asked for.
    pub(crate) deletes: Mutex<usize>,
    /// Happens when the next listing is at its end.
    pub(crate) after_list: Mutex<Option<AfterList>>,
    /// Happens after every upload, before whoever uploaded goes on.
    pub(crate) after_put: Mutex<Option<AfterPut>>,
}

impl FaultyStore {
    pub(crate) fn keys(&self) -> Vec<String> {
        let listed = self
            .inner
            .list(None)
            .collect::<Vec<_>>()
            .now_or_never()
            .expect("memory does not wait");
        let mut keys: Vec<_> = listed
            .into_iter()
            .map(|meta| meta.unwrap().location.to_string())
            .collect();
        keys.sort();
        keys
    }

    /// A store that holds what this one holds now, and goes its own way.
    pub(crate) fn copy(&self) -> InMemory {
        self.inner.fork()
    }

    fn check(&self, refused: Refuse, path: &Path) -> Result<()> {
        if *self.refuse.lock() == refused {
            return Err(Error::PermissionDenied {
                path: path.to_string(),
                source: "403".into(),
            });
        }
        Ok(())
    }
}

impl fmt::Debug for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FaultyStore")
    }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FaultyStore")
    }
}

#[async_trait::async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.check(Refuse::Puts, location)?;
        let put = self.inner.put_opts(location, payload, opts).await;
        if let Some(after) = &mut *self.after_put.lock() {
            after(location);
        }
        put
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let mut hold = self.hold_reads.subscribe();
        hold.wait_for(|hold| !hold).await.expect("the sender is here");
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        *self.deletes.lock() += 1;
        if let Err(error) = self.check(Refuse::Deletes, &Path::default()) {
            return stream::iter([Err(error)]).boxed();
        }
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        if let Err(error) = self.check(Refuse::Lists, &Path::default()) {
            // What a listing gave before it failed must not count either.
            return self.inner.list(prefix).chain(stream::iter([Err(error)])).boxed();
        }
        let after = self.after_list.lock().take();
        let end = stream::once(async move {
            if let Some(after) = after {
                after();
            }
            Ok(None)
        });
        let listed = self.inner.list(prefix).map(|meta| meta.map(Some));
        listed
            .chain(end)
            .filter_map(|meta| async move { meta.transpose() })
            .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

/// What becomes of the next command.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Lose {
    #[default]
    Nothing,
    /// It is agreed on, and nobody is told.
    Reply,
    /// It never arrives.
    Command,
}

/// A catalog in this process.
pub(crate) struct FaultyCatalog {
    pub(crate) inner: LocalCatalog,
    pub(crate) lose: Mutex<Lose>,
    /// Shown instead of the newest view, until a change is agreed on.
    pub(crate) stale: Mutex<Option<Arc<CatalogView>>>,
    /// Is shown the catalog after every change that was agreed on.
    pub(crate) onlooker: Mutex<Option<Onlooker>>,
}

/// Looks at a catalog.
type Onlooker = Box<dyn FnMut(&LocalCatalog) + Send>;

impl FaultyCatalog {
    pub(crate) fn new(inner: LocalCatalog) -> Self {
        Self {
            inner,
            lose: Mutex::default(),
            stale: Mutex::default(),
            onlooker: Mutex::default(),
        }
    }

    pub(crate) fn note(&self) {
        if let Some(look) = &mut *self.onlooker.lock() {
            look(&self.inner);
        }
    }
}

impl CatalogPort for FaultyCatalog {
    fn view(&self) -> Arc<CatalogView> {
        self.stale.lock().clone().unwrap_or_else(|| self.inner.view())
    }

    fn watch(&self) -> watch::Receiver<Arc<CatalogView>> {
        self.inner.watch()
    }

    fn change(&self, command: Command) -> BoxFuture<'_, crate::Result<Change>> {
        Box::pin(async move {
            // What matters is what follows upon it.
            let is_announcement = matches!(command, Command::Announce { .. });
            let lose = if is_announcement {
                Lose::Nothing
            } else {
                std::mem::take(&mut *self.lose.lock())
            };
            if lose != Lose::Command {
                let change = self.inner.change(command).await?;
                if !is_announcement {
                    self.stale.lock().take();
                }
                self.note();
                if lose == Lose::Nothing {
                    return Ok(change);
                }
            }
            Err(crate::Error::Ring("told to".to_owned()))
        })
    }

    fn now(&self) -> RingTime {
        self.inner.now()
    }
}
