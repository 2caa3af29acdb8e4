//! OTLP over HTTP: `POST /v1/traces`, protobuf or JSON.
//!
//! Answers and errors come in the encoding of the request, errors as `google.rpc.Status`, as the OTLP specification
//! says. A request whose content type we do not know gets its error as JSON, which a person can read.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::Full;
use prost::Message as _;
use wire::inflate::Encoding;

use super::rpc_status::{ExportResponse, Status};
use super::{Form, Receiver};
use crate::body::collect;
use crate::metrics::RequestLabels;
use crate::refusal::{Kind, Refusal};

const PATH: &str = "/v1/traces";
const PROTOBUF: &str = "application/x-protobuf";
const JSON: &str = "application/json";

/// Serves one request of the OTLP/HTTP port.
pub async fn serve<B>(receiver: Arc<Receiver>, request: Request<B>) -> Response<Full<Bytes>>
where
    B: Body<Data = Bytes>,
    B::Error: std::fmt::Display,
{
    let begun = Instant::now();
    let is_known = request.uri().path() == PATH;
    let form = form(request.headers());
    let answer = match export(&receiver, request, &form).await {
        Ok(response) => success(&response, form.unwrap_or(Form::Json)),
        Err(refusal) => {
            receiver.metrics.count_refused(refusal.kind);
            failure(&refusal, form.unwrap_or(Form::Json))
        }
    };
    let labels = RequestLabels {
        route: if is_known { PATH } else { "other" },
        method: "POST",
        status_code: answer.status().as_u16(),
    };
    receiver
        .metrics
        .request_duration
        .get_or_create(&labels)
        .observe(begun.elapsed().as_secs_f64());
    answer
}

async fn export<B>(
    receiver: &Receiver,
    request: Request<B>,
    form: &Result<Form, Refusal>,
) -> Result<ExportResponse, Refusal>
where
    B: Body<Data = Bytes>,
    B::Error: std::fmt::Display,
{
    if request.uri().path() != PATH {
        return Err(Refusal::new(Kind::NotFound, "only /v1/traces is here"));
    }
    if request.method() != Method::POST {
        return Err(Refusal::new(Kind::WrongMethod, "use POST"));
    }
    let form = form.clone()?;
    let tenant = receiver.tenant(request.headers())?;
    let encoding = encoding(request.headers())?;
    let mut permit = receiver.in_flight.permit();
    let body = collect(request.into_body(), &receiver.body_limits, &mut permit).await?;
    if body.is_empty() && encoding == Encoding::Identity {
        return Ok(ExportResponse::default());
    }
    let outcome = receiver
        .take("otlp_http", tenant, encoding, form, body, &mut permit)
        .await?;
    Ok(outcome.into())
}

fn form(headers: &HeaderMap) -> Result<Form, Refusal> {
    let refuse = || {
        Refusal::new(
            Kind::UnknownEncoding,
            "content type must be application/x-protobuf or application/json",
        )
    };
    let value = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .ok_or_else(refuse)?;
    let essence = value.split(';').next().unwrap_or_default().trim();
    match essence.to_ascii_lowercase().as_str() {
        PROTOBUF | "application/protobuf" => Ok(Form::Protobuf),
        JSON => Ok(Form::Json),
        _ => Err(refuse()),
    }
}

fn encoding(headers: &HeaderMap) -> Result<Encoding, Refusal> {
    let mut values = headers.get_all(CONTENT_ENCODING).iter();
    let value = values.next();
    if values.next().is_some() {
        return Err(Refusal::new(Kind::UnknownEncoding, "several Content-Encoding headers"));
    }
    let text = value.map(|value| value.to_str()).transpose();
    let text = text.map_err(|_| Refusal::new(Kind::UnknownEncoding, "Content-Encoding is not plain text"))?;
    Ok(Encoding::from_header(text)?)
}

fn success(response: &ExportResponse, form: Form) -> Response<Full<Bytes>> {
    let body = match form {
        Form::Protobuf => response.encode_to_vec(),
        Form::Json => response.to_json().to_string().into_bytes(),
    };
    answer(StatusCode::OK, form, body)
}

fn failure(refusal: &Refusal, form: Form) -> Response<Full<Bytes>> {
    let status = Status::from(refusal);
    let body = match form {
        Form::Protobuf => status.encode_to_vec(),
        Form::Json => status.to_json().to_string().into_bytes(),
    };
    let mut answer = answer(refusal.kind.http_status(), form, body);
    if let Some(seconds) = refusal.retry_after_seconds() {
        answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    if refusal.kind == Kind::WrongMethod {
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
    }
    answer
}

fn answer(status: StatusCode, form: Form, body: Vec<u8>) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    let content_type = HeaderValue::from_static(if form == Form::Json { JSON } else { PROTOBUF });
    answer.headers_mut().insert(CONTENT_TYPE, content_type);
    answer
}
