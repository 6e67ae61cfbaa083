//! How many sessions are worth it, for partitions that leave it to the operator: measured once for each token as it presents
//! itself and is configured.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use jiff::Timestamp;
use kube::ResourceExt;
use tokio::time::Instant;

use super::probes;
use crate::{
    api::{
        HsmPartition,
        partition::{Pkcs11, TokenStatus},
        sessions::{START, Sessions, SessionsMeasured, SessionsStatus, SignaturesPerSecond},
    },
    hsm::{
        Hsm,
        knee::{End, Measured},
        probe::Probe,
        protocol::{HsmError, Kind},
    },
    model::digest::Hash,
};

/// A token that was in trouble while it was measured is measured again after this time,
const PAUSE: Duration = Duration::from_secs(60);
/// and so often in all.
const TRIES: u32 = 3;

/// What this process measured. What a watch says of it may be older.
#[derive(Default)]
pub struct Measurements {
    known: Mutex<HashMap<String, Known>>,
    /// Tokens may share a machine: they are measured one after the other.
    turn: tokio::sync::Mutex<()>,
}

struct Known {
    status: SessionsStatus,
    /// Measurements that the token's trouble ended, and when there may be another.
    troubled: u32,
    next: Instant,
}

impl Measurements {
    /// What is known for a partition whose token was found to be `token`.
    pub fn status(&self, partition: &HsmPartition, token: Option<&TokenStatus>) -> Option<SessionsStatus> {
        let mut known = self.known();
        let name = partition.name_any();
        if partition.spec.sessions != Sessions::Auto {
            known.remove(&name);
            return None;
        }
        let here = known.get(&name).map(|known| known.status.clone());
        let known = here.or_else(|| partition.status.as_ref()?.sessions.clone());
        Some(settled(known, token.and_then(|token| subject(&partition.spec.pkcs11, token))))
    }

    /// Measures, if there is something to measure. Returns what is known then, and after which time another try is worth it
    /// where the token was in trouble.
    pub async fn measure(
        &self,
        partition: &HsmPartition,
        token: &TokenStatus,
        hsm: &dyn Hsm,
        now: Timestamp,
    ) -> Option<(SessionsStatus, Option<Duration>)> {
        let subject = subject(&partition.spec.pkcs11, token)?;
        let before = self.status(partition, Some(token)).filter(|status| status.measured_for.is_none())?;
        let name = partition.name_any();
        let troubled = {
            let known = self.known();
            let known = known.get(&name).filter(|known| known.status == before);
            if let Some(wait) = known.map(|known| known.next.saturating_duration_since(Instant::now()))
                && !wait.is_zero()
            {
                return Some((before, Some(wait)));
            }
            known.map_or(0, |known| known.troubled)
        };
        let outcome = {
            let _turn = self.turn.lock().await;
            probes::try_one(hsm, Probe::Sessions).await
        };
        let nothing = || HsmError::new(Kind::Unsupported, "nothing was measured");
        let outcome = outcome.and_then(|findings| findings.sessions.ok_or_else(nothing));
        let (mut status, mut troubled) = match outcome {
            Ok(measured) => (measured_status(&measured), 0),
            Err(error) => match error.kind {
                // It is not there to be measured, and whoever finds it again comes here again.
                Kind::Unavailable | Kind::PinRejected | Kind::PinLocked | Kind::PinFinalTry => return None,
                Kind::Lost | Kind::Device | Kind::Busy => (failed_status(&error), troubled + 1),
                _ => (failed_status(&error), 0),
            },
        };
        tracing::info!(
            partition = name,
            chosen = status.chosen,
            message = status.message,
            "sessions measured"
        );
        status.time = Some(now.to_string());
        if troubled == 0 || troubled >= TRIES {
            (status.measured_for, troubled) = (Some(subject), 0);
        }
        let again = (troubled > 0).then_some(PAUSE);
        let next = Instant::now() + PAUSE;
        self.known().insert(name, Known { status: status.clone(), troubled, next });
        Some((status, again))
    }

    /// The partition is gone.
    pub fn forget(&self, partition: &str) {
        self.known().remove(partition);
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.known.lock().expect("no panic while it is held")
    }
}

/// What is known, if it is about this token.
fn settled(known: Option<SessionsStatus>, subject: Option<String>) -> SessionsStatus {
    let pending = || SessionsStatus {
        chosen: START.into(),
        reason: "Pending".into(),
        message: "the token is measured after it was tried; until then as many as are usual".into(),
        ..SessionsStatus::default()
    };
    let about_it = |known: &SessionsStatus| match (&known.measured_for, &subject) {
        (Some(then), Some(now)) => then == now,
        // It is not reached, or was not measured to the end.
        (_, None) | (None, _) => true,
    };
    known.filter(about_it).unwrap_or_else(pending)
}

/// What a measurement is about: the token as it presents itself, and all else that it depends on. Nothing where that is not
/// known yet.
fn subject(pkcs11: &Pkcs11, token: &TokenStatus) -> Option<String> {
    let limits = &token.probed.as_ref()?.limits;
    let Pkcs11 { library, token_label, serial, slot, pin_secret_ref: _, init_args, environment } = pkcs11;
    let configuration = serde_json::json!([
        [library, token_label, serial, slot, init_args, environment],
        [limits.sessions_max, limits.rw_sessions_max],
    ]);
    let digest = Hash::Sha256.digest(configuration.to_string().as_bytes());
    let TokenStatus { label, manufacturer, model, serial, firmware, library, .. } = token;
    Some(format!(
        "{label}: {model} of {manufacturer}, serial {serial}, firmware {firmware}, {library}; configuration {}",
        hex::encode(&digest[..4])
    ))
}

fn measured_status(measured: &Measured) -> SessionsStatus {
    let chosen = measured.choice();
    let most = measured.levels.last().map_or(0, |level| level.sessions);
    let message = match &measured.end {
        End::Flat => format!("up to {most} were tried, and more than {chosen} sign no faster"),
        End::Most => format!("{most} is the most there may be, and more than {chosen} sign no faster"),
        End::Slow => format!("more than {most} were not tried, because that would have taken too long"),
        End::Refused(why) => format!(
            "the token refused more than {most} ({why}): others may need sessions, so that no more than are usual are used"
        ),
    };
    let levels = measured.levels.iter().map(|level| SessionsMeasured {
        sessions: level.sessions.into(),
        speeds: level
            .speeds
            .iter()
            .map(|(key, speed)| SignaturesPerSecond {
                key: key.clone(),
                per_second: i32::try_from(*speed).unwrap_or(i32::MAX),
            })
            .collect(),
    });
    SessionsStatus {
        chosen: chosen.into(),
        reason: "Measured".into(),
        message,
        measured: levels.collect(),
        ..SessionsStatus::default()
    }
}

fn failed_status(error: &HsmError) -> SessionsStatus {
    SessionsStatus {
        chosen: START.into(),
        reason: "NotMeasured".into(),
        message: format!("as many as are usual, because measuring failed: {}", probes::words(error)),
        ..SessionsStatus::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::hsm::fake::{Fake, Fault};

    fn partition(sessions: Value) -> HsmPartition {
        let spec = json!({
            "pkcs11": {"library": "/x", "tokenLabel": "t", "pinSecretRef": {"name": "s"}},
            "allowedNamespaces": {}, "sessions": sessions,
        });
        HsmPartition::new("p", serde_json::from_value(spec).unwrap())
    }

    fn token() -> TokenStatus {
        TokenStatus { firmware: "1.0".into(), probed: Some(Default::default()), ..TokenStatus::default() }
    }

    /// What a controller sees after it wrote a status.
    fn written(partition: &HsmPartition, status: &SessionsStatus) -> HsmPartition {
        let mut partition = partition.clone();
        partition.status = serde_json::from_value(json!({"sessions": status})).unwrap();
        partition
    }

    async fn measure(
        all: &Measurements,
        partition: &HsmPartition,
        fake: &Fake,
    ) -> Option<(SessionsStatus, bool)> {
        let now = Timestamp::from_second(7).unwrap();
        let known = all.measure(partition, &token(), fake, now).await;
        known.map(|(status, again)| (status, again.is_some()))
    }

    #[tokio::test]
    async fn a_token_is_measured_once_by_whoever_leads() {
        let (fake, all, auto) = (Fake::default(), Measurements::default(), partition(json!("auto")));
        let pending = all.status(&auto, Some(&token())).unwrap();
        assert_eq!((pending.chosen, &*pending.reason), (START.into(), "Pending"));
        let (status, again) = measure(&all, &auto, &fake).await.unwrap();
        assert_eq!((status.chosen, &*status.reason, status.measured.len(), again), (2, "Measured", 4, false));
        assert_eq!(status.time.as_deref(), Some("1970-01-01T00:00:07Z"));
        // Its own copy of the object may be old, and the next leader has only the object.
        assert_eq!(all.status(&auto, Some(&token())), Some(status.clone()));
        assert_eq!(measure(&all, &auto, &fake).await, None);
        let after = written(&auto, &status);
        assert_eq!(measure(&Measurements::default(), &after, &fake).await, None);
        assert_eq!(Measurements::default().status(&after, None), Some(status), "it is not reached");
        assert_eq!(fake.count("probe"), 1);
    }

    #[tokio::test]
    async fn another_token_or_configuration_is_measured_anew() {
        let (fake, auto) = (Fake::default(), partition(json!("auto")));
        let (status, _) = measure(&Measurements::default(), &auto, &fake).await.unwrap();
        let after = written(&auto, &status);
        let reason = |partition: &HsmPartition, token: &TokenStatus| {
            Measurements::default().status(partition, Some(token)).unwrap().reason
        };
        assert_eq!(reason(&after, &token()), "Measured");
        assert_eq!(reason(&after, &TokenStatus { firmware: "1.1".into(), ..token() }), "Pending");
        let mut limited = token();
        limited.probed.as_mut().unwrap().limits.sessions_max = Some(8);
        assert_eq!(reason(&after, &limited), "Pending");
        let mut other = after.clone();
        other.spec.pkcs11.init_args = Some("fast".into());
        assert_eq!(reason(&other, &token()), "Pending");
        let mut other = after.clone();
        other.spec.pkcs11.pin_secret_ref.name = "another".into();
        assert_eq!(reason(&other, &token()), "Measured");
        // It was not tried yet: what is known stays.
        assert_eq!(reason(&after, &TokenStatus::default()), "Measured");
    }

    #[tokio::test]
    async fn a_number_is_not_measured_and_forgets_what_was() {
        let (fake, all, auto) = (Fake::default(), Measurements::default(), partition(json!("auto")));
        measure(&all, &auto, &fake).await.unwrap();
        let number = partition(json!(8));
        assert_eq!(all.status(&number, Some(&token())), None);
        assert_eq!(measure(&all, &number, &fake).await, None);
        // Which is how a person has it measured again.
        assert!(measure(&all, &auto, &fake).await.is_some());
        assert_eq!(fake.count("probe"), 2);
    }

    #[tokio::test]
    async fn a_module_that_does_not_survive_it_never_gets_it_again() {
        let (fake, all, auto) = (Fake::default(), Measurements::default(), partition(json!("auto")));
        fake.inject("probe", Fault::refuse(Kind::Crashed));
        fake.inject("probe", Fault::refuse(Kind::Crashed));
        let (status, again) = measure(&all, &auto, &fake).await.unwrap();
        assert_eq!((status.chosen, &*status.reason, again), (START.into(), "NotMeasured", false));
        assert!(status.message.contains("the module crashed"), "{}", status.message);
        assert_eq!(measure(&Measurements::default(), &written(&auto, &status), &fake).await, None);
        assert_eq!(fake.count("probe"), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_in_trouble_is_measured_again_but_not_for_ever() {
        let (fake, all, auto) = (Fake::default(), Measurements::default(), partition(json!("auto")));
        for _ in 0..TRIES {
            fake.inject("probe", Fault::refuse(Kind::Device));
        }
        for tried in 1..=TRIES {
            let (status, again) = measure(&all, &auto, &fake).await.unwrap();
            assert_eq!((status.chosen, &*status.reason), (START.into(), "NotMeasured"));
            assert_eq!((again, status.measured_for.is_none()), (tried < TRIES, tried < TRIES));
            assert_eq!(fake.count("probe"), tried as usize);
            if again {
                assert_eq!(measure(&all, &auto, &fake).await, Some((status, true)), "not at once");
                tokio::time::advance(PAUSE).await;
            }
        }
        assert_eq!(measure(&all, &auto, &fake).await, None);
        // One that is not there was not measured.
        fake.inject("probe", Fault::refuse(Kind::Unavailable));
        let all = Measurements::default();
        assert_eq!(measure(&all, &auto, &fake).await, None);
        assert_eq!(measure(&all, &auto, &fake).await.unwrap().0.reason, "Measured");
    }
}
