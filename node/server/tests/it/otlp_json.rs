//! OTLP/JSON at the door.

use serde_json::{Value, json};

use crate::door::open;

const JSON: (&str, &str) = ("content-type", "application/json");

#[tokio::test]
async fn json_becomes_protobuf() {
    let door = open("").await;
    let body = r#"{"resourceSpans": [{"scopeSpans": [{"spans": [{
        "traceId": "0102030405060708090a0b0c0d0e0f10", "spanId": "0102030405060708", "name": "n"}]}]}]}"#;
    let answer = door
        .post(&[("content-type", "application/json; charset=utf-8")], body)
        .await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["content-type"], "application/json");
    assert_eq!(answer.json::<Value>().await.unwrap(), json!({}));
    let expected = [
        &[0x0a, 35, 0x12, 33, 0x12, 31, 0x0a, 16][..],
        &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16],
        &[0x12, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0x2a, 1, b'n'],
    ]
    .concat();
    assert_eq!(door.taken()[0].1, expected);
}

#[tokio::test]
async fn bad_json_is_400_in_json() {
    let door = open("").await;
    for body in [
        "{",
        "[]",
        "nonsense",
        r#"{"resourceSpans": 3}"#,
        r#"{"resourceSpans": [{"scopeSpans": [{"spans": [{"traceId": "xyz"}]}]}]}"#,
        r#"{"resourceSpans": [{"scopeSpans": [{"spans": [{"kind": "NO_SUCH_KIND"}]}]}]}"#,
        r#"{"resourceSpans": [{"scopeSpans": [{"spans": [{"startTimeUnixNano": NaN}]}]}]}"#,
        r#"{"resourceSpans": []} trailing"#,
    ] {
        let answer = door.post(&[JSON], body).await;
        assert_eq!(answer.status(), 400, "{body}");
        assert_eq!(answer.headers()["content-type"], "application/json");
        let status = answer.json::<Value>().await.unwrap();
        assert_eq!(status["code"], 3, "{body}");
        assert!(status["message"].as_str().unwrap().contains("JSON"), "{status}");
    }
    assert!(door.taken().is_empty());
}
