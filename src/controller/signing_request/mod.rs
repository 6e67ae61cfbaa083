//! Reconciler of SigningRequests: one signature each, whatever restarts.

use std::{sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Preconditions},
    runtime::{controller::Action, reflector::ObjectRef},
};

use super::{
    context::{Context, Guarded},
    error::{self, Error},
    password,
};
use crate::{
    api::{
        SigningRequest,
        condition::{self, Report},
        partition::VerifySignatures,
        password::PASSWORD_REQUIRED,
        signing_request::{SigningRequestStatus, State},
    },
    hsm::{
        HostState, Hsm,
        protocol::{Actor, HsmError, Kind},
    },
    model::context,
    service::{
        audit::{About, Use},
        directory::Usable,
        sign::{Job, SignError},
    },
};

/// Longest pause between two looks at a request that waits.
const OFTEN: Duration = Duration::from_secs(10);
/// The same for one on which the library crashes.
const RARELY: Duration = Duration::from_secs(300);
/// How long a request is tried on which the library crashes.
const PATIENCE: Duration = Duration::from_secs(600);

/// What came of a look at a request.
enum Outcome {
    Signed(Vec<u8>),
    Waiting(&'static str, String),
    Failed(&'static str, String),
}

/// Brings one request to its end.
///
/// # Errors
/// Whatever stopped it; it is tried again.
pub async fn reconcile(request: Arc<Guarded<SigningRequest>>, ctx: Arc<Context>) -> Result<Action, Error> {
    let request = match &request.0 {
        Ok(request) => request,
        Err(invalid) => {
            super::malformed::report::<SigningRequest>(&ctx, invalid).await;
            return Ok(Action::await_change());
        }
    };
    if request.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let old = request.status.clone().unwrap_or_default();
    if old.state.is_some_and(State::is_final) {
        return expire(request, &old, &ctx).await;
    }
    let looked = if is_being_signed(&old) {
        Ok((
            None,
            uncertain(HsmError::new(Kind::Crashed, "the token was asked, and what it answered is lost")),
        ))
    } else {
        attempt(request, &old, &ctx).await
    };
    let (noted, outcome) = match looked {
        Err(error) if is_overtaken(&error) => return Ok(Action::requeue(Duration::from_secs(1))),
        looked => looked?,
    };
    let request = noted.as_ref().unwrap_or(request);
    let new = report(request, &old, &outcome, ctx.now());
    if new != old {
        // Refused if anybody wrote meanwhile: of two signatures only one is ever shown.
        match ctx.write_status(&ctx.api_of(request), request, &new, true).await {
            Err(error) if is_overtaken(&error) => return Ok(Action::requeue(Duration::from_secs(1))),
            written => written?,
        };
        match &outcome {
            Outcome::Signed(_) => {
                ctx.event(
                    request,
                    false,
                    "Signed",
                    "Sign",
                    format!("signed with key {}", request.spec.key_ref.name),
                )
                .await;
            }
            Outcome::Failed(reason, message) => {
                ctx.event(request, true, reason, "Sign", message.clone()).await
            }
            Outcome::Waiting(..) => {}
        }
    }
    Ok(match outcome {
        Outcome::Waiting(reason, _) => {
            let pause = if reason == CRASHES {
                pause(crashing(request, ctx.now()), RARELY)
            } else {
                pause(age(request, ctx.now()), OFTEN)
            };
            Action::requeue(super::jittered(pause))
        }
        Outcome::Signed(_) | Outcome::Failed(..) => match request.spec.ttl_seconds_after_finished {
            Some(ttl) => {
                Action::requeue(Duration::from_secs(u64::try_from(ttl).unwrap_or(0).saturating_add(1)))
            }
            None => Action::await_change(),
        },
    })
}

/// Whether a write was refused because somebody else wrote the object, or because it is gone.
fn is_overtaken(error: &Error) -> bool {
    matches!(error, Error::WriteStatus { source, .. }
        if matches!(&**source, kube::Error::Api(status) if status.code == 409 || status.code == 404))
}

/// Reason of a request whose key has a state, from before the token is asked until the answer is written.
const SIGNING: &str = "Signing";

/// Whether the token was asked for a signature of a key with a state, and nobody wrote what it answered: a controller was
/// killed, or could not write, or another one is at it.
fn is_being_signed(status: &SigningRequestStatus) -> bool {
    condition::find(&status.conditions, condition::READY).is_some_and(|ready| ready.reason == SIGNING)
}

/// How long ago a request was made.
fn age(request: &SigningRequest, now: Timestamp) -> Duration {
    let made = request.metadata.creation_timestamp.as_ref().map_or(now, |made| made.0);
    Duration::from_secs(u64::try_from(now.as_second() - made.as_second()).unwrap_or(0))
}

/// How long the library has crashed on a request.
fn crashing(request: &SigningRequest, now: Timestamp) -> Duration {
    let conditions = request.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    let ready = condition::find(conditions, condition::READY).filter(|ready| ready.reason == CRASHES);
    let since = ready.map_or(now, |ready| ready.last_transition_time.0);
    Duration::from_secs(u64::try_from(now.as_second() - since.as_second()).unwrap_or(0))
}

/// Until a waiting request is looked at again: a token that failed a moment ago may be well a moment later.
fn pause(age: Duration, most: Duration) -> Duration {
    (age / 2).clamp(Duration::from_secs(1), most)
}

/// Reason of a request on which the library crashes.
const CRASHES: &str = error::reason(Kind::Poisonous);

/// What is made of a token's error: some end a request, with the others it waits. `crashing` says how long the library has
/// crashed on it.
fn refused(error: HsmError, crashing: Duration) -> Outcome {
    let reason = error::reason(error.kind);
    match error.kind {
        Kind::Unsupported | Kind::Forbidden | Kind::KeyNotFound | Kind::Ambiguous => {
            Outcome::Failed(reason, error.message)
        }
        // It may have been the library's bad hour; if it was not, every try is a crash that others feel.
        Kind::Poisonous if crashing >= PATIENCE => Outcome::Failed(
            reason,
            format!("{}; after {} minutes it is given up", error.message, PATIENCE.as_secs() / 60),
        ),
        _ => Outcome::Waiting(reason, error.message),
    }
}

/// Whether a token that failed may have signed, with a key that has only so many signatures.
const fn may_be_spent(error: &HsmError) -> bool {
    let passes = matches!(error.kind.actor(), Actor::Nobody) && !error.kind.not_done();
    passes || matches!(error.kind, Kind::Poisonous)
}

/// What is made of an error of a token that was asked to sign with a key that has a state. It is for whoever asked to ask
/// again: each try costs two writes, which wake the controller, and may cost a part of the key.
fn asked(error: HsmError, crashing: Duration) -> Outcome {
    if may_be_spent(&error) {
        return uncertain(error);
    }
    match refused(error, crashing) {
        Outcome::Waiting(reason, message) => Outcome::Failed(
            reason,
            format!("{message}; nothing of the key is spent on it: make another request"),
        ),
        outcome => outcome,
    }
}

/// What is made of an error after which nobody knows whether a part of the key is spent: it is for whoever asked to ask again.
fn uncertain(error: HsmError) -> Outcome {
    let message =
        format!("{}; one of the key's signatures may be spent on it: make another request", error.message);
    Outcome::Failed(error::reason(error.kind), message)
}

/// A signature that nothing stands in the way of.
struct Prepared {
    hsm: Arc<dyn Hsm>,
    key: Usable,
    job: Job,
}

/// Has the token sign, if nothing stands in the way. A request whose key has a state is returned as it was written before.
async fn attempt(
    request: &SigningRequest,
    old: &SigningRequestStatus,
    ctx: &Context,
) -> Result<(Option<SigningRequest>, Outcome), Error> {
    let prepared = match prepare(request, ctx).await {
        Ok(prepared) => prepared,
        Err(outcome) => return Ok((None, outcome)),
    };
    if request.spec.signature_algorithm.is_stateful() {
        let (noted, outcome) = sign_once(request, old, prepared, ctx).await?;
        return Ok((Some(noted), outcome));
    }
    Ok((None, sign(request, prepared, ctx).await))
}

/// Signs with a key that has a state, of which each signature spends a part. That the token is asked is written first, and only
/// if nobody else wrote: so no request has it asked twice, whatever becomes of the answer.
async fn sign_once(
    request: &SigningRequest,
    old: &SigningRequestStatus,
    prepared: Prepared,
    ctx: &Context,
) -> Result<(SigningRequest, Outcome), Error> {
    let asking = Outcome::Waiting(SIGNING, "the token is being asked for the signature".into());
    let status = report(request, old, &asking, ctx.now());
    let noted = ctx.write_status(&ctx.api_of(request), request, &status, true).await?;
    Ok((noted, sign(request, prepared, ctx).await))
}

/// Looks whether a request can be signed.
async fn prepare(request: &SigningRequest, ctx: &Context) -> Result<Prepared, Outcome> {
    let spec = &request.spec;
    // The name is written at admission, by the policies alone. Without them anybody could have written it.
    let Some(requester) = spec.requester.as_ref().filter(|_| ctx.admission_checked) else {
        return Err(Outcome::Failed(
            "NoRequester",
            "nobody vouches for who asked: install the operator's admission policies (policies.enabled in the chart)"
                .into(),
        ));
    };
    let payload = match spec.payload_type.decode(&spec.payload) {
        Ok(payload) => payload,
        Err(error) => return Err(Outcome::Failed("InvalidPayload", error.to_string())),
    };
    let context = match context::decode(spec.context.as_deref()) {
        Ok(context) => context,
        Err(error) => return Err(Outcome::Failed("InvalidContext", error.to_string())),
    };
    let namespace = request.namespace().unwrap_or_default();
    let reference = ObjectRef::new(&spec.key_ref.name).within(&namespace);
    let Some(guarded) = ctx.keys.get(&reference) else {
        return Err(Outcome::Waiting("KeyNotFound", format!("there is no HsmKey {}", spec.key_ref.name)));
    };
    let Some((key, usable)) = guarded.0.as_ref().ok().and_then(|key| Some((key, Usable::of(key)?))) else {
        return Err(Outcome::Waiting(
            "KeyNotReady",
            format!("HsmKey {} is not Ready; its conditions say why", spec.key_ref.name),
        ));
    };
    let Some(hsm) = ctx.registry.get(&usable.partition) else {
        return Err(Outcome::Waiting(
            "PartitionNotReady",
            format!("the token of partition {} is not reached", usable.partition),
        ));
    };
    if spec.signature_algorithm.is_stateful()
        && let Some(waiting) = away(&usable.partition, ctx)
    {
        return Err(waiting);
    }
    let uid = request.uid().unwrap_or_default();
    let record = Use {
        caller: &requester.username,
        namespace: &namespace,
        key: &key.label(),
        operation: "sign",
        algorithm: Some(spec.signature_algorithm.name()),
        about: About::Payload(&payload),
        request_id: &uid,
    };
    match password::forbids(key, ctx).await {
        Ok(None) => record.record(None),
        Ok(Some(message)) => {
            record.record(Some(&message));
            return Err(Outcome::Failed(PASSWORD_REQUIRED, message));
        }
        Err(error) => return Err(Outcome::Waiting("Retrying", crate::telemetry::logs::chain(&error))),
    }
    let job = Job {
        algorithm: spec.signature_algorithm,
        form: spec.signature_type,
        payload: payload.clone().into(),
        context: context.into(),
        verify: VerifySignatures::Always,
    };
    Ok(Prepared { hsm, key: usable, job })
}

/// A token that is away is waited for before it is asked to sign with a key that has a state: after that, its request is at an end.
fn away(partition: &str, ctx: &Context) -> Option<Outcome> {
    match ctx.registry.handle(partition)?.state() {
        HostState::Ready(_) => None,
        HostState::Starting => Some(Outcome::Waiting(
            error::reason(Kind::Unavailable),
            format!("the token of partition {partition} is being opened"),
        )),
        HostState::Failed(error) => Some(Outcome::Waiting(error::reason(error.kind), error.message)),
    }
}

async fn sign(request: &SigningRequest, Prepared { hsm, key, job }: Prepared, ctx: &Context) -> Outcome {
    let algorithm = job.algorithm;
    match ctx.signer.sign(hsm.as_ref(), &key, job).await {
        Ok(signature) => Outcome::Signed(signature),
        Err(error @ (SignError::Mismatch(_) | SignError::NoPublicKey | SignError::NoPrivateKey)) => {
            Outcome::Failed("AlgorithmMismatch", error.to_string())
        }
        Err(SignError::Payload(message)) => Outcome::Failed("InvalidPayload", message),
        Err(error @ SignError::Wrong { .. }) => Outcome::Failed("WrongSignature", error.to_string()),
        Err(SignError::Hsm(error)) => {
            let crashing = crashing(request, ctx.now());
            let outcome =
                if algorithm.is_stateful() { asked(error, crashing) } else { refused(error, crashing) };
            if matches!(outcome, Outcome::Failed(..)) {
                // The key's own reconcile, which this request's status wakes, asks the token again.
                ctx.inventories.missed(&key.partition, &key.id).await;
            }
            outcome
        }
    }
}

fn report(
    request: &SigningRequest,
    old: &SigningRequestStatus,
    outcome: &Outcome,
    now: Timestamp,
) -> SigningRequestStatus {
    let mut status = old.clone();
    let reports = match outcome {
        Outcome::Signed(signature) => {
            status.state = Some(State::Executed);
            status.signature = Some(STANDARD.encode(signature));
            status.execution_time = Some(now.to_string());
            vec![Report::new(
                condition::READY,
                Some(true),
                "Executed",
                "the signature is in status.signature",
            )]
        }
        Outcome::Waiting(reason, message) => {
            status.state = Some(State::Pending);
            vec![Report::new(condition::READY, Some(false), reason, message)]
        }
        Outcome::Failed(reason, message) => {
            status.state = Some(State::Failed);
            status.execution_time = Some(now.to_string());
            vec![
                Report::new(condition::READY, Some(false), reason, message),
                Report::new(condition::STALLED, Some(true), reason, message),
            ]
        }
    };
    status.conditions = condition::apply(&old.conditions, &reports, request.metadata.generation, now);
    status.observed_generation = request.metadata.generation;
    status
}

/// Deletes a finished request when its time is over.
async fn expire(
    request: &SigningRequest,
    status: &SigningRequestStatus,
    ctx: &Context,
) -> Result<Action, Error> {
    let Some(ttl) = request.spec.ttl_seconds_after_finished else { return Ok(Action::await_change()) };
    let finished =
        status.execution_time.as_ref().and_then(|text| text.parse::<Timestamp>().ok()).unwrap_or_default();
    let left = finished.as_second() + i64::from(ttl) - ctx.now().as_second();
    if let Ok(left @ 1..) = u64::try_from(left) {
        return Ok(Action::requeue(Duration::from_secs(left)));
    }
    let api: Api<SigningRequest> = ctx.api_of(request);
    let only_this = Preconditions { uid: request.uid(), resource_version: None };
    let params = DeleteParams { preconditions: Some(only_this), ..DeleteParams::default() };
    match api.delete(&request.name_any(), &params).await {
        Ok(_) => ctx.metrics.wrote("SigningRequest", "delete"),
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => {}
        Err(source) => return Err(Error::Write { name: request.name_any(), source: Box::new(source) }),
    }
    Ok(Action::await_change())
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use async_trait::async_trait;
    use axum::{
        Json, Router,
        http::StatusCode,
        routing::{patch, post},
    };
    use kube::runtime::reflector::store;
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        hsm::protocol::{Reply, Request, TokenFacts},
        model::{KeyAlgorithm, KeyId, SignatureAlgorithm, SignatureType},
        public_key::PublicKey,
    };

    #[test]
    fn a_request_that_crashes_the_library_is_tried_ever_more_rarely_and_then_given_up() {
        let (mut age, mut tries) = (Duration::ZERO, 0);
        let last = loop {
            tries += 1;
            match refused(HsmError::new(Kind::Poisonous, "it crashed twice"), age) {
                Outcome::Waiting(reason, _) => assert_eq!(reason, "CrashesLibrary"),
                Outcome::Failed(reason, message) => break (reason, message),
                Outcome::Signed(_) => unreachable!(),
            }
            age += pause(age, RARELY);
        };
        assert_eq!(last, ("CrashesLibrary", "it crashed twice; after 10 minutes it is given up".into()));
        assert!((10..20).contains(&tries), "{tries}");
    }

    #[test]
    fn what_may_have_spent_a_signature_of_a_key_with_a_state_is_not_tried_again() {
        let spent = |kind| may_be_spent(&HsmError::new(kind, "no"));
        for kind in [Kind::Lost, Kind::Timeout, Kind::Crashed, Kind::Device, Kind::Poisonous] {
            assert!(spent(kind), "{kind:?}");
        }
        for kind in [Kind::Busy, Kind::Unavailable, Kind::PinRejected, Kind::KeyNotFound, Kind::Forbidden] {
            assert!(!spent(kind), "{kind:?}");
        }
        let Outcome::Failed("TokenUnavailable", message) =
            uncertain(HsmError::new(Kind::Timeout, "no answer"))
        else {
            panic!()
        };
        assert_eq!(
            message,
            "no answer; one of the key's signatures may be spent on it: make another request"
        );
    }

    /// A token that never answers a signature, and what was written when it was asked.
    #[derive(Default)]
    struct Silent {
        asked: Mutex<Vec<Option<Value>>>,
        written: Written,
    }

    #[async_trait]
    impl Hsm for Silent {
        async fn call(&self, _: Request) -> Result<Reply, HsmError> {
            self.asked.lock().unwrap().push(self.written.lock().unwrap().clone());
            Err(HsmError::new(Kind::Timeout, "no answer"))
        }

        fn token(&self) -> Option<Arc<TokenFacts>> {
            None
        }
    }

    /// What was written last.
    type Written = Arc<Mutex<Option<Value>>>;

    /// Before an API server that takes what is written to the request of version 7, or says this.
    fn before(answer: StatusCode) -> (Context, Arc<Silent>) {
        let hsm = Arc::new(Silent::default());
        let written = Arc::clone(&hsm.written);
        let write = patch(move |body: String| async move {
            let mut object: Value = serde_json::from_str(&body).unwrap();
            if answer != StatusCode::OK {
                return (answer, Json(json!({"status": "Failure", "code": answer.as_u16()})));
            }
            assert_eq!(object["metadata"]["resourceVersion"], "7");
            *written.lock().unwrap() = Some(object["status"].clone());
            object["metadata"]["resourceVersion"] = json!("8");
            object["spec"] = serde_json::to_value(request(None).spec).unwrap();
            (StatusCode::OK, Json(object))
        });
        let path = "/apis/hsm-operator.io/v1alpha1/namespaces/ns/signingrequests/r/status";
        let events = post(async |Json(event): Json<Value>| (StatusCode::CREATED, Json(event)));
        let api =
            Router::new().route(path, write).route("/apis/events.k8s.io/v1/namespaces/ns/events", events);
        (Context::alone(kube::Client::new(api, "default"), store().0), hsm)
    }

    fn request(status: Option<SigningRequestStatus>) -> SigningRequest {
        let request = json!({
            "apiVersion": "hsm-operator.io/v1alpha1", "kind": "SigningRequest",
            "metadata": {"name": "r", "namespace": "ns", "uid": "u", "resourceVersion": "7"},
            "spec": {"keyRef": {"name": "k"}, "payload": "YQ==", "signatureAlgorithm": "LMS"},
            "status": status.unwrap_or_default(),
        });
        serde_json::from_value(request).unwrap()
    }

    async fn signed_once(ctx: &Context, hsm: &Arc<Silent>) -> Result<(SigningRequest, Outcome), Error> {
        let vector = include_str!("../../../tests/vectors/rfc8554.txt").lines().nth(1).unwrap();
        let spki = format!("304e300d060b2a864886f70d0109100311033d00{}", vector.split_once(' ').unwrap().1);
        let key = Usable {
            partition: "p".into(),
            id: KeyId::for_purpose("k"),
            algorithm: KeyAlgorithm::Lms,
            public: Some(Arc::new(PublicKey::from_spki(&hex::decode(spki).unwrap()).unwrap())),
            public_only: false,
        };
        let job = Job {
            algorithm: SignatureAlgorithm::Lms,
            form: SignatureType::Der,
            payload: "a".into(),
            context: Default::default(),
            verify: VerifySignatures::Always,
        };
        let prepared = Prepared { hsm: hsm.clone(), key, job };
        sign_once(&request(None), &SigningRequestStatus::default(), prepared, ctx).await
    }

    #[tokio::test]
    async fn a_key_with_a_state_signs_only_once_it_is_written_that_it_is_asked() {
        for refused in [StatusCode::CONFLICT, StatusCode::UNPROCESSABLE_ENTITY] {
            let (ctx, hsm) = before(refused);
            let Err(error) = signed_once(&ctx, &hsm).await else { panic!("it was not written") };
            assert_eq!(is_overtaken(&error), refused == StatusCode::CONFLICT);
            assert!(hsm.asked.lock().unwrap().is_empty(), "{refused}");
        }
        let (ctx, hsm) = before(StatusCode::OK);
        let (noted, outcome) = signed_once(&ctx, &hsm).await.unwrap();
        // The next write is refused if anybody wrote since this one.
        assert_eq!(noted.resource_version().as_deref(), Some("8"));
        assert!(matches!(outcome, Outcome::Failed("TokenUnavailable", _)));
        let asked = hsm.asked.lock().unwrap();
        let [Some(status)] = asked.as_slice() else { panic!("{asked:?}") };
        assert_eq!(
            (&status["state"], &status["conditions"][0]["reason"]),
            (&json!("PENDING"), &json!(SIGNING))
        );
    }

    #[tokio::test]
    async fn a_request_whose_answer_is_lost_has_failed_and_is_not_signed_again() {
        let asking = Outcome::Waiting(SIGNING, "".into());
        let old = report(&request(None), &SigningRequestStatus::default(), &asking, Timestamp::UNIX_EPOCH);
        let (ctx, hsm) = before(StatusCode::OK);
        let request = serde_json::from_value(serde_json::to_value(request(Some(old))).unwrap()).unwrap();
        reconcile(Arc::new(request), Arc::new(ctx)).await.unwrap();
        let status = hsm.written.lock().unwrap().clone().unwrap();
        assert_eq!(status["state"], "FAILED");
        let said = status["conditions"][0]["message"].as_str().unwrap();
        assert!(said.contains("is lost") && said.contains("make another request"), "{said}");
    }

    #[test]
    fn a_token_that_did_not_sign_is_not_asked_again_with_a_key_that_has_a_state() {
        let Outcome::Failed("TokenUnavailable", message) =
            asked(HsmError::new(Kind::Unavailable, "away"), Duration::ZERO)
        else {
            panic!()
        };
        assert_eq!(message, "away; nothing of the key is spent on it: make another request");
        assert!(matches!(
            asked(HsmError::new(Kind::KeyNotFound, "no key"), Duration::ZERO),
            Outcome::Failed("MissingOnToken", message) if message == "no key"
        ));
    }

    #[test]
    fn a_token_that_is_away_is_waited_for() {
        let away = refused(HsmError::new(Kind::Unavailable, "away"), Duration::from_secs(86_400));
        assert!(matches!(away, Outcome::Waiting("TokenUnavailable", _)));
        assert_eq!(pause(Duration::from_secs(86_400), OFTEN), OFTEN);
    }
}
