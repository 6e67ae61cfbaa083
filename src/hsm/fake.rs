//! A token in memory for tests, which fails when told to. Its keys are real ones, by aws-lc; whoever checks
//! their signatures need not know that.

mod ciphers;
mod imports;
mod keys;

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;

use self::keys::Private;
use super::{
    Hsm,
    knee::{End, Level, Measured},
    probe::{Findings, Probe, Quirk},
    protocol::{
        Capabilities, DataFacts, FIND_MAX, Find, HsmError, InventoryEntry, Kept, KeyCapability, KeyFacts,
        KeyTemplate, Kind, ObjectClass, Reply, Request, TokenFacts,
    },
};
use crate::model::{
    KeyAlgorithm, KeyAttributes, KeyId, SignatureAlgorithm, attributes::ResolvedAttributes, data::DataName,
    material::Material, signature::Scheme,
};

/// What goes wrong with one request.
#[derive(Clone, Debug)]
pub enum Fault {
    /// It is refused, and not carried out.
    Refuse(HsmError),
    /// It is carried out, and then reported as failed: a crash before the answer.
    Forget(HsmError),
    /// Something else than the payload is signed.
    SignOther,
    /// The answer belongs to another request.
    Confuse,
}

impl Fault {
    /// A refusal of a kind.
    #[must_use]
    pub fn refuse(kind: Kind) -> Self {
        Self::Refuse(HsmError::new(kind, format!("the fake was told to fail with {kind:?}")))
    }
}

struct Stored {
    facts: KeyFacts,
    may_sign: bool,
    may_encrypt: bool,
    destroyable: bool,
    private: Private,
    /// What it was imported as.
    material: Option<Material>,
}

#[derive(Default)]
struct Inner {
    keys: Vec<Stored>,
    certificates: HashMap<KeyId, Bytes>,
    data: HashMap<DataName, DataFacts>,
    faults: VecDeque<(&'static str, Fault)>,
    calls: Vec<&'static str>,
}

/// The token.
pub struct Fake {
    token: Arc<TokenFacts>,
    inner: Mutex<Inner>,
}

impl Default for Fake {
    fn default() -> Self {
        let capabilities = Capabilities {
            key_algorithms: key_algorithms(),
            signature_algorithms: signature_algorithms(),
            cipher_algorithms: ciphers::all(),
            agreement: false,
            derived: Vec::new(),
            attests: false,
        };
        let token = TokenFacts {
            label: "fake".into(),
            manufacturer: "tests".into(),
            model: "memory".into(),
            serial: "1".into(),
            firmware: "1.0".into(),
            library: "none".into(),
            slot: 0,
            capabilities,
        };
        Self { token: Arc::new(token), inner: Mutex::default() }
    }
}

fn key_algorithms() -> Vec<KeyCapability> {
    let row = |algorithm, min_bits, max_bits| KeyCapability { algorithm, min_bits, max_bits };
    vec![
        row(KeyAlgorithm::Rsa, 2048, 4096),
        row(KeyAlgorithm::Ec, 0, 0),
        row(KeyAlgorithm::Ed, 0, 0),
        row(KeyAlgorithm::Aes, 128, 256),
        row(KeyAlgorithm::HmacSha256, 0, 0),
    ]
}

fn signature_algorithms() -> Vec<SignatureAlgorithm> {
    let has = |scheme| matches!(scheme, Scheme::RsaPkcs1 | Scheme::RsaPss(_) | Scheme::Ecdsa | Scheme::EdDsa);
    SignatureAlgorithm::ALL.iter().copied().filter(|one| has(one.row().scheme)).collect()
}

impl Fake {
    /// Lets the next request of this name (see [`Request::name`]) go wrong; several faults wait in line.
    pub fn inject(&self, request: &'static str, fault: Fault) {
        self.lock().faults.push_back((request, fault));
    }

    /// Names of all requests so far.
    #[must_use]
    pub fn calls(&self) -> Vec<&'static str> {
        self.lock().calls.clone()
    }

    /// How many requests of a name there were.
    #[must_use]
    pub fn count(&self, request: &str) -> usize {
        self.lock().calls.iter().filter(|call| **call == request).count()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no panic while it is held")
    }
}

#[async_trait]
impl Hsm for Fake {
    async fn call(&self, request: Request) -> Result<Reply, HsmError> {
        let mut inner = self.lock();
        inner.calls.push(request.name());
        let told = inner.faults.iter().position(|(name, _)| *name == request.name());
        match told.and_then(|at| inner.faults.remove(at)).map(|(_, fault)| fault) {
            None => inner.answer(request, &self.token),
            Some(Fault::Refuse(error)) => Err(error),
            Some(Fault::Forget(error)) => inner.answer(request, &self.token).and(Err(error)),
            Some(Fault::Confuse) => Ok(Reply::Done),
            Some(Fault::SignOther) => match request {
                Request::Sign { key, algorithm, payload } => {
                    let other = payload.iter().map(|byte| byte ^ 1).collect::<Vec<_>>();
                    inner.sign(&key, algorithm, &other)
                }
                other => inner.answer(other, &self.token),
            },
        }
    }

    fn token(&self) -> Option<Arc<TokenFacts>> {
        Some(Arc::clone(&self.token))
    }
}

impl Inner {
    fn answer(&mut self, request: Request, token: &TokenFacts) -> Result<Reply, HsmError> {
        match request {
            Request::Open(_) => Ok(Reply::Opened(Box::new(token.clone()))),
            Request::Since(_, request) => self.answer(*request, token),
            Request::Ping => Ok(Reply::Alive { making: false, longest: Duration::ZERO }),
            Request::Workers(_) => Ok(Reply::Done),
            Request::Generate(template) => self.generate(template),
            Request::Claim(template) => {
                let labelled = |key: &&Stored| key.facts.label == template.label.as_str();
                let found: Vec<_> = self.keys.iter().filter(labelled).map(|key| key.facts.clone()).collect();
                let own = found.iter().any(|facts| facts.id.as_ref() == Some(&template.id));
                if found.is_empty() || own { self.generate(template) } else { Ok(Reply::Keys(found)) }
            }
            Request::Find(find) => {
                let fits = |facts: &KeyFacts| match &find {
                    Find::Id(id) => facts.id.as_ref() == Some(id),
                    Find::Public(_) => false,
                    Find::Label(label) | Find::Known(label) => facts.label == label.as_str(),
                };
                let found = self.keys.iter().map(|key| &key.facts).filter(|facts| fits(facts));
                Ok(Reply::Keys(found.take(FIND_MAX).cloned().collect()))
            }
            Request::Inventory => {
                let line = |key: &Stored| InventoryEntry {
                    id: key.facts.id.as_ref().map_or_else(Vec::new, |id| id.as_bytes().to_vec()),
                    label: key.facts.label.clone(),
                    class: match key.private {
                        Private::Secret(_) => ObjectClass::SecretKey,
                        _ => ObjectClass::PrivateKey,
                    },
                    ghost: false,
                    algorithm: key.facts.algorithm,
                    key_size: key.facts.key_size,
                    curve_oid: key.facts.curve_oid.clone(),
                    kept: Kept::from(&key.facts.attributes),
                };
                Ok(Reply::Inventory(self.keys.iter().map(line).collect()))
            }
            Request::Sign { key, algorithm, payload } => self.sign(&key, algorithm, &payload),
            Request::Destroy(id) => {
                if self.find(&id).is_some_and(|key| !key.destroyable) {
                    return Err(HsmError::new(Kind::Forbidden, "the key is not destroyable"));
                }
                self.keys.retain(|key| key.facts.id.as_ref() != Some(&id));
                self.certificates.remove(&id);
                Ok(Reply::Done)
            }
            Request::Random(length) => {
                let length = usize::try_from(length).unwrap_or(usize::MAX);
                Ok(Reply::Random(keys::random(length).into()))
            }
            Request::PutCertificate { key, der, .. } => {
                self.certificates.insert(key, der);
                Ok(Reply::Done)
            }
            Request::PutData { name, value, attributes } => {
                if self.data.contains_key(&name) {
                    return Ok(Reply::DataKept(None));
                }
                self.data.insert(name, DataFacts { value, attributes });
                Ok(Reply::DataKept(Some(attributes)))
            }
            Request::GetData(name) => Ok(Reply::Data(self.data.get(&name).cloned().map(Box::new))),
            Request::DestroyData(name) => {
                if self.data.get(&name).is_some_and(|facts| !facts.attributes.destroyable) {
                    return Err(HsmError::new(Kind::Forbidden, "the data object is not destroyable"));
                }
                Ok(Reply::DataGone(self.data.remove(&name).is_some()))
            }
            Request::GetCertificate(key) => Ok(Reply::Certificate(self.certificates.get(&key).cloned())),
            Request::Probe(probe) => Ok(Reply::Findings(Box::new(Findings {
                sessions: (probe == Probe::Sessions).then(measured),
                quirks: vec![Quirk::usual(probe.name(), "tried", "it is a fake")],
                ..Findings::default()
            }))),
            Request::Encrypt(job) => {
                let key = self.usable(&job.key, |key| key.may_encrypt, "encrypt")?;
                Ok(Reply::Encrypted { ciphertext: key.private.encrypt(&job)?.into(), iv: job.iv })
            }
            Request::Decrypt(job) => {
                let key =
                    self.usable(&job.key, |key| key.facts.attributes.decrypt == Some(true), "decrypt")?;
                Ok(Reply::Decrypted(key.private.decrypt(&job)?.into()))
            }
            Request::Import(job) => self.import(*job),
            Request::Export(key) => self.export(&key),
            Request::Wrap(job) => self.wrap(&job),
            Request::Agree { .. } => Err(keys::unsupported("key agreement")),
            Request::SignInContext { .. } => Err(keys::unsupported("signature in a context")),
            Request::SignStateful { .. } => Err(keys::unsupported("key with a state")),
            Request::AttestationKey { .. } | Request::Attest { .. } => {
                Err(keys::unsupported("attestation of its own"))
            }
            Request::Derived { .. } | Request::SignDerived { .. } | Request::Derive(_) => {
                Err(HsmError::new(Kind::Unsupported, "the fake has no trees"))
            }
            Request::Hmac { key, payload } => {
                let key = self.usable(&key, |key| key.may_sign, "sign")?;
                Ok(Reply::Hmac(key.private.hmac(payload.expose())?.into()))
            }
        }
    }

    fn usable(&self, id: &KeyId, may: impl Fn(&Stored) -> bool, what: &str) -> Result<&Stored, HsmError> {
        let key = self.find(id).ok_or_else(|| HsmError::new(Kind::KeyNotFound, format!("no key {id}")))?;
        let message = format!("CKR_KEY_FUNCTION_NOT_PERMITTED: the key does not {what}");
        if may(key) { Ok(key) } else { Err(HsmError::new(Kind::Forbidden, message)) }
    }

    fn find(&self, id: &KeyId) -> Option<&Stored> {
        self.keys.iter().find(|key| key.facts.id.as_ref() == Some(id))
    }

    fn generate(&mut self, template: KeyTemplate) -> Result<Reply, HsmError> {
        if let Some(known) = self.find(&template.id) {
            return Ok(Reply::Key(Box::new(known.facts.clone())));
        }
        let private =
            Private::generate(template.algorithm, template.key_size, template.curve_oid.as_deref())?;
        let facts = KeyFacts {
            id: Some(template.id),
            label: template.label.into(),
            algorithm: Some(template.algorithm),
            key_size: template.key_size,
            curve_oid: template.curve_oid,
            public_key: private.spki()?.map(Bytes::from),
            attributes: reported(&template.attributes),
            local: Some(true),
            chain_code: None,
            twins: 1,
        };
        let ResolvedAttributes { sign: may_sign, encrypt: may_encrypt, destroyable, .. } =
            template.attributes;
        let stored =
            Stored { facts: facts.clone(), may_sign, may_encrypt, destroyable, private, material: None };
        self.keys.push(stored);
        Ok(Reply::Key(Box::new(facts)))
    }

    fn sign(&self, id: &KeyId, algorithm: SignatureAlgorithm, payload: &[u8]) -> Result<Reply, HsmError> {
        let key = self.find(id).ok_or_else(|| HsmError::new(Kind::KeyNotFound, format!("no key {id}")))?;
        if !key.may_sign {
            return Err(HsmError::new(
                Kind::Forbidden,
                "CKR_KEY_FUNCTION_NOT_PERMITTED: the key does not sign",
            ));
        }
        key.private.sign(algorithm, payload).map(|signature| Reply::Signature(signature.into()))
    }
}

/// Two sessions at a time.
fn measured() -> Measured {
    let level = |sessions, speed| Level { sessions, speeds: vec![("P-256".to_owned(), speed)] };
    Measured { levels: vec![level(1, 100), level(2, 200), level(4, 200), level(8, 200)], end: End::Flat }
}

/// What the token says of a key that it made with these attributes.
fn reported(asked: &ResolvedAttributes) -> KeyAttributes {
    KeyAttributes {
        decrypt: Some(asked.decrypt),
        sign: Some(asked.sign),
        eka_sign: None,
        unwrap: Some(asked.unwrap),
        derive: Some(asked.derive),
        sensitive: Some(asked.sensitive),
        always_sensitive: Some(asked.sensitive),
        extractable: Some(asked.extractable),
        never_extractable: Some(!asked.extractable),
        modifiable: Some(asked.modifiable),
        copyable: Some(asked.copyable),
        destroyable: Some(asked.destroyable),
    }
}
