//! Both directions of a socket to the parent.

use std::{
    io::{ErrorKind, Read, Write},
    os::unix::net::UnixStream,
    sync::{Mutex, PoisonError},
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
                Ok(length) => {
                    self.frames.push(&self.piece[..length]);
                    // One of them carries a PIN.
                    self.piece[..length].zeroize();
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// The way back to the parent.
pub struct Out {
    stream: UnixStream,
    pending: Mutex<Pending>,
}

#[derive(Default)]
struct Pending {
    bytes: Vec<u8>,
    writing: bool,
}

impl Out {
    /// Answers over `stream`.
    pub fn new(stream: UnixStream) -> Self {
        Self { stream, pending: Mutex::default() }
    }

    /// Sends an answer. The thread that finds no other one writing writes, also what the others leave meanwhile.
    pub fn send(&self, id: u64, answer: &Result<Reply, HsmError>) {
        let frame = frame::encode(id, answer);
        let lock = || self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let mut pending = lock();
        pending.bytes.extend_from_slice(&frame);
        if pending.writing {
            return;
        }
        pending.writing = true;
        while !pending.bytes.is_empty() {
            let bytes = std::mem::take(&mut pending.bytes);
            drop(pending);
            if (&self.stream).write_all(&bytes).is_err() {
                // Nobody is there to read it.
                raw::exit(0);
            }
            pending = lock();
        }
        pending.writing = false;
    }
}
