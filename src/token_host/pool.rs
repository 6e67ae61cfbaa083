//! Threads that call the module, each with a session of its own, and what waits before them.

use std::{
    cell::Cell,
    os::unix::net::UnixStream,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU16, Ordering},
    },
    time::{Duration, Instant},
};

use super::{
    agreement, attest, cipher, context, data, export, import,
    index::Objects,
    intake::{Intake, Place},
    inventory, mechanism, object, overlooked, probe, raw,
    raw::Session,
    removal,
    socket::Out,
    stateful,
    token::{SignKey, Token},
    tree, wrapping,
};
use crate::{
    hsm::{
        probe::Probe,
        protocol::{HsmError, Kind, Lane, Reply, Request},
        recovery::Rung,
    },
    model::KeyId,
    telemetry::logs::chain,
};

/// Requests that wait in each of the slow lanes.
const SLOW_QUEUE: usize = 256;
/// An answer waits for a signature to come only where the last one was quicker than this.
const SOON: Duration = Duration::from_millis(1);
/// A thread that just signed looks for the next request so long before it sleeps, if the last one came as soon.
/// Who asks for one signature after the other does not wait for it to wake up then, which takes as long as many a
/// signature.
const LINGER: Duration = Duration::from_micros(300);
/// A call is made so often at most because the login went away meanwhile, on each step of recovery. A token that loses
/// it more often is not well, whoever asks it.
const LOGINS: usize = 8;
/// So long the end of the process waits for threads to come out of the module.
const LEAVE: Duration = Duration::from_millis(100);
/// Most random bytes of one request.
const RANDOM_MAX: u32 = 1024 * 1024;
/// Exit code that says: the module is of no more use, try again in a new process.
pub const EXIT_RESTART: i32 = 75;

struct Job {
    id: u64,
    request: Request,
    /// When it was asked for.
    asked: Instant,
}

/// Lanes of work that do not hold each other up: a key that takes a minute to make must not delay a signature.
pub struct Pool {
    change: flume::Sender<Job>,
    look: flume::Sender<Job>,
    signatures: Arc<Signatures>,
    /// Threads that sign, without those that are to leave.
    workers: Cell<u16>,
}

/// What the signing threads share.
struct Signatures {
    intake: Intake,
    out: Out,
    /// A key is being made, and some modules have everything wait for that.
    held_up: AtomicBool,
    /// Threads that are to leave, whichever are done first.
    leaving: AtomicU16,
}

impl Pool {
    /// Starts the threads. Those that sign read from `sign` themselves; the others get their work by
    /// [`Pool::submit`] and answer over `out`.
    ///
    /// # Errors
    /// When the system has no more threads.
    pub fn start(
        token: &Arc<Token>,
        sign: UnixStream,
        out: &Arc<Out>,
        workers: u16,
    ) -> std::io::Result<Self> {
        let signatures = Arc::new(Signatures {
            out: Out::new(sign.try_clone()?),
            intake: Intake::new(sign)?,
            held_up: AtomicBool::new(false),
            leaving: AtomicU16::new(0),
        });
        let lane = |name: &str, changes: bool| {
            let (sender, receiver) = flume::bounded::<Job>(SLOW_QUEUE);
            let (out, signatures) = (Arc::clone(out), Arc::clone(&signatures));
            let mut worker = Worker::of(token, changes);
            std::thread::Builder::new().name(name.into()).spawn(move || {
                while let Ok(Job { id, request, asked }) = receiver.recv() {
                    if changes {
                        signatures.held_up.store(true, Ordering::Relaxed);
                        signatures.out.flush();
                    }
                    let answer = worker.serve(id, &request, asked, &out);
                    if changes {
                        signatures.held_up.store(false, Ordering::Relaxed);
                    }
                    out.send(id, &answer);
                }
            })?;
            Ok::<_, std::io::Error>(sender)
        };
        let (change, look) = (lane("change", true)?, lane("look", false)?);
        let pool = Self { change, look, signatures, workers: Cell::new(0) };
        pool.resize(token, workers)?;
        Ok(pool)
    }

    /// From now on so many threads sign, at least one. Those that are too many leave when they have answered what they are
    /// at, or come to next.
    ///
    /// # Errors
    /// When the system has no more threads.
    pub fn resize(&self, token: &Arc<Token>, workers: u16) -> std::io::Result<()> {
        let workers = workers.max(1);
        let leaving = &self.signatures.leaving;
        leaving.fetch_add(self.workers.get().saturating_sub(workers), Ordering::Relaxed);
        self.workers.set(self.workers.get().min(workers));
        while self.workers.get() < workers {
            // One that did not leave yet may stay.
            if !self.signatures.one_leaves() {
                let (worker, signatures) = (Worker::of(token, false), Arc::clone(&self.signatures));
                let place = signatures.intake.place()?;
                std::thread::Builder::new()
                    .name("sign".into())
                    .spawn(move || worker.sign(&signatures, &place))?;
            }
            self.workers.set(self.workers.get() + 1);
        }
        Ok(())
    }

    /// Writes the signatures that wait for others to be written with.
    pub fn flush(&self) {
        self.signatures.out.flush();
    }

    /// Hands a request to its lane that was asked for at this time.
    ///
    /// # Errors
    /// `Busy` when the lane's queue is full.
    pub fn submit(&self, id: u64, request: Request, asked: Instant) -> Result<(), HsmError> {
        if matches!(request, Request::Open(_) | Request::Ping | Request::Workers(_) | Request::Since(..)) {
            return Err(HsmError::new(Kind::Invalid, "the token is open already"));
        }
        let lane = match request.lane() {
            Lane::Change => &self.change,
            Lane::Look => &self.look,
            Lane::Sign => return Err(wrong_socket(&request)),
        };
        lane.try_send(Job { id, request, asked })
            .map_err(|_| HsmError::new(Kind::Busy, "too many requests wait for the token"))
    }
}

impl Signatures {
    /// Whether a thread is to leave; it is counted as gone.
    fn one_leaves(&self) -> bool {
        let less = |leaving: u16| leaving.checked_sub(1);
        self.leaving.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }
}

fn wrong_socket(request: &Request) -> HsmError {
    HsmError::new(Kind::Invalid, format!("{} goes over the other socket", request.name()))
}

/// The key of an id, remembered. Others may have looked it up while this one waited for its turn.
pub(super) fn look_up(token: &Token, session: &Session, key: &KeyId) -> Result<SignKey, HsmError> {
    // Whoever makes a key has all objects to himself, for minutes.
    if let Some(chosen) = token.cached(key) {
        return Ok(chosen);
    }
    let mut objects = Objects::of(token, session, Instant::now());
    if let Some(chosen) = token.cached(key) {
        return Ok(chosen);
    }
    let epoch = token.epoch();
    let chosen = object::sign_key(&mut objects, key)?;
    token.remember(key.clone(), epoch, chosen);
    Ok(chosen)
}

struct Worker {
    token: Arc<Token>,
    session: Option<Session>,
    /// Its requests change what is on the token.
    changes: bool,
    /// How long the last signature took.
    took: Duration,
    /// How long the last one was waited for.
    waited: Duration,
}

impl Worker {
    fn of(token: &Arc<Token>, changes: bool) -> Self {
        Self { token: Arc::clone(token), session: None, changes, took: Duration::MAX, waited: Duration::MAX }
    }

    /// Signs what comes, one at a time. While all are busy requests wait unread: nobody is woken up for a request that
    /// nobody can take.
    fn sign(mut self, signatures: &Signatures, place: &Place) {
        let out = &signatures.out;
        while !signatures.one_leaves() {
            let idle = Instant::now();
            let next = self.next(signatures, place);
            self.waited = idle.elapsed();
            match next {
                Ok(Some((id, request))) if request.lane() == Lane::Sign => {
                    let begun = Instant::now();
                    let answer = self.serve(id, &request, begun, out);
                    out.leave(id, &answer);
                    self.took = begun.elapsed();
                }
                Ok(Some((id, request))) => out.send(id, &Err(wrong_socket(&request))),
                Ok(None) => raw::exit(0),
                Err(error) => {
                    tracing::error!(error = chain(&error), "the socket to the parent is of no more use");
                    raw::exit(1);
                }
            }
        }
        out.flush();
        let _inside = self.token.gate.read();
        self.session = None;
    }

    /// The next request. The last answer waits for others only where the next request is here already and the last one
    /// was quick. Should the next one not be, the other threads write it, and at the latest a sign of life does.
    fn next(
        &self,
        Signatures { intake, out, held_up, leaving: _ }: &Signatures,
        place: &Place,
    ) -> Result<Option<(u64, Request)>, super::Error> {
        let linger = if self.took < SOON && self.waited < LINGER { LINGER } else { Duration::ZERO };
        intake.next(place, linger, |here| {
            if here && self.took < SOON && !held_up.load(Ordering::Relaxed) {
                out.flush_if_due();
            } else {
                out.flush();
            }
        })
    }

    /// Carries out a request. The process does not survive the module.
    fn serve(&mut self, id: u64, request: &Request, asked: Instant, out: &Out) -> Result<Reply, HsmError> {
        raw::working_on(id);
        let answer = self.answer(request, asked);
        raw::working_on(0);
        // A refused PIN is told, and ends the process from outside: the next one must not try it.
        if self.token.is_dead() && self.token.refused().is_none() {
            // A new process repeats what may be repeated; for the rest, the answer is all there is.
            if !request.repeatable() {
                out.leave(id, &answer);
            }
            out.flush();
            let cause = answer.map_or_else(|error| error.message, |_| "the module is of no more use".into());
            self.token.took(Rung::Process, &cause);
            std::thread::sleep(Duration::from_millis(20));
            // Somebody may be writing what the token lives on: SoftHSM empties its file at each login and fills it again.
            let _alone = self.token.gate.try_write_for(LEAVE);
            raw::exit(EXIT_RESTART);
        }
        answer
    }

    /// The answer to a request; another one where others may have made what the first one says is not there, see
    /// [`overlooked`].
    fn answer(&mut self, request: &Request, asked: Instant) -> Result<Reply, HsmError> {
        let starts = self.token.starts();
        let answer = self.carry_out(request, asked);
        if !overlooked::comes_short(request, &answer) || !self.token.may_have_overlooked(starts) {
            return answer;
        }
        self.token.read_anew(starts)?;
        self.carry_out(request, asked)
    }

    /// The same for what is done because something is not there, before it is done.
    fn make_sure(
        &mut self,
        asked: Instant,
        is_there: impl FnMut(&mut Objects<'_>) -> Result<bool, HsmError>,
    ) -> Result<(), HsmError> {
        let starts = self.token.starts();
        if !self.token.may_have_overlooked(starts) || self.alone(asked, is_there)? {
            return Ok(());
        }
        self.token.read_anew(starts)
    }

    fn carry_out(&mut self, request: &Request, asked: Instant) -> Result<Reply, HsmError> {
        if let Some(error) = self.token.refused() {
            return Err(error);
        }
        let token = Arc::clone(&self.token);
        match request {
            Request::Sign { algorithm, .. } if algorithm.is_stateful() => Err(HsmError::new(
                Kind::Invalid,
                format!("{algorithm} is asked for once, by another request"),
            )),
            Request::Sign { key, algorithm, payload } => self.attempt(Some(key), |session| {
                let cached = token.cached(key);
                let chosen = match cached {
                    Some(chosen) => chosen,
                    None => look_up(&token, session, key)?,
                };
                let (mechanism, data) =
                    mechanism::plan(*algorithm, chosen.shape, &token.mechanisms, payload)?;
                let signed = session.sign(&mechanism, chosen.object, &data).map_err(HsmError::from);
                let signature = signed.map_err(|error| match error.kind {
                    // For a signature the token needs no room that somebody would have to make.
                    Kind::Lost | Kind::Device | Kind::Full => {
                        token.forget(key);
                        // Some modules say no more than this of a key that somebody else deleted; look again.
                        let kind = if cached.is_some() { Kind::Lost } else { Kind::Device };
                        HsmError { kind, ..error }
                    }
                    _ => error,
                })?;
                if cached.is_none() {
                    token.sings(key, *algorithm);
                }
                Ok(Reply::Signature(signature.into()))
            }),
            Request::Random(count) if *count > RANDOM_MAX => {
                let message = format!("at most {RANDOM_MAX} random bytes at a time");
                Err(HsmError::new(Kind::Invalid, message))
            }
            Request::Random(count) => {
                self.attempt(None, |session| Ok(Reply::Random(session.random(*count as usize)?.into())))
            }
            Request::Generate(template) => self.alone(asked, |objects| {
                token.forget(&template.id);
                Ok(Reply::Key(Box::new(object::generate(objects, template)?)))
            }),
            Request::Claim(template) => self.alone(asked, |objects| {
                token.forget(&template.id);
                object::claim(objects, template)
            }),
            Request::Find(what) => {
                self.alone(asked, |objects| Ok(Reply::Keys(object::find_keys(objects, what)?)))
            }
            Request::Inventory => {
                self.alone(asked, |objects| Ok(Reply::Inventory(inventory::inventory(objects)?)))
            }
            Request::Destroy(id) => {
                self.make_sure(asked, |objects| Ok(object::Group::now(objects, id)?.has_key()))?;
                self.alone(asked, |objects| removal::destroy(objects, id).map(|()| Reply::Done))
            }
            Request::PutCertificate { key, label, der } => self.alone(asked, |objects| {
                object::put_certificate(objects, key, label, der).map(|()| Reply::Done)
            }),
            Request::GetCertificate(id) => self.alone(asked, |objects| {
                Ok(Reply::Certificate(object::get_certificate(objects, id)?.map(Into::into)))
            }),
            Request::Probe(Probe::Sessions) => {
                self.attempt(None, |_| Ok(Reply::Findings(Box::new(probe::run(&token, Probe::Sessions)?))))
            }
            Request::Probe(what) => {
                self.alone(asked, |objects| Ok(Reply::Findings(Box::new(probe::run(objects.token, *what)?))))
            }
            Request::Encrypt(job) => {
                self.attempt(Some(&job.key), |session| cipher::encrypt(&token, session, job))
            }
            Request::Decrypt(job) => {
                self.attempt(Some(&job.key), |session| cipher::decrypt(&token, session, job))
            }
            Request::Agree { key, point } => {
                self.attempt(Some(key), |session| agreement::agree(&token, session, key, point))
            }
            Request::Hmac { key, payload } => {
                self.attempt(Some(key), |session| cipher::hmac(&token, session, key, payload.expose()))
            }
            Request::PutData { name, value, attributes } => {
                let mut before = false;
                self.alone(asked, |objects| {
                    let again = std::mem::replace(&mut before, true);
                    data::put(objects, name, value, *attributes, again).map(Reply::DataKept)
                })
            }
            Request::GetData(name) => {
                self.alone(asked, |objects| Ok(Reply::Data(data::get(objects, name)?.map(Box::new))))
            }
            Request::DestroyData(name) => {
                self.make_sure(asked, |objects| data::is_there(objects, name))?;
                let mut before = false;
                self.alone(asked, |objects| {
                    let again = std::mem::replace(&mut before, true);
                    data::destroy(objects, name, again).map(Reply::DataGone)
                })
            }
            Request::Import(job) => {
                let mut tried = false;
                let outcome = self.alone(asked, |objects| {
                    token.forget(&job.template.id);
                    import::import(objects, job, asked, &mut tried)
                });
                // An error of what came after a try says nothing of the try.
                outcome.map_err(|error| match error.kind.not_done() && tried {
                    true => HsmError { kind: Kind::Crashed, ..error },
                    false => error,
                })
            }
            Request::Export(key) => {
                self.alone(asked, |objects| Ok(Reply::Exported(Box::new(export::export(objects, key)?))))
            }
            Request::Wrap(job) => {
                self.alone(asked, |objects| Ok(Reply::Wrapped(wrapping::wrap(objects, job)?.into())))
            }
            Request::Derived { master, path } => self.attempt(Some(master), |session| {
                Ok(Reply::Key(Box::new(tree::facts(&token, session, master, path)?)))
            }),
            Request::SignDerived { master, path, algorithm, payload } => self
                .attempt(Some(master), |session| {
                    tree::sign(&token, session, master, path, (*algorithm, payload))
                }),
            Request::SignInContext { key, algorithm, context, payload } => self
                .attempt(Some(key), |session| {
                    context::sign(&token, session, key, (*algorithm, context, payload))
                }),
            Request::SignStateful { key, algorithm, payload } => {
                // What the token failed of may be its state, and only the steps of recovery end that. They are taken as
                // for any request, but for the request itself: from then on it only says again what it failed of.
                let mut failed: Option<HsmError> = None;
                let outcome = self.attempt(Some(key), |session| match &failed {
                    Some(error) => Err(error.clone()),
                    None => stateful::sign(&token, session, key, (*algorithm, payload))?
                        .inspect_err(|error| failed = Some(error.clone())),
                });
                failed.map_or(outcome, Err)
            }
            Request::Derive(wanted) => self.alone(asked, |objects| {
                token.forget(&wanted.template.id);
                tree::derive(objects, wanted)
            }),
            Request::AttestationKey { id, label } => self.alone(asked, |objects| {
                token.forget(id);
                attest::key(objects, id, label)
            }),
            Request::Attest { by, key } => {
                self.attempt(Some(by), |session| attest::attest(&token, session, by, key))
            }
            Request::Open(_) | Request::Ping | Request::Workers(_) | Request::Since(..) => {
                unreachable!("not for a worker, see submit")
            }
        }
    }

    /// The same, with all objects to itself, for a request that came when it was `asked`.
    fn alone<T>(
        &mut self,
        mut asked: Instant,
        mut act: impl FnMut(&mut Objects<'_>) -> Result<T, HsmError>,
    ) -> Result<T, HsmError> {
        let token = Arc::clone(&self.token);
        self.attempt(None, |session| {
            let outcome = act(&mut Objects::of(&token, session, asked));
            // What was seen before the first try failed is not good enough for the second.
            asked = Instant::now();
            outcome
        })
    }

    /// Does something with a session, once more where that may help, and a third time when it is known that the token is
    /// well or the module was started over. A try during which the login went away is no try, see
    /// [`Worker::under_a_login`]. Everything that comes here looks before it acts, so that doing it again is safe
    /// even where the first time had an effect. Sessions are opened and closed behind the gate like everything else. `key`
    /// is the one that signs.
    fn attempt<T>(
        &mut self,
        key: Option<&KeyId>,
        mut act: impl FnMut(&Session) -> Result<T, HsmError>,
    ) -> Result<T, HsmError> {
        let token = Arc::clone(&self.token);
        let starts = token.starts();
        let error = {
            let _inside = token.gate.read();
            let error = match self.once(&mut act) {
                Err(error) if self.may_pass(&error) => error,
                outcome => return outcome,
            };
            token.took(Rung::Session, &error.message);
            self.session = None;
            match token.ensure_login(Some(&error.message)) {
                Err(error) if token.refused().is_some() || token.is_dead() => return Err(error),
                Err(error) => error,
                Ok(()) => match self.under_a_login(&mut act) {
                    Err(error) if matches!(error.kind, Kind::Lost | Kind::Device) => error,
                    outcome => return outcome,
                },
            }
        };
        let is_well = || {
            let _inside = token.gate.read();
            token.is_well(key, &error.message)
        };
        // Another thread may have started it over meanwhile.
        let well = token.starts() == starts && is_well();
        if !well {
            token.start_over(starts, &error.message)?;
        }
        if self.changes {
            return Err(error);
        }
        let _inside = token.gate.read();
        let third = self.under_a_login(&mut act);
        if let Err(error) = &third
            && matches!(error.kind, Kind::Lost | Kind::Device)
            && !well
        {
            if token.is_well(key, &error.message) {
                // What it failed of may have ended since.
                return self.under_a_login(&mut act);
            }
            token.give_up();
        }
        third
    }

    /// The same as [`Worker::once`], until one login was there from the beginning to the end, or something else is the
    /// matter than a login. While one thread logs in again others may lose that login, too, any number of times: that says
    /// nothing of this call. A session that is of no use is given up.
    fn under_a_login<T>(
        &mut self,
        act: &mut impl FnMut(&Session) -> Result<T, HsmError>,
    ) -> Result<T, HsmError> {
        let token = Arc::clone(&self.token);
        let mut tries = 0;
        loop {
            let before = token.epoch();
            let outcome = self.once(act);
            let Err(error) = &outcome else { return outcome };
            if matches!(error.kind, Kind::Lost | Kind::Device) {
                self.session = None;
            }
            tries += 1;
            if error.kind != Kind::Lost || tries == LOGINS || token.is_dead() {
                return outcome;
            }
            // Counted also where another thread was the one that logged in.
            if token.ensure_login(Some(&error.message)).is_err() || token.epoch() == before {
                return outcome;
            }
        }
    }

    fn once<T>(&mut self, act: &mut impl FnMut(&Session) -> Result<T, HsmError>) -> Result<T, HsmError> {
        if self.session.as_ref().is_some_and(|session| !session.is_of_now()) {
            self.session = None;
        }
        let session = match &mut self.session {
            Some(session) => session,
            empty => empty.insert(self.token.session()?),
        };
        act(session)
    }

    /// Whether an error may end with the session. The code does not say: some modules answer a logged-out session
    /// with `CKR_GENERAL_ERROR`. What changes nothing is simply tried again; a key whose making failed under a good
    /// login may still come.
    fn may_pass(&self, error: &HsmError) -> bool {
        match (error.kind, &self.session) {
            _ if self.token.is_dead() => false,
            (Kind::Lost, _) => true,
            (Kind::Device, Some(session)) => !self.changes || session.logged_in() != Ok(true),
            (Kind::Device, None) => true,
            _ => false,
        }
    }
}
