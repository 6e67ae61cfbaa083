//! A token in memory for tests: real keys, answers as a token gives them, faults on demand.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use aws_lc_rs::{
    encoding::AsDer,
    rand::{SecureRandom, SystemRandom},
    rsa::KeySize,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P256K1_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING,
        ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair,
        RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512,
        RsaEncoding, RsaKeyPair,
    },
};
use bytes::Bytes;

use super::{
    Hsm,
    protocol::{
        Capabilities, Find, HsmError, InventoryEntry, KeyCapability, KeyFacts, KeyTemplate, Kind, Reply,
        Request, TokenFacts,
    },
};
use crate::model::{KeyAlgorithm, KeyAttributes, KeyId, SignatureAlgorithm as S};

/// Curves of the fake, each with the one digest it signs.
static CURVES: &[(&str, &EcdsaSigningAlgorithm, S)] = &[
    ("1.2.840.10045.3.1.7", &ECDSA_P256_SHA256_FIXED_SIGNING, S::Sha256WithEcdsa),
    ("1.3.132.0.10", &ECDSA_P256K1_SHA256_FIXED_SIGNING, S::Sha256WithEcdsa),
    ("1.3.132.0.34", &ECDSA_P384_SHA384_FIXED_SIGNING, S::Sha384WithEcdsa),
    ("1.3.132.0.35", &ECDSA_P521_SHA512_FIXED_SIGNING, S::Sha512WithEcdsa),
];

static RSA: &[(S, &dyn RsaEncoding)] = &[
    (S::Sha256WithRsa, &RSA_PKCS1_SHA256),
    (S::Sha384WithRsa, &RSA_PKCS1_SHA384),
    (S::Sha512WithRsa, &RSA_PKCS1_SHA512),
    (S::Sha256WithRsaPss, &RSA_PSS_SHA256),
    (S::Sha384WithRsaPss, &RSA_PSS_SHA384),
    (S::Sha512WithRsaPss, &RSA_PSS_SHA512),
];

enum Pair {
    Ec(EcdsaKeyPair, S),
    Ed(Ed25519KeyPair),
    Rsa(RsaKeyPair),
    Aes,
}

struct Key {
    facts: KeyFacts,
    sign: bool,
    pair: Pair,
}

enum Fault {
    /// Fails before anything is done.
    Before(HsmError),
    /// Does what was asked and then does not say so.
    After(HsmError),
}

#[derive(Default)]
struct State {
    keys: BTreeMap<KeyId, Key>,
    certificates: BTreeMap<KeyId, (String, Bytes)>,
    faults: VecDeque<Fault>,
    calls: Vec<&'static str>,
}

/// A token in memory.
pub struct FakeHsm {
    state: Mutex<State>,
    facts: Arc<TokenFacts>,
}

impl Default for FakeHsm {
    fn default() -> Self {
        let row = |algorithm, min_bits, max_bits| KeyCapability { algorithm, min_bits, max_bits };
        let mut signature_algorithms: Vec<_> = RSA.iter().map(|(algorithm, _)| *algorithm).collect();
        signature_algorithms.extend([S::Sha256WithEcdsa, S::Sha384WithEcdsa, S::Sha512WithEcdsa, S::EdDsa]);
        let facts = TokenFacts {
            label: "fake".into(),
            manufacturer: "hsm-operator".into(),
            model: "in memory".into(),
            serial: "0".into(),
            firmware: "1.0".into(),
            library: "fake 1.0".into(),
            slot: 0,
            capabilities: Capabilities {
                key_algorithms: vec![
                    row(KeyAlgorithm::Rsa, 2048, 4096),
                    row(KeyAlgorithm::Ec, 256, 521),
                    row(KeyAlgorithm::Ed, 0, 0),
                    row(KeyAlgorithm::Aes, 128, 256),
                ],
                signature_algorithms,
            },
        };
        Self { state: Mutex::default(), facts: Arc::new(facts) }
    }
}

impl FakeHsm {
    /// An empty token.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next `count` calls fail before anything is done.
    pub fn fail_next(&self, count: usize, error: HsmError) {
        self.state().faults.extend((0..count).map(|_| Fault::Before(error.clone())));
    }

    /// The next `count` calls do what was asked and fail all the same, like a token-host that dies before its
    /// answer.
    pub fn lose_answers(&self, count: usize, error: HsmError) {
        self.state().faults.extend((0..count).map(|_| Fault::After(error.clone())));
    }

    /// Names of all requests so far, and forgets them.
    pub fn take_calls(&self) -> Vec<&'static str> {
        std::mem::take(&mut self.state().calls)
    }

    /// Deletes a key behind everybody's back, destroyable or not.
    pub fn lose_key(&self, id: &KeyId) {
        self.state().keys.remove(id);
    }

    /// Pretends that several keys have one id.
    pub fn set_twins(&self, id: &KeyId, twins: u32) {
        if let Some(key) = self.state().keys.get_mut(id) {
            key.facts.twins = twins;
        }
    }
}

#[async_trait]
impl Hsm for FakeHsm {
    async fn call(&self, request: Request) -> Result<Reply, HsmError> {
        let mut state = self.state();
        state.calls.push(request.name());
        match state.faults.pop_front() {
            Some(Fault::Before(error)) => Err(error),
            Some(Fault::After(error)) => {
                let _ = state.carry_out(request);
                Err(error)
            }
            None => state.carry_out(request),
        }
    }

    fn token(&self) -> Option<Arc<TokenFacts>> {
        Some(Arc::clone(&self.facts))
    }
}

fn broken<E>(_: E) -> HsmError {
    HsmError::new(Kind::Device, "the fake token failed")
}

impl State {
    fn carry_out(&mut self, request: Request) -> Result<Reply, HsmError> {
        match request {
            Request::Open(_) | Request::Ping => Err(HsmError::new(Kind::Invalid, "not for a token")),
            Request::Generate(template) => {
                if !self.keys.contains_key(&template.id) {
                    self.keys.insert(template.id.clone(), make(&template)?);
                }
                Ok(Reply::Key(Box::new(self.keys[&template.id].facts.clone())))
            }
            Request::Find(what) => {
                let fits = |key: &&Key| match &what {
                    Find::Id(id) => key.facts.id.as_ref() == Some(id),
                    Find::Label(label) => key.facts.label == label.as_str(),
                };
                Ok(Reply::Keys(self.keys.values().filter(fits).map(|key| key.facts.clone()).collect()))
            }
            Request::Inventory => {
                let mut entries = Vec::new();
                for (id, key) in &self.keys {
                    let entry = |private| InventoryEntry {
                        id: id.as_bytes().to_vec(),
                        label: key.facts.label.clone(),
                        private,
                    };
                    entries.push(entry(true));
                    if key.facts.public_key.is_some() {
                        entries.push(entry(false));
                    }
                }
                for (id, (label, _)) in &self.certificates {
                    let (id, label) = (id.as_bytes().to_vec(), label.clone());
                    entries.push(InventoryEntry { id, label, private: false });
                }
                Ok(Reply::Inventory(entries))
            }
            Request::Sign { key, algorithm, payload } => {
                self.sign(&key, algorithm, &payload).map(|bytes| Reply::Signature(bytes.into()))
            }
            Request::Destroy(id) => {
                let destroyable = |key: &Key| key.facts.attributes.destroyable != Some(false);
                if !self.keys.get(&id).is_none_or(destroyable) {
                    return Err(HsmError::new(Kind::Forbidden, format!("key {id} is not destroyable")));
                }
                self.keys.remove(&id);
                self.certificates.remove(&id);
                Ok(Reply::Done)
            }
            Request::Random(count) => {
                let mut bytes = vec![0; count as usize];
                SystemRandom::new().fill(&mut bytes).map_err(broken)?;
                Ok(Reply::Random(bytes.into()))
            }
            Request::PutCertificate { key, label, der } => {
                self.certificates.insert(key, (label, der));
                Ok(Reply::Done)
            }
            Request::GetCertificate(id) => {
                Ok(Reply::Certificate(self.certificates.get(&id).map(|(_, der)| der.clone())))
            }
        }
    }

    fn sign(&self, id: &KeyId, algorithm: S, payload: &[u8]) -> Result<Vec<u8>, HsmError> {
        let key = self
            .keys
            .get(id)
            .ok_or_else(|| HsmError::new(Kind::KeyNotFound, format!("token fake has no key {id}")))?;
        if key.facts.twins > 1 {
            return Err(HsmError::new(Kind::Ambiguous, format!("several keys have the id {id}")));
        }
        if !key.facts.algorithm.is_some_and(|key| algorithm.fits(key)) {
            return Err(HsmError::new(Kind::Invalid, format!("{algorithm} does not suit the key")));
        }
        if !key.sign {
            return Err(HsmError::new(Kind::Forbidden, "the key does not sign"));
        }
        let random = SystemRandom::new();
        let unsupported = || HsmError::new(Kind::Unsupported, format!("the token does not make {algorithm}"));
        match &key.pair {
            Pair::Ec(pair, only) if *only == algorithm => {
                Ok(pair.sign(&random, payload).map_err(broken)?.as_ref().to_vec())
            }
            Pair::Ed(pair) => Ok(pair.sign(payload).as_ref().to_vec()),
            Pair::Rsa(pair) => {
                let (_, encoding) = RSA.iter().find(|(row, _)| *row == algorithm).ok_or_else(unsupported)?;
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(*encoding, &random, payload, &mut signature).map_err(broken)?;
                Ok(signature)
            }
            Pair::Ec(..) | Pair::Aes => Err(unsupported()),
        }
    }
}

fn make(template: &KeyTemplate) -> Result<Key, HsmError> {
    template
        .algorithm
        .check(template.key_size, template.curve_oid.as_deref())
        .map_err(|e| HsmError::new(Kind::Invalid, e.to_string()))?;
    let unsupported = || {
        let what = template.algorithm;
        HsmError::new(Kind::Unsupported, format!("token fake does not make such keys of type {what}"))
    };
    let (pair, public) = match template.algorithm {
        KeyAlgorithm::Ec => {
            let (_, algorithm, signs) = CURVES
                .iter()
                .find(|(oid, ..)| template.curve_oid.as_deref() == Some(*oid))
                .ok_or_else(unsupported)?;
            let pair = EcdsaKeyPair::generate(algorithm).map_err(broken)?;
            let public = pair.public_key().as_der().map_err(broken)?.as_ref().to_vec();
            (Pair::Ec(pair, *signs), Some(public))
        }
        KeyAlgorithm::Ed => {
            let pair = Ed25519KeyPair::generate().map_err(broken)?;
            let public = pair.public_key().as_der().map_err(broken)?.as_ref().to_vec();
            (Pair::Ed(pair), Some(public))
        }
        KeyAlgorithm::Rsa => {
            let size = match template.key_size {
                Some(2048) => KeySize::Rsa2048,
                Some(3072) => KeySize::Rsa3072,
                Some(4096) => KeySize::Rsa4096,
                _ => return Err(unsupported()),
            };
            let pair = RsaKeyPair::generate(size).map_err(broken)?;
            let public = pair.public_key().as_der().map_err(broken)?.as_ref().to_vec();
            (Pair::Rsa(pair), Some(public))
        }
        KeyAlgorithm::Aes => (Pair::Aes, None),
        _ => return Err(unsupported()),
    };
    let wanted = &template.attributes;
    let facts = KeyFacts {
        id: Some(template.id.clone()),
        label: template.label.to_string(),
        algorithm: Some(template.algorithm),
        key_size: template.key_size,
        curve_oid: match template.algorithm {
            KeyAlgorithm::Ed => Some(crate::model::curve::ED25519_OID.to_owned()),
            _ => template.curve_oid.clone(),
        },
        public_key: public.map(Into::into),
        attributes: KeyAttributes {
            decrypt: Some(wanted.decrypt),
            sign: Some(wanted.sign),
            eka_sign: None,
            unwrap: Some(wanted.unwrap),
            derive: Some(wanted.derive),
            sensitive: Some(wanted.sensitive),
            always_sensitive: Some(wanted.sensitive),
            extractable: Some(wanted.extractable),
            never_extractable: Some(!wanted.extractable),
            modifiable: Some(wanted.modifiable),
            copyable: Some(wanted.copyable),
            destroyable: Some(wanted.destroyable),
        },
        local: Some(true),
        twins: 1,
    };
    Ok(Key { facts, sign: wanted.sign, pair })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{KeyLabel, RequestedAttributes};

    fn p256(name: &str) -> Request {
        let attributes = RequestedAttributes { sign: Some(true), ..Default::default() }.resolved();
        Request::Generate(KeyTemplate {
            id: KeyId::for_purpose(name),
            label: KeyLabel::new(name).unwrap(),
            algorithm: KeyAlgorithm::Ec,
            key_size: None,
            curve_oid: Some("1.2.840.10045.3.1.7".into()),
            attributes,
        })
    }

    #[tokio::test]
    async fn an_answer_that_is_lost_leaves_its_effect() {
        let hsm = FakeHsm::new();
        let crashed = HsmError::new(Kind::Crashed, "gone");
        hsm.fail_next(1, crashed.clone());
        hsm.lose_answers(1, crashed);
        assert!(hsm.call(p256("a")).await.is_err());
        assert!(hsm.call(p256("b")).await.is_err());
        let Ok(Reply::Inventory(entries)) = hsm.call(Request::Inventory).await else { panic!() };
        assert!(entries.len() == 2 && entries.iter().all(|entry| entry.label == "b"));
        assert_eq!(hsm.take_calls(), ["generate", "generate", "inventory"]);
    }

    #[tokio::test]
    async fn its_signatures_are_good_and_in_the_tokens_form() {
        let hsm = FakeHsm::new();
        let Ok(Reply::Key(facts)) = hsm.call(p256("k")).await else { panic!() };
        let request = Request::Sign {
            key: KeyId::for_purpose("k"),
            algorithm: S::Sha256WithEcdsa,
            payload: b"message".as_slice().into(),
        };
        let Ok(Reply::Signature(signature)) = hsm.call(request).await else { panic!() };
        let spki = facts.public_key.unwrap();
        let key = aws_lc_rs::signature::UnparsedPublicKey::new(
            &aws_lc_rs::signature::ECDSA_P256_SHA256_FIXED,
            &spki[spki.len() - 65..],
        );
        key.verify(b"message", &signature).unwrap();
        assert_eq!(
            hsm.call(Request::Destroy(KeyId::for_purpose("k"))).await.unwrap_err().kind,
            Kind::Forbidden
        );
    }
}
