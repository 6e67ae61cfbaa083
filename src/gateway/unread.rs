//! Bodies that an answer did without: the refusals that come before the body was read.
//!
//! A server that answers and leaves the rest of the body in the socket has to close the connection, and that hits whoever
//! is on the other side: a client that is still writing sees its connection reset instead of the answer, and one that
//! keeps connections sends its next request into one that is about to close, and does not know whether it was seen. So
//! what is on its way is taken first, and where that would take too long the answer says that the connection ends.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    body::{Body, Bytes, HttpBody},
    extract::Request,
    http::{HeaderValue, header},
    middleware::Next,
    response::Response,
};
use http_body_util::BodyExt;
use hyper::body::{Frame, SizeHint};
use tokio::time::{sleep, timeout};

/// How many bytes are taken of somebody who is not known.
const OF_STRANGERS: usize = 8 * 1024 * 1024;
/// How long it may take, and how long the next bytes.
const ALL: Duration = Duration::from_secs(10);
const NEXT: Duration = Duration::from_millis(200);

/// Whether it is known who sent a request.
#[derive(Clone, Default)]
pub struct Known(Arc<AtomicBool>);

impl Known {
    /// It is, from now on.
    pub fn tell(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The end of every request: takes what its handler left of the body.
pub async fn take(mut request: Request, next: Next) -> Response {
    if request.body().is_end_stream() {
        return next.run(request).await;
    }
    let asks = request.headers().contains_key(header::EXPECT);
    let (left, known) = (Left::default(), Known::default());
    request.extensions_mut().insert(known.clone());
    let lend = |body| Body::new(Lent { body: Some(body), begun: false, left: Arc::clone(&left) });
    let mut response = next.run(request.map(lend)).await;
    let rest = left.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some((body, begun)) = rest {
        let most = if known.0.load(Ordering::Relaxed) { usize::MAX } else { OF_STRANGERS };
        // A client that asks before it sends has nothing on its way as long as nobody read.
        let taken = (begun || !asks) && drain(body, most).await;
        if !taken {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
    }
    response
}

/// Whether it came to its end.
async fn drain(mut body: Body, mut most: usize) -> bool {
    let reading = async {
        while let Ok(next) = timeout(NEXT, body.frame()).await {
            let Some(frame) = next else { return true };
            let bytes = frame.ok().map_or(usize::MAX, |frame| frame.data_ref().map_or(0, Bytes::len));
            let Some(fewer) = most.checked_sub(bytes) else { break };
            most = fewer;
        }
        false
    };
    tokio::select! {
        ended = reading => ended,
        () = sleep(ALL) => false,
    }
}

/// The body that was not read to its end, and whether its reading had begun.
type Left = Arc<Mutex<Option<(Body, bool)>>>;

/// A body that comes back when its reader is done with it.
struct Lent {
    body: Option<Body>,
    begun: bool,
    left: Left,
}

impl HttpBody for Lent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.begun = true;
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let next = ready!(Pin::new(body).poll_frame(context));
        if !matches!(next, Some(Ok(_))) {
            self.body = None;
        }
        Poll::Ready(next)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(body) = self.body.take().filter(|body| !body.is_end_stream()) {
            *self.left.lock().unwrap_or_else(PoisonError::into_inner) = Some((body, self.begun));
        }
    }
}
