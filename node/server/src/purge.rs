//! `vivace purge`: deletes everything under the bucket's prefix, for whoever takes a cluster away for good.
//!
//! **Always holds:** nothing outside the prefix is touched, and a prefix that is empty is refused; what says whose the prefix
//! is (the objects directly under it) goes last, so that a purge that is interrupted is still known for what it was. It may
//! be repeated. Not here: whether any node still runs; whoever calls this has ended them.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use clap::Args;
use futures::TryStreamExt as _;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt as _};

/// Deletions under way at once.
const AT_ONCE: usize = 16;

#[derive(Debug, Clone, Args)]
pub struct PurgeArgs {
    /// Settings file (YAML) of the nodes whose bucket it is
    #[arg(long, env = "VIVACE_CONFIG", value_name = "FILE")]
    pub config: PathBuf,
}

/// Deletes, and says how many objects.
pub async fn command(args: PurgeArgs) -> anyhow::Result<()> {
    let settings = settings::load(&args.config)?;
    let objects = crate::storage::open(&settings)?;
    let prefix = crate::storage::prefix(&settings);
    let deleted = purge(&objects, &prefix).await?;
    println!("deleted {deleted} objects under {prefix}");
    Ok(())
}

/// Deletes every object under the prefix; gives how many there were.
pub async fn purge(objects: &Arc<dyn ObjectStore>, prefix: &Path) -> anyhow::Result<usize> {
    let depth = prefix.parts().count();
    if depth == 0 {
        bail!("storage.prefix is empty, and the whole bucket is not deleted: empty it by its own means");
    }
    let mut deleted = 0;
    for last in [false, true] {
        let found = objects.list(Some(prefix)).try_filter(|object| {
            let is_marker = object.location.parts().count() == depth + 1;
            std::future::ready(last || !is_marker)
        });
        let deletions = found.map_ok(|object| async move {
            match objects.delete(&object.location).await {
                Ok(()) | Err(Error::NotFound { .. }) => Ok(1),
                Err(error) => Err(error),
            }
        });
        let counts = deletions.try_buffer_unordered(AT_ONCE);
        deleted += counts
            .try_fold(0, |sum, count| std::future::ready(Ok(sum + count)))
            .await
            .with_context(|| format!("cannot delete all under {prefix}; nothing is lost by trying again"))?;
    }
    Ok(deleted)
}

#[cfg(test)]
mod tests {
    //! Objects in, what is left out.

    use object_store::PutPayload;
    use object_store::memory::InMemory;

    use super::*;

    #[tokio::test]
    async fn what_is_under_the_prefix_goes_and_nothing_else() {
        let objects: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        for path in [
            "a/main/cluster.json",
            "a/main/blocks/1",
            "a/main/blocks/2",
            "a/mainly/blocks/3",
            "a/other",
            "b",
        ] {
            objects
                .put(&Path::from(path), PutPayload::from_static(b"x"))
                .await
                .unwrap();
        }
        assert_eq!(purge(&objects, &Path::from("a/main")).await.unwrap(), 3);
        assert_eq!(purge(&objects, &Path::from("a/main")).await.unwrap(), 0);
        let left: Vec<String> = objects
            .list(None)
            .map_ok(|object| object.location.to_string())
            .try_collect()
            .await
            .unwrap();
        assert_eq!(left, ["a/mainly/blocks/3", "a/other", "b"]);
        assert!(purge(&objects, &Path::default()).await.is_err());
    }
}
