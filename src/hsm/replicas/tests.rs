use std::{future::pending, sync::Mutex};

use async_trait::async_trait;
use tokio::sync::Notify;

use super::*;
use crate::{
    api::partition::VerifySignatures,
    hsm::{
        HostState,
        fake::Fake,
        health::Cause,
        protocol::{Find, KeyTemplate},
    },
    model::{
        KeyAlgorithm, KeyLabel, RequestedAttributes, SignatureAlgorithm, SignatureType,
        data::{DataAttributes, DataName, DataValue},
    },
    public_key::PublicKey,
    service::{
        directory::Usable,
        sign::{Job, SignError, Signer},
    },
};

const LIMIT: Duration = Duration::from_secs(8);

/// What a token does with signatures.
#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Well,
    Fails(Kind),
    Hangs,
    /// The same, because its token-host has died of it and is being started again.
    Dying,
    /// Signs something else.
    Lies,
    /// Does so with the key `k`.
    Damaged,
    /// Waits until it is told to go on.
    Held,
}

/// A token that shares its keys with its doubles.
struct Double {
    keys: Arc<Fake>,
    mode: Mutex<Mode>,
    state: watch::Sender<HostState>,
    running: Mutex<bool>,
    go_on: Notify,
    asked: Mutex<Vec<Request>>,
}

impl Double {
    fn of(keys: &Arc<Fake>) -> Arc<Self> {
        Arc::new(Self {
            keys: Arc::clone(keys),
            mode: Mutex::new(Mode::Well),
            state: watch::Sender::new(HostState::Ready(Arc::default())),
            running: Mutex::new(true),
            go_on: Notify::new(),
            asked: Mutex::default(),
        })
    }

    fn set(&self, mode: Mode) {
        *self.mode.lock().unwrap() = mode;
    }

    /// Calls so far, without canaries.
    fn asked(&self) -> usize {
        let canary = |request: &Request| matches!(request, Request::Sign { key, .. } if *key == id("canary"));
        self.asked.lock().unwrap().iter().filter(|request| !canary(request)).count()
    }

    fn down(&self) {
        self.state.send_replace(HostState::Failed(HsmError::new(Kind::TokenNotFound, "gone")));
        self.set(Mode::Fails(Kind::TokenNotFound));
    }

    fn up(&self) {
        self.set(Mode::Well);
        self.state.send_replace(HostState::Ready(Arc::default()));
    }
}

#[async_trait]
impl Hsm for Double {
    async fn call(&self, request: Request) -> Result<Reply, HsmError> {
        self.asked.lock().unwrap().push(request.clone());
        let mode = *self.mode.lock().unwrap();
        match (mode, request) {
            (Mode::Fails(kind), _) => Err(HsmError::new(kind, "told to")),
            (Mode::Hangs | Mode::Dying, _) => pending().await,
            (Mode::Lies, Request::Sign { key, algorithm, .. }) => {
                self.keys.call(Request::Sign { key, algorithm, payload: b"else".as_slice().into() }).await
            }
            (Mode::Damaged, Request::Sign { key, algorithm, .. }) if key == id("k") => {
                self.keys.call(Request::Sign { key, algorithm, payload: b"else".as_slice().into() }).await
            }
            (Mode::Held, request) => {
                self.go_on.notified().await;
                self.keys.call(request).await
            }
            (_, request) => self.keys.call(request).await,
        }
    }

    fn token(&self) -> Option<Arc<TokenFacts>> {
        self.keys.token()
    }
}

impl Hosted for Double {
    fn state(&self) -> watch::Receiver<HostState> {
        self.state.subscribe()
    }

    fn running(&self) -> bool {
        *self.running.lock().unwrap()
    }

    fn suspects(&self, _: &Request) -> bool {
        *self.mode.lock().unwrap() == Mode::Dying
    }
}

fn id(name: &str) -> KeyId {
    KeyId::for_purpose(name)
}

fn template(name: &str, algorithm: KeyAlgorithm, size: Option<u32>) -> KeyTemplate {
    let attributes = RequestedAttributes { sign: Some(true), ..Default::default() };
    KeyTemplate {
        id: id(name),
        label: KeyLabel::new(name).unwrap(),
        algorithm,
        key_size: size,
        curve_oid: None,
        attributes: attributes.resolved(),
    }
}

async fn make(keys: &Fake, template: KeyTemplate) -> PublicKey {
    match keys.call(Request::Generate(template)).await {
        Ok(Reply::Key(facts)) => PublicKey::from_spki(&facts.public_key.unwrap()).unwrap(),
        other => panic!("{other:?}"),
    }
}

fn sign() -> Request {
    sign_with("k")
}

fn sign_with(key: &str) -> Request {
    Request::Sign { key: id(key), algorithm: SignatureAlgorithm::EdDsa, payload: b"x".as_slice().into() }
}

/// A primary and a replica with the keys `k`, `other` and `canary`.
struct World {
    keys: Arc<Fake>,
    primary: Arc<Double>,
    replica: Arc<Double>,
    replicas: Arc<Replicas>,
    failovers: Arc<Mutex<u32>>,
    canary: Canary,
    signer: Signer,
}

impl World {
    async fn new() -> Self {
        let keys = Arc::new(Fake::default());
        let public = make(&keys, template("canary", KeyAlgorithm::Rsa, Some(2048))).await;
        for key in ["k", "other"] {
            make(&keys, template(key, KeyAlgorithm::Ed, None)).await;
        }
        let canary = Canary::new(id("canary"), public);
        let (primary, replica) = (Double::of(&keys), Double::of(&keys));
        let failovers = Arc::new(Mutex::new(0));
        let counted = Arc::clone(&failovers);
        let on_failover = Box::new(move || *counted.lock().unwrap() += 1);
        let replicas = Arc::new(Replicas::new(LIMIT, Arc::new(|_: &str, _| ()), on_failover));
        let signer = Signer::new(Arc::default());
        let world = Self { keys, primary, replica, replicas, failovers, canary, signer };
        world.update();
        world
    }

    /// The same, with a replica that has shown that it has the keys.
    async fn proven() -> Self {
        let world = Self::new().await;
        world.replicas.set_canary(Some(world.canary.clone()));
        world.until(|cause| cause.is_none()).await;
        world
    }

    fn update(&self) {
        let replica: Arc<dyn Hosted> = self.replica.clone();
        self.replicas.update(Some(self.primary.clone()), vec![("b".into(), replica)]);
    }

    fn cause(&self) -> Option<Cause> {
        self.replicas.members().1[0].cause()
    }

    /// Waits for what is held against the replica.
    async fn until(&self, is: impl Fn(Option<Cause>) -> bool) {
        let wait = async {
            while !is(self.cause()) {
                sleep(Duration::from_millis(50)).await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(60), wait).await;
        assert!(waited.is_ok(), "{:?}", self.cause());
    }

    async fn call(&self) -> Result<Reply, HsmError> {
        self.replicas.call(sign()).await
    }

    async fn signs(&self) {
        assert!(matches!(self.call().await, Ok(Reply::Signature(_))));
    }

    fn asked(&self) -> (usize, usize) {
        (self.primary.asked(), self.replica.asked())
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_has_least_to_do_signs() {
    let world = World::proven().await;
    world.primary.set(Mode::Held);
    world.replica.set(Mode::Held);
    let calls: Vec<_> = (0..6)
        .map(|_| {
            let replicas = Arc::clone(&world.replicas);
            tokio::spawn(async move { replicas.call_but(sign(), &[]).await })
        })
        .collect();
    tokio::task::yield_now().await;
    assert_eq!(world.asked(), (3, 3));
    for _ in 0..3 {
        world.primary.go_on.notify_one();
        tokio::task::yield_now().await;
    }
    // The primary has nothing left to do.
    let replicas = Arc::clone(&world.replicas);
    let next = tokio::spawn(async move { replicas.call_but(sign(), &[]).await });
    tokio::task::yield_now().await;
    assert_eq!(world.asked(), (4, 3));
    drop((calls, next));
}

#[tokio::test(start_paused = true)]
async fn a_replica_signs_only_after_it_has_shown_that_it_has_the_keys() {
    let world = World::new().await;
    sleep(Duration::from_secs(20)).await;
    world.primary.set(Mode::Fails(Kind::Device));
    assert_eq!(world.call().await.unwrap_err().kind, Kind::Device);
    assert_eq!((world.replica.asked(), world.cause()), (0, Some(Cause::Unproven)));
    world.replicas.set_canary(Some(world.canary.clone()));
    world.until(|cause| cause.is_none()).await;
    world.signs().await;
}

#[tokio::test(start_paused = true)]
async fn a_token_with_other_keys_never_signs() {
    let mut world = World::new().await;
    for same_id in [false, true] {
        let other = Arc::new(Fake::default());
        make(&other, template("k", KeyAlgorithm::Ed, None)).await;
        if same_id {
            make(&other, template("canary", KeyAlgorithm::Rsa, Some(2048))).await;
        }
        world.replica = Double::of(&other);
        world.update();
        world.replicas.set_canary(Some(world.canary.clone()));
        world
            .until(|cause| match cause {
                Some(Cause::OtherKeys(error)) => !same_id && error.kind == Kind::KeyNotFound,
                cause => same_id && cause == Some(Cause::WrongSignature),
            })
            .await;
        world.primary.down();
        assert!(world.call().await.is_err());
        assert_eq!(world.replica.asked(), 0);
        world.primary.up();
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_reaches_nobody_and_two_in_a_row_put_a_token_out() {
    for kind in [Kind::Crashed, Kind::Lost, Kind::Device, Kind::Unavailable, Kind::Full] {
        let world = World::proven().await;
        world.primary.set(Mode::Fails(kind));
        world.signs().await;
        world.signs().await;
        assert_eq!((world.asked(), *world.failovers.lock().unwrap()), ((2, 2), 2), "{kind:?}");
        // It is not asked any more, and comes back when canaries say so.
        world.signs().await;
        assert_eq!(world.asked(), (2, 3));
        world.primary.set(Mode::Well);
        sleep(Duration::from_secs(4)).await;
        world.signs().await;
        assert_eq!(world.asked(), (3, 3));
    }
}

#[tokio::test(start_paused = true)]
async fn a_busy_token_is_no_bad_one() {
    let world = World::proven().await;
    world.primary.set(Mode::Fails(Kind::Busy));
    for _ in 0..3 {
        world.signs().await;
    }
    assert_eq!((world.asked(), *world.failovers.lock().unwrap()), ((3, 3), 0));
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_with_the_request_is_said_at_once() {
    let world = World::proven().await;
    for kind in [Kind::Invalid, Kind::Forbidden, Kind::Unsupported, Kind::KeyNotFound, Kind::Ambiguous] {
        world.primary.set(Mode::Fails(kind));
        assert_eq!(world.call().await.unwrap_err().kind, kind);
    }
    assert_eq!(world.replica.asked(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_hangs_keeps_one_caller_waiting_for_a_moment_and_the_next_not_at_all() {
    let world = World::proven().await;
    world.primary.set(Mode::Hangs);
    let begun = Instant::now();
    world.signs().await;
    assert_eq!(begun.elapsed(), LIMIT / 8);
    world.signs().await;
    assert_eq!((begun.elapsed(), world.asked()), (LIMIT / 8, (1, 2)));
    // It does not answer its canaries either.
    sleep(2 * LIMIT).await;
    let primary = world.replicas.members().0.unwrap();
    assert!(matches!(primary.cause(), Some(Cause::Failing(error)) if error.kind == Kind::Timeout));
}

#[tokio::test(start_paused = true)]
async fn what_a_token_host_died_of_is_given_to_nobody_else_however_long_the_next_one_takes() {
    let world = World::proven().await;
    world.primary.set(Mode::Dying);
    assert_eq!(world.call().await.unwrap_err().kind, Kind::Timeout);
    assert_eq!(world.replica.asked(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_answers_others_is_not_taken_for_one_that_hangs() {
    let world = World::proven().await;
    world.primary.set(Mode::Held);
    let replicas = Arc::clone(&world.replicas);
    let slow = tokio::spawn(async move { replicas.call_but(sign(), &[]).await });
    tokio::task::yield_now().await;
    world.primary.set(Mode::Well);
    let primary = world.replicas.members().0.unwrap();
    for _ in 0..5 {
        sleep(LIMIT * 99 / 1000).await;
        primary.attempt(sign(), Instant::now() + LIMIT).await.unwrap();
    }
    assert_eq!((slow.is_finished(), world.asked()), (false, (6, 0)), "at half of its time");
    sleep(LIMIT / 10).await;
    assert!(matches!(slow.await.unwrap(), Ok((Reply::Signature(_), _))), "by the replica");
    assert_eq!((world.asked(), world.replicas.members().0.unwrap().standing()), ((6, 1), Standing::In));
}

#[tokio::test(start_paused = true)]
async fn with_everybody_hanging_a_caller_waits_no_longer_than_its_time() {
    let world = World::proven().await;
    world.primary.set(Mode::Hangs);
    world.replica.set(Mode::Hangs);
    let begun = Instant::now();
    assert_eq!(world.call().await.unwrap_err().kind, Kind::Timeout);
    assert_eq!(begun.elapsed(), LIMIT);
}

fn data() -> DataName {
    DataName::new("shop", "d").unwrap()
}

#[tokio::test(start_paused = true)]
async fn what_changes_a_token_or_says_what_is_on_it_is_the_primarys_alone() {
    let world = World::proven().await;
    world.primary.set(Mode::Fails(Kind::Crashed));
    let requests = [
        Request::Generate(template("new", KeyAlgorithm::Ed, None)),
        Request::Destroy(id("k")),
        Request::PutData {
            name: data(),
            value: DataValue::new(vec![1]).unwrap(),
            attributes: DataAttributes::default(),
        },
        Request::GetData(data()),
        Request::DestroyData(data()),
        Request::PutCertificate { key: id("k"), label: "c".into(), der: b"x".as_slice().into() },
        Request::GetCertificate(id("k")),
        Request::Find(Find::Id(id("k"))),
        Request::Inventory,
    ];
    let count = requests.len();
    for request in requests {
        assert_eq!(world.replicas.call(request).await.unwrap_err().kind, Kind::Crashed);
    }
    assert_eq!(world.asked(), (count, 0));
}

#[tokio::test(start_paused = true)]
async fn a_key_that_a_replica_does_not_have_yet_is_used_on_the_primary() {
    let mut world = World::proven().await;
    let behind = Arc::new(Fake::default());
    let public = make(&behind, template("canary", KeyAlgorithm::Rsa, Some(2048))).await;
    world.replicas.set_canary(Some(Canary::new(id("canary"), public)));
    world.replica = Double::of(&behind);
    // The primary has the newer key, too: it is the replica that is behind.
    let primary = Double::of(&behind);
    make(&world.keys, template("canary", KeyAlgorithm::Rsa, Some(2048))).await;
    world.primary = primary;
    world.update();
    world.until(|cause| cause.is_none()).await;
    world.primary.set(Mode::Held);
    world.replicas.members().0.unwrap().slow();
    let replicas = Arc::clone(&world.replicas);
    let call = tokio::spawn(async move { replicas.call_but(sign(), &[]).await });
    tokio::task::yield_now().await;
    assert_eq!(world.asked(), (1, 1), "first the replica, then the primary");
    make(&behind, template("k", KeyAlgorithm::Ed, None)).await;
    world.primary.go_on.notify_waiters();
    assert!(matches!(call.await.unwrap(), Ok((Reply::Signature(_), _))));
    assert_eq!((world.cause(), *world.failovers.lock().unwrap()), (None, 0));
}

#[tokio::test(start_paused = true)]
async fn keys_with_a_state_are_for_one_token_alone() {
    let world = World::proven().await;
    let made = template("lms", KeyAlgorithm::Lms, None);
    let (key, algorithm) = (id("lms"), SignatureAlgorithm::Lms);
    let signed = Request::SignStateful { key, algorithm, payload: b"x".as_slice().into() };
    for request in [Request::Generate(made.clone()), Request::Claim(made), signed.clone()] {
        let error = world.replicas.call(request).await.unwrap_err();
        assert_eq!(error.kind, Kind::Unsupported);
        assert!(error.message.contains("has replicas"), "{error}");
    }
    assert_eq!(world.asked(), (0, 0));
    // Alone, a token has the last word.
    world.replicas.update(Some(world.primary.clone()), Vec::new());
    world.replicas.call(signed).await.unwrap_err();
    assert_eq!(world.asked(), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn not_found_on_a_replica_says_nothing_of_the_primary() {
    let world = World::proven().await;
    world.primary.down();
    world.replica.set(Mode::Fails(Kind::KeyNotFound));
    let error = world.call().await.unwrap_err();
    assert_eq!(error.kind, Kind::TokenNotFound, "{error}");
    assert_eq!(world.asked(), (1, 1));
    // It is not asked again for this key for a while.
    world.call().await.unwrap_err();
    assert_eq!(world.replica.asked(), 1);
    // The same where the primary is not even opened.
    let world = World::proven().await;
    let replica: Arc<dyn Hosted> = world.replica.clone();
    world.replicas.update(None, vec![("b".into(), replica)]);
    world.replica.set(Mode::Fails(Kind::KeyNotFound));
    assert_eq!(world.call().await.unwrap_err().kind, Kind::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn who_is_down_is_out_at_once_and_comes_back_well_within_five_seconds() {
    let world = World::proven().await;
    world.replica.down();
    tokio::task::yield_now().await;
    assert!(matches!(world.cause(), Some(Cause::Down(_))));
    sleep(Duration::from_secs(60)).await;
    world.replica.up();
    let begun = Instant::now();
    world.until(|cause| cause.is_none()).await;
    let took = begun.elapsed();
    assert!(took >= Duration::from_secs(1) && took < Duration::from_secs(2), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn without_a_healthy_token_those_that_once_were_still_try() {
    let world = World::proven().await;
    world.primary.down();
    world.replica.set(Mode::Fails(Kind::Device));
    for _ in 0..2 {
        world.call().await.unwrap_err();
    }
    assert!(matches!(world.cause(), Some(Cause::Failing(_))));
    world.replica.set(Mode::Well);
    world.signs().await;
}

#[tokio::test(start_paused = true)]
async fn a_token_whose_process_is_just_replaced_is_spared() {
    let world = World::proven().await;
    *world.primary.running.lock().unwrap() = false;
    world.signs().await;
    assert_eq!(world.asked(), (0, 1));
    *world.primary.running.lock().unwrap() = true;
    world.signs().await;
    assert_eq!(world.asked(), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_wrong_signature_is_made_again_elsewhere_and_its_maker_is_out() {
    let world = World::proven().await;
    world.primary.set(Mode::Lies);
    let (_, source) = world.replicas.call_but(sign(), &[]).await.unwrap();
    world.replicas.wrong(source, &id("k"));
    let (_, other) = world.replicas.call_but(sign(), &[source]).await.unwrap();
    assert_ne!(source, other);
    for _ in 0..3 {
        world.signs().await;
    }
    assert_eq!(world.primary.asked(), 1);
    // Its canary is wrong, too.
    sleep(Duration::from_millis(300)).await;
    assert_eq!(world.replicas.members().0.unwrap().cause(), Some(Cause::WrongSignature));
}

/// Signs as a gateway does.
async fn signed(world: &World, key: &str) -> Result<Vec<u8>, SignError> {
    let job = Job {
        algorithm: SignatureAlgorithm::EdDsa,
        form: SignatureType::Der,
        payload: b"x".as_slice().into(),
        context: "".into(),
        verify: VerifySignatures::Always,
    };
    let Ok(Reply::Keys(facts)) = world.keys.call(Request::Find(Find::Id(id(key)))).await else { panic!() };
    let public = PublicKey::from_spki(facts[0].public_key.as_ref().unwrap()).unwrap();
    let usable = Usable {
        partition: "p".into(),
        id: id(key),
        algorithm: KeyAlgorithm::Ed,
        public: Some(Arc::new(public.clone())),
        public_only: false,
    };
    let signature = world.signer.sign(world.replicas.as_ref(), &usable, job).await?;
    assert_eq!(public.verify(SignatureAlgorithm::EdDsa, b"x", &signature), Ok(true), "a wrong one is out");
    Ok(signature)
}

#[tokio::test(start_paused = true)]
async fn one_damaged_key_costs_a_token_that_key_alone_and_for_a_while() {
    let world = World::proven().await;
    world.primary.set(Mode::Damaged);
    for _ in 0..3 {
        signed(&world, "k").await.unwrap();
    }
    assert_eq!(world.asked(), (1, 3), "after the first it is not asked any more");
    // Its canary is good.
    sleep(Duration::from_secs(1)).await;
    let primary = world.replicas.members().0.unwrap();
    assert_eq!((primary.cause(), primary.standing()), (None, Standing::In));
    signed(&world, "other").await.unwrap();
    assert_eq!(world.asked(), (2, 3), "with other keys it signs as before");
}

#[tokio::test(start_paused = true)]
async fn a_token_under_suspicion_lets_others_go_first_with_every_key() {
    let world = World::proven().await;
    world.primary.set(Mode::Damaged);
    signed(&world, "k").await.unwrap();
    signed(&world, "other").await.unwrap();
    assert_eq!(world.asked(), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_damaged_everywhere_is_named_with_its_tokens_and_is_tried_on() {
    let world = World::proven().await;
    world.primary.set(Mode::Damaged);
    world.replica.set(Mode::Damaged);
    for _ in 0..2 {
        let error = signed(&world, "k").await.unwrap_err().to_string();
        let key = id("k").to_string();
        assert!(error.contains(&key), "{error}");
        assert!(error.contains("token primary") && error.contains("token b"), "{error}");
        signed(&world, "other").await.unwrap();
    }
    world.replica.set(Mode::Well);
    signed(&world, "k").await.unwrap();
    assert_eq!(world.cause(), None);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_lies_is_found_out_without_a_caller() {
    let world = World::proven().await;
    world.replica.set(Mode::Lies);
    world.until(|cause| cause == Some(Cause::WrongSignature)).await;
    assert_eq!(world.asked(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn without_replicas_there_are_no_canaries() {
    let world = World::new().await;
    world.replicas.update(Some(world.primary.clone()), Vec::new());
    world.replicas.set_canary(Some(world.canary.clone()));
    sleep(Duration::from_secs(60)).await;
    world.primary.asked.lock().unwrap().clear();
    sleep(Duration::from_secs(60)).await;
    assert!(world.primary.asked.lock().unwrap().is_empty());
    world.signs().await;
}
