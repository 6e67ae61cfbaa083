//! Both directions of a socket to the parent.

use std::{
    io::{ErrorKind, Read, Write},
    os::unix::net::UnixStream,
    sync::{Mutex, MutexGuard, PoisonError},
    task::Poll,
    time::{Duration, Instant},
};

use zeroize::{Zeroize, Zeroizing};

use super::{Error, raw};
use crate::hsm::{
    frame::{self, Frames, PIECE},
    protocol::{HsmError, Reply, Request},
};

/// Requests from the parent.
pub struct Inbox {
    stream: UnixStream,
    frames: Frames,
    piece: Zeroizing<Vec<u8>>,
}

impl Inbox {
    /// Requests that come over `stream`.
    pub fn new(stream: UnixStream) -> Self {
        Self { stream, frames: Frames::default(), piece: Zeroizing::new(vec![0; PIECE]) }
    }

    /// Waits for the next request; `None` when the parent is gone.
    ///
    /// # Errors
    /// [`Error`], after which nothing that comes has a meaning.
    pub fn next(&mut self) -> Result<Option<(u64, Request)>, Error> {
        loop {
            if let Some(next) = self.frames.take()? {
                return Ok(Some(next));
            }
            match self.stream.read(&mut self.piece) {
                Ok(0) => return Ok(None),
                Ok(length) => self.take_in(length),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The next request if it is here already, or that there will be none.
    ///
    /// # Errors
    /// As [`Inbox::next`].
    pub fn next_at_once(&mut self) -> Result<Poll<Option<(u64, Request)>>, Error> {
        loop {
            if let Some(next) = self.frames.take()? {
                return Ok(Poll::Ready(Some(next)));
            }
            match raw::read_at_once(&self.stream, &mut self.piece) {
                Ok(0) => return Ok(Poll::Ready(None)),
                Ok(length) => self.take_in(length),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Poll::Pending),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Whether another request came with the last one.
    pub fn has_more(&self) -> bool {
        self.frames.has_whole()
    }

    fn take_in(&mut self, length: usize) {
        self.frames.push(&self.piece[..length]);
        // One of them carries a PIN.
        self.piece[..length].zeroize();
    }
}

/// So many answers are written together at most.
const TOGETHER: usize = 8;
/// So old an answer may become before it is written.
const AGE: Duration = Duration::from_micros(500);

/// Answers of so many bytes are rare, and took several times as much memory to make.
const LARGE: usize = 256 << 10;

/// The way back to the parent.
///
/// Writing an answer wakes the parent up, which may cost half as much as a signature. So a thread that goes on working
/// may leave its answers here for a moment, for itself or another to write.
pub struct Out {
    stream: UnixStream,
    pending: Mutex<Pending>,
}

#[derive(Default)]
struct Pending {
    bytes: Vec<u8>,
    answers: usize,
    since: Option<Instant>,
    writing: bool,
}

impl Out {
    /// Answers over `stream`.
    pub fn new(stream: UnixStream) -> Self {
        Self { stream, pending: Mutex::default() }
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends an answer.
    pub fn send(&self, id: u64, answer: &Result<Reply, HsmError>) {
        self.leave(id, answer);
        self.flush();
    }

    /// Leaves an answer to be written soon.
    pub fn leave(&self, id: u64, answer: &Result<Reply, HsmError>) {
        let frame = match answer {
            Ok(Reply::Exported(_) | Reply::Agreed(_)) => frame::encode_secret(id, answer),
            _ => Zeroizing::new(frame::encode(id, answer)),
        };
        let mut pending = self.pending();
        frame::append(&mut pending.bytes, &frame);
        pending.answers += 1;
        pending.since.get_or_insert_with(Instant::now);
    }

    /// Writes what was left, if it is time.
    pub fn flush_if_due(&self) {
        let due = {
            let pending = self.pending();
            pending.answers >= TOGETHER || pending.since.is_some_and(|since| since.elapsed() > AGE)
        };
        if due {
            self.flush();
        }
    }

    /// Writes what was left. The thread that finds no other one writing writes, also what others leave meanwhile.
    pub fn flush(&self) {
        let mut pending = self.pending();
        if pending.writing {
            return;
        }
        pending.writing = true;
        while !pending.bytes.is_empty() {
            let bytes = Zeroizing::new(std::mem::take(&mut pending.bytes));
            (pending.answers, pending.since) = (0, None);
            drop(pending);
            if (&self.stream).write_all(&bytes).is_err() {
                // Nobody is there to read it.
                raw::exit(0);
            }
            if bytes.len() > LARGE {
                drop(bytes);
                raw::give_back_memory();
            }
            pending = self.pending();
        }
        pending.writing = false;
    }
}
