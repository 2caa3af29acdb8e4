//! An answer in the making, for somebody who watches.
//!
//! Owns [`Preview`]. Whoever watches says when it wants to look ([`Preview::next`]); whoever answers asks after every
//! piece of work whether somebody does, and only then takes the trouble to show something.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// A preview if anybody watches.
pub type Watching<T> = Option<Arc<Preview<T>>>;

/// See the module's documentation.
#[derive(Debug)]
pub struct Preview<T> {
    is_wanted: AtomicBool,
    shown: Mutex<Option<T>>,
    news: Notify,
}

impl<T> Default for Preview<T> {
    fn default() -> Self {
        Self {
            is_wanted: AtomicBool::new(false),
            shown: Mutex::new(None),
            news: Notify::new(),
        }
    }
}

impl<T> Preview<T> {
    /// Whether somebody waits for news. Says so once.
    pub fn is_wanted(&self) -> bool {
        self.is_wanted.load(Ordering::Relaxed) && self.is_wanted.swap(false, Ordering::Relaxed)
    }

    /// Shows the answer so far; takes the place of what was not looked at.
    pub fn show(&self, so_far: T) {
        *self.shown.lock() = Some(so_far);
        self.news.notify_one();
    }

    /// The next that is shown. Pending for ever when nothing more is.
    ///
    /// Cancel: what is shown later waits for the next call.
    pub async fn next(&self) -> T {
        self.is_wanted.store(true, Ordering::Relaxed);
        loop {
            if let Some(shown) = self.shown.lock().take() {
                return shown;
            }
            self.news.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    //! What is shown, and when.

    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn nothing_is_made_that_nobody_wants() {
        let preview = Preview::default();
        assert!(!preview.is_wanted());
        let mut next = Box::pin(preview.next());
        assert_eq!((&mut next).now_or_never(), None);
        assert!(preview.is_wanted());
        assert!(!preview.is_wanted(), "once is enough");
        preview.show(1);
        preview.show(2);
        assert_eq!((&mut next).now_or_never(), Some(2), "only the newest is shown");
        drop(next);
        assert_eq!(preview.next().now_or_never(), None);
        preview.show(3);
        assert_eq!(preview.next().now_or_never(), Some(3), "what was shown meanwhile waits");
    }
}
