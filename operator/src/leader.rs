//! Which of several operators acts: the one that holds the Lease.
//!
//! **Always holds:** whoever could not renew for [`RENEW_WITHIN`] stops before anybody else may begin at [`LEASE`]. That
//! somebody acts a moment too long all the same (a process that was frozen) is harmless: every disruption is written into
//! the resource first, with the version that was read.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{Api, ObjectMeta, PostParams};
use kube::{Client, Error};

const LEASE: SignedDuration = SignedDuration::from_secs(15);
const RENEW_WITHIN: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_secs(2);

/// One candidate.
#[derive(Clone)]
pub struct Leader {
    api: Api<Lease>,
    name: String,
    holder: String,
}

impl std::fmt::Debug for Leader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Leader")
            .field("name", &self.name)
            .field("holder", &self.holder)
            .finish()
    }
}

impl Leader {
    pub fn new(client: Client, namespace: &str, name: &str, holder: String) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            name: name.to_owned(),
            holder,
        }
    }

    /// Returns once this one leads.
    pub async fn acquire(&self) {
        loop {
            match self.try_once(Timestamp::now()).await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, "the lease cannot be read or written"),
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Renews the lease for as long as that works; returns when it is lost.
    pub async fn hold(&self) {
        let mut last = tokio::time::Instant::now();
        loop {
            tokio::time::sleep(RETRY).await;
            match tokio::time::timeout(RENEW_WITHIN, self.try_once(Timestamp::now())).await {
                Ok(Ok(true)) => last = tokio::time::Instant::now(),
                Ok(Ok(false)) => return,
                Ok(Err(error)) => tracing::warn!(%error, "the lease cannot be renewed"),
                Err(_) => {}
            }
            if last.elapsed() > RENEW_WITHIN {
                return;
            }
        }
    }

    /// Gives the lease back, so that the next one need not wait.
    pub async fn release(&self) {
        if let Ok(mut lease) = self.api.get(&self.name).await
            && holder(&lease) == Some(&self.holder)
        {
            let spec = lease.spec.get_or_insert_default();
            spec.holder_identity = None;
            let _ = self.api.replace(&self.name, &PostParams::default(), &lease).await;
        }
    }

    async fn try_once(&self, now: Timestamp) -> Result<bool, Error> {
        let Some(lease) = self.api.get_opt(&self.name).await? else {
            let lease = self.ours(Lease::default(), now);
            return accepted(self.api.create(&PostParams::default(), &lease).await);
        };
        if !is_free(&lease, &self.holder, now) {
            return Ok(false);
        }
        let lease = self.ours(lease, now);
        accepted(self.api.replace(&self.name, &PostParams::default(), &lease).await)
    }

    fn ours(&self, lease: Lease, now: Timestamp) -> Lease {
        let before = lease.spec.clone().unwrap_or_default();
        let is_renewal = holder(&lease) == Some(&self.holder);
        Lease {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                ..lease.metadata
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.holder.clone()),
                lease_duration_seconds: i32::try_from(LEASE.as_secs()).ok(),
                acquire_time: if is_renewal {
                    before.acquire_time
                } else {
                    Some(MicroTime(now))
                },
                renew_time: Some(MicroTime(now)),
                lease_transitions: Some(before.lease_transitions.unwrap_or(0) + i32::from(!is_renewal)),
                ..before
            }),
        }
    }
}

fn holder(lease: &Lease) -> Option<&String> {
    lease
        .spec
        .as_ref()?
        .holder_identity
        .as_ref()
        .filter(|holder| !holder.is_empty())
}

/// Whether the lease is ours, nobody's, or has run out.
fn is_free(lease: &Lease, holder_name: &str, now: Timestamp) -> bool {
    match holder(lease) {
        None => true,
        Some(holder) if holder == holder_name => true,
        Some(_) => {
            let renewed = lease.spec.as_ref().and_then(|spec| spec.renew_time.as_ref());
            renewed.is_none_or(|renewed| now.duration_since(renewed.0) > LEASE)
        }
    }
}

/// Somebody else was quicker: no error.
fn accepted(result: Result<Lease, Error>) -> Result<bool, Error> {
    match result {
        Ok(_) => Ok(true),
        Err(Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    //! A lease and a time in, whether it may be taken out.

    use super::*;

    #[test]
    fn a_lease_is_taken_only_when_it_has_run_out() {
        let now: Timestamp = "2026-11-22T12:00:00Z".parse().unwrap();
        let lease = |holder: Option<&str>, age: i64| Lease {
            spec: Some(LeaseSpec {
                holder_identity: holder.map(str::to_owned),
                renew_time: Some(MicroTime(now - SignedDuration::from_secs(age))),
                ..LeaseSpec::default()
            }),
            ..Lease::default()
        };
        for (lease, free) in [
            (lease(None, 1), true),
            (lease(Some(""), 1), true),
            (lease(Some("me"), 100), true),
            (lease(Some("other"), 15), false),
            (lease(Some("other"), 16), true),
        ] {
            assert_eq!(is_free(&lease, "me", now), free, "{lease:?}");
        }
    }
}
