//! One conformance suite over every object store that can be had: what the product relies on, and nothing else.
//!
//! A store that fails here cannot hold the catalog; a store of ours that passes here and behaves otherwise than the
//! others teaches the product wrong things.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures::TryStreamExt as _;
use object_store::path::Path;
use object_store::{
    Error, GetOptions, GetRange, MultipartUpload, ObjectStore, ObjectStoreExt as _, PutMode, PutMultipartOptions,
    PutOptions, PutPayload, UpdateVersion,
};
use vivace_e2e::process::Scratch;
use vivace_e2e::s3::{Dialect, Rules, S3Options, S3Server};
use vivace_e2e::skip::skipped;
use vivace_e2e::stores::{Kind, Settings, start};

#[tokio::test(flavor = "multi_thread")]
async fn our_own_server_conforms() {
    // Small pages, so that a dozen objects need several.
    let rules = Rules {
        list_page_max: 5,
        ..Rules::default()
    };
    let server = S3Server::start(S3Options {
        rules,
        ..S3Options::default()
    })
    .await
    .unwrap();
    conforms("s3-server", Settings::of(&server).client().unwrap().as_ref(), true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn our_own_server_conforms_in_googles_words() {
    let server = S3Server::start(S3Options {
        dialect: Dialect::Gcs,
        ..S3Options::default()
    })
    .await
    .unwrap();
    conforms("gcs-dialect", Settings::of(&server).client().unwrap().as_ref(), true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_folder_conforms() {
    let scratch = Scratch::new("stores-folder").unwrap();
    let store = object_store::local::LocalFileSystem::new_with_prefix(scratch.path()).unwrap();
    // A folder has no compare-and-swap.
    conforms("folder", &store, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn minio_conforms() {
    other(Kind::Minio, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn moto_conforms() {
    other(Kind::Moto, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn azurite_conforms() {
    other(Kind::Azurite, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fake_gcs_server_conforms() {
    other(Kind::FakeGcs, true).await;
}

async fn other(kind: Kind, swaps: bool) {
    let name = kind.tool().name();
    let scratch = Scratch::new(&format!("stores-{name}")).unwrap();
    match start(kind, scratch.path()).await {
        Ok(store) => {
            let store = store.unwrap();
            conforms(store.name, store.settings.client().unwrap().as_ref(), swaps).await;
        }
        Err(reason) => skipped(&format!("stores::{name}"), &reason),
    }
}

async fn conforms(name: &str, store: &dyn ObjectStore, swaps: bool) {
    whole_objects(name, store).await;
    put_if_absent(name, store).await;
    one_of_many_creates_wins(name, store).await;
    if swaps {
        put_if_unchanged(name, store).await;
    }
    ranges(name, store).await;
    multipart(name, store).await;
    listing(name, store).await;
    deletion(name, store).await;
}

async fn whole_objects(name: &str, store: &dyn ObjectStore) {
    let path = Path::from("whole/a b+c%d=e");
    store.put(&path, PutPayload::from_static(b"first")).await.unwrap();
    assert_eq!(read(store, &path).await, "first", "{name}");
    // Without a condition a PUT replaces.
    store.put(&path, PutPayload::from_static(b"second")).await.unwrap();
    assert_eq!(read(store, &path).await, "second", "{name}");
    assert_eq!(store.head(&path).await.unwrap().size, 6, "{name}");
    store.put(&Path::from("whole/empty"), PutPayload::new()).await.unwrap();
    assert_eq!(read(store, &Path::from("whole/empty")).await, "", "{name}");
    let missing = store.get(&Path::from("whole/missing")).await.unwrap_err();
    assert!(matches!(missing, Error::NotFound { .. }), "{name}: {missing:?}");
    store.copy(&path, &Path::from("whole/copy")).await.unwrap();
    assert_eq!(read(store, &Path::from("whole/copy")).await, "second", "{name}");
}

async fn put_if_absent(name: &str, store: &dyn ObjectStore) {
    let path = Path::from("absent/x");
    store
        .put_opts(&path, PutPayload::from_static(b"one"), PutMode::Create.into())
        .await
        .unwrap();
    let again = store
        .put_opts(&path, PutPayload::from_static(b"two"), PutMode::Create.into())
        .await
        .unwrap_err();
    assert!(matches!(again, Error::AlreadyExists { .. }), "{name}: {again:?}");
    assert_eq!(read(store, &path).await, "one", "{name}");
}

async fn one_of_many_creates_wins(name: &str, store: &dyn ObjectStore) {
    let path = Path::from("absent/race");
    let attempts = (0..8).map(|n| {
        let path = &path;
        let payload = PutPayload::from(format!("writer {n}"));
        async move { (n, store.put_opts(path, payload, PutMode::Create.into()).await) }
    });
    let results = futures::future::join_all(attempts).await;
    let winners: Vec<i32> = results
        .iter()
        .filter(|(_, result)| result.is_ok())
        .map(|(n, _)| *n)
        .collect();
    assert_eq!(winners.len(), 1, "{name}: {results:?}");
    assert_eq!(read(store, &path).await, format!("writer {}", winners[0]), "{name}");
}

async fn put_if_unchanged(name: &str, store: &dyn ObjectStore) {
    let path = Path::from("swap/x");
    let first = store.put(&path, PutPayload::from_static(b"one")).await.unwrap();
    let version = UpdateVersion {
        e_tag: first.e_tag,
        version: first.version,
    };
    let update = |version: UpdateVersion| PutOptions::from(PutMode::Update(version));
    let second = store
        .put_opts(&path, PutPayload::from_static(b"two"), update(version.clone()))
        .await
        .unwrap();
    let stale = store
        .put_opts(&path, PutPayload::from_static(b"three"), update(version))
        .await
        .unwrap_err();
    assert!(matches!(stale, Error::Precondition { .. }), "{name}: {stale:?}");
    assert_eq!(read(store, &path).await, "two", "{name}");
    let version = UpdateVersion {
        e_tag: second.e_tag,
        version: second.version,
    };
    store
        .put_opts(&path, PutPayload::from_static(b"four"), update(version))
        .await
        .unwrap();
    assert_eq!(read(store, &path).await, "four", "{name}");
}

async fn ranges(name: &str, store: &dyn ObjectStore) {
    let path = Path::from("ranges/x");
    let data: Bytes = (0..100_000_u32).map(|n| (n % 251) as u8).collect::<Vec<u8>>().into();
    store.put(&path, PutPayload::from_bytes(data.clone())).await.unwrap();
    assert_eq!(
        store.get_range(&path, 10..20).await.unwrap(),
        data.slice(10..20),
        "{name}"
    );
    assert_eq!(store.get_range(&path, 0..100_000).await.unwrap(), data, "{name}");
    let many = store
        .get_ranges(&path, &[5..6, 99_990..100_000, 50_000..60_000])
        .await
        .unwrap();
    assert_eq!(
        many,
        [data.slice(5..6), data.slice(99_990..), data.slice(50_000..60_000)],
        "{name}"
    );
    // Azure alone has no suffix ranges; the product must not need them there.
    if name != "azurite" {
        let options = GetOptions {
            range: Some(GetRange::Suffix(7)),
            ..GetOptions::default()
        };
        let tail = store.get_opts(&path, options).await.unwrap().bytes().await.unwrap();
        assert_eq!(tail, data.slice(99_993..), "{name}");
    }
    let options = GetOptions {
        range: Some(GetRange::Offset(99_998)),
        ..GetOptions::default()
    };
    let tail = store.get_opts(&path, options).await.unwrap().bytes().await.unwrap();
    assert_eq!(tail, data.slice(99_998..), "{name}");
    // A range that reaches past the end gives what there is.
    assert_eq!(
        store.get_range(&path, 99_990..200_000).await.unwrap(),
        data.slice(99_990..),
        "{name}"
    );
}

async fn multipart(name: &str, store: &dyn ObjectStore) {
    let path = Path::from("multipart/x");
    // 5 MiB is the smallest part that S3 takes when another follows.
    let parts = [vec![1_u8; 5 << 20], vec![2; 5 << 20], vec![3; 1_000]];
    let mut upload = store
        .put_multipart_opts(&path, PutMultipartOptions::default())
        .await
        .unwrap();
    for part in &parts {
        upload.put_part(PutPayload::from(part.clone())).await.unwrap();
    }
    let before = store.head(&path).await;
    assert!(
        matches!(before, Err(Error::NotFound { .. })),
        "{name}: not there until completed, {before:?}"
    );
    upload.complete().await.unwrap();
    assert_eq!(store.head(&path).await.unwrap().size, (10 << 20) + 1_000, "{name}");
    let edge = store.get_range(&path, (5 << 20) - 2..(5 << 20) + 2).await.unwrap();
    assert_eq!(edge.as_ref(), [1, 1, 2, 2], "{name}");

    let path = Path::from("multipart/aborted");
    let mut upload = store
        .put_multipart_opts(&path, PutMultipartOptions::default())
        .await
        .unwrap();
    upload.put_part(PutPayload::from(vec![9_u8; 100])).await.unwrap();
    upload.abort().await.unwrap();
    let aborted = store.head(&path).await;
    assert!(matches!(aborted, Err(Error::NotFound { .. })), "{name}: {aborted:?}");
}

async fn listing(name: &str, store: &dyn ObjectStore) {
    let names: BTreeSet<String> = (0..12).map(|n| format!("list/{}/{n:02}", n % 3)).collect();
    for key in &names {
        store
            .put(&Path::from(key.as_str()), PutPayload::from_static(b"x"))
            .await
            .unwrap();
    }
    store
        .put(&Path::from("list/top"), PutPayload::from_static(b"xyz"))
        .await
        .unwrap();
    // Not under the prefix `list/`, though its name begins alike.
    store
        .put(&Path::from("listing"), PutPayload::from_static(b"x"))
        .await
        .unwrap();

    let prefix = Path::from("list");
    let listed: Vec<_> = store.list(Some(&prefix)).try_collect().await.unwrap();
    let mut keys: BTreeSet<String> = listed.iter().map(|meta| meta.location.to_string()).collect();
    assert_eq!(listed.len(), keys.len(), "{name}: nothing twice");
    assert!(keys.remove("list/top"), "{name}");
    assert_eq!(keys, names, "{name}");
    let size = listed
        .iter()
        .find(|meta| meta.location.as_ref() == "list/top")
        .map(|meta| meta.size);
    assert_eq!(size, Some(3), "{name}");

    let level = store.list_with_delimiter(Some(&prefix)).await.unwrap();
    let folders: Vec<String> = level.common_prefixes.iter().map(ToString::to_string).collect();
    assert_eq!(folders, ["list/0", "list/1", "list/2"], "{name}");
    let objects: Vec<String> = level.objects.iter().map(|meta| meta.location.to_string()).collect();
    assert_eq!(objects, ["list/top"], "{name}");

    let rest: Vec<_> = store
        .list_with_offset(Some(&prefix), &Path::from("list/1/10"))
        .try_collect()
        .await
        .unwrap();
    let mut rest: Vec<String> = rest.iter().map(|meta| meta.location.to_string()).collect();
    rest.sort();
    assert_eq!(
        rest,
        ["list/2/02", "list/2/05", "list/2/08", "list/2/11", "list/top"],
        "{name}"
    );
}

async fn deletion(name: &str, store: &dyn ObjectStore) {
    let prefix = Path::from("list");
    store.delete(&Path::from("list/top")).await.unwrap();
    assert!(
        matches!(store.head(&Path::from("list/top")).await, Err(Error::NotFound { .. })),
        "{name}"
    );
    // Deleting what is not there may be an error (Azure, Google, folders) or not (S3), but never more than that.
    match store.delete(&Path::from("list/top")).await {
        Ok(()) | Err(Error::NotFound { .. }) => {}
        Err(error) => panic!("{name}: {error:?}"),
    }
    let left: Vec<Path> = store
        .list(Some(&prefix))
        .map_ok(|meta| meta.location)
        .try_collect()
        .await
        .unwrap();
    let gone = futures::stream::iter(left.into_iter().map(Ok));
    let deleted: Vec<Path> = store.delete_stream(Box::pin(gone)).try_collect().await.unwrap();
    assert_eq!(deleted.len(), 12, "{name}");
    let left: Vec<_> = store.list(Some(&prefix)).try_collect().await.unwrap();
    assert!(left.is_empty(), "{name}: {left:?}");
}

async fn read(store: &dyn ObjectStore, path: &Path) -> String {
    let bytes = store.get(path).await.unwrap().bytes().await.unwrap();
    String::from_utf8(bytes.to_vec()).unwrap()
}
