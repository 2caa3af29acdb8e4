//! The object store of a run: one bucket that all machines share, over a network of its own.
//!
//! What can go wrong: requests fail before they have an effect, or after it (the reply is lost); everything is slow; nothing
//! answers for a while. Each machine sees it through a [`Bucket`] of its own. Listings and reads are as S3 has them today:
//! consistent.

use std::fmt;
use std::sync::Arc;
use std::sync::OnceLock;
use std::thread::ThreadId;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::Mutex;

use crate::entropy::Dice;
use crate::world::World;

/// The thread that all runtimes run on. Others only compute: what they wait for cannot come while they do.
static STAGE: OnceLock<ThreadId> = OnceLock::new();

/// This is the thread on which simulated time passes. Called once, first.
pub(crate) fn is_the_stage() {
    STAGE.get_or_init(|| std::thread::current().id());
}

/// How the store behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Weather {
    pub(crate) delay_millis: (u64, u64),
    /// Of a thousand requests, how many fail and have no effect.
    pub(crate) refused_per_mille: u64,
    /// Of a thousand writes, how many take effect and fail.
    pub(crate) lost_replies_per_mille: u64,
    /// Nothing gets through.
    pub(crate) is_away: bool,
}

impl Default for Weather {
    fn default() -> Self {
        Self {
            delay_millis: (2, 15),
            refused_per_mille: 0,
            lost_replies_per_mille: 0,
            is_away: false,
        }
    }
}

struct Inner {
    world: Arc<World>,
    objects: InMemory,
    weather: Mutex<Weather>,
    dice: Mutex<Dice>,
}

/// See the module's documentation. Clones share the bucket.
#[derive(Clone)]
pub(crate) struct Bucket(Arc<Inner>);

impl Bucket {
    pub(crate) fn new(world: Arc<World>, seed: u64) -> Self {
        Self(Arc::new(Inner {
            world,
            objects: InMemory::new(),
            weather: Mutex::default(),
            dice: Mutex::new(Dice::of(seed, "bucket")),
        }))
    }

    pub(crate) fn set_weather(&self, weather: Weather) {
        *self.0.weather.lock() = weather;
    }

    /// What is really there, for the checker.
    pub(crate) fn objects(&self) -> &InMemory {
        &self.0.objects
    }

    /// On the way there; an error is one without effect.
    async fn go(&self, what: &str, path: &Path) -> Result<()> {
        let (delay, is_refused) = {
            let weather = *self.0.weather.lock();
            let mut dice = self.0.dice.lock();
            let delay = dice.between(weather.delay_millis.0, weather.delay_millis.1);
            (delay, weather.is_away || dice.per_mille(weather.refused_per_mille))
        };
        self.pause(delay).await;
        self.0.world.note(
            "bucket",
            &format!("{what} {path}{}", if is_refused { " refused" } else { "" }),
        );
        if is_refused {
            Err(failed("503 SlowDown"))
        } else {
            Ok(())
        }
    }

    /// On the way back from a write.
    async fn come_back(&self) -> Result<()> {
        let (delay, is_lost) = {
            let weather = *self.0.weather.lock();
            let mut dice = self.0.dice.lock();
            let delay = dice.between(weather.delay_millis.0, weather.delay_millis.1);
            (delay, dice.per_mille(weather.lost_replies_per_mille))
        };
        self.pause(delay).await;
        if is_lost {
            Err(failed("connection reset"))
        } else {
            Ok(())
        }
    }

    async fn pause(&self, millis: u64) {
        if STAGE.get() == Some(&std::thread::current().id()) {
            tokio::time::sleep(Duration::from_millis(millis)).await;
        }
    }
}

fn failed(why: &'static str) -> Error {
    Error::Generic {
        store: "bucket",
        source: why.into(),
    }
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bucket")
    }
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bucket")
    }
}

#[async_trait]
impl ObjectStore for Bucket {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.go("put", location).await?;
        let put = self.0.objects.put_opts(location, payload, options).await;
        self.come_back().await?;
        put
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        // Blocks of a simulation are smaller than a part.
        self.go("put in parts", location).await?;
        self.0.objects.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.go("get", location).await?;
        self.0.objects.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let this = self.clone();
        locations
            .then(move |location| {
                let this = this.clone();
                async move {
                    let location = location?;
                    this.go("delete", &location).await?;
                    let one = futures::stream::iter([Ok(location.clone())]).boxed();
                    for deleted in this.0.objects.delete_stream(one).collect::<Vec<_>>().await {
                        deleted?;
                    }
                    this.come_back().await?;
                    Ok(location)
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let this = self.clone();
        let prefix = prefix.cloned();
        let listed = async move {
            let root = prefix.clone().unwrap_or_default();
            match this.go("list", &root).await {
                Ok(()) => this.0.objects.list(prefix.as_ref()),
                Err(error) => futures::stream::iter([Err(error)]).boxed(),
            }
        };
        futures::stream::once(listed).flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.go("list", &prefix.cloned().unwrap_or_default()).await?;
        self.0.objects.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.go("copy", to).await?;
        self.0.objects.copy_opts(from, to, options).await
    }
}
