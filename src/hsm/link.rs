//! The way to a token-host: two socket pairs, and how much may be on its way over them.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use tokio::{net::UnixStream, sync::Notify};
use zeroize::Zeroizing;

use super::{frame, protocol::Lane};

/// The parent's end of one socket pair to a token-host.
pub(super) struct Pipe {
    pub socket: UnixStream,
    waiting: Mutex<Waiting>,
    wake: Notify,
}

/// What [`Pipe::write`] has still to write.
#[derive(Default)]
struct Waiting {
    frames: Vec<u8>,
    /// It took some already and is not done with them.
    writing: bool,
}

impl Pipe {
    pub fn new(socket: UnixStream) -> Self {
        Self { socket, waiting: Mutex::default(), wake: Notify::new() }
    }

    /// Has a frame written: at once, by the caller, if it is `alone` and nothing waits before it, which saves the way
    /// through another task; else by [`Pipe::write`]. An error is not told: whoever reads from the socket sees it too.
    pub fn send(&self, frame: &[u8], alone: bool) {
        let mut waiting = locked(&self.waiting);
        let first = waiting.frames.is_empty();
        let written =
            if alone && first && !waiting.writing { self.socket.try_write(frame).unwrap_or(0) } else { 0 };
        frame::append(&mut waiting.frames, &frame[written..]);
        if first && !waiting.frames.is_empty() {
            self.wake.notify_one();
        }
    }

    /// Writes what is sent and was not written at once, for as long as the socket lives.
    ///
    /// All requests that are ready at this moment get their turn first, so that they share one call to the system
    /// and the token-host wakes up once for them.
    pub async fn write(&self) {
        loop {
            self.wake.notified().await;
            tokio::task::yield_now().await;
            loop {
                let frames = {
                    let mut waiting = locked(&self.waiting);
                    waiting.writing = !waiting.frames.is_empty();
                    // Some of them carry keys.
                    Zeroizing::new(std::mem::take(&mut waiting.frames))
                };
                if frames.is_empty() {
                    break;
                }
                let mut rest = frames.as_slice();
                while !rest.is_empty() {
                    match self.socket.try_write(rest) {
                        Ok(written) => rest = &rest[written..],
                        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                            if self.socket.writable().await.is_err() {
                                return;
                            }
                        }
                        Err(_) => return,
                    }
                }
            }
        }
    }
}

/// Both socket pairs to one token-host.
pub(super) struct Link {
    /// Everything but [`Lane::Sign`].
    pub main: Pipe,
    /// [`Lane::Sign`].
    pub sign: Pipe,
    /// Signatures that may be on their way: enough to keep the threads busy. The others wait here, where one whose caller
    /// goes away is simply forgotten.
    pub(super) window: AtomicUsize,
}

/// Signatures on their way to a token-host beyond four for each of its sessions: what it works on while answers and the
/// next requests pass each other.
const WINDOW: usize = 8;
/// Requests of another lane on their way: the one that is at work, and the next. What is there is made although its caller
/// has gone, and a key may take a token half a minute.
pub(super) const SLOW: usize = 2;

impl Link {
    /// To a token-host with so many sessions that sign.
    pub fn new(main: Pipe, sign: Pipe, workers: u16) -> Self {
        let link = Self { main, sign, window: AtomicUsize::new(0) };
        link.widen(workers);
        link
    }

    pub fn widen(&self, workers: u16) {
        self.window.store(usize::from(workers.max(1)) * 4 + WINDOW, Ordering::Relaxed);
    }

    /// Requests of a lane that may be on their way.
    pub fn window(&self, lane: Lane) -> usize {
        match lane {
            Lane::Sign => self.window.load(Ordering::Relaxed),
            Lane::Change | Lane::Look => SLOW,
        }
    }

    /// The way that requests of a lane take.
    pub fn pipe(&self, lane: Lane) -> &Pipe {
        if lane == Lane::Sign { &self.sign } else { &self.main }
    }
}

/// Also after somebody has panicked with it: requests that go on are better than none.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
