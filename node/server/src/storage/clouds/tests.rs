//! Settings and environment in, clients out.

use object_store::path::Path as ObjectPath;
use object_store::signer::Signer as _;
use object_store::{ObjectStoreExt as _, PutPayload};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

fn environment_of(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    pairs.iter().map(owned).collect()
}

fn s3_of(section: &str, environment: &[(&str, &str)]) -> AmazonS3 {
    let text = format!("storage: {{type: S3, s3: {{bucket: b{section}}}}}");
    let storage = settings::parse(&text).unwrap().storage;
    s3(&storage, storage.s3.as_ref().unwrap(), &environment_of(environment)).unwrap()
}

async fn keys_of(store: &AmazonS3) -> String {
    let keys = store.credentials().get_credential().await.unwrap();
    format!("{} {} {:?}", keys.key_id, keys.secret_key, keys.token)
}

/// Where a request would go and for which region it is signed.
async fn signed(store: &AmazonS3) -> String {
    let key = ObjectPath::from("k");
    let url = store.signed_url(http::Method::GET, &key, std::time::Duration::from_secs(1));
    url.await.unwrap().to_string()
}

const KEYS: [(&str, &str); 3] = [
    ("AWS_ACCESS_KEY_ID", "env-id"),
    ("AWS_SECRET_ACCESS_KEY", "env-secret"),
    ("AWS_SESSION_TOKEN", "env-token"),
];

#[tokio::test]
async fn keys_of_the_settings_take_nothing_from_the_environment() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, format!("file-{name}\n")).unwrap();
        path.display().to_string()
    };
    let (id, secret, token) = (file("id"), file("secret"), file("token"));
    assert_eq!(
        keys_of(&s3_of("", &KEYS)).await,
        r#"env-id env-secret Some("env-token")"#
    );
    let named = format!(", access_key_id_file: '{id}', secret_access_key_file: '{secret}'");
    assert_eq!(keys_of(&s3_of(&named, &KEYS)).await, "file-id file-secret None");
    let temporary = format!("{named}, session_token_file: '{token}'");
    assert_eq!(
        keys_of(&s3_of(&temporary, &KEYS)).await,
        r#"file-id file-secret Some("file-token")"#
    );
}

#[tokio::test]
async fn settings_beat_the_environment_and_it_beats_the_default() {
    let with = |more: &[(&'static str, &'static str)]| [&KEYS[..], more].concat();
    let region = [("AWS_REGION", "eu-west-1")];
    let endpoint = [("AWS_ENDPOINT_URL_S3", "https://env")];
    for (section, environment, start, region) in [
        ("", with(&[]), "https://s3.us-east-1.", "us-east-1"),
        ("", with(&region), "https://s3.eu-west-1.", "eu-west-1"),
        (", region: eu-2", with(&region), "https://s3.eu-2.", "eu-2"),
        ("", with(&endpoint), "https://env/b/k", "us-east-1"),
        (
            ", endpoint: 'https://said'",
            with(&endpoint),
            "https://said/b/k",
            "us-east-1",
        ),
    ] {
        let url = signed(&s3_of(section, &environment)).await;
        assert!(url.starts_with(start), "{section} {environment:?}: {url}");
        assert!(
            url.contains(&format!("%2F{region}%2Fs3%2F")),
            "{section} {environment:?}: {url}"
        );
    }
}

#[tokio::test]
async fn a_key_may_name_a_test_server_of_google() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"the body") {
            assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0);
        }
        let answer = b"HTTP/1.1 200 OK\r\netag: \"1\"\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(answer).await.unwrap();
        String::from_utf8(request).unwrap()
    });
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key.json");
    let content = serde_json::json!({
        "gcs_base_url": url, "disable_oauth": true, "client_email": "", "private_key": "", "private_key_id": "",
    });
    std::fs::write(&key, content.to_string()).unwrap();
    let text = format!(
        "storage: {{type: GCS, retries_max: 0, gcs: {{bucket: traces, service_account_file: '{}'}}}}",
        key.display()
    );
    let storage = settings::parse(&text).unwrap().storage;
    // A key in the environment beside the one that is named is no second key.
    let environment = environment_of(&[("GOOGLE_SERVICE_ACCOUNT_KEY", "{}"), ("SERVICE_ACCOUNT", "/nowhere")]);
    let store = gcs(&storage, storage.gcs.as_ref().unwrap(), &environment).unwrap();
    store
        .put(&ObjectPath::from("k"), PutPayload::from("the body"))
        .await
        .unwrap();
    let request = server.await.unwrap();
    assert!(request.starts_with("PUT /traces/k HTTP/1.1"), "{request}");
}

#[tokio::test]
async fn google_itself_is_not_asked_without_tls() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key.json");
    let content = r#"{"disable_oauth": true, "client_email": "", "private_key": "", "private_key_id": ""}"#;
    std::fs::write(&key, content).unwrap();
    for (url, expected) in [("https://127.0.0.1:1", false), ("http://127.0.0.1:1", true)] {
        let text = format!(
            "storage: {{type: GCS, gcs: {{bucket: b, service_account_file: '{}'}}}}",
            key.display()
        );
        let storage = settings::parse(&text).unwrap().storage;
        let environment = environment_of(&[("GOOGLE_BASE_URL", url)]);
        let store = gcs(&storage, storage.gcs.as_ref().unwrap(), &environment).unwrap();
        assert_eq!(
            format!("{store:?}").contains("allow_http: Parsed(true)"),
            expected,
            "{store:?}"
        );
    }
}
