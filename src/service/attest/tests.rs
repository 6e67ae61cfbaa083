//! Who attests, before a token that says that its HSM does, and lies where a test has it lie.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use async_trait::async_trait;
use bytes::Bytes;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SubjectPublicKeyInfo,
};
use serde_json::json;
use tokio::sync::OnceCell;

use super::*;
use crate::{
    attestation::AttestedKey,
    hsm::{
        fake::Fake,
        protocol::{AttestationKey, Attested, Find, KeyTemplate, Reply, Request, TokenFacts},
    },
    model::{KeyAlgorithm, KeyId, KeyLabel, RequestedAttributes, SignatureAlgorithm},
};

const ALGORITHM: SignatureAlgorithm = SignatureAlgorithm::Sha256WithRsaPss;
const DEVICE: &str = "attestation-key-device";

/// What is wrong with what the HSM says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lie {
    Label,
    /// What the vendor's provider puts behind a label.
    Suffix,
    PublicKey,
    Kind,
    Software,
    NoDocument,
    Signature,
    /// Of the certificates: those of another key, none of a root, and the operator's name in them.
    OthersCertificates,
    NoRoot,
    OperatorsName,
}

/// What keys take a while to make.
struct Made {
    fake: Arc<Fake>,
    key: KeyFacts,
    chains: [String; 3],
}

/// A token whose HSM attests: the fake, of whose keys it speaks, with one of them.
#[derive(Clone)]
struct Vendor {
    made: &'static Made,
    offers: bool,
    lie: Option<Lie>,
    /// The end of a request of this name.
    refuses: Option<(&'static str, HsmError)>,
    /// Whether it refuses and lies also where it is tried out with the operator's attestation key.
    from_the_start: bool,
    /// What has the label of its attestation key instead.
    label_taken: Option<KeyFacts>,
}

/// A token whose HSM attests only the operator's attestation key.
pub async fn choosy() -> Arc<dyn Hsm> {
    Arc::new(Vendor::refusing("attest", Kind::Unsupported).await)
}

async fn made() -> &'static Made {
    static MADE: OnceCell<Made> = OnceCell::const_new();
    MADE.get_or_init(|| async {
        let fake = Arc::new(Fake::default());
        let key = make(&fake, DEVICE, KeyAlgorithm::Rsa).await;
        let other = make(&fake, "other", KeyAlgorithm::Ec).await;
        let chains = [(&key, "device"), (&other, "device"), (&key, "hsm-operator")];
        let chains = chains.map(|(facts, organization)| certified(facts, organization));
        Made { fake, key, chains }
    })
    .await
}

async fn make(fake: &Fake, name: &str, algorithm: KeyAlgorithm) -> KeyFacts {
    let template = KeyTemplate {
        id: KeyId::for_purpose(name),
        label: KeyLabel::new(name).unwrap(),
        algorithm,
        key_size: match algorithm {
            KeyAlgorithm::Rsa => Some(2048),
            KeyAlgorithm::Aes => Some(256),
            _ => None,
        },
        curve_oid: (algorithm == KeyAlgorithm::Ec).then(|| "1.2.840.10045.3.1.7".into()),
        attributes: RequestedAttributes { sign: Some(true), destroyable: Some(true), ..Default::default() }
            .resolved(),
    };
    match fake.call(Request::Generate(template)).await {
        Ok(Reply::Key(facts)) => *facts,
        other => panic!("{other:?}"),
    }
}

fn certified(facts: &KeyFacts, organization: &str) -> String {
    let params = |name: &str, is_ca: IsCa, usage| {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::OrganizationName, organization);
        params.distinguished_name.push(DnType::CommonName, name);
        (params.is_ca, params.key_usages) = (is_ca, vec![usage]);
        params
    };
    let ca = |below| IsCa::Ca(BasicConstraints::Constrained(below));
    let (root_key, device_key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let root = params("root", ca(1), KeyUsagePurpose::KeyCertSign);
    let device = params("device", ca(0), KeyUsagePurpose::KeyCertSign);
    let leaf = params(&facts.label, IsCa::ExplicitNoCa, KeyUsagePurpose::DigitalSignature);
    let public = SubjectPublicKeyInfo::from_der(facts.public_key.as_deref().unwrap()).unwrap();
    let leaf = leaf.signed_by(&public, &Issuer::from_params(&device, &device_key)).unwrap();
    let middle = device.signed_by(&device_key, &Issuer::from_params(&root, &root_key)).unwrap();
    let root = root.self_signed(&root_key).unwrap();
    [leaf.pem(), middle.pem(), root.pem()].concat()
}

impl Vendor {
    async fn new() -> Self {
        let (lie, refuses, label_taken) = (None, None, None);
        Self { made: made().await, offers: true, lie, refuses, from_the_start: false, label_taken }
    }

    async fn lying(lie: Lie) -> Self {
        Self { lie: Some(lie), ..Self::new().await }
    }

    async fn refusing(request: &'static str, kind: Kind) -> Self {
        let error = HsmError::new(kind, format!("told to fail with {kind:?}"));
        Self { refuses: Some((request, error)), ..Self::new().await }
    }

    fn lies(&self, lie: Lie) -> bool {
        self.lie == Some(lie)
    }

    fn is_tried_out(&self, key: Option<&KeyId>) -> bool {
        !self.from_the_start && key == Some(&leaf("attestation-key"))
    }

    fn chain(&self) -> String {
        let [right, others, operators] = &self.made.chains;
        match self.lie {
            Some(Lie::OthersCertificates) => others.clone(),
            Some(Lie::OperatorsName) => operators.clone(),
            Some(Lie::NoRoot) => right[..right.rfind("-----BEGIN").unwrap()].to_owned(),
            _ => right.clone(),
        }
    }

    fn document(&self, facts: &KeyFacts) -> String {
        if self.is_tried_out(facts.id.as_ref()) {
            return Self { lie: None, from_the_start: true, ..self.clone() }.document(facts);
        }
        let now = Timestamp::now();
        let other = self.made.key.public_key.as_deref();
        let suffixed = format!("{}@?!7", facts.label);
        let xml = AttestedKey {
            label: match self.lie {
                Some(Lie::Label) => "another",
                Some(Lie::Suffix) => &suffixed,
                _ => &facts.label,
            },
            create_time: now,
            attest_time: "2026-01-01T00:00:07Z".parse().unwrap(),
            algorithm: facts.algorithm.unwrap(),
            curve_oid: facts.curve_oid.as_deref(),
            key_size: facts.key_size,
            public_key: if self.lies(Lie::PublicKey) { other } else { facts.public_key.as_deref() },
            attributes: &facts.attributes,
            derivation: None,
            address: None,
            public_only: self.lies(Lie::Kind),
            local: Some(true),
            policy: None,
        };
        let xml = xml.to_xml().unwrap();
        match self.lie {
            Some(Lie::Software) => xml,
            Some(Lie::NoDocument) => "<hello/>".into(),
            // What an HSM calls a secret key is its own.
            _ => xml
                .replace("secret_key", "symmetric")
                .replace(" enforcement=\"software\" issuer=\"hsm-operator\"", ""),
        }
    }

    async fn attest(&self, by: KeyId, key: KeyId) -> Result<Reply, HsmError> {
        assert_eq!(Some(&by), self.made.key.id.as_ref());
        let Reply::Keys(found) = self.made.fake.call(Request::Find(Find::Id(key))).await? else { panic!() };
        let xml = Bytes::from(self.document(&found[0]));
        let payload = if self.lies(Lie::Signature) && !self.is_tried_out(found[0].id.as_ref()) {
            Bytes::from_static(b"another")
        } else {
            xml.clone()
        };
        match self.made.fake.call(Request::Sign { key: by, algorithm: ALGORITHM, payload }).await? {
            Reply::Signature(signature) => {
                Ok(Reply::Attested(Box::new(Attested { xml, signature, algorithm: ALGORITHM })))
            }
            other => panic!("{other:?}"),
        }
    }
}

#[async_trait]
impl Hsm for Vendor {
    async fn call(&self, request: Request) -> Result<Reply, HsmError> {
        let spared = matches!(&request, Request::Attest { key, .. } if self.is_tried_out(Some(key)));
        if let Some((_, error)) = self.refuses.as_ref().filter(|(name, _)| *name == request.name() && !spared)
        {
            return Err(error.clone());
        }
        match request {
            Request::AttestationKey { id, label } => {
                assert_eq!((id, label.as_str()), (device_key(DEVICE), DEVICE));
                let facts = self.made.key.clone();
                if let Some(other) = &self.label_taken {
                    return Ok(Reply::Keys(vec![other.clone()]));
                }
                Ok(Reply::AttestationKey(Box::new(AttestationKey { facts, chain: self.chain() })))
            }
            Request::Attest { by, key } => self.attest(by, key).await,
            other => self.made.fake.call(other).await,
        }
    }

    fn token(&self) -> Option<Arc<TokenFacts>> {
        let mut token = self.made.fake.token()?.as_ref().clone();
        token.capabilities.attests = self.offers;
        Some(Arc::new(token))
    }
}

fn partition(mode: &str) -> HsmPartition {
    let spec = json!({
        "pkcs11": {"library": "/x.so", "tokenLabel": "x", "pinSecretRef": {"name": "pin"}},
        "allowedNamespaces": {},
        "attestation": {"mode": mode},
    });
    HsmPartition::new("p", serde_json::from_value(spec).unwrap())
}

/// A partition whose status says what was found.
fn told(mode: &str, found: &Attesting) -> HsmPartition {
    let mut partition = partition(mode);
    partition.status = Some(HsmPartitionStatus {
        attestation: Some(found.current.clone()),
        other_attestations: vec![found.software.clone()],
        ..HsmPartitionStatus::default()
    });
    partition
}

async fn ensured(hsm: &Vendor, partition: &HsmPartition) -> Result<Attesting, AttestError> {
    Attestor::default().ensure(hsm, partition, Timestamp::now()).await
}

fn spec(source: &str) -> HsmKeySpec {
    let spec = json!({"partitionRef": {"name": "p"}, "algorithm": "EC",
        "curveOid": "1.2.840.10045.3.1.7", "source": source});
    serde_json::from_value(spec).unwrap()
}

async fn attested(hsm: &Vendor, mode: &str, source: &str) -> Result<Attestation, AttestError> {
    attested_by(hsm, mode, source).await
}

async fn attested_by(hsm: &dyn Hsm, mode: &str, source: &str) -> Result<Attestation, AttestError> {
    let key = make(&made().await.fake, "payments", KeyAlgorithm::Ec).await;
    let now = Timestamp::now();
    Attestor::default().attest(hsm, &partition(mode), &key, &spec(source), "", now).await
}

#[tokio::test]
async fn the_hsm_attests_where_it_offers_to_unless_the_spec_says_otherwise() {
    let hsm = Vendor::new().await;
    for (mode, who) in [("Auto", "Vendor"), ("Vendor", "Vendor"), ("Software", "Software")] {
        let found = ensured(&hsm, &partition(mode)).await.unwrap();
        assert_eq!((found.current.mode.as_str(), found.instead), (who, None), "{mode}");
        assert_eq!(found.software.mode, "Software");
        let statement = attested(&hsm, mode, "Generated").await.unwrap();
        assert_eq!(statement.mode, who, "{mode}");
        assert_eq!(statement.xml.contains("enforcement"), who == "Software", "{mode}");
    }
    let found = ensured(&hsm, &partition("Vendor")).await.unwrap();
    assert_eq!(found.current.key_name, DEVICE);
    assert_eq!(found.current.key_id, hsm.made.key.id.as_ref().map(ToString::to_string));
    assert_ne!(found.current.root_fingerprint, found.software.root_fingerprint);
    let statement = attested(&hsm, "Vendor", "Generated").await.unwrap();
    assert_eq!(statement.signature_algorithm.as_deref(), Some("SHA256_WITH_RSA_PSS"));
    assert_eq!(
        (statement.attestation_key_name.as_str(), statement.attest_time.as_str()),
        (DEVICE, "2026-01-01T00:00:07Z")
    );
}

#[tokio::test]
async fn without_the_call_the_operator_attests_or_nobody() {
    let hsm = Vendor { offers: false, ..Vendor::new().await };
    let found = ensured(&hsm, &partition("Auto")).await.unwrap();
    assert_eq!((found.current.mode.as_str(), found.instead), ("Software", None));
    let error = ensured(&hsm, &partition("Vendor")).await.unwrap_err();
    assert_eq!(error.refusal().unwrap().kind, Kind::Unsupported);
    assert!(attested(&hsm, "Vendor", "Generated").await.is_err());
}

#[tokio::test]
async fn an_hsm_that_cannot_for_good_is_replaced_only_where_the_spec_allows_it() {
    let right = Vendor::new().await;
    let other = Some(right.made.key.clone());
    let without_id = Some(KeyFacts { id: None, ..right.made.key.clone() });
    let mut refusing = vec![
        (Vendor { label_taken: other, ..right.clone() }, "deviceKeyName"),
        (Vendor { label_taken: without_id, ..right.clone() }, "no CKA_ID"),
    ];
    for kind in [Kind::Unsupported, Kind::Forbidden, Kind::Poisonous, Kind::Full] {
        refusing.push((Vendor::refusing("attestation_key", kind).await, "told to fail"));
    }
    // It has the key, and attests nothing with it, or something else.
    let unable = Vendor::refusing("attest", Kind::Unsupported).await;
    refusing.push((Vendor { from_the_start: true, ..unable }, "told to fail"));
    for (lie, says) in [(Lie::Label, "another"), (Lie::Signature, "signature"), (Lie::NoDocument, "read")] {
        let lying = Vendor::lying(lie).await;
        refusing.push((Vendor { from_the_start: true, ..lying }, says));
    }
    for lie in [Lie::OthersCertificates, Lie::NoRoot, Lie::OperatorsName] {
        refusing.push((Vendor::lying(lie).await, "certificates"));
    }
    for (hsm, says) in refusing {
        let found = ensured(&hsm, &partition("Auto")).await.unwrap();
        assert_eq!(found.current, found.software);
        let why = found.instead.unwrap();
        assert!(why.contains(says), "{why}");
        assert_eq!(attested(&hsm, "Auto", "Generated").await.unwrap().mode, "Software");
        let error = ensured(&hsm, &partition("Vendor")).await.unwrap_err();
        assert!(error.refusal().unwrap().message.contains(says), "{error:?}");
        assert!(attested(&hsm, "Vendor", "Generated").await.is_err());
    }
}

#[tokio::test]
async fn trouble_that_passes_changes_nobodys_mode() {
    let attestor = Attestor::default();
    let passing = [Kind::Timeout, Kind::Crashed, Kind::Lost, Kind::Busy, Kind::Unavailable, Kind::Device];
    for (kind, request) in passing.into_iter().flat_map(|kind| [(kind, "attestation_key"), (kind, "attest")])
    {
        let hsm = Vendor { from_the_start: true, ..Vendor::refusing(request, kind).await };
        for mode in ["Auto", "Vendor"] {
            let error = attestor.ensure(&hsm, &partition(mode), Timestamp::now()).await.unwrap_err();
            assert!(error.refusal().is_none() && error.hsm().unwrap().kind == kind, "{error:?}");
            assert!(matches!(error, AttestError::NotByHsm(_)), "the token is there: {error:?}");
        }
    }
    // It is asked again.
    let found = attestor.ensure(&Vendor::new().await, &partition("Auto"), Timestamp::now()).await.unwrap();
    assert_eq!(found.current.mode, "Vendor");
}

#[tokio::test]
async fn a_library_that_offers_the_call_later_or_no_more_is_noticed() {
    let (attestor, now) = (Attestor::default(), Timestamp::now());
    let (right, silent) = (Vendor::new().await, Vendor { offers: false, ..Vendor::new().await });
    let found = attestor.ensure(&silent, &partition("Auto"), now).await.unwrap();
    assert_eq!(found.current.mode, "Software");
    let found = attestor.ensure(&right, &told("Auto", &found), now).await.unwrap();
    assert_eq!(found.current.mode, "Vendor");
    let error = attestor.ensure(&silent, &told("Auto", &found), now).await.unwrap_err();
    assert!(error.refusal().is_some(), "{error:?}");
}

#[tokio::test]
async fn once_the_hsm_attested_keys_it_is_not_replaced_by_itself() {
    let before = ensured(&Vendor::new().await, &partition("Auto")).await.unwrap();
    let refusing = Vendor::refusing("attestation_key", Kind::Unsupported).await;
    let silent = Vendor { offers: false, ..Vendor::new().await };
    for hsm in [refusing, silent] {
        let error = ensured(&hsm, &told("Auto", &before)).await.unwrap_err();
        assert!(error.refusal().is_some(), "{error:?}");
        let found = ensured(&hsm, &told("Software", &before)).await.unwrap();
        // A person decided so, and Auto begins anew.
        assert_eq!(found.current.mode, "Software");
        assert_eq!(ensured(&hsm, &told("Auto", &found)).await.unwrap().current.mode, "Software");
    }
}

#[tokio::test]
async fn nothing_is_kept_of_a_document_that_is_not_about_the_key() {
    for lie in [Lie::Label, Lie::PublicKey, Lie::Kind, Lie::Software, Lie::NoDocument, Lie::Signature] {
        let hsm = Vendor::lying(lie).await;
        for mode in ["Auto", "Vendor"] {
            let error = attested(&hsm, mode, "Generated").await.unwrap_err();
            // What was signed wrongly may be right the next time; what was signed rightly will be the same.
            match (lie, error.unattested()) {
                (Lie::Signature, None) => {}
                (Lie::Signature, Some(why)) => panic!("{why}"),
                (_, why) => {
                    let why = why.unwrap();
                    assert!(why.contains("'payments'") && why.contains("mode Software"), "{lie:?}: {why}");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_secret_key_is_attested_whatever_the_hsm_calls_one() {
    let hsm = Vendor::new().await;
    let key = make(&hsm.made.fake, "secret", KeyAlgorithm::Aes).await;
    let (spec, now) = (spec("Generated"), Timestamp::now());
    let statement = |hsm| {
        let (key, spec) = (&key, &spec);
        async move { Attestor::default().attest(hsm, &partition("Vendor"), key, spec, "", now).await }
    };
    let said = statement(&hsm).await.unwrap();
    assert!(said.mode == "Vendor" && said.xml.contains("<symmetric "), "{}", said.xml);
    // Its label is all that tells it from another.
    let other = statement(&Vendor::lying(Lie::Suffix).await).await.unwrap_err();
    assert!(other.unattested().unwrap().contains("secret@?!7"), "{other:?}");
}

#[tokio::test]
async fn what_the_provider_puts_behind_a_label_makes_no_other_key() {
    let statement = attested(&Vendor::lying(Lie::Suffix).await, "Vendor", "Generated").await.unwrap();
    assert!(statement.xml.contains("payments@?!7"), "{}", statement.xml);
}

#[tokio::test]
async fn the_clock_of_the_hsm_may_be_a_little_ahead() {
    let hsm = Vendor::new().await;
    // When certificates begin that nobody gave another time.
    let begin: Timestamp = "1975-01-01T00:00:00Z".parse().unwrap();
    let at = |minutes| Device::ensure(&hsm, DEVICE, begin - SignedDuration::from_mins(minutes));
    let device = at(4).await.unwrap();
    let error = at(6).await.map(|_| ()).unwrap_err();
    assert!(error.hsm().unwrap().message.contains("not valid"), "{error:?}");
    let key = make(&hsm.made.fake, "payments", KeyAlgorithm::Ec).await;
    device.statement(&hsm, &key, begin - SignedDuration::from_mins(4)).await.unwrap();
}

#[tokio::test]
async fn an_hsm_that_was_replaced_is_asked_again_and_one_that_attests_is_not() {
    let attestor = Attestor::default();
    let (right, now) = (Vendor::new().await, Timestamp::now());
    let unable = Vendor::refusing("attestation_key", Kind::Unsupported).await;
    let timid = Vendor::refusing("attestation_key", Kind::Timeout).await;
    for (hsm, minutes, mode) in [
        (&unable, 0, "Software"),
        (&right, 9, "Software"),
        // Trouble that passes takes nothing away, and it is not asked for another while.
        (&timid, 10, "Software"),
        (&right, 19, "Software"),
        (&right, 20, "Vendor"),
        (&unable, 60, "Vendor"),
    ] {
        let then = now + SignedDuration::from_mins(minutes);
        let found = attestor.ensure(hsm, &partition("Auto"), then).await.unwrap();
        assert_eq!((found.current.mode.as_str(), found.instead.is_some()), (mode, mode == "Software"));
    }
}

#[tokio::test]
async fn an_attestation_key_that_is_gone_is_not_used_on() {
    let fake = Arc::new(Fake::default());
    let key = make(&fake, DEVICE, KeyAlgorithm::Rsa).await;
    let chains = [(&key, "device"); 3].map(|(facts, organization)| certified(facts, organization));
    let made: &'static Made = Box::leak(Box::new(Made { fake, key, chains }));
    let hsm = Vendor { made, ..Vendor::new().await };
    let (attestor, now) = (Attestor::default(), Timestamp::now());
    attestor.ensure(&hsm, &partition("Vendor"), now).await.unwrap();
    let payments = make(&made.fake, "payments", KeyAlgorithm::Ec).await;
    made.fake.call(Request::Destroy(made.key.id.clone().unwrap())).await.unwrap();
    let error = attestor.attest(&hsm, &partition("Vendor"), &payments, &spec("Generated"), "", now).await;
    let error = error.unwrap_err();
    let AttestError::NotByHsm(why) = &error else { panic!("{error:?}") };
    assert!(why.message.contains("attestation key 'attestation-key-device'"), "{error:?}");
    assert!(attestor.known.lock().unwrap().is_empty());
}

#[tokio::test]
async fn what_the_hsm_does_not_speak_of_is_the_operators_or_refused() {
    let right = Vendor::new().await;
    let unable = Vendor::refusing("attest", Kind::Unsupported).await;
    for (hsm, source) in [(&right, "ImportedPublic"), (&unable, "Generated")] {
        assert_eq!(attested(hsm, "Auto", source).await.unwrap().mode, "Software");
        let error = attested(hsm, "Vendor", source).await.unwrap_err();
        assert_eq!(error.hsm().unwrap().kind, Kind::Unsupported);
        assert!(error.refusal().is_none());
    }
    let failing = Vendor::refusing("attest", Kind::Device).await;
    assert!(attested(&failing, "Auto", "Generated").await.is_err());
    // Keys that are derived for a moment.
    let key = make(&right.made.fake, "payments", KeyAlgorithm::Ec).await;
    let found = ensured(&right, &partition("Auto")).await.unwrap();
    let (spec, now) = (spec("Generated"), Timestamp::now());
    let passing = attest_passing(&right, &told("Auto", &found), &key, &spec, "", now).await.unwrap();
    assert_eq!(
        (passing.mode.as_str(), passing.attestation_key_name.as_str()),
        ("Software", "attestation-key")
    );
    let error = attest_passing(&right, &told("Vendor", &found), &key, &spec, "", now).await.unwrap_err();
    assert!(error.hsm().unwrap().message.contains("derivedKey"), "{error:?}");
}

/// A token whose HSM fails the first time that it is asked to attest.
struct Stumbles(Vendor, AtomicBool);

#[async_trait]
impl Hsm for Stumbles {
    async fn call(&self, request: Request) -> Result<Reply, HsmError> {
        match &request {
            Request::Attest { key, .. } if !self.0.is_tried_out(Some(key)) && !self.1.swap(true, Relaxed) => {
                Err(coded(Kind::Device))
            }
            _ => self.0.call(request).await,
        }
    }

    fn token(&self) -> Option<Arc<TokenFacts>> {
        self.0.token()
    }
}

fn coded(kind: Kind) -> HsmError {
    HsmError { code: Some(6), ..HsmError::new(kind, "CKR_FUNCTION_FAILED: it is tried again") }
}

#[tokio::test]
async fn a_key_at_which_the_hsm_fails_while_it_attests_others_is_one_that_it_does_not_attest() {
    for kind in [Kind::Device, Kind::Invalid, Kind::Forbidden] {
        let failing = Vendor { refuses: Some(("attest", coded(kind))), ..Vendor::new().await };
        assert_eq!(attested(&failing, "Auto", "Generated").await.unwrap().mode, "Software", "{kind:?}");
        let said = attested(&failing, "Vendor", "Generated").await.unwrap_err().unattested();
        let said = said.unwrap_or_else(|| panic!("{kind:?}: it is tried for ever"));
        assert_eq!(said, "the HSM attests other keys and fails at this one (CKR_FUNCTION_FAILED)");
    }
    // What passes is waited for: without a code of the module's, and what does not come twice.
    for kind in [Kind::Timeout, Kind::Crashed, Kind::Lost, Kind::Unavailable] {
        let failing = Vendor { refuses: Some(("attest", coded(kind))), ..Vendor::new().await };
        let error = attested(&failing, "Auto", "Generated").await.unwrap_err();
        assert_eq!(error.hsm().unwrap().kind, kind);
    }
    let stumbles = Stumbles(Vendor::new().await, AtomicBool::default());
    assert_eq!(attested_by(&stumbles, "Auto", "Generated").await.unwrap().mode, "Vendor");
    assert!(stumbles.1.load(Relaxed), "it failed once");
}

#[tokio::test]
async fn the_certificates_of_a_statement_are_those_of_the_key_that_signed_it() {
    let hsm = Vendor::new().await;
    let found = ensured(&hsm, &partition("Auto")).await.unwrap();
    let status = told("Auto", &found).status.unwrap();
    let [by_hsm, by_us] = ["Vendor", "Software"].map(|mode| attested(&hsm, mode, "Generated"));
    let (by_hsm, by_us) = (by_hsm.await.unwrap(), by_us.await.unwrap());
    assert_eq!(chain_of(&status, &by_hsm), Some(&found.current));
    assert_eq!(chain_of(&status, &by_us), Some(&found.software));
    // As an earlier version wrote it.
    let earlier = Attestation { signature_algorithm: None, ..by_us.clone() };
    assert_eq!(chain_of(&status, &earlier), Some(&found.software));
    // One in the clothes of the other has none, and neither has one that nobody here signed.
    let posing = |statement: &Attestation, mode: &str| Attestation { mode: mode.into(), ..statement.clone() };
    assert_eq!(chain_of(&status, &posing(&by_us, "Vendor")), None);
    assert_eq!(chain_of(&status, &posing(&by_hsm, "Software")), None);
    assert_eq!(chain_of(&status, &Attestation { xml: by_hsm.xml.clone(), ..by_us.clone() }), None);
    let only_now = HsmPartitionStatus { other_attestations: Vec::new(), ..status.clone() };
    assert_eq!(chain_of(&only_now, &by_us), None);
}
