//! The key's certificate: the one that the spec gives, or one that the key signs itself.

use jiff::Timestamp;
use kube::ResourceExt;

use super::{gather::Seen, plan::Refusal};
use crate::{
    api::{
        HsmKey,
        certificate::{CertificateStatus, SelfSigned},
        key::HsmKeyStatus,
        password::PASSWORD_REQUIRED,
    },
    controller::{
        context::{Context, MANAGER},
        error::Error,
        password,
    },
    hsm::{Hsm, protocol::Kind},
    model::certificate::CertificateAlgorithm,
    public_key::PublicKey,
    service::{
        audit::{About, Use},
        certificate::{self, Chain, Unsigned, Usages},
        directory::Usable,
        sign::SignError,
    },
};

/// How it stands with a key's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Certified {
    /// The spec asks for none.
    NotAsked,
    /// It is there.
    Yes,
    /// A person must act. The key can be used all the same, and an earlier certificate stays where it is.
    Refused(Refusal),
}

/// What to do about a key's certificate.
#[derive(Debug)]
enum Step<'a> {
    /// There is to be none.
    Drop,
    /// The one in the status is right.
    Keep,
    /// This one was given.
    Take(Box<Chain>),
    /// The key signs one.
    Make(&'a SelfSigned),
    /// A person must act.
    Refuse(Refusal),
}

/// Brings the certificate in `status` to what the spec asks for.
///
/// # Errors
/// When the token does not sign just now.
pub async fn certify(
    key: &HsmKey,
    usable: Option<Usable>,
    status: &mut HsmKeyStatus,
    seen: &Seen,
    ctx: &Context,
) -> Result<Certified, Error> {
    let public = usable.as_ref().and_then(|usable| usable.public.as_deref());
    match plan(key, public, status.certificate.as_ref(), ctx.now()) {
        Step::Drop => {
            status.certificate = None;
            Ok(Certified::NotAsked)
        }
        Step::Keep => Ok(Certified::Yes),
        Step::Take(chain) => {
            status.certificate = Some(described(&chain, None));
            Ok(Certified::Yes)
        }
        Step::Refuse(refusal) => Ok(Certified::Refused(refusal)),
        Step::Make(wanted) => {
            let usable = usable.as_ref().ok_or(Error::Incomplete("keyId"))?;
            if let Some(message) = password::forbids(key, ctx).await? {
                return Ok(Certified::Refused(Refusal::certificate(PASSWORD_REQUIRED, message)));
            }
            match made(key, wanted, usable, seen.hsm()?.as_ref(), ctx).await {
                Ok(chain) => {
                    let certificate = described(&chain, Some(wanted.digest()));
                    let note = format!("signed a certificate until {}", certificate.not_after);
                    ctx.event(key, false, "CertificateMade", "Certify", note).await;
                    status.certificate = Some(certificate);
                    Ok(Certified::Yes)
                }
                Err(certificate::Error::Sign(SignError::Hsm(source))) => match source.kind {
                    Kind::Unsupported | Kind::Invalid | Kind::Forbidden => {
                        Ok(Certified::Refused(Refusal::hsm(&source)))
                    }
                    kind => {
                        if matches!(kind, Kind::KeyNotFound | Kind::Ambiguous) {
                            ctx.inventories.missed(&usable.partition, &usable.id).await;
                        }
                        Err(Error::Hsm { operation: "the signature of a certificate", source })
                    }
                },
                Err(error) => Ok(Certified::Refused(refusal(&error))),
            }
        }
    }
}

/// Decides what to do. Pure.
fn plan<'a>(
    key: &'a HsmKey,
    public: Option<&PublicKey>,
    have: Option<&CertificateStatus>,
    now: Timestamp,
) -> Step<'a> {
    let Some(spec) = &key.spec.certificate else { return Step::Drop };
    let Some(public) = public else {
        let message = format!("a key of the algorithm {} has no public half to certify", key.spec.algorithm);
        return Step::Refuse(Refusal::certificate("InvalidCertificate", message));
    };
    match (&spec.pem, &spec.self_signed) {
        // What was given, by hand or over REST, goes before what a manifest asks for in its absence.
        (Some(pem), _) => match Chain::from_pem(pem, public) {
            Ok(chain) => Step::Take(Box::new(chain)),
            Err(error) => Step::Refuse(refusal(&error)),
        },
        (None, Some(wanted)) => {
            let made = have.filter(|have| have.made_for.as_ref() == Some(&wanted.digest()));
            let still_good = made.and_then(|have| Chain::from_pem(&have.pem, public).ok());
            // One that is made twice on a day is the same: both begin at its midnight.
            let today = |chain: &Chain| now.as_second() - chain.not_before().as_second() < DAY;
            if still_good.is_some_and(|chain| now < renewal(&chain) || today(&chain)) {
                Step::Keep
            } else {
                Step::Make(wanted)
            }
        }
        (None, None) => {
            let message = "certificate.pem or certificate.selfSigned says what the certificate is";
            Step::Refuse(Refusal::certificate("InvalidCertificate", message))
        }
    }
}

const DAY: i64 = 24 * 3600;

/// When two thirds of a certificate's time are over.
fn renewal(chain: &Chain) -> Timestamp {
    let (begin, end) = (chain.not_before().as_second(), chain.not_after().as_second());
    Timestamp::from_second(begin + (end - begin) / 3 * 2).unwrap_or(Timestamp::MAX)
}

async fn made(
    key: &HsmKey,
    wanted: &SelfSigned,
    usable: &Usable,
    hsm: &dyn Hsm,
    ctx: &Context,
) -> Result<Chain, certificate::Error> {
    let public = usable.public.as_deref().ok_or(SignError::NoPublicKey)?;
    let suits = CertificateAlgorithm::default_for(public.algorithm(), public.curve().map(|curve| curve.oid));
    let algorithm = wanted.signature_algorithm.or(suits).ok_or(SignError::NoPublicKey)?;
    let usages = Usages {
        key: wanted.key_usage.clone(),
        extended: wanted.extended_key_usage.clone(),
        authority: wanted.certificate_authority,
    };
    let days = certificate::days(wanted.validity_days.map(i64::from))?;
    let subject = certificate::name(&wanted.subject)?;
    let unsigned = Unsigned::self_signed(public, algorithm, subject, &usages, days, ctx.now())?;
    let record = Use {
        caller: MANAGER,
        namespace: &key.namespace().unwrap_or_default(),
        key: &key.label(),
        operation: "certificate selfsign",
        algorithm: Some(algorithm.signature().name()),
        about: About::Payload(unsigned.to_be_signed()),
        request_id: &key.uid().unwrap_or_default(),
    };
    record.record(None);
    Chain::from_der(unsigned.signed(&ctx.signer, hsm, usable).await?, public)
}

fn described(chain: &Chain, made_for: Option<String>) -> CertificateStatus {
    CertificateStatus {
        pem: chain.pem(),
        not_before: chain.not_before().to_string(),
        not_after: chain.not_after().to_string(),
        fingerprint: chain.fingerprint(),
        made_for,
    }
}

fn refusal(error: &certificate::Error) -> Refusal {
    use certificate::Error as E;
    let reason = match error {
        E::Unfit(_) => "CertificateMismatch",
        E::Mismatch(_) => "AlgorithmMismatch",
        E::Sign(_) => "CertificateNotSigned",
        E::Subject(_)
        | E::Usage(_)
        | E::Validity(_)
        | E::Request(_)
        | E::Unreadable(_)
        | E::Encode(_)
        | E::Write(_) => "InvalidCertificate",
    };
    Refusal::certificate(reason, format!("spec.certificate cannot be carried out: {error}"))
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        sync::{Arc, Mutex},
    };

    use axum::{
        Json, Router,
        extract::{Path, State},
        http::StatusCode,
        response::{IntoResponse, Response},
        routing::{get, post},
    };
    use base64::{Engine, engine::general_purpose::STANDARD};
    use kube::runtime::reflector;
    use serde_json::{Value, json};

    use super::{
        super::{
            gather::Presence,
            published,
            report::{Done, report},
        },
        *,
    };
    use crate::{
        api::condition,
        hsm::{
            fake::{Fake, Fault},
            protocol::{KeyFacts, KeyTemplate, Reply, Request},
        },
        model::{KeyAlgorithm, KeyId, KeyLabel, RequestedAttributes},
    };

    /// Secrets by name, and reasons of events.
    #[derive(Clone, Default)]
    struct Cluster {
        secrets: Arc<Mutex<BTreeMap<String, Value>>>,
        events: Arc<Mutex<Vec<String>>>,
    }

    async fn read(State(cluster): State<Cluster>, Path(name): Path<String>) -> Response {
        Json(cluster.secrets.lock().unwrap()[&name].clone()).into_response()
    }

    async fn create(State(cluster): State<Cluster>, Json(secret): Json<Value>) -> Response {
        let name = secret["metadata"]["name"].as_str().unwrap().to_owned();
        cluster.secrets.lock().unwrap().insert(name, secret.clone());
        (StatusCode::CREATED, Json(secret)).into_response()
    }

    async fn patch(
        State(cluster): State<Cluster>,
        Path(name): Path<String>,
        body: axum::body::Bytes,
    ) -> Response {
        let patch: Value = serde_json::from_slice(&body).unwrap();
        let mut secrets = cluster.secrets.lock().unwrap();
        let secret = secrets.get_mut(&name).unwrap();
        for (file, content) in patch["data"].as_object().unwrap() {
            let data = secret["data"].as_object_mut().unwrap();
            if content.is_null() {
                data.remove(file)
            } else {
                data.insert(file.clone(), content.clone())
            };
        }
        Json(secret.clone()).into_response()
    }

    async fn event(State(cluster): State<Cluster>, Json(event): Json<Value>) -> Response {
        cluster.events.lock().unwrap().push(event["reason"].as_str().unwrap().to_owned());
        (StatusCode::CREATED, Json(event)).into_response()
    }

    struct World {
        ctx: Context,
        cluster: Cluster,
        fake: Arc<Fake>,
        key: HsmKey,
    }

    impl World {
        async fn new(sign: bool) -> Self {
            let cluster = Cluster::default();
            let api = Router::new()
                .route("/api/v1/namespaces/ns/secrets", post(create))
                .route("/api/v1/namespaces/ns/secrets/{name}", get(read).patch(patch))
                .route("/api/v1/namespaces/hsm-operator/secrets/{name}", get(read))
                .route("/apis/events.k8s.io/v1/namespaces/ns/events", post(event))
                .with_state(cluster.clone());
            let client = kube::Client::new(api, "default");
            let ctx = Context::alone(client, reflector::store().0);
            let fake = Arc::new(Fake::default());
            let key = key(&facts(&fake, 1, sign).await);
            Self { ctx, cluster, fake, key }
        }

        /// One look at the key, as a reconcile has it. Returns what is then in the status.
        async fn look(&mut self) -> HsmKeyStatus {
            let done = self.try_look().await.unwrap();
            let old = self.key.status.clone().unwrap();
            let status = report(&self.key, &old, &super::super::plan::Step::Keep, &done, self.ctx.now());
            self.key.status = Some(status.clone());
            status
        }

        async fn try_look(&self) -> Result<Done, Error> {
            let seen = Seen::alone(Some(self.fake.clone()), Presence::Recorded);
            published(&self.key, &seen, &self.ctx, self.key.status.clone().unwrap(), "Ready").await
        }

        fn ask(&mut self, certificate: Value) {
            self.key.spec.certificate = serde_json::from_value(certificate).unwrap();
        }

        fn tls_crt(&self) -> Option<String> {
            let secrets = self.cluster.secrets.lock().unwrap();
            let text = secrets["k-public"]["data"].get("tls.crt")?.as_str().unwrap().to_owned();
            Some(String::from_utf8(STANDARD.decode(text).unwrap()).unwrap())
        }
    }

    async fn facts(fake: &Fake, number: u128, sign: bool) -> KeyFacts {
        let template = KeyTemplate {
            id: KeyId::for_object(uuid::Uuid::from_u128(number), "ns", "k"),
            label: KeyLabel::new("k").unwrap(),
            algorithm: KeyAlgorithm::Ec,
            key_size: None,
            curve_oid: Some("1.3.132.0.34".into()),
            attributes: RequestedAttributes { sign: Some(sign), ..Default::default() }.resolved(),
        };
        match fake.call(Request::Generate(template)).await {
            Ok(Reply::Key(facts)) => *facts,
            other => panic!("{other:?}"),
        }
    }

    /// A key that is Ready.
    fn key(facts: &KeyFacts) -> HsmKey {
        let key = json!({
            "apiVersion": "hsm-operator.io/v1alpha1", "kind": "HsmKey",
            "metadata": {"name": "k", "namespace": "ns", "uid": uuid::Uuid::from_u128(1).to_string(), "generation": 1},
            "spec": {"partitionRef": {"name": "p"}, "algorithm": "EC", "curveOid": "1.3.132.0.34"},
            "status": {
                "keyId": facts.id.as_ref().unwrap().to_string(),
                "publicKey": STANDARD.encode(facts.public_key.as_ref().unwrap()),
                "conditions": [],
            },
        });
        serde_json::from_value(key).unwrap()
    }

    fn is(status: &HsmKeyStatus, kind: &str) -> Option<(String, String)> {
        let found = condition::find(&status.conditions, kind)?;
        Some((found.status.clone(), found.reason.clone()))
    }

    fn said(status: &str, reason: &str) -> Option<(String, String)> {
        Some((status.into(), reason.into()))
    }

    fn self_signed(name: &str) -> Value {
        json!({"selfSigned": {"subject": {"commonName": name}, "validityDays": 30, "certificateAuthority": true}})
    }

    #[tokio::test]
    async fn a_self_signed_certificate_is_made_once_and_again_when_it_is_to_say_something_else() {
        let mut world = World::new(true).await;
        assert_eq!(is(&world.look().await, condition::CERTIFIED), None);
        assert_eq!(world.tls_crt(), None);

        world.ask(self_signed("one"));
        let status = world.look().await;
        let first = status.certificate.clone().unwrap();
        assert_eq!(is(&status, condition::CERTIFIED), said("True", "Certified"));
        assert_eq!(is(&status, condition::READY), said("True", "Ready"));
        assert_eq!(world.tls_crt().as_ref(), Some(&first.pem));
        let parsed = subject_of(&first.pem);
        assert!(parsed.contains("one"), "{parsed}");
        assert_eq!((first.not_before.len(), first.fingerprint.len()), ("2026-01-01T00:00:00Z".len(), 64));

        assert_eq!(world.look().await.certificate.as_ref(), Some(&first));
        assert_eq!(world.fake.count("sign"), 1);
        world.ask(self_signed("two"));
        let second = world.look().await.certificate.unwrap();
        assert_ne!(second.fingerprint, first.fingerprint);
        assert_eq!(world.tls_crt(), Some(second.pem.clone()));
        // One of another key in the status is not taken for ours.
        let other = facts(&world.fake, 2, true).await;
        world.key.status.as_mut().unwrap().public_key = Some(STANDARD.encode(other.public_key.unwrap()));
        world.key.status.as_mut().unwrap().key_id = Some(other.id.unwrap().to_string());
        assert_ne!(world.look().await.certificate.unwrap().fingerprint, second.fingerprint);

        world.key.spec.certificate = None;
        let status = world.look().await;
        assert_eq!((status.certificate.clone(), is(&status, condition::CERTIFIED)), (None, None));
        assert_eq!(world.tls_crt(), None);
        // Those that follow are counted on the first.
        assert_eq!(*world.cluster.events.lock().unwrap(), ["CertificateMade"]);
    }

    fn subject_of(pem: &str) -> String {
        let der = certificate::armour::read(pem, &["CERTIFICATE"]).unwrap().remove(0);
        let certificate = <x509_cert::Certificate as der::Decode>::from_der(&der).unwrap();
        certificate.tbs_certificate().subject().to_string()
    }

    #[tokio::test]
    async fn a_self_signed_certificate_is_renewed_when_two_thirds_of_its_time_are_over() {
        let mut world = World::new(true).await;
        world.ask(self_signed("one"));
        let have = world.look().await.certificate.unwrap();
        let public =
            STANDARD.decode(world.key.status.as_ref().unwrap().public_key.as_ref().unwrap()).unwrap();
        let public = PublicKey::from_spki(&public).unwrap();
        let begin: Timestamp = have.not_before.parse().unwrap();
        let after = |days: i64| Timestamp::from_second(begin.as_second() + days * 86_400).unwrap();
        let planned = |days| plan(&world.key, Some(&public), Some(&have), after(days));
        assert!(matches!(planned(19), Step::Keep));
        assert!(matches!(planned(20), Step::Make(_)));
        assert!(matches!(planned(300), Step::Make(_)));
    }

    #[tokio::test]
    async fn a_certificate_for_a_day_is_made_once_a_day() {
        let mut world = World::new(true).await;
        world.ask(json!({"selfSigned": {"subject": {"commonName": "x"}, "validityDays": 1}}));
        let have = world.look().await.certificate.unwrap();
        let public =
            STANDARD.decode(world.key.status.as_ref().unwrap().public_key.as_ref().unwrap()).unwrap();
        let public = PublicKey::from_spki(&public).unwrap();
        let begin: Timestamp = have.not_before.parse().unwrap();
        let planned = |hour: i64| {
            let then = Timestamp::from_second(begin.as_second() + hour * 3600).unwrap();
            plan(&world.key, Some(&public), Some(&have), then)
        };
        assert!(matches!(planned(23), Step::Keep));
        assert!(matches!(planned(24), Step::Make(_)));
    }

    #[tokio::test]
    async fn a_key_with_a_password_signs_no_certificate_by_itself() {
        use crate::service::password::{Hash, secret};
        let mut world = World::new(true).await;
        let hash = Hash::of(&crate::model::Password::new("x").unwrap());
        let kept = serde_json::to_value(secret("s", "ns", &world.key.name_any(), &hash)).unwrap();
        world.cluster.secrets.lock().unwrap().insert("s".into(), kept);
        world.key.spec.password = serde_json::from_value(json!({"secretName": "s"})).unwrap();
        world.ask(self_signed("a"));
        let status = world.look().await;
        assert_eq!(is(&status, condition::CERTIFIED), said("False", PASSWORD_REQUIRED));
        assert_eq!(is(&status, condition::READY), said("True", "Ready"), "it is used over REST all the same");
        assert_eq!((world.fake.count("sign"), world.tls_crt()), (0, None));
        // One that is given needs no use of the key.
        world.key.spec.password = None;
        world.ask(self_signed("a"));
        world.look().await;
        let pem = world.key.status.as_ref().unwrap().certificate.as_ref().unwrap().pem.clone();
        world.key.spec.password = serde_json::from_value(json!({"secretName": "s"})).unwrap();
        world.ask(json!({"pem": pem}));
        assert_eq!(is(&world.look().await, condition::CERTIFIED), said("True", "Certified"));
    }

    #[tokio::test]
    async fn a_given_certificate_must_be_the_keys_own_and_a_wrong_one_stalls_no_signature() {
        let mut world = World::new(true).await;
        world.ask(self_signed("own"));
        let own = world.look().await.certificate.unwrap();
        world.ask(json!({"pem": own.pem.replace('\n', "\r\n")}));
        let status = world.look().await;
        let given = status.certificate.unwrap();
        assert_eq!((given.made_for.clone(), &given.pem), (None, &own.pem));
        assert_eq!(world.fake.count("sign"), 1);

        let theirs = World::new(true).await;
        let mut theirs = World { fake: world.fake.clone(), ..theirs };
        let other = facts(&theirs.fake, 3, true).await;
        theirs.key = key(&other);
        theirs.ask(self_signed("theirs"));
        let foreign = theirs.look().await.certificate.unwrap().pem;
        let chain_of_strangers = format!("{}{foreign}", own.pem);
        for (pem, reason, word) in [
            (foreign.as_str(), "CertificateMismatch", "another key"),
            (chain_of_strangers.as_str(), "CertificateMismatch", "issuer"),
            ("-----BEGIN CERTIFICATE-----", "InvalidCertificate", "end"),
            ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", "InvalidCertificate", "DER"),
        ] {
            world.ask(json!({"pem": pem}));
            let status = world.look().await;
            assert_eq!(is(&status, condition::READY), said("True", "Ready"));
            assert_eq!(is(&status, condition::CERTIFIED), said("False", reason));
            assert_eq!(is(&status, condition::STALLED), said("True", reason));
            let message = &condition::find(&status.conditions, condition::STALLED).unwrap().message;
            assert!(message.contains(word), "{message}");
            // What was published before stays until it can be replaced.
            assert_eq!(world.tls_crt(), Some(own.pem.clone()));
        }
        world.ask(json!({"pem": own.pem}));
        let status = world.look().await;
        assert_eq!(
            (is(&status, condition::STALLED), is(&status, condition::CERTIFIED)),
            (None, said("True", "Certified"))
        );
    }

    #[tokio::test]
    async fn what_a_token_refuses_for_good_is_said_and_the_rest_is_tried_again() {
        let mut mute = World::new(false).await;
        mute.ask(self_signed("x"));
        let status = mute.look().await;
        assert_eq!(is(&status, condition::CERTIFIED), said("False", "ForbiddenByToken"));
        assert_eq!(is(&status, condition::READY), said("True", "Ready"));

        let mut world = World::new(true).await;
        world.ask(self_signed("x"));
        world.fake.inject("sign", Fault::refuse(Kind::Busy));
        assert!(
            matches!(world.try_look().await, Err(Error::Hsm { source, .. }) if source.kind == Kind::Busy)
        );
        assert_eq!(is(&world.look().await, condition::CERTIFIED), said("True", "Certified"));

        world.ask(
            json!({"selfSigned": {"subject": {"commonName": "x"}, "signatureAlgorithm": "SHA256_WITH_RSA"}}),
        );
        assert_eq!(is(&world.look().await, condition::CERTIFIED), said("False", "AlgorithmMismatch"));
    }
}
