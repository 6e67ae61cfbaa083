//! Threads that call the module, each with a session of its own, and the queues before them.

use std::{
    io::Write,
    os::unix::net::UnixStream,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::{error, mechanism, object, raw, raw::Session, token::Token};
use crate::hsm::{
    frame,
    protocol::{HsmError, Kind, Reply, Request},
};

/// Requests that wait for a thread to sign.
const SIGN_QUEUE: usize = 1024;
/// Requests that wait in each of the slow lanes.
const SLOW_QUEUE: usize = 256;
/// Nobody waits any more for a signature that has been in the queue for this long.
const SIGN_AGE: Duration = Duration::from_secs(10);
/// Most random bytes of one request.
const RANDOM_MAX: u32 = 1024 * 1024;
/// Exit code that says: the module is of no more use, try again in a new process.
pub const EXIT_RESTART: i32 = 75;

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

struct Job {
    id: u64,
    request: Request,
    since: Instant,
}

/// Lanes of work that do not hold each other up: a key that takes a minute to make must not delay a signature.
pub struct Pool {
    sign: flume::Sender<Job>,
    change: flume::Sender<Job>,
    look: flume::Sender<Job>,
}

impl Pool {
    /// Starts the threads.
    ///
    /// # Errors
    /// When the system has no more threads.
    pub fn start(token: &Arc<Token>, out: &Arc<Out>, workers: u16) -> std::io::Result<Self> {
        let lane = |name: &str, threads: u16, room: usize| {
            let (sender, receiver) = flume::bounded(room);
            for number in 0..threads {
                let worker = Worker { token: Arc::clone(token), session: None };
                let (receiver, out) = (receiver.clone(), Arc::clone(out));
                std::thread::Builder::new()
                    .name(format!("{name}-{number}"))
                    .spawn(move || worker.run(&receiver, &out))?;
            }
            Ok::<_, std::io::Error>(sender)
        };
        Ok(Self {
            sign: lane("sign", workers.max(1), SIGN_QUEUE)?,
            change: lane("change", 1, SLOW_QUEUE)?,
            look: lane("look", 1, SLOW_QUEUE)?,
        })
    }

    /// Hands a request to its lane.
    ///
    /// # Errors
    /// `Busy` when the lane's queue is full.
    pub fn submit(&self, id: u64, request: Request) -> Result<(), HsmError> {
        let lane = match request {
            Request::Sign { .. } | Request::Random(_) => &self.sign,
            Request::Generate(_) | Request::Destroy(_) | Request::PutCertificate { .. } => &self.change,
            Request::Find(_) | Request::Inventory | Request::GetCertificate(_) => &self.look,
            Request::Open(_) | Request::Ping => {
                return Err(HsmError::new(Kind::Invalid, "the token is open already"));
            }
        };
        let job = Job { id, request, since: Instant::now() };
        lane.try_send(job).map_err(|_| HsmError::new(Kind::Busy, "every session of the token is busy"))
    }
}

struct Worker {
    token: Arc<Token>,
    session: Option<Session>,
}

impl Worker {
    fn run(mut self, jobs: &flume::Receiver<Job>, out: &Out) {
        while let Ok(Job { id, request, since }) = jobs.recv() {
            let sign = matches!(request, Request::Sign { .. });
            let answer = if sign && since.elapsed() > SIGN_AGE {
                Err(HsmError::new(Kind::Timeout, "the request waited too long for a session"))
            } else {
                self.carry_out(&request)
            };
            if self.token.is_dead() {
                // A new process repeats what may be repeated; for the rest, the answer is all there is.
                if !request.repeatable() {
                    out.send(id, &answer);
                }
                tracing::error!(
                    operation = request.name(),
                    error = answer.err().map(|error| error.message),
                    "the module has to be started again"
                );
                std::thread::sleep(Duration::from_millis(20));
                raw::exit(EXIT_RESTART);
            }
            out.send(id, &answer);
        }
    }

    fn carry_out(&mut self, request: &Request) -> Result<Reply, HsmError> {
        if let Some(error) = self.token.refused() {
            return Err(error);
        }
        let token = Arc::clone(&self.token);
        match request {
            Request::Sign { key, algorithm, payload } => self.attempt(|session| {
                let cached = token.cached(key);
                let chosen = match cached {
                    Some(chosen) => chosen,
                    None => {
                        let epoch = token.epoch();
                        let chosen = object::sign_key(&token, session, key)?;
                        token.remember(key.clone(), epoch, chosen);
                        chosen
                    }
                };
                let (mechanism, data) =
                    mechanism::plan(*algorithm, chosen.shape, &token.mechanisms, payload)?;
                let signed = session.sign(&mechanism, chosen.object, &data).map_err(HsmError::from);
                let signature = signed.map_err(|error| match error.kind {
                    Kind::Lost | Kind::Device => {
                        token.forget(key);
                        // Some modules say no more than this of a key that somebody else deleted; look again.
                        let kind = if cached.is_some() { Kind::Lost } else { error.kind };
                        HsmError { kind, ..error }
                    }
                    _ => error,
                })?;
                Ok(Reply::Signature(signature.into()))
            }),
            Request::Random(count) if *count > RANDOM_MAX => {
                let message = format!("at most {RANDOM_MAX} random bytes at a time");
                Err(HsmError::new(Kind::Invalid, message))
            }
            Request::Random(count) => {
                self.attempt(|session| Ok(Reply::Random(session.random(*count as usize)?.into())))
            }
            Request::Generate(template) => self.attempt(|session| {
                token.forget(&template.id);
                Ok(Reply::Key(Box::new(object::generate(&token, session, template)?)))
            }),
            Request::Find(what) => {
                self.attempt(|session| Ok(Reply::Keys(object::find_keys(&token, session, what)?)))
            }
            Request::Inventory => {
                self.attempt(|session| Ok(Reply::Inventory(object::inventory(&token, session)?)))
            }
            Request::Destroy(id) => {
                self.attempt(|session| object::destroy(&token, session, id).map(|()| Reply::Done))
            }
            Request::PutCertificate { key, label, der } => self.attempt(|session| {
                object::put_certificate(&token, session, key, label, der).map(|()| Reply::Done)
            }),
            Request::GetCertificate(id) => self.attempt(|session| {
                Ok(Reply::Certificate(object::get_certificate(&token, session, id)?.map(Into::into)))
            }),
            Request::Open(_) | Request::Ping => unreachable!("not for a worker, see submit"),
        }
    }

    /// Does something with a session, once more where session, login or handle were lost. Everything that comes
    /// here looks before it acts, so that doing it again is safe even where the first time had an effect.
    fn attempt<T>(&mut self, mut act: impl FnMut(&Session) -> Result<T, HsmError>) -> Result<T, HsmError> {
        match self.once(&mut act) {
            Err(error) if self.is_loss(&error) => {
                tracing::warn!(error = error.message, "session, login or handle lost, once more");
                self.session = None;
                self.token.ensure_login()?;
                self.once(&mut act).inspect_err(|error| {
                    if matches!(error.kind, Kind::Lost | Kind::Device) {
                        self.session = None;
                    }
                    if error.code.is_some_and(error::module_is_gone) {
                        self.token.give_up();
                    }
                })
            }
            outcome => outcome,
        }
    }

    fn once<T>(&mut self, act: &mut impl FnMut(&Session) -> Result<T, HsmError>) -> Result<T, HsmError> {
        let session = match &mut self.session {
            Some(session) => session,
            empty => empty.insert(self.token.session()?),
        };
        act(session)
    }

    /// Whether an error is one of those that end with the session. The code alone does not say: some modules
    /// answer a logged-out session with `CKR_GENERAL_ERROR`.
    fn is_loss(&self, error: &HsmError) -> bool {
        match (error.kind, &self.session) {
            _ if self.token.is_dead() => false,
            (Kind::Lost, _) => true,
            (Kind::Device, Some(session)) => session.logged_in() != Ok(true),
            _ => false,
        }
    }
}
