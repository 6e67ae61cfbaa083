//! Requests for several threads, of which whoever is free takes the next.

use std::{
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::{Duration, Instant},
};

use rustix::{
    event::{EventfdFlags, epoll, eventfd},
    io::Errno,
};

use super::{Error, socket::Inbox};
use crate::hsm::protocol::Request;

/// A socket that several threads take requests from.
///
/// Those that have nothing to do wait in the kernel, which wakes up one of them for what comes, and that one works on
/// it at once. If the threads waited for each other instead, to be the one that reads, each would have to wake up the
/// next before it begins, which costs a token that is asked for one signature at a time some of its speed.
pub struct Intake {
    socket: UnixStream,
    shared: Mutex<Shared>,
    /// A thread looks for requests without sleeping.
    awake: AtomicBool,
    /// Wakes up threads for requests that came together with another one and have left the socket with it.
    more: OwnedFd,
}

struct Shared {
    inbox: Inbox,
    /// Threads that wait, or are about to.
    waiting: usize,
}

/// A thread that looks for the next request instead of sleeping. It gives its core away to whoever waits for it. One at a
/// time is enough.
struct Awake<'a>(Option<(&'a AtomicBool, Instant)>);

impl<'a> Awake<'a> {
    fn new(one: &'a AtomicBool, linger: Duration) -> Self {
        let ours = !linger.is_zero() && !one.swap(true, Ordering::Relaxed);
        Self(ours.then(|| (one, Instant::now() + linger)))
    }

    /// Whether it goes on.
    fn stays(&mut self) -> bool {
        if self.0.is_some_and(|(_, until)| Instant::now() >= until) {
            self.end();
        }
        self.0.is_some()
    }

    fn end(&mut self) {
        if let Some((one, _)) = self.0.take() {
            one.store(false, Ordering::Relaxed);
        }
    }
}

impl Drop for Awake<'_> {
    fn drop(&mut self) {
        self.end();
    }
}

/// One thread's place to wait for an [`Intake`].
pub struct Place(OwnedFd);

/// What an event is about.
const SOCKET: u64 = 0;
const MORE: u64 = 1;

impl Intake {
    /// Requests that come over `socket`.
    ///
    /// # Errors
    /// When the system has no room for it.
    pub fn new(socket: UnixStream) -> std::io::Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK | EventfdFlags::SEMAPHORE;
        let shared = Shared { inbox: Inbox::new(socket.try_clone()?), waiting: 0 };
        Ok(Self {
            socket,
            shared: Mutex::new(shared),
            awake: AtomicBool::new(false),
            more: eventfd(0, flags)?,
        })
    }

    /// A place for one more thread.
    ///
    /// # Errors
    /// When the system has no room for it.
    pub fn place(&self) -> std::io::Result<Place> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        for (source, about) in [(self.socket.as_fd(), SOCKET), (self.more.as_fd(), MORE)] {
            let flags = epoll::EventFlags::IN | epoll::EventFlags::EXCLUSIVE;
            epoll::add(&epoll, source, epoll::EventData::new_u64(about), flags)?;
        }
        Ok(Place(epoll))
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, shared: &mut Shared) -> Result<Poll<Option<(u64, Request)>>, Error> {
        let next = shared.inbox.next_at_once()?;
        if shared.waiting > 0 && shared.inbox.has_more() {
            match rustix::io::write(&self.more, &1_u64.to_ne_bytes()) {
                Ok(_) | Err(Errno::AGAIN) => {}
                Err(error) => return Err(Error::Socket(error.into())),
            }
        }
        Ok(next)
    }

    /// The next request, waited for at a place where it is not here already; `None` when the parent is gone. `meanwhile` is
    /// told whether it is here, before the wait, which begins with looking for it for as long as `linger`.
    ///
    /// # Errors
    /// As [`Inbox::next`].
    pub fn next(
        &self,
        Place(epoll): &Place,
        linger: Duration,
        meanwhile: impl FnOnce(bool),
    ) -> Result<Option<(u64, Request)>, Error> {
        let (mut meanwhile, mut awake) = (Some(meanwhile), None);
        let mut shared = self.shared();
        loop {
            let here = self.take(&mut shared)?;
            // Told before the lock is given back: what somebody takes in too much from now on is ours.
            shared.waiting += usize::from(here.is_pending());
            drop(shared);
            if let Some(meanwhile) = meanwhile.take() {
                meanwhile(here.is_ready());
            }
            if let Poll::Ready(next) = here {
                return Ok(next);
            }
            let stays_awake = awake.get_or_insert_with(|| Awake::new(&self.awake, linger)).stays();
            let mut events =
                [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(SOCKET) };
                    2];
            let woken = if stays_awake {
                std::thread::yield_now();
                Ok(0)
            } else {
                epoll::wait(epoll, &mut events, None)
            };
            shared = self.shared();
            shared.waiting -= 1;
            match woken {
                Ok(count) if events[..count].iter().any(|event| event.data.u64() == MORE) => {
                    // Another may have been quicker; whoever is up looks for a request all the same.
                    let _ = rustix::io::read(&self.more, &mut [0; 8]);
                }
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(Error::Socket(error.into())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        sync::{Arc, Barrier, mpsc},
        thread,
    };

    use super::*;
    use crate::hsm::frame;

    /// Starts threads that take one request each and say which, once all of them have one.
    fn threads(count: usize) -> (UnixStream, mpsc::Receiver<Option<u64>>) {
        let (parent, ours) = UnixStream::pair().unwrap();
        let intake = Arc::new(Intake::new(ours).unwrap());
        let (said, heard) = mpsc::channel();
        let together = Arc::new(Barrier::new(count));
        for _ in 0..count {
            let (intake, said, together) = (Arc::clone(&intake), said.clone(), Arc::clone(&together));
            let place = intake.place().unwrap();
            thread::spawn(move || {
                let next = intake.next(&place, Duration::ZERO, |_| ()).unwrap();
                together.wait();
                said.send(next.map(|(id, _)| id)).unwrap();
            });
        }
        (parent, heard)
    }

    #[test]
    fn requests_that_come_together_are_taken_by_as_many_threads() {
        let (mut parent, heard) = threads(4);
        let together: Vec<u8> = (1..=4).flat_map(|id| frame::encode(id, &Request::Random(8))).collect();
        parent.write_all(&together).unwrap();
        let mut ids: Vec<_> = heard.iter().take(4).map(Option::unwrap).collect();
        ids.sort_unstable();
        assert_eq!(ids, [1, 2, 3, 4]);
    }

    #[test]
    fn one_thread_at_a_time_stays_awake_and_not_for_ever() {
        let one = AtomicBool::new(false);
        let mut first = Awake::new(&one, Duration::from_secs(3600));
        assert!(first.stays());
        assert!(!Awake::new(&one, Duration::from_secs(3600)).stays());
        drop(first);
        assert!(!Awake::new(&one, Duration::ZERO).stays());
        let mut short = Awake::new(&one, Duration::from_nanos(1));
        while short.stays() {}
        assert!(Awake::new(&one, Duration::from_secs(3600)).stays());
    }

    #[test]
    fn each_request_is_taken_once_whether_its_thread_sleeps_or_not() {
        let (mut parent, ours) = UnixStream::pair().unwrap();
        let intake = Intake::new(ours).unwrap();
        let taken = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    let place = intake.place().unwrap();
                    while let Some((id, _)) = intake.next(&place, Duration::from_micros(20), |_| ()).unwrap()
                    {
                        taken.lock().unwrap().push(id);
                    }
                });
            }
            for id in 1..=2000 {
                parent.write_all(&frame::encode(id, &Request::Random(8))).unwrap();
            }
            drop(parent);
        });
        let mut taken = taken.into_inner().unwrap();
        taken.sort_unstable();
        assert_eq!(taken, (1..=2000).collect::<Vec<_>>());
        assert_eq!(intake.shared().waiting, 0);
        assert!(!intake.awake.load(Ordering::Relaxed));
    }

    #[test]
    fn all_threads_see_that_the_parent_is_gone() {
        let (parent, heard) = threads(3);
        drop(parent);
        assert_eq!(heard.iter().take(3).collect::<Vec<_>>(), [None; 3]);
    }

    #[test]
    fn a_request_that_comes_in_pieces_is_one_request() {
        let (mut parent, heard) = threads(1);
        for byte in frame::encode(7, &Request::Random(8)) {
            parent.write_all(&[byte]).unwrap();
        }
        assert_eq!(heard.recv().unwrap(), Some(7));
    }
}
