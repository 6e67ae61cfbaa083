//! Who attests, before a token that says that its HSM does, and lies where a test has it lie.

use std::sync::Arc;

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
struct Vendor {
    made: &'static Made,
    offers: bool,
    lie: Option<Lie>,
    /// The end of a request of this name.
    refuses: Option<(&'static str, HsmError)>,
    label_taken: bool,
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
        key_size: (algorithm == KeyAlgorithm::Rsa).then_some(2048),
        curve_oid: (algorithm == KeyAlgorithm::Ec).then(|| "1.2.840.10045.3.1.7".into()),
        attributes: RequestedAttributes { sign: Some(true), ..Default::default() }.resolved(),
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
        Self { made: made().await, offers: true, lie: None, refuses: None, label_taken: false }
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
        let now = Timestamp::now();
        let other = self.made.key.public_key.as_deref();
        let xml = AttestedKey {
            label: if self.lies(Lie::Label) { "another" } else { &facts.label },
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
            _ => xml.replace(" enforcement=\"software\" issuer=\"hsm-operator\"", ""),
        }
    }

    async fn attest(&self, by: KeyId, key: KeyId) -> Result<Reply, HsmError> {
        assert_eq!(Some(&by), self.made.key.id.as_ref());
        let Reply::Keys(found) = self.made.fake.call(Request::Find(Find::Id(key))).await? else { panic!() };
        let xml = Bytes::from(self.document(&found[0]));
        let payload = if self.lies(Lie::Signature) { Bytes::from_static(b"another") } else { xml.clone() };
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
        if let Some((_, error)) = self.refuses.as_ref().filter(|(name, _)| *name == request.name()) {
            return Err(error.clone());
        }
        match request {
            Request::AttestationKey { id, label } => {
                assert_eq!((id, label.as_str()), (device_key(DEVICE), DEVICE));
                let facts = self.made.key.clone();
                if self.label_taken {
                    return Ok(Reply::Keys(vec![facts]));
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
    let key = make(&hsm.made.fake, "payments", KeyAlgorithm::Ec).await;
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
    let taken = Vendor { label_taken: true, ..Vendor::new().await };
    let mut refusing = vec![(taken, "deviceKeyName")];
    for kind in [Kind::Unsupported, Kind::Forbidden, Kind::Poisonous] {
        refusing.push((Vendor::refusing("attestation_key", kind).await, "told to fail"));
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
    for kind in
        [Kind::Timeout, Kind::Crashed, Kind::Lost, Kind::Busy, Kind::Unavailable, Kind::Device, Kind::Full]
    {
        let hsm = Vendor::refusing("attestation_key", kind).await;
        for mode in ["Auto", "Vendor"] {
            let error = attestor.ensure(&hsm, &partition(mode), Timestamp::now()).await.unwrap_err();
            assert!(error.refusal().is_none() && error.hsm().unwrap().kind == kind, "{error:?}");
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
            assert!(
                !matches!(error.hsm(), Some(error) if error.kind == Kind::Unsupported),
                "{lie:?}: {error:?}"
            );
        }
    }
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
