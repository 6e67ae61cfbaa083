//! Keeps one token-host running: starts it, watches it, and starts it again.

use std::{
    os::fd::OwnedFd,
    path::PathBuf,
    process::Command,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use tokio::{
    net::UnixStream,
    sync::{Notify, watch},
    task::JoinHandle,
};
use tokio_util::task::AbortOnDropHandle;

pub use super::client::Deadlines;
use super::{
    Hsm, OnRecovery, Recovery, Rung,
    answers::{Answer, Answers, Gone},
    client::{Calls, NOBODY},
    frame::{self, Frames, PIECE},
    link::{Link, Pipe},
    memory,
    process::{Process, Spawner},
    protocol::{HsmError, Kind, Open, Reply, Request, TokenFacts},
    recovery::Recoveries,
};

/// Variables that a token-host inherits; everything else it gets is part of its configuration.
const INHERITED: &[&str] = &["PATH", "LD_LIBRARY_PATH", "HOME", "TMPDIR", "TZ", "RUST_LOG"];
/// A thread keeps so many freed blocks of a size for itself, not seven: libraries take hundreds of small blocks for one
/// question and free them again, and glibc would look for them all over the heap each time. A partition's own variables come
/// after it.
const ALLOCATOR: &str = "glibc.malloc.tcache_count=256";
const BACKOFF_MIN: Duration = Duration::from_millis(10);
/// A token that can be used again is found within this time and what opening it takes.
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// Once a token-host has answered something, the next one waits for at most `BACKOFF_MIN` this often doubled, and
/// after `STEADY` nothing is held against it any more.
const USEFUL_FAILURES: u32 = 4;
const STEADY: Duration = Duration::from_secs(10);
/// Nor is it against one that served for so many times what it took to open its token: to begin anew each time would cost
/// a twentieth.
const WORTH: u32 = 20;
/// A trouble that only a person can help with is told when so many token-hosts had it: a module that opens a
/// token while another process logs in may see none for a moment (SoftHSM does).
const BELIEVED: u32 = 3;
/// A token that has been open is open again within so many times what it took, and no module is given less time than this
/// before it is said to hang. The next one is given twice as much.
const REOPEN: (u32, Duration) = (2, Duration::from_secs(2));
/// So long after its death the state may go on saying that a token-host is ready: the next one usually is.
const GRACE: Duration = Duration::from_secs(2);

/// Why a token-host ended, where it does not say.
const GONE: &str = "the token-host ended";

/// Told of every finished request: operation, `ok` or the kind of its error, duration.
pub type Observer = Arc<dyn Fn(&'static str, &'static str, Duration) + Send + Sync>;

/// What a supervisor needs to know.
#[derive(Clone)]
pub struct SupervisorConfig {
    /// The program to start. Default: `/proc/self/exe`, which stays this very program when its file is replaced.
    pub exe: PathBuf,
    /// Environment of the module, like `SOFTHSM2_CONF`.
    pub environment: Vec<(String, String)>,
    /// Library, token and PIN.
    pub open: Open,
    /// How long requests may take.
    pub deadlines: Deadlines,
    /// How often the token-host is asked for a sign of life, and how long it may owe one.
    pub ping: (Duration, Duration),
    /// Most requests in flight.
    pub in_flight: usize,
    /// Most resident memory of the token-host, in bytes; with more of it, it is started again. Default: half of what the
    /// container may have.
    pub memory: Option<u64>,
    /// Told of every finished request.
    pub observer: Option<Observer>,
    /// Told of every step of recovery.
    pub on_recovery: Option<OnRecovery>,
}

impl SupervisorConfig {
    /// The usual settings.
    #[must_use]
    pub fn new(open: Open) -> Self {
        Self {
            exe: PathBuf::from("/proc/self/exe"),
            environment: Vec::new(),
            open,
            deadlines: Deadlines::default(),
            ping: (Duration::from_secs(1), Duration::from_secs(3)),
            in_flight: 1024,
            memory: *memory::MOST,
            observer: None,
            on_recovery: None,
        }
    }
}

/// How it stands with the token-host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostState {
    /// It is being started.
    Starting,
    /// The token is open.
    Ready(Arc<TokenFacts>),
    /// It could not be opened. `PinRejected` and `PinLocked` stay until [`Supervisor::replace`]; the rest is
    /// tried again with growing pauses.
    Failed(HsmError),
}

/// What is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Token-hosts started after the first.
    pub restarts: u64,
    /// Requests in flight.
    pub in_flight: usize,
    /// Process id of the token-host, while there is one.
    pub pid: Option<u32>,
    /// The token is open.
    pub ready: bool,
}

/// What the next token-host is started with.
#[derive(Clone)]
struct Wanted {
    /// Counts configurations.
    generation: u64,
    open: Open,
    environment: Vec<(String, String)>,
}

struct Shared {
    calls: Calls,
    state: watch::Sender<HostState>,
    facts: ArcSwapOption<TokenFacts>,
    wanted: Mutex<Wanted>,
    changed: Notify,
    stop: Notify,
    pid: AtomicU32,
    started: AtomicU64,
    observer: Option<Observer>,
    recoveries: Recoveries,
}

impl Shared {
    fn wanted(&self) -> MutexGuard<'_, Wanted> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A token behind a token-host that is kept running.
pub struct Supervisor {
    shared: Arc<Shared>,
    driver: Mutex<Option<JoinHandle<()>>>,
}

impl Supervisor {
    /// Starts a token-host and a task that looks after it. Calls may be made at once; they wait.
    ///
    /// # Panics
    /// Outside of a tokio runtime, and when the system has no more threads.
    #[must_use]
    pub fn start(config: SupervisorConfig) -> Arc<Self> {
        Self::start_after(std::future::ready(()), config)
    }

    /// The same, once `ready` is.
    ///
    /// # Panics
    /// As [`Self::start`].
    #[must_use]
    pub fn start_after(
        ready: impl Future<Output = ()> + Send + 'static,
        config: SupervisorConfig,
    ) -> Arc<Self> {
        let shared = Arc::new(Shared {
            calls: Calls::new(config.in_flight, config.deadlines),
            state: watch::Sender::new(HostState::Starting),
            facts: ArcSwapOption::empty(),
            wanted: Mutex::new(Wanted { generation: 0, open: config.open, environment: config.environment }),
            changed: Notify::new(),
            stop: Notify::new(),
            pid: AtomicU32::new(0),
            started: AtomicU64::new(0),
            observer: config.observer,
            recoveries: Recoveries::new(config.on_recovery),
        });
        let driver = Driver {
            shared: Arc::clone(&shared),
            exe: config.exe,
            ping: config.ping,
            memory: config.memory,
            spawner: Spawner::start(),
            troubled: 0,
            cause: String::new(),
            used: None,
            patience: config.deadlines.open,
        };
        let driver = Mutex::new(Some(tokio::spawn(async {
            ready.await;
            driver.run().await;
        })));
        Arc::new(Self { shared, driver })
    }

    /// Starts over with another library, token or PIN. The present token-host is ended first; what it was doing
    /// is repeated by the next one where that is harmless. Where it is but another number of sessions, the present one
    /// goes on with that. With nothing changed, it only tries again what failed.
    /// Whether it starts over.
    pub fn replace(&self, open: Open, environment: Vec<(String, String)>) -> bool {
        {
            let mut wanted = self.shared.wanted();
            let form = |open: &Open| frame::encode_secret(0, &Open { workers: 0, ..open.clone() });
            let same = form(&wanted.open) == form(&open) && wanted.environment == environment;
            if same && !matches!(*self.shared.state.borrow(), HostState::Failed(_)) {
                if wanted.open.workers != open.workers {
                    wanted.open.workers = open.workers;
                    self.shared.changed.notify_one();
                }
                return false;
            }
            *wanted = Wanted { generation: wanted.generation + 1, open, environment };
            self.shared.calls.admit();
            self.shared.state.send_replace(HostState::Starting);
        }
        self.shared.changed.notify_one();
        true
    }

    /// How it stands, now and whenever it changes.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<HostState> {
        self.shared.state.subscribe()
    }

    /// Waits for the token to be open, or for the reason why it is not.
    ///
    /// # Errors
    /// That reason.
    pub async fn ready(&self) -> Result<Arc<TokenFacts>, HsmError> {
        let mut state = self.state();
        let settled = state.wait_for(|state| !matches!(state, HostState::Starting)).await;
        match settled.as_deref() {
            Ok(HostState::Ready(facts)) => Ok(Arc::clone(facts)),
            Ok(HostState::Failed(error)) => Err(error.clone()),
            Ok(HostState::Starting) | Err(_) => Err(stopped()),
        }
    }

    /// What is counted.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let pid = self.shared.pid.load(Ordering::Relaxed);
        Counters {
            restarts: self.shared.started.load(Ordering::Relaxed).saturating_sub(1),
            in_flight: self.shared.calls.len(),
            pid: (pid != 0).then_some(pid),
            ready: matches!(*self.shared.state.borrow(), HostState::Ready(_)),
        }
    }

    /// The last step of recovery.
    #[must_use]
    pub fn recovery(&self) -> Option<Recovery> {
        self.shared.recoveries.last()
    }

    /// Requests in flight; `None` while there is no token-host to send one to.
    #[must_use]
    pub fn load(&self) -> Option<usize> {
        self.shared.calls.load()
    }

    /// Whether this signature is on its way and a token-host died of it, as far as is known.
    #[must_use]
    pub fn suspects(&self, request: &Request) -> bool {
        self.shared.calls.suspects(request)
    }

    /// Ends the token-host and waits until it is gone. Calls are refused from now on.
    pub async fn shutdown(&self) {
        self.shared.calls.refuse(&stopped());
        self.shared.stop.notify_one();
        let driver = self.driver.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(driver) = driver {
            // It ends by itself; if it panicked, there is nothing left to wait for.
            let _ = driver.await;
        }
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        if let Some(driver) = self.driver.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            // With the driver goes its process handle, and with that the process.
            driver.abort();
        }
    }
}

#[async_trait]
impl Hsm for Supervisor {
    async fn call(&self, request: Request) -> Result<Reply, HsmError> {
        if matches!(request, Request::Open(_) | Request::Ping | Request::Workers(_)) {
            return Err(HsmError::new(Kind::Invalid, "opening is the supervisor's own business"));
        }
        let begun = Instant::now();
        let outcome = self.shared.calls.call(&request).await;
        if let Some(observer) = &self.shared.observer {
            let result = outcome.as_ref().map_or_else(|error| error.kind.into(), |_| "ok");
            observer(request.name(), result, begun.elapsed());
        }
        outcome
    }

    fn token(&self) -> Option<Arc<TokenFacts>> {
        self.shared.facts.load_full()
    }
}

/// Why a token-host ended.
enum End {
    /// It died or hung: why.
    Died(String),
    /// The configuration changed.
    Replaced,
    /// The token refused the PIN.
    PinRefused(HsmError),
    Stopped,
}

struct Driver {
    shared: Arc<Shared>,
    exe: PathBuf,
    ping: (Duration, Duration),
    memory: Option<u64>,
    spawner: Spawner,
    /// Token-hosts since the last good one whose trouble only a person can help with.
    troubled: u32,
    /// Why the last token-host ended.
    cause: String,
    /// When the token could be used last.
    used: Option<Instant>,
    /// How long the next token-host may take until the token is open.
    patience: Duration,
}

impl Driver {
    async fn run(mut self) {
        let mut failures = 0;
        loop {
            let wanted = self.shared.wanted().clone();
            let generation = wanted.generation;
            let begun = Instant::now();
            let end = match self.open(wanted).await {
                Ok((mut host, facts)) => {
                    let (opening, open) = (begun.elapsed(), Instant::now());
                    self.troubled = 0;
                    let facts = Arc::new(facts);
                    self.shared.facts.store(Some(Arc::clone(&facts)));
                    self.report(generation, HostState::Ready(facts), |calls| calls.connect(&host.link));
                    let answered = self.shared.calls.answered();
                    let end = self.watch(&mut host).await;
                    self.used = Some(Instant::now());
                    if !matches!(end, End::Died(_)) {
                        self.shared.calls.blame(NOBODY);
                    }
                    self.shared.calls.disconnect();
                    let (served, useful) = (open.elapsed(), self.shared.calls.answered() > answered);
                    host.end(&self.shared).await;
                    if served > STEADY || useful && served > opening * WORTH {
                        failures = 0;
                    } else if useful {
                        failures = failures.min(USEFUL_FAILURES);
                    }
                    end
                }
                Err(End::PinRefused(error)) => End::PinRefused(error),
                Err(end) => {
                    // Only a token-host that was ready deserves to be replaced at once.
                    failures = failures.max(3);
                    end
                }
            };
            match end {
                End::Stopped => {
                    self.shared.calls.refuse(&stopped());
                    return;
                }
                End::Replaced => {
                    (failures, self.troubled, self.used) = (0, 0, None);
                    self.patience = self.shared.calls.deadlines.open;
                }
                End::PinRefused(error) => {
                    tracing::error!(error = error.message, "the PIN is not tried again before it changes");
                    self.report(generation, HostState::Failed(error.clone()), |calls| calls.refuse(&error));
                    failures = 0;
                    // Another number of sessions is no reason to try it again.
                    while self.shared.wanted().generation == generation {
                        tokio::select! {
                            () = self.shared.changed.notified() => {}
                            () = self.shared.stop.notified() => return,
                        }
                    }
                }
                End::Died(cause) => {
                    self.cause = cause;
                    tokio::select! {
                        () = tokio::time::sleep(pause(failures)) => {}
                        () = self.shared.changed.notified() => {}
                        () = self.shared.stop.notified() => return,
                    }
                    failures += 1;
                }
            }
        }
    }

    /// Sets the state, unless the configuration that it belongs to is not wanted any more. Calls are let in before
    /// the state says so and turned away after it: nobody is refused while it says ready.
    fn report(&self, generation: u64, state: HostState, effect: impl FnOnce(&Calls)) {
        let wanted = self.shared.wanted();
        if wanted.generation != generation {
            return;
        }
        let publish = |state: HostState| {
            self.shared.state.send_if_modified(|old| {
                let differs = *old != state;
                *old = state;
                differs
            })
        };
        if matches!(state, HostState::Ready(_)) {
            effect(&self.shared.calls);
            publish(state);
        } else {
            publish(state);
            effect(&self.shared.calls);
        }
    }

    /// Starts a token-host and has it open the token.
    async fn open(&mut self, wanted: Wanted) -> Result<(Host, TokenFacts), End> {
        let Wanted { generation, open, environment } = wanted;
        let (limit, begun) = (self.patience, Instant::now());
        let mut host = match self.spawn(&environment, generation, open.workers).await {
            Ok(host) => host,
            Err(error) => {
                let message = format!("cannot start a token-host: {error}");
                return Err(self.not_opened(generation, HsmError::new(Kind::Unavailable, message)));
            }
        };
        let answer = {
            let exchange = host.exchange(open);
            let mut exchange = std::pin::pin!(tokio::time::timeout(limit, exchange));
            let mut grace = std::pin::pin!(tokio::time::sleep(GRACE));
            let mut patient = true;
            loop {
                tokio::select! {
                    answer = &mut exchange => break Ok(answer.unwrap_or_else(|_| {
                        let message = format!("the token was not open within {} s", limit.as_secs_f32());
                        Err(HsmError::new(Kind::Timeout, message))
                    })),
                    () = &mut grace, if patient => {
                        patient = false;
                        if matches!(*self.shared.state.borrow(), HostState::Ready(_)) {
                            self.report(generation, HostState::Starting, |_| ());
                        }
                    }
                    () = self.shared.changed.notified() => {
                        if self.shared.wanted().generation != generation {
                            break Err(End::Replaced);
                        }
                    }
                    () = self.shared.stop.notified() => break Err(End::Stopped),
                }
            }
        };
        let longest = self.shared.calls.deadlines.open;
        match answer {
            Ok(Ok(facts)) => {
                let (times, least) = REOPEN;
                self.patience = (begun.elapsed() * times).max(least).min(longest);
                Ok((host, facts))
            }
            Ok(Err(error)) => {
                if error.kind == Kind::Timeout {
                    self.patience = (limit * 2).min(longest);
                }
                host.end(&self.shared).await;
                Err(self.not_opened(generation, error))
            }
            Err(end) => {
                host.end(&self.shared).await;
                Err(end)
            }
        }
    }

    fn not_opened(&mut self, generation: u64, error: HsmError) -> End {
        match error.kind {
            Kind::PinRejected | Kind::PinLocked => return End::PinRefused(error),
            _ => {}
        }
        // Once, and not every few seconds.
        if *self.shared.state.borrow() == HostState::Failed(error.clone()) {
            tracing::debug!(error = error.message, "the token still cannot be opened");
        } else {
            tracing::warn!(error = error.message, "the token could not be opened");
        }
        if error.kind.needs_person() {
            self.troubled += 1;
            // It may be about to come back, and callers wait that long.
            let patience = self.shared.calls.deadlines.sign;
            let lately = self.used.is_some_and(|used| used.elapsed() < patience);
            if self.troubled < BELIEVED || lately {
                return End::Died(error.message);
            }
        }
        self.report(generation, HostState::Failed(error.clone()), |calls| {
            if error.kind.needs_person() {
                calls.refuse(&error);
            }
        });
        End::Died(error.message)
    }

    async fn spawn(
        &mut self,
        environment: &[(String, String)],
        generation: u64,
        workers: u16,
    ) -> std::io::Result<Host> {
        let pair = || {
            let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
            ours.set_nonblocking(true)?;
            Ok::<_, std::io::Error>((Pipe::new(UnixStream::from_std(ours)?), OwnedFd::from(theirs)))
        };
        let ((main, their_main), (sign, their_sign)) = (pair()?, pair()?);
        let mut command = Command::new(&self.exe);
        let inherited = INHERITED.iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
        {
            use std::os::unix::process::CommandExt;
            // Signals of a terminal are for the parent, which ends its children itself.
            command.arg0("hsm-operator").process_group(0);
        }
        command
            .arg("token-host")
            .env_clear()
            .env("GLIBC_TUNABLES", ALLOCATOR)
            .envs(inherited)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(their_main)
            .stdout(their_sign);
        let process = self.spawner.spawn(command).await?;
        if self.shared.started.fetch_add(1, Ordering::Relaxed) > 0 {
            self.shared.recoveries.took(Rung::Process, &self.cause);
        }
        self.shared.pid.store(process.pid, Ordering::Relaxed);
        let link = Arc::new(Link::new(main, sign, workers));
        let writer = AbortOnDropHandle::new(tokio::spawn({
            let link = Arc::clone(&link);
            async move {
                tokio::join!(link.main.write(), link.sign.write());
            }
        }));
        Ok(Host { generation, workers, link, process, frames: Frames::default(), _writer: writer })
    }

    /// Hands out answers until the token-host ends, hangs or is not wanted any more.
    async fn watch(&self, host: &mut Host) -> End {
        let link = Arc::clone(&host.link);
        let mut answers = [&link.sign, &link.main].map(Answers::of);
        let mut owed = None;
        let mut end = self.follow(host, &mut answers, &mut owed).await;
        if let End::Died(cause) = &mut end {
            // One socket may say that it is over while an answer is still in the other.
            for answers in &mut answers {
                let _ = self.hand_out(Ok(answers.rest()), &mut owed);
            }
            if let Some(trouble) = self.shared.calls.trouble() {
                *cause = trouble;
            }
        }
        end
    }

    async fn follow(
        &self,
        host: &mut Host,
        [sign, main]: &mut [Answers<'_>; 2],
        owed: &mut Option<(u64, Instant)>,
    ) -> End {
        let mut tick = tokio::time::interval(self.ping.0);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut exited = host.process.exited.clone();
        // It may have changed while the token was opened.
        if host.resized(&self.shared).is_err() {
            return End::Replaced;
        }
        loop {
            tokio::select! {
                answers = sign.next() => if let Err(end) = self.hand_out(answers, owed) {
                    return end;
                },
                answers = main.next() => if let Err(end) = self.hand_out(answers, owed) {
                    return end;
                },
                _ = tick.tick() => {
                    if owed.is_some_and(|(_, since)| since.elapsed() >= self.ping.1) {
                        return End::Died("it gave no sign of life".into());
                    }
                    if let Some(cause) = self.illness(host) {
                        // No request is to blame, and each may be made again until its own time is over.
                        self.shared.calls.token_is_ill(cause.clone());
                        return End::Died(cause);
                    }
                    if owed.is_none() {
                        let id = self.shared.calls.next_id();
                        *owed = Some((id, Instant::now()));
                        host.link.main.send(&frame::encode(id, &Request::Ping), false);
                    }
                }
                // A module that forked may keep the socket open beyond the token-host's own end.
                _ = exited.wait_for(Option::is_some) => return End::Died(GONE.into()),
                () = self.shared.changed.notified() => if host.resized(&self.shared).is_err() {
                    return End::Replaced;
                },
                () = self.shared.stop.notified() => return End::Stopped,
            }
        }
    }

    /// What is wrong with a token-host that gives signs of life.
    fn illness(&self, host: &Host) -> Option<String> {
        if let Some(lane) = self.shared.calls.stuck() {
            return Some(format!("the library hangs ({lane})"));
        }
        // A key that takes long to make is worth some more.
        let most = self.memory? / 2 * if self.shared.calls.is_making() { 3 } else { 2 };
        let mib = |bytes: u64| bytes / (1024 * 1024);
        memory::resident(host.process.pid).filter(|taken| *taken > most).map(|taken| {
            format!("the library has taken {} MiB of memory, more than {}", mib(taken), mib(most))
        })
    }

    /// Gives answers to those who wait for them.
    fn hand_out(
        &self,
        answers: Result<Vec<Answer>, Gone>,
        owed: &mut Option<(u64, Instant)>,
    ) -> Result<(), End> {
        for (id, answer) in answers.map_err(|Gone| End::Died(GONE.into()))? {
            if owed.is_some_and(|(ping, _)| ping == id) {
                *owed = None;
                if let Ok(Reply::Alive { making, longest }) = answer {
                    self.shared.calls.alive(making, longest);
                }
                continue;
            }
            match answer {
                Ok(Reply::Crashed(culprit)) => {
                    self.shared.calls.blame(u64::from_le_bytes(culprit));
                    continue;
                }
                // It is about to end, and is counted when the next one starts.
                Ok(Reply::Recovery { rung: Rung::Process, cause }) => {
                    self.shared.calls.token_is_ill(cause);
                    continue;
                }
                Ok(Reply::Recovery { rung, cause }) => {
                    self.shared.recoveries.took(rung, &cause);
                    continue;
                }
                _ => {}
            }
            let refused = answer
                .as_ref()
                .err()
                .filter(|error| matches!(error.kind, Kind::PinRejected | Kind::PinLocked));
            let refused = refused.cloned();
            self.shared.calls.complete(id, answer);
            if let Some(error) = refused {
                return Err(End::PinRefused(error));
            }
        }
        Ok(())
    }
}

fn stopped() -> HsmError {
    HsmError::new(Kind::Unavailable, "the token-host is being shut down")
}

/// How long the next token-host is waited for. The first one is not: callers wait, and most ends are single ones.
fn pause(failures: u32) -> Duration {
    if failures == 0 {
        return Duration::ZERO;
    }
    let longest = BACKOFF_MIN.saturating_mul(1 << failures.min(16)).min(BACKOFF_MAX);
    longest.mul_f64(rand::random_range(0.5..=1.0))
}

/// A running token-host.
struct Host {
    /// Of the configuration that it was started with.
    generation: u64,
    /// Its sessions that sign.
    workers: u16,
    link: Arc<Link>,
    process: Process,
    frames: Frames,
    _writer: AbortOnDropHandle<()>,
}

/// The configuration is another one, in more than the number of sessions.
struct Outdated;

impl Host {
    /// Has it go on with as many sessions as are wanted now.
    fn resized(&mut self, shared: &Shared) -> Result<(), Outdated> {
        let (generation, workers) = {
            let wanted = shared.wanted();
            (wanted.generation, wanted.open.workers)
        };
        if generation != self.generation {
            return Err(Outdated);
        }
        if workers != self.workers {
            self.workers = workers;
            shared.calls.resize(&self.link, workers);
        }
        Ok(())
    }

    /// Sends `Open` and waits for what comes of it. The PIN is in the frame, which is overwritten after use.
    async fn exchange(&mut self, open: Open) -> Result<TokenFacts, HsmError> {
        let ended = |why: &dyn std::fmt::Display| {
            HsmError::new(Kind::Crashed, format!("the token-host ended while it opened the token: {why}"))
        };
        {
            let frame = frame::encode_secret(0, &Request::Open(open));
            let mut rest = frame.as_slice();
            while !rest.is_empty() {
                self.link.main.socket.writable().await.map_err(|e| ended(&e))?;
                match self.link.main.socket.try_write(rest) {
                    Ok(written) => rest = &rest[written..],
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(ended(&error)),
                }
            }
        }
        let mut piece = vec![0; PIECE];
        loop {
            self.link.main.socket.readable().await.map_err(|e| ended(&e))?;
            match self.link.main.socket.try_read(&mut piece) {
                Ok(0) => {
                    let status = tokio::time::timeout(
                        Duration::from_secs(1),
                        self.process.exited.wait_for(Option::is_some),
                    );
                    return Err(match status.await {
                        Ok(Ok(status)) => ended(&status.expect("waited for")),
                        _ => ended(&"it closed its socket"),
                    });
                }
                Ok(length) => self.frames.push(&piece[..length]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
                Err(error) => return Err(ended(&error)),
            }
            match self.frames.take::<Result<Reply, HsmError>>() {
                Ok(None) => {}
                Ok(Some((_, Ok(Reply::Opened(facts))))) => return Ok(*facts),
                Ok(Some((_, Err(error)))) => return Err(error),
                Ok(Some(_)) => return Err(ended(&"it answered something else")),
                Err(error) => return Err(ended(&error)),
            }
        }
    }

    /// Kills the process and waits until it is gone, so that the next one has the token to itself.
    async fn end(mut self, shared: &Shared) {
        drop(self.process.kill);
        // The thread that reaps ends only with the program.
        let _ = self.process.exited.wait_for(Option::is_some).await;
        shared.pid.store(0, Ordering::Relaxed);
    }
}
