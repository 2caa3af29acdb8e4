//! The one key pair that the S3 server lets in. It can be replaced while clients hold the old one, as keys are in clouds.

use std::sync::{Arc, Mutex, MutexGuard};

use s3s::auth::{S3Auth, SecretKey};
use s3s::{S3Result, s3_error};

#[derive(Debug, Clone)]
pub(super) struct Keys(Arc<Mutex<(String, SecretKey)>>);

impl Keys {
    pub(super) fn new(access_key: &str, secret_key: &str) -> Self {
        Self(Arc::new(Mutex::new((access_key.to_owned(), secret_key.into()))))
    }

    pub(super) fn replace(&self, access_key: &str, secret_key: &str) {
        *self.lock() = (access_key.to_owned(), secret_key.into());
    }

    fn lock(&self) -> MutexGuard<'_, (String, SecretKey)> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[async_trait::async_trait]
impl S3Auth for Keys {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        let keys = self.lock();
        if keys.0 == access_key {
            Ok(keys.1.clone())
        } else {
            Err(s3_error!(InvalidAccessKeyId))
        }
    }
}
