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
        signing_request::{SigningRequestStatus, State},
    },
    hsm::protocol::{Actor, HsmError, Kind},
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
    let outcome = attempt(request, &ctx).await;
    let new = report(request, &old, &outcome, ctx.now());
    if new != old {
        // Refused if anybody wrote meanwhile: of two signatures only one is ever shown.
        let written = ctx.write_status(&ctx.api_of(request), request, &new, true).await;
        if let Err(Error::WriteStatus { source, .. }) = &written
            && matches!(&**source, kube::Error::Api(status) if status.code == 409 || status.code == 404)
        {
            return Ok(Action::requeue(Duration::from_secs(1)));
        }
        written?;
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

/// What is made of an error after which nobody knows whether a part of the key is spent: it is for whoever asked to ask again.
fn uncertain(error: HsmError) -> Outcome {
    let message =
        format!("{}; one of the key's signatures may be spent on it: make another request", error.message);
    Outcome::Failed(error::reason(error.kind), message)
}

async fn attempt(request: &SigningRequest, ctx: &Context) -> Outcome {
    let spec = &request.spec;
    // The name is written at admission, by the policies alone. Without them anybody could have written it.
    let Some(requester) = spec.requester.as_ref().filter(|_| ctx.admission_checked) else {
        return Outcome::Failed(
            "NoRequester",
            "nobody vouches for who asked: install the operator's admission policies (policies.enabled in the chart)"
                .into(),
        );
    };
    let payload = match spec.payload_type.decode(&spec.payload) {
        Ok(payload) => payload,
        Err(error) => return Outcome::Failed("InvalidPayload", error.to_string()),
    };
    let context = match context::decode(spec.context.as_deref()) {
        Ok(context) => context,
        Err(error) => return Outcome::Failed("InvalidContext", error.to_string()),
    };
    let namespace = request.namespace().unwrap_or_default();
    let reference = ObjectRef::new(&spec.key_ref.name).within(&namespace);
    let Some(guarded) = ctx.keys.get(&reference) else {
        return Outcome::Waiting("KeyNotFound", format!("there is no HsmKey {}", spec.key_ref.name));
    };
    let Some((key, usable)) = guarded.0.as_ref().ok().and_then(|key| Some((key, Usable::of(key)?))) else {
        return Outcome::Waiting(
            "KeyNotReady",
            format!("HsmKey {} is not Ready; its conditions say why", spec.key_ref.name),
        );
    };
    let Some(hsm) = ctx.registry.get(&usable.partition) else {
        return Outcome::Waiting(
            "PartitionNotReady",
            format!("the token of partition {} is not reached", usable.partition),
        );
    };
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
            return Outcome::Failed(password::REASON, message);
        }
        Err(error) => return Outcome::Waiting("Retrying", crate::telemetry::logs::chain(&error)),
    }
    let job = Job {
        algorithm: spec.signature_algorithm,
        form: spec.signature_type,
        payload: payload.clone().into(),
        context: context.into(),
        verify: VerifySignatures::Always,
    };
    match ctx.signer.sign(hsm.as_ref(), &usable, job).await {
        Ok(signature) => Outcome::Signed(signature),
        Err(error @ (SignError::Mismatch(_) | SignError::NoPublicKey | SignError::NoPrivateKey)) => {
            Outcome::Failed("AlgorithmMismatch", error.to_string())
        }
        Err(SignError::Payload(message)) => Outcome::Failed("InvalidPayload", message),
        Err(error @ SignError::Wrong { .. }) => Outcome::Failed("WrongSignature", error.to_string()),
        Err(SignError::Hsm(error)) => {
            let outcome = if spec.signature_algorithm.is_stateful() && may_be_spent(&error) {
                uncertain(error)
            } else {
                refused(error, crashing(request, ctx.now()))
            };
            if matches!(outcome, Outcome::Failed(..)) {
                // The key's own reconcile, which this request's status wakes, asks the token again.
                ctx.inventories.missed(&usable.partition, &usable.id).await;
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
    use super::*;

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

    #[test]
    fn a_token_that_is_away_is_waited_for() {
        let away = refused(HsmError::new(Kind::Unavailable, "away"), Duration::from_secs(86_400));
        assert!(matches!(away, Outcome::Waiting("TokenUnavailable", _)));
        assert_eq!(pause(Duration::from_secs(86_400), OFTEN), OFTEN);
    }
}
