//! Files, which are too large to be held: they pass as they come, and so cannot be sent a second time.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::{Method, Request};
use tokio::time::{Instant, timeout_at};

/// Body of a request to a gateway: held here, or passed on as it comes.
pub type Outgoing = Either<Full<Bytes>, Passing>;

/// The endpoints that take files.
const FILES: [&str; 2] = ["/v1/fileEncrypt", "/v1/synchronousFileDecrypt"];

/// Whether a request has a file in it.
pub fn has_file<B>(request: &Request<B>) -> bool {
    request.method() == Method::POST && FILES.contains(&request.uri().path())
}

/// When something last came.
#[derive(Clone, Debug)]
pub struct Progress(Arc<Mutex<Instant>>);

impl Progress {
    /// Something came now.
    pub fn begun() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }

    fn last(&self) -> Instant {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn made(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Waits for `done`, until nothing has come for so long.
    pub async fn watch<T>(&self, patience: Duration, done: impl Future<Output = T>) -> Option<T> {
        let mut done = std::pin::pin!(done);
        loop {
            let until = self.last() + patience;
            match timeout_at(until, done.as_mut()).await {
                Ok(done) => return Some(done),
                Err(_) if self.last() + patience > until => {}
                Err(_) => return None,
            }
        }
    }
}

/// An application's body on its way to a gateway.
#[derive(Debug)]
pub struct Passing {
    body: Incoming,
    progress: Progress,
}

impl Passing {
    /// Passes it on and says when something comes.
    pub const fn new(body: Incoming, progress: Progress) -> Self {
        Self { body, progress }
    }
}

impl Body for Passing {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if polled.is_ready() {
            self.progress.made();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
