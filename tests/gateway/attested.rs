//! Attestations over REST, before a token whose HSM attests keys itself.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};
use hsm_operator::{
    api::{HsmKey, HsmPartition, partition::AttestationMode},
    attestation::{Evidence, chain, fingerprint, verify},
    gateway::partitions::Known,
    hsm::{
        Hsm, Supervisor,
        protocol::{Find, Reply, Request},
    },
    model::{KeyId, KeyLabel},
    service::attest::{Attesting, Attestor},
};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    common::{attestation, token::Token, vendor},
    world::{Maker, NAMESPACE, PARTITION, World, object, office},
};

struct Stage {
    world: World,
    hsm: Arc<Supervisor>,
    token: Token,
    partition: HsmPartition,
}

impl Stage {
    async fn new() -> Self {
        let token = vendor::token();
        let hsm = token.supervisor().await;
        let mut partition = office().await.partition.clone();
        partition.status.as_mut().unwrap().attestation = None;
        Self { world: World::new(&[]).await, hsm, token, partition }
    }

    /// What the controller does with a partition of this mode.
    async fn attesting(&mut self, mode: AttestationMode) -> Attestor {
        self.partition.spec.attestation.mode = mode;
        let attestor = Attestor::default();
        let found = attestor.ensure(self.hsm.as_ref(), &self.partition, Timestamp::now()).await.unwrap();
        let Attesting { current, software, .. } = found;
        let status = self.partition.status.as_mut().unwrap();
        let before = status.attestation.replace(current);
        status.other_attestations.extend(before);
        status.other_attestations.push(software);
        let hsm: Arc<dyn Hsm> = self.hsm.clone();
        self.world.partitions.put(Known { object: Arc::new(self.partition.clone()), hsm: Some(hsm) });
        attestor
    }

    /// What the controller does with a key.
    async fn make(&self, attestor: &Attestor, label: &str, mut spec: Value) -> HsmKey {
        spec["partitionRef"] = json!({"name": PARTITION});
        spec["label"] = json!(label);
        let name = KeyLabel::stored(label).unwrap().object_name();
        let mut key = Maker(self.hsm.clone()).ready(object(NAMESPACE, &name, spec)).await;
        let id = KeyId::try_from(key.status.as_ref().unwrap().key_id.clone().unwrap()).unwrap();
        let Ok(Reply::Keys(found)) = self.hsm.call(Request::Find(Find::Id(id))).await else { panic!() };
        let (hsm, now) = (self.hsm.as_ref(), Timestamp::now());
        let attestation = attestor.attest(hsm, &self.partition, &found[0], &key.spec, "", now).await.unwrap();
        key.status.as_mut().unwrap().attestation = Some(attestation);
        self.world.directory.put(Arc::new(key.clone()));
        key
    }

    /// Unpacks a key's zip and does what its readme says; the readme, and what that printed.
    async fn checked(&self, label: &str) -> (String, String) {
        let answer = self.world.call("POST", "/v1/key/keyAttestation", &json!({"label": label})).await;
        assert_eq!(
            (answer.status.as_u16(), &answer.headers["content-type"] == "application/zip"),
            (200, true),
            "{:?}",
            answer.body
        );
        let folder = self.token.path().join("zip");
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir(&folder).unwrap();
        attestation::zip_checked(&folder, &answer.body)
    }
}

fn p256() -> Value {
    json!({"algorithm": "EC", "curveOid": "1.2.840.10045.3.1.7", "attributes": {"sign": true}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_zip_has_what_the_hsm_says_and_openssl_accepts_it() {
    let mut stage = Stage::new().await;
    let attestor = stage.attesting(AttestationMode::Auto).await;
    let key = stage.make(&attestor, "it's <a> & \"b\"", p256()).await;
    let attestation = key.status.as_ref().unwrap().attestation.as_ref().unwrap();
    assert_eq!(
        (attestation.mode.as_str(), attestation.attestation_key_name.as_str()),
        ("Vendor", "attestation-key-device")
    );
    let (readme, output) = stage.checked(&key.label()).await;
    assert!(readme.contains("rsa_padding_mode:pss") && readme.contains("made by its HSM"), "{readme}");
    assert!(
        output.contains("CN=VENDOR_MODULE_ROOTKEY") || output.contains("CN = VENDOR_MODULE_ROOTKEY"),
        "{output}"
    );
    // What REST tells of key and certificates belongs together.
    let told = stage.world.call("POST", "/v1/key/attributes", &json!({"label": key.label()})).await.ok();
    let chain = stage.world.call("GET", "/v1/attestation", &Value::Null).await.ok();
    let chain: Vec<_> = chain["attestationCertificateChain"]
        .as_array()
        .unwrap()
        .iter()
        .map(|der| STANDARD.decode(der.as_str().unwrap()).unwrap())
        .collect();
    let signature = STANDARD.decode(told["xmlSignature"].as_str().unwrap()).unwrap();
    let evidence =
        Evidence { xml: told["xml"].as_str().unwrap().as_bytes(), signature: &signature, chain: &chain };
    let said = verify(&evidence, &fingerprint(chain.last().unwrap()), Timestamp::now()).unwrap();
    assert!(!said.is_software() && !chain::names_operator(&chain));
    assert_eq!(
        (said.label, told["json"]["attestTime"].as_str()),
        (key.label(), Some(attestation.attest_time.as_str()))
    );
    assert_eq!(told["attestationKeyName"], attestation.attestation_key_name.as_str());
    // The attestation key is there beside the operator's own.
    let label = KeyLabel::new("attestation-key").unwrap();
    let Ok(Reply::Keys(own)) = stage.hsm.call(Request::Find(Find::Label(label))).await else { panic!() };
    assert_eq!(own.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_keeps_the_attestation_that_it_has_with_its_own_certificates() {
    let mut stage = Stage::new().await;
    let attestor = stage.attesting(AttestationMode::Software).await;
    stage.make(&attestor, "before", p256()).await;
    let attestor = stage.attesting(AttestationMode::Vendor).await;
    stage.make(&attestor, "between", p256()).await;
    let attestor = stage.attesting(AttestationMode::Software).await;
    stage.make(&attestor, "after", p256()).await;
    for (label, who) in [
        ("before", "made by hsm-operator"),
        ("between", "made by its HSM"),
        ("after", "made by hsm-operator"),
    ] {
        let (readme, _) = stage.checked(label).await;
        assert!(readme.contains(who), "{label}: {readme}");
    }
    // Certificates of another key are never put beside a signature.
    stage.partition.status.as_mut().unwrap().other_attestations.clear();
    let hsm: Arc<dyn Hsm> = stage.hsm.clone();
    stage.world.partitions.put(Known { object: Arc::new(stage.partition.clone()), hsm: Some(hsm) });
    let refused = stage.world.call("POST", "/v1/key/keyAttestation", &json!({"label": "between"})).await;
    assert_eq!(refused.refused(), (501, 103));
    stage.checked("before").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_is_derived_for_a_moment_is_attested_by_the_operator_or_not_at_all() {
    let mut stage = Stage::new().await;
    let attestor = stage.attesting(AttestationMode::Auto).await;
    let attributes = json!({"sign": true, "derive": true, "slip10": true});
    let spec = json!({"algorithm": "EC", "curveOid": "1.3.132.0.10", "attributes": attributes});
    let master = stage.make(&attestor, "master", spec).await;
    assert_eq!(master.status.as_ref().unwrap().attestation.as_ref().unwrap().mode, "Vendor");
    let ask = json!({"label": "master/0'/1"});
    let told = stage.world.call("POST", "/v1/key/attributes", &ask).await.ok();
    assert!(told["xml"].as_str().unwrap().contains("enforcement=\"software\""), "{told}");
    assert_eq!(told["attestationKeyName"], "attestation-key");
    stage.attesting(AttestationMode::Vendor).await;
    let refused = stage.world.call("POST", "/v1/key/attributes", &ask).await;
    let message = refused.json()["message"].as_str().unwrap().to_owned();
    assert!(refused.status.is_client_error() && message.contains("derivedKey"), "{message}");
}
