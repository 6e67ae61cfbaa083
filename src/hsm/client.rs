//! Requests in flight: who waits for what, and what becomes of it when a token-host dies.

mod trial;

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::oneshot;
use zeroize::Zeroizing;

use self::trial::Trial;
use super::{
    frame,
    link::{Link, locked},
    moment::Moment,
    protocol::{HsmError, Kind, Lane, Reply, Request},
};

/// How long requests may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// A signature or random bytes.
    pub sign: Duration,
    /// Making a key; and whatever waits behind one that is made.
    pub generate: Duration,
    /// Looking for keys or at all of them, certificates.
    pub look: Duration,
    /// From the start of a token-host until it has logged in.
    pub open: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            sign: Duration::from_secs(10),
            generate: Duration::from_secs(120),
            look: Duration::from_secs(30),
            open: Duration::from_secs(30),
        }
    }
}

/// How long a request of a lane may take.
const fn deadline(lane: Lane, deadlines: &Deadlines) -> Duration {
    match lane {
        Lane::Sign => deadlines.sign,
        Lane::Change => deadlines.generate,
        Lane::Look => deadlines.look,
    }
}

/// No answer for so long is a token-host that hangs, whatever it says.
const FOREVER: Duration = Duration::from_secs(600);

/// No request has this number.
pub(super) const NOBODY: u64 = 0;

struct Call {
    lane: Lane,
    repeatable: bool,
    frame: Zeroizing<Vec<u8>>,
    /// Nobody any more, once the caller gave up.
    waiter: Option<oneshot::Sender<Result<Reply, HsmError>>>,
    /// When it was sent to the present token-host.
    sent: Option<Instant>,
    /// A token-host said with its last words that it died of it.
    named: bool,
    /// Token-hosts that died of it, or may have.
    crashes: u8,
}

/// Whose turn it is in a lane.
#[derive(Default)]
struct Turns {
    /// Calls on their way over the link.
    under_way: usize,
    /// Calls that wait, in the order of arrival; some may have been given up.
    queue: VecDeque<u64>,
}

#[derive(Default)]
struct Table {
    calls: HashMap<u64, Call>,
    link: Option<Arc<Link>>,
    /// What the token-host crashed of, by its own last words; no request's number where none is to blame.
    culprit: Option<u64>,
    /// What the last token-host said was wrong with the token, until one answers.
    trouble: Option<String>,
    /// Of each lane.
    turns: [Turns; 3],
    /// While it is found out which request the token-host crashes of.
    trial: Option<Trial>,
    /// Why calls are refused instead of waiting for the next token-host.
    refusal: Option<HsmError>,
    last_done: [Option<Instant>; 3],
    /// When the latest of the signatures that were answered was sent.
    overtaking: Option<Instant>,
    /// When the last long piece of work other than signing ended.
    long_done: Option<Instant>,
    /// The module is making a key, as of the last sign of life.
    making: bool,
    /// How long the longest of its other calls had taken by then.
    longest: Duration,
    answered: u64,
}

impl Table {
    /// Sends a call, or has it wait for its turn or for the next token-host.
    fn submit(&mut self, id: u64) {
        self.keep_trial_short();
        let (Some(call), Some(link)) = (self.calls.get(&id), &self.link) else { return };
        let turns = &mut self.turns[call.lane as usize];
        if self.trial.is_none() && turns.under_way < link.window(call.lane) {
            self.send(id);
        } else {
            turns.queue.push_back(id);
        }
    }

    fn send(&mut self, id: u64) {
        let (Some(call), Some(link)) = (self.calls.get_mut(&id), &self.link) else { return };
        let turns = &mut self.turns[call.lane as usize];
        turns.under_way += 1;
        call.sent = Some(Instant::now());
        link.pipe(call.lane).send(&call.frame, call.lane == Lane::Sign && turns.under_way == 1);
        if !call.repeatable {
            call.frame = Zeroizing::default();
        }
    }

    /// An answer came: whose turn is it?
    fn next(&mut self, lane: Lane) {
        let turns = &mut self.turns[lane as usize];
        turns.under_way = turns.under_way.saturating_sub(1);
        self.keep_trial_short();
        self.go_on_with_trial();
        self.fill(lane);
    }

    /// Sends what waits for its turn, as far as there is room.
    fn fill(&mut self, lane: Lane) {
        while let Some(link) = &self.link
            && self.trial.is_none()
            && self.turns[lane as usize].under_way < link.window(lane)
            && let Some(id) = self.turns[lane as usize].queue.pop_front()
        {
            self.submit(id);
        }
    }
}

/// All requests in flight.
pub(super) struct Calls {
    table: Mutex<Table>,
    next: AtomicU64,
    room: usize,
    pub deadlines: Deadlines,
}

/// Takes a call out of the table, or leaves a note there, when its caller goes away for whatever reason.
struct Ticket<'a> {
    calls: &'a Calls,
    id: u64,
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.calls.abandon(self.id);
    }
}

impl Calls {
    pub fn new(room: usize, deadlines: Deadlines) -> Self {
        Self { table: Mutex::default(), next: AtomicU64::new(1), room, deadlines }
    }

    pub fn next_id(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Requests that somebody waits for, or whose answer is still to come.
    pub fn len(&self) -> usize {
        locked(&self.table).calls.len()
    }

    /// The same, while there is a token-host.
    pub fn load(&self) -> Option<usize> {
        let table = locked(&self.table);
        table.link.is_some().then_some(table.calls.len())
    }

    /// Carries out one request.
    pub async fn call(&self, request: &Request) -> Result<Reply, HsmError> {
        let id = self.next_id();
        let lane = request.lane();
        // A look may have to wait for a key that is made.
        let limit = match lane {
            Lane::Look => self.deadlines.look + self.deadlines.generate,
            lane => deadline(lane, &self.deadlines),
        };
        let frame = match lane {
            Lane::Sign => Zeroizing::new(frame::encode(id, request)),
            // Those that wait together are answered by one search, wherever they wait.
            _ => {
                let request = Request::Since(Moment::now(), Box::new(request.clone()));
                if request.is_secret() {
                    frame::encode_secret(id, &request)
                } else {
                    Zeroizing::new(frame::encode(id, &request))
                }
            }
        };
        if frame.len() > super::protocol::FRAME_MAX {
            return Err(HsmError::new(Kind::Invalid, "the request is too large for the token-host"));
        }
        let (waiter, mut answer) = oneshot::channel();
        let call = Call {
            lane,
            repeatable: request.repeatable(),
            frame,
            waiter: Some(waiter),
            sent: None,
            named: false,
            crashes: 0,
        };
        {
            let mut table = locked(&self.table);
            if let Some(error) = &table.refusal {
                return Err(error.clone());
            }
            if table.calls.len() >= self.room {
                return Err(HsmError::new(Kind::Busy, "too many requests to the token are in flight"));
            }
            table.calls.insert(id, call);
            table.submit(id);
        }
        let mut ticket = Ticket { calls: self, id };
        let first = if lane == Lane::Sign { limit / 2 } else { limit };
        let mut answered = tokio::time::timeout(first, &mut answer).await;
        if answered.is_err() && first < limit {
            ticket.id = self.again(id);
            answered = tokio::time::timeout(limit - first, answer).await;
        }
        match answered {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(HsmError::new(Kind::Unavailable, "the token-host is being shut down")),
            Err(_) => Err(self.late(ticket.id, request.name(), limit)),
        }
    }

    /// Has a signature made once more that others have overtaken: its thread hangs. Returns the number under which the
    /// caller waits from now on; the old call stays, so that the hanging thread is told.
    fn again(&self, id: u64) -> u64 {
        let mut table = locked(&self.table);
        let overtaking = table.overtaking;
        let Some(call) = table.calls.get_mut(&id) else { return id };
        if !call.repeatable || call.sent.is_none_or(|sent| overtaking.is_none_or(|other| other <= sent)) {
            return id;
        }
        let id = self.next_id();
        let mut frame = std::mem::take(&mut call.frame);
        frame::renumber(&mut frame, id);
        let copy = Call { frame, waiter: call.waiter.take(), sent: None, ..*call };
        table.calls.insert(id, copy);
        table.submit(id);
        id
    }

    /// What to say of a call without an answer: whether it may have been done is what matters.
    fn late(&self, id: u64, what: &str, limit: Duration) -> HsmError {
        let table = locked(&self.table);
        let seconds = limit.as_secs_f32();
        let trouble = table.trouble.as_deref().map(|cause| format!("; {cause}")).unwrap_or_default();
        // Gone from the table means answered in this moment.
        if table.calls.get(&id).is_none_or(|call| call.sent.is_some() || call.crashes > 0) {
            let message = format!("no answer to {what} from the token within {seconds} s{trouble}");
            HsmError::new(Kind::Timeout, message)
        } else if table.link.is_some() {
            let message = format!(
                "{what} did not get its turn within {seconds} s: the token is too slow for all of them"
            );
            HsmError::new(Kind::Busy, message)
        } else {
            let message = format!("there was no token-host for {seconds} s{trouble}");
            HsmError::new(Kind::Unavailable, message)
        }
    }

    fn abandon(&self, id: u64) {
        let mut table = locked(&self.table);
        if let Some(call) = table.calls.get_mut(&id) {
            if call.sent.is_some() {
                // Stays until its answer comes: that none comes is how a hanging worker is told.
                call.waiter = None;
                call.frame = Zeroizing::default();
            } else {
                table.calls.remove(&id);
            }
        }
    }

    /// Hands out an answer.
    pub fn complete(&self, id: u64, answer: Result<Reply, HsmError>) {
        let waiter = {
            let mut table = locked(&self.table);
            let Some(call) = table.calls.remove(&id) else { return };
            table.last_done[call.lane as usize] = Some(Instant::now());
            if call.lane != Lane::Sign && call.sent.is_some_and(|sent| sent.elapsed() > self.long()) {
                table.long_done = Some(Instant::now());
            }
            table.answered += 1;
            if answer.is_ok() {
                table.trouble = None;
            }
            if call.lane == Lane::Sign {
                table.overtaking = table.overtaking.max(call.sent);
            }
            table.next(call.lane);
            call.waiter
        };
        if let Some(waiter) = waiter {
            // Whoever gave up a moment ago does not miss it.
            let _ = waiter.send(answer);
        }
    }

    /// How many answers there have been.
    pub fn answered(&self) -> u64 {
        locked(&self.table).answered
    }

    /// A token-host is ready: what waits is sent to it, in the order of arrival.
    pub fn connect(&self, link: &Arc<Link>) {
        let mut table = locked(&self.table);
        table.refusal = None;
        table.link = Some(Arc::clone(link));
        let mut waiting: Vec<u64> = table.calls.keys().copied().collect();
        waiting.sort_unstable();
        table.try_suspects(&waiting, self.deadlines.sign / 4);
        let free: Vec<u64> = waiting.into_iter().filter(|id| !table.waits_for_trial(*id)).collect();
        for id in free {
            table.submit(id);
        }
        table.go_on_with_trial();
    }

    /// The token-host has so many sessions that sign from now on.
    pub fn resize(&self, link: &Link, workers: u16) {
        link.main.send(&frame::encode(self.next_id(), &Request::Workers(workers)), false);
        let mut table = locked(&self.table);
        link.widen(workers);
        table.fill(Lane::Sign);
    }

    /// The token-host is about to end, because of the token and not of any request.
    pub fn token_is_ill(&self, cause: String) {
        let mut table = locked(&self.table);
        (table.culprit, table.trouble) = (Some(NOBODY), Some(cause));
    }

    /// What is wrong with the token.
    pub fn trouble(&self) -> Option<String> {
        locked(&self.table).trouble.clone()
    }

    /// The token-host crashed while it worked on this request, or ends for a reason of ours and of [`NOBODY`].
    pub fn blame(&self, id: u64) {
        locked(&self.table).culprit = Some(id);
    }

    /// The token-host is dead. What may be repeated waits for the next one. A request that took two of them down with
    /// it shall not have a third. Where nobody knows which one it was, every one that was under way may be it, and the
    /// one that was alone the next time is it.
    pub fn disconnect(&self) {
        let mut dropped = Vec::new();
        let trouble = {
            let mut table = locked(&self.table);
            (table.link, table.trial, table.turns) = (None, None, Default::default());
            (table.last_done, table.long_done) = ([None; 3], None);
            (table.making, table.longest) = (false, Duration::ZERO);
            let culprit = table.culprit.take();
            let alone = table.calls.values().filter(|call| call.sent.is_some()).count() == 1;
            table.calls.retain(|id, call| {
                if call.sent.is_none() {
                    return true;
                }
                let (named, unexplained) = (culprit == Some(*id), culprit.is_none());
                let guilty = named && call.named || unexplained && alone && call.crashes > 0;
                let again = call.waiter.is_some() && call.repeatable && !guilty;
                if again {
                    (call.sent, call.named) = (None, call.named || named);
                    call.crashes = call.crashes.saturating_add(u8::from(named || unexplained));
                } else if let Some(waiter) = call.waiter.take() {
                    dropped.push((waiter, guilty, named));
                }
                again
            });
            let trouble = table.trouble.as_deref().filter(|_| culprit == Some(NOBODY));
            trouble.map(|cause| format!(": {cause}")).unwrap_or_default()
        };
        for (waiter, guilty, named) in dropped {
            let (kind, message) = match (guilty, named) {
                (true, true) => (
                    Kind::Poisonous,
                    "the PKCS#11 library crashed on this request, and again when it was repeated; it is not tried a third time",
                ),
                (true, false) => (
                    Kind::Poisonous,
                    "the token-host ended with this request in flight, and again when it was repeated alone; it is not tried again",
                ),
                (false, true) => (
                    Kind::Crashed,
                    "the PKCS#11 library crashed on this request; whether it was carried out is not known",
                ),
                (false, false) => (Kind::Crashed, "the token-host ended before it answered"),
            };
            // What was wrong with the token is told where the request is not.
            let trouble = if guilty || named { "" } else { &trouble };
            let _ = waiter.send(Err(HsmError::new(kind, format!("{message}{trouble}"))));
        }
    }

    /// Whether a token-host died of this signature, or may have died of it and others several times, and it has not been
    /// answered since.
    pub fn suspects(&self, request: &Request) -> bool {
        let table = locked(&self.table);
        let mut suspects = table
            .calls
            .iter()
            .filter(|(id, call)| {
                call.named || call.crashes >= trial::UNEXPLAINED || table.culprit == Some(**id)
            })
            .map(|(_, call)| frame::message(&call.frame))
            .peekable();
        suspects.peek().is_some() && {
            let frame = Zeroizing::new(frame::encode(NOBODY, request));
            suspects.any(|message| message == frame::message(&frame))
        }
    }

    /// From now on calls are answered with `error`, and so are those that wait.
    pub fn refuse(&self, error: &HsmError) {
        let mut waiters = Vec::new();
        {
            let mut table = locked(&self.table);
            table.refusal = Some(error.clone());
            table.calls.retain(|_, call| {
                let waits = call.sent.is_none();
                if waits {
                    waiters.extend(call.waiter.take());
                }
                !waits
            });
        }
        for waiter in waiters {
            let _ = waiter.send(Err(error.clone()));
        }
    }

    /// Calls wait again.
    pub fn admit(&self) {
        locked(&self.table).refusal = None;
    }

    /// A sign of life: whether the module is making a key, and how long the longest of its other calls has taken.
    pub fn alive(&self, making: bool, longest: Duration) {
        let mut table = locked(&self.table);
        (table.making, table.longest) = (making, longest);
        table.keep_trial_short();
    }

    /// Whether the module is making a key, as of the last sign of life.
    pub fn is_making(&self) -> bool {
        locked(&self.table).making
    }

    /// Whether a lane hangs: something is on its way, for as long as the deadline no answer came, and a call into the
    /// module does not return. Where calls return and answers do not come, a thread has much to do, like reading the
    /// names of all objects of a full token.
    ///
    /// Where signatures wait, a quarter of their deadline is enough, so that there is time to make them again and the token
    /// is back in five seconds. While other work takes long and is within its own time, signing gets no verdict, and
    /// looking gets none while a key is made; afterwards they get their time from there. A thread has all objects to
    /// itself meanwhile, and some modules hold a lock that everything waits for. But only the making of a key, of a kind
    /// that takes long, holds up others with one call: any other call that does not return for a third of the time that
    /// a look may take is stuck.
    pub fn stuck(&self) -> Option<&'static str> {
        let table = locked(&self.table);
        let deadline = |lane: Lane, deadlines: &Deadlines| match lane {
            Lane::Change if !table.making => deadlines.look,
            lane => deadline(lane, deadlines),
        };
        let busy = |lane: Lane| {
            table.calls.values().filter(|call| call.lane == lane).filter_map(|call| call.sent).any(|sent| {
                let limit = deadline(lane, &self.deadlines);
                sent.elapsed() > self.long() && sent.elapsed() <= limit
            })
        };
        let blocked = |limit: Duration| table.longest > limit;
        Lane::ALL.into_iter().find_map(|lane| {
            let of_lane = table.calls.values().filter(|call| call.lane == lane);
            let oldest = of_lane.filter_map(|call| call.sent).min()?;
            let since = |times: &[Option<Instant>]| times.iter().flatten().max().map(Instant::elapsed);
            let (answered, freed) = (table.last_done[lane as usize], table.long_done);
            let limit = deadline(lane, &self.deadlines);
            let hangs = since(&[answered, freed, Some(oldest)])?;
            let hangs = match lane {
                // One thread that hangs among busy ones is a thread less.
                Lane::Sign => {
                    let single = since(&[freed, Some(oldest)])?;
                    let overdue = hangs > limit / 4 || single > 2 * limit;
                    let held_up = busy(Lane::Change) || busy(Lane::Look);
                    overdue && if held_up { !table.making && blocked(limit) } else { blocked(limit / 4) }
                }
                // Keys are made to look how a token makes them, too.
                Lane::Look if table.making => hangs > limit && !busy(Lane::Change),
                Lane::Change if table.making => hangs > limit,
                Lane::Look | Lane::Change => hangs > limit / 3 && blocked(limit / 3),
            } || hangs > FOREVER;
            hangs.then_some(lane.into())
        })
    }

    /// What takes longer than this may hold up signatures.
    fn long(&self) -> Duration {
        self.deadlines.sign / 8
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        hsm::{
            link::{Pipe, SLOW},
            protocol::Find,
        },
        model::{KeyId, SignatureAlgorithm},
    };
    use std::pin::pin;
    use tokio::{io::AsyncReadExt, net::UnixStream};

    fn sign() -> Request {
        Request::Sign {
            key: KeyId::for_purpose("test"),
            algorithm: SignatureAlgorithm::EdDsa,
            payload: b"x".as_slice().into(),
        }
    }

    fn link() -> (Arc<Link>, UnixStream, UnixStream) {
        let (main, theirs) = UnixStream::pair().unwrap();
        let (sign, signs) = UnixStream::pair().unwrap();
        let link = Link::new(Pipe::new(main), Pipe::new(sign), 1);
        link.window.store(2, Ordering::Relaxed);
        let link = Arc::new(link);
        tokio::spawn({
            let link = Arc::clone(&link);
            async move { futures::join!(link.main.write(), link.sign.write()) }
        });
        (link, theirs, signs)
    }

    /// A call that took so long does not return.
    const BLOCKED: Duration = Duration::from_secs(1);

    fn calls(room: usize) -> Calls {
        let deadlines = Deadlines { sign: Duration::from_millis(50), ..Default::default() };
        Calls::new(room, deadlines)
    }

    #[tokio::test]
    async fn a_request_that_kills_two_hosts_gets_no_third() {
        let calls = calls(8);
        let request = Request::Find(Find::Id(KeyId::for_purpose("x")));
        let mut call = pin!(calls.call(&request));
        assert!(futures::poll!(&mut call).is_pending());
        for _ in 0..2 {
            let (link, mut theirs, _signs) = link();
            calls.connect(&link);
            theirs.read_u8().await.expect("it was sent");
            calls.disconnect();
        }
        assert_eq!(call.await.unwrap_err().kind, Kind::Poisonous);
        assert_eq!(calls.len(), 0);
    }

    #[tokio::test]
    async fn after_two_crashes_that_nobody_is_named_for_suspects_are_sent_a_few_at_a_time() {
        let calls = calls(16);
        let requests = [(); 8].map(|()| sign());
        let mut waiting: Vec<_> = requests.iter().map(|one| Box::pin(calls.call(one))).collect();
        for call in &mut waiting {
            assert!(futures::poll!(call).is_pending());
        }
        let sent = || {
            let table = locked(&calls.table);
            let mut sent: Vec<u64> =
                table.calls.iter().filter(|(_, call)| call.sent.is_some()).map(|(id, _)| *id).collect();
            sent.sort_unstable();
            sent
        };
        let start = || {
            let (link, theirs, signs) = link();
            link.window.store(5, Ordering::Relaxed);
            calls.connect(&link);
            (theirs, signs)
        };
        for _ in 0..2 {
            let _sockets = start();
            assert_eq!(sent(), [1, 2, 3, 4, 5], "a kill costs nobody any time");
            calls.disconnect();
        }
        let _sockets = start();
        assert_eq!(sent(), [1, 2]);
        calls.complete(1, Ok(Reply::Done));
        assert_eq!(sent(), [2], "those before them come first");
        calls.complete(2, Ok(Reply::Done));
        assert_eq!(sent(), [3, 4]);
        calls.disconnect();
        let _sockets = start();
        assert_eq!(sent(), [3]);
        calls.disconnect();
        assert_eq!(waiting.remove(2).await.unwrap_err().kind, Kind::Poisonous);
        let _sockets = start();
        assert_eq!(sent(), [4]);
        calls.complete(4, Ok(Reply::Done));
        assert_eq!(sent(), [5, 6, 7, 8], "and then the others");
    }

    #[tokio::test]
    async fn what_was_never_sent_was_certainly_not_done() {
        let error = calls(8).call(&sign()).await.unwrap_err();
        assert_eq!(error.kind, Kind::Unavailable);
        assert!(error.kind.not_done());
    }

    #[tokio::test]
    async fn too_many_requests_are_turned_away() {
        let calls = calls(1);
        let (first, second) = (sign(), sign());
        let mut first = pin!(calls.call(&first));
        assert!(futures::poll!(&mut first).is_pending());
        assert_eq!(calls.call(&second).await.unwrap_err().kind, Kind::Busy);
    }

    #[tokio::test]
    async fn a_lane_without_answers_is_stuck_and_one_with_answers_is_not() {
        let calls = calls(8);
        let (link, _theirs, _signs) = link();
        calls.connect(&link);
        assert_eq!(calls.call(&sign()).await.unwrap_err().kind, Kind::Timeout);
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert_eq!(calls.stuck(), None, "its calls into the module return");
        calls.alive(false, BLOCKED);
        assert_eq!(calls.stuck(), Some("sign"));
        calls.complete(1, Ok(Reply::Done));
        assert_eq!(calls.stuck(), None);
    }

    #[tokio::test]
    async fn a_look_excuses_signatures_that_wait_only_while_its_calls_return() {
        let calls = calls(8);
        let (link, _theirs, _signs) = link();
        calls.connect(&link);
        let look = Request::Inventory;
        let mut look = pin!(calls.call(&look));
        assert!(futures::poll!(&mut look).is_pending());
        assert_eq!(calls.call(&sign()).await.unwrap_err().kind, Kind::Timeout);
        calls.alive(false, calls.deadlines.sign / 2);
        assert_eq!(calls.stuck(), None);
        calls.alive(false, BLOCKED);
        assert_eq!(calls.stuck(), Some("sign"));
    }

    #[tokio::test]
    async fn a_lane_whose_second_request_hangs_is_stuck_although_the_first_was_answered() {
        let calls = calls(8);
        let (link, _theirs, _signs) = link();
        calls.connect(&link);
        let (first, second) = (sign(), sign());
        let (mut first, mut second) = (pin!(calls.call(&first)), pin!(calls.call(&second)));
        assert!(futures::poll!(&mut first).is_pending() && futures::poll!(&mut second).is_pending());
        tokio::time::sleep(Duration::from_millis(5)).await;
        calls.complete(1, Ok(Reply::Done));
        first.await.unwrap();
        assert_eq!(calls.stuck(), None);
        assert_eq!(second.await.unwrap_err().kind, Kind::Timeout);
        tokio::time::sleep(Duration::from_millis(10)).await;
        calls.alive(false, BLOCKED);
        assert_eq!(calls.stuck(), Some("sign"));
    }

    #[tokio::test]
    async fn a_signature_that_others_overtake_is_made_again_and_its_thread_is_told_to_hang() {
        let calls = calls(8);
        let (link, _theirs, _signs) = link();
        calls.connect(&link);
        let (first, second) = (sign(), sign());
        let mut first = pin!(calls.call(&first));
        assert!(futures::poll!(&mut first).is_pending());
        let mut second = pin!(calls.call(&second));
        assert!(futures::poll!(&mut second).is_pending());
        calls.complete(2, Ok(Reply::Done));
        second.await.unwrap();
        let repeated = async {
            tokio::time::sleep(calls.deadlines.sign * 3 / 4).await;
            calls.complete(3, Ok(Reply::Done));
        };
        let (answer, ()) = tokio::join!(first, repeated);
        answer.unwrap();
        assert_eq!(calls.len(), 1);
        tokio::time::sleep(calls.deadlines.sign * 3 / 2).await;
        calls.alive(false, BLOCKED);
        assert_eq!(calls.stuck(), Some("sign"));
    }

    #[tokio::test]
    async fn signatures_behind_a_long_look_are_not_stuck_and_get_their_time_after_it() {
        let calls = calls(8);
        let (link, _theirs, _signs) = link();
        calls.connect(&link);
        let (look, first) = (Request::Inventory, sign());
        let (mut look, first) = (Box::pin(calls.call(&look)), calls.call(&first));
        assert!(futures::poll!(&mut look).is_pending());
        assert_eq!(first.await.unwrap_err().kind, Kind::Timeout);
        tokio::time::sleep(Duration::from_millis(60)).await;
        assert_eq!(calls.stuck(), None);
        calls.complete(1, Ok(Reply::Inventory(Vec::new())));
        calls.alive(false, BLOCKED);
        look.await.unwrap();
        assert_eq!(calls.stuck(), None);
        tokio::time::sleep(Duration::from_millis(30)).await;
        assert_eq!(calls.stuck(), Some("sign"));
    }

    #[tokio::test]
    async fn signatures_wait_for_a_key_that_is_made_and_not_for_a_change_that_hangs() {
        let (sign_limit, look) = (Duration::from_millis(50), Duration::from_millis(60));
        let calls = Calls::new(8, Deadlines { sign: sign_limit, look, ..Default::default() });
        let (link, _theirs, _signs) = link();
        calls.connect(&link);
        let change = Request::Destroy(KeyId::for_purpose("x"));
        let mut change = pin!(calls.call(&change));
        assert!(futures::poll!(&mut change).is_pending());
        assert_eq!(calls.call(&sign()).await.unwrap_err().kind, Kind::Timeout);
        tokio::time::sleep(look).await;
        calls.alive(true, sign_limit * 2);
        assert_eq!(calls.stuck(), None);
        calls.alive(false, sign_limit * 2);
        assert_eq!(calls.stuck(), Some("sign"));
    }

    #[tokio::test]
    async fn a_change_whose_call_does_not_return_is_stuck_unless_it_makes_a_key_that_takes_long() {
        let look = Duration::from_millis(60);
        let calls = Calls::new(8, Deadlines { look, ..Default::default() });
        let (link, _theirs, _signs) = link();
        calls.connect(&link);
        let change = Request::Destroy(KeyId::for_purpose("x"));
        let mut change = pin!(calls.call(&change));
        assert!(futures::poll!(&mut change).is_pending());
        tokio::time::sleep(look / 2).await;
        calls.alive(false, look / 4);
        assert_eq!(calls.stuck(), None, "its calls return");
        calls.alive(true, look / 2);
        assert_eq!(calls.stuck(), None);
        calls.alive(false, look / 2);
        assert_eq!(calls.stuck(), Some("change"));
    }

    #[tokio::test]
    async fn what_is_beyond_the_window_waits_and_is_not_sent_once_its_caller_is_gone() {
        let calls = calls(8);
        let (link, _theirs, mut signs) = link();
        calls.connect(&link);
        let requests = [(); 4].map(|()| sign());
        let mut waiting: Vec<_> = requests.iter().map(|one| Box::pin(calls.call(one))).collect();
        for call in &mut waiting {
            assert!(futures::poll!(call).is_pending());
        }
        let size = frame::encode(1, &requests[0]).len();
        let mut sent = vec![0; 2 * size];
        signs.read_exact(&mut sent).await.unwrap();
        // The third goes away; the first answer makes room for the fourth.
        drop(waiting.remove(2));
        calls.complete(1, Ok(Reply::Done));
        sent.truncate(size);
        signs.read_exact(&mut sent).await.unwrap();
        assert_eq!(u64::from_le_bytes(sent[4..12].try_into().unwrap()), 4);
    }

    #[tokio::test]
    async fn a_change_that_did_not_get_its_turn_was_certainly_not_made() {
        let limit = Duration::from_millis(50);
        let calls = Calls::new(16, Deadlines { generate: limit, ..Default::default() });
        let (link, _theirs, _signs) = link();
        calls.connect(&link);
        let change = Request::Destroy(KeyId::for_purpose("x"));
        let answers = futures::future::join_all((0..=SLOW).map(|_| calls.call(&change))).await;
        let kinds: Vec<_> = answers.into_iter().map(|answer| answer.unwrap_err().kind).collect();
        assert_eq!(kinds[..SLOW], [Kind::Timeout; SLOW]);
        assert_eq!(kinds[SLOW], Kind::Busy);
        assert_eq!(calls.len(), SLOW, "the last one is forgotten");
    }

    #[tokio::test]
    async fn who_a_token_host_died_of_is_a_suspect_until_the_answer() {
        let calls = calls(8);
        let other = Request::Random(8);
        let mut waiting = [sign(), other.clone()];
        let [culprit, innocent] = &mut waiting;
        let (mut culprit, mut innocent) = (pin!(calls.call(culprit)), pin!(calls.call(innocent)));
        let (first, _theirs, _signs) = link();
        calls.connect(&first);
        assert!(futures::poll!(&mut culprit).is_pending() && futures::poll!(&mut innocent).is_pending());
        assert!(!calls.suspects(&sign()));
        calls.blame(1);
        assert!(calls.suspects(&sign()), "it is known before the process is gone");
        calls.disconnect();
        assert!(calls.suspects(&sign()) && !calls.suspects(&other));
        let (second, _theirs, _signs) = link();
        calls.connect(&second);
        assert!(calls.suspects(&sign()), "it is on its way again");
        calls.complete(1, Ok(Reply::Done));
        culprit.await.unwrap();
        assert!(!calls.suspects(&sign()));
    }

    #[tokio::test]
    async fn a_refusal_reaches_those_who_wait_and_those_who_come() {
        let calls = calls(8);
        let request = sign();
        let mut waiting = pin!(calls.call(&request));
        assert!(futures::poll!(&mut waiting).is_pending());
        calls.refuse(&HsmError::new(Kind::PinRejected, "no"));
        assert_eq!(waiting.await.unwrap_err().kind, Kind::PinRejected);
        assert_eq!(calls.call(&sign()).await.unwrap_err().kind, Kind::PinRejected);
    }
}
