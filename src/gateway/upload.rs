//! Bodies that are too large to be held: read as they come, and no longer than they keep coming.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::body::{Body, BodyDataStream, Bytes};
use futures::{Stream, StreamExt};
use tokio::time::{Instant, Sleep, sleep};

use super::error::{ApiError, Code};
use crate::service::files::{PATIENCE, SLOWEST};

/// Bytes that are read without any of them being used: of a form, the heads of its parts.
const UNUSED_MAX: usize = 256 * 1024;

/// Why a body was not read to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Cut {
    /// It has more bytes than any request may have.
    #[error("the request is too large")]
    TooLarge,
    /// It hardly comes.
    #[error("the request body comes too slowly")]
    Slow,
    /// It has no form that could be read without holding it.
    #[error("a part of the request has a head of more than {UNUSED_MAX} bytes")]
    Head,
    /// The client left.
    #[error("the request body ended early")]
    Early,
}

/// A body on its way.
pub struct Upload {
    body: BodyDataStream,
    /// Bytes that may come.
    left: u64,
    /// The reader below asks for more as long as there is some; with this it gets one piece at a time.
    breath: bool,
    /// How long it may be waited for the next bytes; every byte adds to it.
    patience: Duration,
    waiting: Option<(Instant, Pin<Box<Sleep>>)>,
    unused: Unused,
}

/// Bytes that were read and that nobody has used yet.
#[derive(Clone, Default)]
pub struct Unused(Arc<AtomicUsize>);

impl Unused {
    /// Something came of them.
    pub fn none(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

impl Upload {
    /// A body of at most so many bytes.
    pub fn new(body: Body, most: u64) -> Self {
        Self {
            body: body.into_data_stream(),
            left: most,
            breath: false,
            patience: PATIENCE,
            waiting: None,
            unused: Unused::default(),
        }
    }

    /// The count of bytes that were read in vain.
    pub fn unused(&self) -> Unused {
        self.unused.clone()
    }

    /// Bytes came, after it may have been waited for them.
    fn came(&mut self, bytes: usize) -> Result<(), Cut> {
        if let Some((since, _)) = self.waiting.take() {
            self.patience = self.patience.saturating_sub(since.elapsed());
        }
        let earned = Duration::from_secs_f64(bytes as f64 / f64::from(SLOWEST));
        self.patience = (self.patience + earned).min(PATIENCE);
        self.left = self.left.checked_sub(bytes as u64).ok_or(Cut::TooLarge)?;
        // Not these: nobody could use them before they came.
        let unused = self.unused.0.fetch_add(bytes, Ordering::Relaxed);
        if unused > UNUSED_MAX { Err(Cut::Head) } else { Ok(()) }
    }
}

impl Stream for Upload {
    type Item = Result<Bytes, Cut>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if std::mem::take(&mut this.breath) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        match this.body.poll_next_unpin(context) {
            Poll::Ready(Some(Ok(bytes))) => {
                this.breath = true;
                Poll::Ready(Some(this.came(bytes.len()).map(|()| bytes)))
            }
            Poll::Ready(Some(Err(_))) => Poll::Ready(Some(Err(Cut::Early))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => {
                let patience = this.patience;
                let (_, sleep) =
                    this.waiting.get_or_insert_with(|| (Instant::now(), Box::pin(sleep(patience))));
                ready!(sleep.as_mut().poll(context));
                Poll::Ready(Some(Err(Cut::Slow)))
            }
        }
    }
}

impl From<Cut> for ApiError {
    fn from(cut: Cut) -> Self {
        let code = match cut {
            Cut::TooLarge => Code::TooLarge,
            Cut::Head => Code::Validation,
            Cut::Slow | Cut::Early => Code::Json,
        };
        Self::new(code, cut.to_string())
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::*;

    fn upload(body: impl Stream<Item = &'static [u8]> + Send + 'static, most: u64) -> Upload {
        Upload::new(Body::from_stream(body.map(|bytes| Ok::<_, std::io::Error>(Bytes::from(bytes)))), most)
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_trickles_is_given_up_and_a_slow_one_is_not() {
        let every = |pause: Duration, bytes: &'static [u8]| {
            let body = stream::unfold(0, move |count| async move {
                sleep(pause).await;
                (count < 100).then_some((bytes, count + 1))
            });
            upload(body, u64::MAX)
        };
        let mut trickle = every(Duration::from_secs(2), b"x");
        let begun = Instant::now();
        let last = loop {
            match trickle.next().await {
                Some(Ok(_)) => trickle.unused().none(),
                other => break other,
            }
        };
        assert_eq!(last, Some(Err(Cut::Slow)));
        assert!(begun.elapsed() <= PATIENCE + Duration::from_secs(1), "{:?}", begun.elapsed());
        let mut slow = every(Duration::from_secs(1), &[7; SLOWEST as usize]);
        let mut came = 0;
        while let Some(bytes) = slow.next().await {
            came += bytes.unwrap().len();
            slow.unused().none();
        }
        assert_eq!(came, 100 * SLOWEST as usize);
    }

    #[tokio::test]
    async fn what_is_too_large_or_of_no_use_is_not_read_on() {
        let endless = || stream::repeat(&[7; 64 * 1024][..]);
        let mut large = upload(endless(), 100_000);
        assert!(large.next().await.unwrap().is_ok());
        assert_eq!(large.next().await, Some(Err(Cut::TooLarge)));
        let mut odd = upload(endless(), u64::MAX);
        let refused = loop {
            match odd.next().await.unwrap() {
                Ok(_) => {}
                Err(refused) => break refused,
            }
        };
        assert_eq!(refused, Cut::Head);
    }
}
