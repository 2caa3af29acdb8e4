//! What to do about a store that refuses or does not answer, in one sentence for the operator.
//!
//! Always holds: only what the store or the network said decides, that is the status, the code in the body and the kind
//! of the failure. Names, ports and durations stand in the same text and are shown, but never looked at.

use std::error::Error;

use object_store::client::{HttpError, HttpErrorKind};
use object_store::path::Path as ObjectPath;

use super::chain;

const NO_BUCKET: &str = "the bucket does not exist: create it, or correct its name";
const NOT_ALLOWED: &str = "the credentials are not allowed to: grant put, get and delete on the prefix";
const WRONG_CREDENTIALS: &str = "the credentials are missing, wrong or expired";
const NO_CREDENTIALS: &str = "there are no credentials: name key files, or give this machine a role";
const WRONG_CLOCK: &str = "the clock of this machine is wrong";
const OTHER_REGION: &str = "the bucket is in another region: set storage.s3.region";
pub(super) const NO_CONDITIONS: &str = "use a store that honours If-None-Match";
const UNREACHABLE: &str = "it cannot be reached: check endpoint and network";
const OTHER: &str = "it answered with an error";

/// How the client words a refusal. It keeps the error's type to itself, so the words are all there is; they are looked
/// for at the beginning of one cause only, where nothing of ours can stand.
const STATUS_WORDS: &str = "Server returned non-2xx status code: ";
const REDIRECT_WORDS: &str = "Received redirect without LOCATION";
/// How it words where it asked, and whom it asks for credentials when nobody gave it any.
const REQUEST_WORDS: &str = "Error performing ";
const METADATA: [&str; 2] = ["http://169.254.169.254/", "http://metadata.google.internal/"];

pub(super) fn explain(step: &str, key: &ObjectPath, error: &object_store::Error) -> anyhow::Error {
    anyhow::anyhow!(
        "object store: cannot {step} {key}: {} ({})",
        advice(error),
        chain(error)
    )
}

fn advice(error: &(dyn Error + 'static)) -> &'static str {
    let causes = || std::iter::successors(Some(error), |&cause| cause.source());
    for cause in causes() {
        let said = cause.to_string();
        if said.starts_with(REDIRECT_WORDS) {
            return OTHER_REGION;
        }
        if let Some((status, body)) = said.strip_prefix(STATUS_WORDS).and_then(status_and_body) {
            return of_code(code(body)).unwrap_or_else(|| of_status(status, body));
        }
    }
    // Whom the client asked is the first thing after the method.
    let asked_metadata = causes().any(|cause| {
        let said = cause.to_string();
        let asked = said.strip_prefix(REQUEST_WORDS).and_then(|rest| rest.split(' ').nth(1));
        asked.is_some_and(|url| METADATA.iter().any(|host| url.starts_with(host)))
    });
    let is_cut_off = causes()
        .filter_map(|cause| cause.downcast_ref())
        .any(|error: &HttpError| {
            use HttpErrorKind::{Connect, Interrupted, Request, Timeout};
            matches!(error.kind(), Connect | Interrupted | Request | Timeout)
        });
    match (asked_metadata, is_cut_off) {
        (true, _) => NO_CREDENTIALS,
        (_, true) => UNREACHABLE,
        _ => OTHER,
    }
}

/// "403 Forbidden: what the store wrote".
fn status_and_body(said: &str) -> Option<(u16, &str)> {
    let (status, rest) = said.split_at_checked(3)?;
    let body = rest.split_once(": ").map_or("", |(_, body)| body);
    Some((status.parse().ok()?, body))
}

/// The code in a body of S3, Google or Azure; all three write it alike.
fn code(body: &str) -> &str {
    let after = body.split_once("<Code>").map_or("", |(_, after)| after);
    after.split_once("</Code>").map_or("", |(code, _)| code.trim())
}

fn of_code(code: &str) -> Option<&'static str> {
    Some(match code {
        "NoSuchBucket" | "ContainerNotFound" | "ContainerBeingDeleted" => NO_BUCKET,
        "InvalidAccessKeyId"
        | "SignatureDoesNotMatch"
        | "AuthenticationFailed"
        | "AuthenticationRequired"
        | "NoAuthenticationInformation"
        | "InvalidAuthenticationInfo"
        | "InvalidClientTokenId"
        | "InvalidIdentityToken"
        | "ExpiredTokenException"
        | "InvalidToken"
        | "ExpiredToken" => WRONG_CREDENTIALS,
        "RequestTimeTooSkewed" => WRONG_CLOCK,
        "AccessDenied"
        | "AllAccessDisabled"
        | "AuthorizationFailure"
        | "AuthorizationPermissionMismatch"
        | "InsufficientAccountPermissions" => NOT_ALLOWED,
        "PermanentRedirect" | "TemporaryRedirect" | "AuthorizationHeaderMalformed" => OTHER_REGION,
        "NotImplemented" => NO_CONDITIONS,
        _ => return None,
    })
}

fn of_status(status: u16, body: &str) -> &'static str {
    match status {
        301 | 307 | 308 => OTHER_REGION,
        401 => WRONG_CREDENTIALS,
        403 => NOT_ALLOWED,
        404 if body.contains("bucket does not exist") => NO_BUCKET,
        501 => NO_CONDITIONS,
        _ => OTHER,
    }
}

#[cfg(test)]
#[path = "advice/tests.rs"]
mod tests;
