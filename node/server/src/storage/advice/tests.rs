//! Answers of a store in, advice out. The client is the real one, because its words are what is read.

use std::sync::Arc;

use object_store::{ObjectStore, ObjectStoreExt as _, PutPayload};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

/// A store that gives every request this answer. The address is of a listener that lives as long as the test's runtime.
async fn answering(head: &str, body: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let answer = format!(
        "HTTP/1.1 {head}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = vec![0; 64 << 10];
            let mut held = 0;
            // The head and the few bytes of body come together or one after the other; both are read, or the close would
            // take the answer with it.
            while !request[..held].windows(8).any(|bytes| bytes == b"the body") {
                match stream.read(&mut request[held..]).await {
                    Ok(0) | Err(_) => break,
                    Ok(read) => held += read,
                }
            }
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    address
}

/// What is said of writing `key` to the store at this address.
async fn said_of(endpoint: &str, key: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    std::fs::write(&file, "k").unwrap();
    let text = format!(
        "storage: {{type: S3, retries_max: 0, s3: {{bucket: b, endpoint: '{endpoint}', allow_http: true, \
         access_key_id_file: '{0}', secret_access_key_file: '{0}'}}}}",
        file.display()
    );
    let store: Arc<dyn ObjectStore> = crate::storage::open(&settings::parse(&text).unwrap()).unwrap();
    let key = ObjectPath::from(key);
    let error = store.put(&key, PutPayload::from("the body")).await.unwrap_err();
    explain("write", &key, &error).to_string()
}

#[tokio::test]
async fn what_the_store_answers_becomes_advice() {
    for (head, body, expected) in [
        ("404 Not Found", "<Error><Code>NoSuchBucket</Code></Error>", NO_BUCKET),
        (
            "404 Not Found",
            r#"{"message": "The specified bucket does not exist."}"#,
            NO_BUCKET,
        ),
        (
            "403 Forbidden",
            "<Error><Code>InvalidAccessKeyId</Code></Error>",
            WRONG_CREDENTIALS,
        ),
        (
            "400 Bad Request",
            "<Error><Code>ExpiredToken</Code></Error>",
            WRONG_CREDENTIALS,
        ),
        ("401 Unauthorized", "", WRONG_CREDENTIALS),
        ("403 Forbidden", "", NOT_ALLOWED),
        ("403 Forbidden", "<Error><Code>AccessDenied</Code></Error>", NOT_ALLOWED),
        (
            "403 Forbidden",
            "<Error><Code>RequestTimeTooSkewed</Code></Error>",
            WRONG_CLOCK,
        ),
        (
            "301 Moved Permanently",
            "<Error><Code>PermanentRedirect</Code></Error>",
            OTHER_REGION,
        ),
        (
            "400 Bad Request",
            "<Error><Code>AuthorizationHeaderMalformed</Code></Error>",
            OTHER_REGION,
        ),
        (
            "501 Not Implemented",
            "<Error><Code>NotImplemented</Code></Error>",
            NO_CONDITIONS,
        ),
        ("500 Internal Server Error", "", OTHER),
        (
            "400 Bad Request",
            "<Error><Code>301</Code><Message>403 in 301ms</Message></Error>",
            OTHER,
        ),
    ] {
        let endpoint = answering(head, body).await;
        let said = said_of(&endpoint, "probe").await;
        let start = format!("object store: cannot write probe: {expected} (");
        assert!(said.starts_with(&start), "{head} {body}: {said}");
    }
}

#[tokio::test]
async fn names_and_ports_are_no_advice() {
    // Nobody listens on the lowest ports of loopback; the digits are those of a redirect and of a refusal.
    for endpoint in ["http://127.0.0.1:301", "http://127.0.0.1:403"] {
        for key in [
            "probe-301",
            "probe-403",
            "AccessDenied/<Code>NoSuchBucket<",
            "NoSuchBucket",
        ] {
            let said = said_of(endpoint, key).await;
            assert!(said.contains(&format!(": {UNREACHABLE} (")), "{said}");
        }
    }
    let endpoint = answering("500 Internal Server Error", "").await;
    for key in ["probe-301", "403 Forbidden", "NoSuchBucket", "connect timed out dns"] {
        let said = said_of(&endpoint, key).await;
        assert!(said.contains(&format!(": {OTHER} (")), "{said}");
    }
}

#[test]
fn a_duration_is_no_advice() {
    for text in [
        "in 301.403ms - nothing",
        "after 403 retries in 301s",
        "Server at 301 said 403",
    ] {
        assert_eq!(advice(&std::io::Error::other(text)), OTHER, "{text}");
    }
}

#[test]
fn metadata_that_does_not_answer_means_there_are_no_credentials() {
    let text = "Error performing PUT http://169.254.169.254/latest/api/token in 1s - error sending request";
    assert_eq!(advice(&std::io::Error::other(text)), NO_CREDENTIALS);
    let text = "Error performing PUT http://s3/b/http://169.254.169.254/ in 1s - error sending request";
    assert_eq!(advice(&std::io::Error::other(text)), OTHER);
}
