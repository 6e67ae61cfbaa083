//! What a gateway has to answer, by a model of what is there: written from the contract and `docs/rest-differences.md`, and
//! without a line of the gateway's own.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};

use super::calls::{Call, Has, Kind, Method, NAMES, Twist, WORDS, What, Who};
use crate::common::token::Module;

/// Which key it is, whatever it is called: two that are alike are one.
pub type Material = usize;

/// A key as the contract sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Key {
    pub kind: Kind,
    pub material: Material,
    pub neighbours: bool,
    pub uses: bool,
    pub extractable: bool,
    pub sensitive: bool,
    pub modifiable: bool,
    pub destroyable: bool,
    pub imported: bool,
    pub unwrapped: bool,
    pub size: Option<u32>,
    /// Empty for none.
    pub password: &'static str,
    pub policy: bool,
    pub certificate: Option<String>,
    /// As the first answer told it.
    pub told: Option<Value>,
}

impl Key {
    fn leaves(&self) -> bool {
        self.extractable && !self.sensitive
    }
}

/// What is known of a key from outside.
#[derive(Clone, Debug, Default)]
pub struct Known {
    pub public: Option<String>,
    /// PKCS #8, or the bytes of a secret key.
    pub private: Option<String>,
}

/// A key to import.
#[derive(Clone, Debug)]
pub struct Supply {
    pub kind: Kind,
    pub size: Option<u32>,
    pub private: String,
    pub public: Option<String>,
}

#[derive(Clone, Debug)]
pub struct Signed {
    pub material: Material,
    pub algorithm: &'static str,
    pub payload: Vec<u8>,
    pub signature: Vec<u8>,
}

#[derive(Clone, Debug)]
pub struct Sealed {
    pub material: Material,
    pub cipher: &'static str,
    pub payload: Vec<u8>,
    pub aad: bool,
    pub ciphertext: Vec<u8>,
    pub iv: Value,
}

#[derive(Clone, Debug)]
pub struct Maced {
    pub material: Material,
    pub payload: Vec<u8>,
    pub mac: Vec<u8>,
}

#[derive(Clone, Debug)]
pub struct Wrapped {
    pub by: Material,
    pub of: Material,
    pub size: Option<u32>,
    pub method: Method,
    pub data: Vec<u8>,
}

/// What an answer to a call has to be like.
#[derive(Clone, Debug)]
pub enum Expected {
    /// Status and code.
    Refused(u16, u64),
    Done(u16, Effect),
}

/// What a success has to say, and what is so from then on.
#[derive(Clone, Debug)]
pub enum Effect {
    Made(u8, Box<Key>),
    Names(Vec<String>),
    Described(u8),
    Zip,
    Signed {
        label: u8,
        algorithm: &'static str,
        form: &'static str,
        payload: Vec<u8>,
    },
    Valid(bool),
    Sealed {
        label: u8,
        cipher: &'static str,
        payload: Vec<u8>,
        aad: bool,
    },
    Opened(Vec<u8>),
    /// By a wrong key, by which padding may come out right by chance.
    Garbled(Vec<u8>),
    Maced {
        label: u8,
        payload: Vec<u8>,
    },
    Exported(u8),
    Wrapped {
        by: u8,
        of: u8,
        method: Method,
    },
    Password(u8, &'static str),
    Gone(u8),
    Certified(u8),
    Certificate(u8),
    Uncertified(u8),
    Kept {
        name: u8,
        value: Vec<u8>,
        destroyable: bool,
    },
    Data {
        name: u8,
    },
    Forgotten {
        name: u8,
    },
}

impl Effect {
    /// Whether anything is there, or not there, for it in the cluster or on the token.
    pub const fn changes(&self) -> bool {
        matches!(
            self,
            Self::Made(..)
                | Self::Password(..)
                | Self::Gone(_)
                | Self::Certified(_)
                | Self::Uncertified(_)
                | Self::Kept { .. }
                | Self::Forgotten { .. }
        )
    }
}

/// A call as it is sent, and what has to be answered.
#[derive(Clone, Debug)]
pub struct Plan {
    pub method: &'static str,
    pub path: String,
    pub body: Option<Vec<u8>>,
    pub expected: Expected,
}

pub struct Model {
    module: Module,
    /// Before every name: what earlier runs left on the token is in nobody's way.
    run: usize,
    pub supplies: Vec<Supply>,
    pub keys: BTreeMap<u8, Key>,
    /// By whether they are the neighbour's.
    pub data: BTreeMap<(bool, u8), (Vec<u8>, bool)>,
    pub known: Vec<Known>,
    pub signed: Vec<Signed>,
    pub sealed: Vec<Sealed>,
    pub maced: Vec<Maced>,
    pub wrapped: Vec<Wrapped>,
}

type Refusal = (u16, u64);
/// Status and what comes of it, or why nothing does.
type Wanted = Result<(u16, Effect), Refusal>;

const NO_KEY: Refusal = (404, 650);
const NOT_ALLOWED: Refusal = (403, 400);
const PASSWORD: Refusal = (400, 620);
const FORBIDDEN: Refusal = (400, 614);
const MISMATCH: Refusal = (400, 607);
const KEY_TYPE: Refusal = (400, 613);
const TAKEN: Refusal = (400, 608);
const DECRYPT: Refusal = (400, 410);
const HSM: Refusal = (500, 701);
const VALIDATION: Refusal = (400, 600);
const UNSUPPORTED: Refusal = (400, 611);
const JSON: Refusal = (400, 621);
const NO_OBJECT: Refusal = (404, 653);
const ADDRESS: Refusal = (400, 630);

/// A body before it is written: an object, where its members are (empty for the top), and which of them have to be there.
struct Draft {
    inside: &'static str,
    members: Map<String, Value>,
    required: &'static [&'static str],
    /// What may be left out, and is null then.
    optional: &'static [&'static str],
}

impl Draft {
    fn new(
        inside: &'static str,
        members: Value,
        required: &'static [&'static str],
        optional: &'static [&'static str],
    ) -> Self {
        let Value::Object(mut members) = members else { panic!("{members}") };
        members.retain(|_, value| !value.is_null());
        Self { inside, members, required, optional }
    }

    /// Writes it, and says how that is refused, whatever it asks for.
    fn written(mut self, twist: Twist) -> (Vec<u8>, Option<Refusal>) {
        let mut refusal = None;
        let pick = |which: u8, names: &[&str]| names[usize::from(which) % names.len()].to_owned();
        match twist {
            Twist::Straight | Twist::Twice | Twist::Cut | Twist::Bytes => {}
            Twist::More => {
                self.members.insert("unknown".into(), json!({"a": [1, null, {"b": "\u{1f511}"}]}));
            }
            Twist::Nulls => {
                for name in self.optional {
                    self.members.entry(*name).or_insert(Value::Null);
                }
            }
            Twist::Wrong(which) => {
                // Of a symmetric key, nobody looks at the policy.
                let names: Vec<_> =
                    self.members.keys().map(String::as_str).filter(|name| *name != "policy").collect();
                let name = pick(which, &names);
                self.members.insert(name, json!([7]));
                refusal = Some(VALIDATION);
            }
            Twist::Without(which) => {
                self.members.remove(&pick(which, self.required));
                refusal = Some(VALIDATION);
            }
            Twist::Null(which) => {
                self.members.insert(pick(which, self.required), Value::Null);
                refusal = Some(VALIDATION);
            }
        }
        let mut text = Value::Object(self.members).to_string();
        match twist {
            Twist::Twice => {
                text = format!("{{\"twice\":1,\"twice\":1,{}", &text[1..]);
                refusal = Some(JSON);
            }
            Twist::Cut => {
                text.pop();
                refusal = Some(JSON);
            }
            _ => {}
        }
        if !self.inside.is_empty() {
            text = format!("{{\"{}\":{text}}}", self.inside);
        }
        let mut bytes = text.into_bytes();
        if twist == Twist::Bytes {
            bytes.splice(1..1, *b"\"\xff\":1,");
            refusal = Some(JSON);
        }
        (bytes, refusal)
    }
}

impl Model {
    pub fn new(module: Module, run: usize, supplies: Vec<Supply>) -> Self {
        let known = supplies
            .iter()
            .map(|supply| Known { public: supply.public.clone(), private: Some(supply.private.clone()) });
        let known = known.collect();
        Self {
            module,
            run,
            supplies,
            keys: BTreeMap::new(),
            data: BTreeMap::new(),
            known,
            signed: Vec::new(),
            sealed: Vec::new(),
            maced: Vec::new(),
            wrapped: Vec::new(),
        }
    }

    pub fn label(&self, number: u8) -> String {
        format!("{}-{}", self.run, NAMES[usize::from(number)])
    }

    /// All labels that somebody sees.
    pub fn labels(&self, neighbours: bool) -> Vec<String> {
        let own = self.keys.iter().filter(|(_, key)| key.neighbours == neighbours);
        let mut labels: Vec<_> = own.map(|(label, _)| self.label(*label)).collect();
        labels.sort();
        labels
    }

    /// The name that is meant: of a key of the caller's that is fit for the call, of any key, or any.
    fn named(&self, who: Who, number: u8, fit: impl Fn(&Key) -> bool) -> u8 {
        let own = |key: &Key| key.neighbours == (who == Who::Neighbour);
        let fitting: Vec<_> =
            self.keys.iter().filter(|(_, key)| own(key) && fit(key)).map(|(name, _)| *name).collect();
        let all: Vec<_> = self.keys.keys().copied().collect();
        let at = usize::from(number);
        match number {
            0..160 if !fitting.is_empty() => fitting[at % fitting.len()],
            0..224 if !all.is_empty() => all[at % all.len()],
            _ => number % u8::try_from(NAMES.len()).unwrap(),
        }
    }

    /// A name for a new key or data object: most of the time one that `is_taken` says is free.
    fn fresh(number: u8, is_taken: impl Fn(u8) -> bool) -> u8 {
        let count = u8::try_from(NAMES.len()).unwrap();
        let free: Vec<_> = (0..count).filter(|name| !is_taken(*name)).collect();
        match number {
            0..224 if !free.is_empty() => free[usize::from(number) % free.len()],
            _ => number % count,
        }
    }

    /// What is asked for, with the names that are meant.
    fn meant(&self, who: Who, what: What) -> What {
        let neighbours = who == Who::Neighbour;
        let any = |number: u8| self.named(who, number, |_| true);
        let of = |number: u8, kinds: &[Kind]| self.named(who, number, |key| kinds.contains(&key.kind));
        let free = |number: u8| Self::fresh(number, |name| self.keys.contains_key(&name));
        let pairs = [Kind::Ec, Kind::Ed, Kind::Rsa];
        let mut what = what;
        match &mut what {
            What::Create { label, .. } | What::Import { label, .. } => *label = free(*label),
            What::Unwrap { by, label, .. } => {
                (*by, *label) = (of(*by, &[Kind::Aes, Kind::Rsa]), free(*label))
            }
            What::Describe { label, .. }
            | What::Attest { label, .. }
            | What::Address { label, .. }
            | What::Change { label, .. }
            | What::Delete { label, .. } => *label = any(*label),
            What::Sign { label, .. } | What::Verify { label, .. } | What::SelfSign { label, .. } => {
                *label = of(*label, &pairs);
            }
            What::Encrypt { label, .. } | What::Decrypt { label, .. } => {
                *label = of(*label, &[Kind::Aes, Kind::Rsa])
            }
            What::Mac { label, .. } | What::VerifyMac { label, .. } => *label = of(*label, &[Kind::Mac]),
            What::Export { label, .. } => *label = self.named(who, *label, Key::leaves),
            What::Wrap { by, of: other, .. } => {
                *by = of(*by, &[Kind::Aes, Kind::Rsa]);
                let wraps = |kind: Kind| {
                    let by = self.keys.get(by).map(|key| key.kind);
                    METHODS.iter().any(|method| Some(method.by()) == by && method.of() == kind)
                };
                *other = self.named(who, *other, |key| key.extractable && wraps(key.kind));
            }
            What::Certificate { label } | What::Uncertify { label } => {
                *label = self.named(who, *label, |key| key.certificate.is_some());
            }
            What::Keep { name, .. } => {
                *name = Self::fresh(*name, |name| self.data.contains_key(&(neighbours, name)))
            }
            What::Read { name } | What::Forget { name } => {
                let kept: Vec<_> = self
                    .data
                    .keys()
                    .filter(|(whose, _)| *whose == neighbours)
                    .map(|(_, name)| *name)
                    .collect();
                *name = match *name {
                    number @ 0..200 if !kept.is_empty() => kept[usize::from(number) % kept.len()],
                    number => number % u8::try_from(NAMES.len()).unwrap(),
                };
            }
            What::List | What::Odd { .. } => {}
        }
        what
    }

    fn seen(&self, who: Who, label: u8) -> Option<&Key> {
        self.keys.get(&label).filter(|key| key.neighbours == (who == Who::Neighbour))
    }

    /// A password as it is given for a key.
    fn given(&self, label: u8, word: u8) -> &'static str {
        match word {
            0 => self.keys.get(&label).map_or("", |key| key.password),
            word => WORDS[usize::from(word - 1) % WORDS.len()],
        }
    }

    /// What has to be answered, and how it is asked for.
    pub fn plan(&self, call: Call) -> Plan {
        let (method, path, draft, wanted) = self.asked(call);
        // One thing that is wrong at a time.
        let twist = if matches!(call.what, What::Odd { .. }) { Twist::Straight } else { call.twist };
        let (body, twisted) = draft.map(|draft| draft.written(twist)).unzip();
        let expected = match call.who {
            Who::Unknown => Expected::Refused(401, 617),
            Who::Silent => Expected::Refused(401, 406),
            _ => match twisted.flatten().map_or(wanted, Err) {
                Ok((status, effect)) => Expected::Done(status, effect),
                Err((status, code)) => Expected::Refused(status, code),
            },
        };
        Plan { method, path, body, expected }
    }

    fn asked(&self, call: Call) -> (&'static str, String, Option<Draft>, Wanted) {
        let Call { who, form, .. } = call;
        let what = self.meant(who, call.what);
        let neighbours = who == Who::Neighbour;
        let post = |path: &str, draft: Draft| ("POST", path.to_owned(), Some(draft));
        let named = |label: u8, word: &str| {
            Draft::new(
                "",
                json!({"label": self.label(label), "password": password(word, form)}),
                &["label"],
                &["password"],
            )
        };
        let encode = |bytes: &[u8]| STANDARD.encode(bytes);
        // The key, for who may do that with it.
        let the = |label: u8, verb: &str| {
            let key = self.seen(who, label).ok_or(NO_KEY)?;
            if who.may(verb) { Ok(key) } else { Err(NOT_ALLOWED) }
        };
        let right = |key: &Key, given: &str| {
            if key.password.is_empty() || key.password == given { Ok(()) } else { Err(PASSWORD) }
        };
        let right_if_given =
            |key: &Key, given: &str| if given.is_empty() { Ok(()) } else { right(key, given) };
        let fits = |key: &Key, kind: Kind| if key.kind == kind { Ok(()) } else { Err(MISMATCH) };
        let uses = |key: &Key| if key.uses { Ok(()) } else { Err(FORBIDDEN) };
        let creates = |label: u8| {
            if !who.may("create") {
                return Err(NOT_ALLOWED);
            }
            if self.keys.contains_key(&label) { Err(TAKEN) } else { Ok(()) }
        };
        let ((method, path, draft), wanted) = match what {
            What::Create { label, kind, has, word, policy } => {
                let word = WORDS[usize::from(word.saturating_sub(1))];
                let mut body = json!({"label": self.label(label), "algorithm": kind.name(),
                    "attributes": attributes(kind, has), "password": password(word, form),
                    "policy": policy.then(default_policy)});
                match kind {
                    Kind::Ec => body["curveOid"] = json!("1.2.840.10045.3.1.7"),
                    Kind::Ed => body["curveOid"] = json!("1.3.101.112"),
                    Kind::Rsa => body["keySize"] = json!(2048),
                    Kind::Aes => body["keySize"] = json!(256),
                    Kind::Mac => {}
                }
                let optional = &["id", "password", "addressFormat", "policy", "algorithmOid"];
                let draft = Draft::new("", body, &["label", "algorithm", "attributes"], optional);
                let wanted = || {
                    let key = self.made(kind, has, policy, neighbours)?;
                    creates(label)?;
                    let size = match kind {
                        Kind::Rsa => Some(2048),
                        Kind::Aes => Some(256),
                        _ => None,
                    };
                    let key = Key { size, password: word, ..key };
                    Ok((201, Effect::Made(label, Box::new(key))))
                };
                (post("/v1/key", draft), wanted())
            }
            What::Import { label, which, has, policy } => {
                let material = usize::from(which) % self.supplies.len();
                let Supply { kind, size, private, .. } = &self.supplies[material];
                let mut body = json!({"label": self.label(label), "algorithm": kind.name(),
                    "attributes": attributes(*kind, has), "policy": policy.then(default_policy)});
                let (member, required): (_, &[_]) = if kind.is_pair() {
                    ("privateKey", &["label", "algorithm", "privateKey", "attributes"])
                } else {
                    ("secretKey", &["label", "algorithm", "secretKey", "attributes"])
                };
                body[member] = json!(private);
                let optional = &["password", "addressFormat", "policy", "publicKey", "certificate"];
                let wanted = || {
                    let key = self.made(*kind, has, policy, neighbours)?;
                    creates(label)?;
                    let key = Key { material, imported: true, size: *size, ..key };
                    Ok((201, Effect::Made(label, Box::new(key))))
                };
                (post("/v1/key/import/plain", Draft::new("", body, required, optional)), wanted())
            }
            What::List => {
                let wanted = if who.may("list") {
                    Ok((200, Effect::Names(self.labels(neighbours))))
                } else {
                    Err(NOT_ALLOWED)
                };
                (("GET", "/v1/key".to_owned(), None), wanted)
            }
            What::Describe { label, word, old } => {
                let given = if old { "" } else { self.given(label, word) };
                let wanted = || {
                    let key = the(label, "get")?;
                    right_if_given(key, given)?;
                    Ok((200, Effect::Described(label)))
                };
                let call = if old {
                    ("GET", format!("/v1/key/{}/attributes", self.in_path(label, form)), None)
                } else {
                    post("/v1/key/attributes", named(label, given))
                };
                (call, wanted())
            }
            What::Attest { label, word } => {
                let given = self.given(label, word);
                let wanted = || {
                    let key = the(label, "get")?;
                    right_if_given(key, given)?;
                    Ok((200, Effect::Zip))
                };
                (post("/v1/key/keyAttestation", named(label, given)), wanted())
            }
            What::Address { label, word, old } => {
                let given = if old { "" } else { self.given(label, word) };
                let wanted = || {
                    let key = the(label, "get")?;
                    right_if_given(key, given)?;
                    // None is made with an addressFormat here.
                    Err(ADDRESS)
                };
                let call = if old {
                    ("GET", format!("/v1/key/{}/address", self.in_path(label, form)), None)
                } else {
                    post("/v1/key/address", named(label, given))
                };
                (call, wanted())
            }
            What::Sign { label, algorithm, form: shape, word } => {
                let algorithm = self.algorithm(label, algorithm);
                let (given, payload) = (self.given(label, word), format!("signed {form}").into_bytes());
                let hex = form % 2 == 1;
                let text = if hex { hex::encode(&payload) } else { encode(&payload) };
                let body = json!({"payload": text, "payloadType": hex.then_some("HEX"), "signKeyName": self.label(label),
                    "signatureAlgorithm": algorithm, "signatureType": shape, "keyPassword": password(given, form)});
                let required = &["payload", "signKeyName", "signatureAlgorithm"];
                let optional = &[
                    "keyPassword",
                    "signatureType",
                    "signedApprovals",
                    "context",
                    "metaData",
                    "payloadType",
                ];
                let draft = Draft::new("signRequest", body, required, optional);
                let wanted = || {
                    let key = the(label, "use")?;
                    right(key, given)?;
                    fits(key, signs(algorithm))?;
                    uses(key)?;
                    let form = shape.unwrap_or("DER");
                    Ok((200, Effect::Signed { label, algorithm, form, payload }))
                };
                (post("/v1/synchronousSign", draft), wanted())
            }
            What::Verify { label, of, flipped } => {
                let found = self.picked(&self.signed, |one| one.material, label, of);
                let mut one = found.cloned().unwrap_or(Signed {
                    material: usize::MAX,
                    algorithm: "SHA256_WITH_ECDSA",
                    payload: b"x".to_vec(),
                    signature: vec![0x30, 0x03, 0x02, 0x01, 0x01],
                });
                if flipped {
                    flip(&mut one.signature, of);
                }
                let body = json!({"payload": encode(&one.payload), "signature": encode(&one.signature),
                    "signKeyName": self.label(label), "signatureAlgorithm": one.algorithm});
                let required = &["payload", "signature", "signKeyName", "signatureAlgorithm"];
                let draft = Draft::new("verifySignatureRequest", body, required, &["masterKeyPassword"]);
                let wanted = || {
                    let key = the(label, "use")?;
                    if !key.kind.is_pair() {
                        return Err(MISMATCH);
                    }
                    fits(key, signs(one.algorithm))?;
                    Ok((200, Effect::Valid(key.material == one.material && !flipped)))
                };
                (post("/v1/verify", draft), wanted())
            }
            What::Encrypt { label, cipher, word } => {
                let cipher = self.cipher(label, cipher);
                let (given, payload) = (self.given(label, word), format!("sealed {form}").into_bytes());
                let aad = cipher == "AES_GCM" && form % 3 == 0;
                let body = json!({"payload": encode(&payload), "encryptKeyName": self.label(label),
                    "cipherAlgorithm": cipher, "keyPassword": password(given, form),
                    "additionalAuthenticationData": aad.then(|| encode(AAD))});
                let required = &["payload", "encryptKeyName", "cipherAlgorithm"];
                let optional = &["keyPassword", "additionalAuthenticationData", "tagLength"];
                let draft = Draft::new("encryptRequest", body, required, optional);
                let wanted = || {
                    let key = the(label, "use")?;
                    if key.kind.is_pair() {
                        // Its public half does, without a password.
                        fits(key, enciphers(cipher))?;
                        uses(key)?;
                    } else {
                        right(key, given)?;
                        fits(key, enciphers(cipher))?;
                        uses(key)?;
                    }
                    Ok((200, Effect::Sealed { label, cipher, payload, aad }))
                };
                (post("/v1/encrypt", draft), wanted())
            }
            What::Decrypt { label, of, flipped, word } => {
                let found = self.picked(&self.sealed, |one| one.material, label, of);
                let mut one = found.cloned().unwrap_or(Sealed {
                    material: usize::MAX,
                    cipher: "AES_GCM",
                    payload: Vec::new(),
                    aad: false,
                    ciphertext: vec![7; 40],
                    iv: json!(encode(&[7; 12])),
                });
                // What is not authentic may come out as anything.
                let flipped = flipped && one.cipher == "AES_GCM";
                if flipped {
                    flip(&mut one.ciphertext, of);
                }
                let given = self.given(label, word);
                let body = json!({"encryptedPayload": encode(&one.ciphertext), "decryptKeyName": self.label(label),
                    "cipherAlgorithm": one.cipher, "initializationVector": one.iv,
                    "keyPassword": password(given, form),
                    "additionalAuthenticationData": one.aad.then(|| encode(AAD))});
                let required = &["encryptedPayload", "decryptKeyName", "cipherAlgorithm"];
                let optional = &["keyPassword", "signedApprovals", "tagLength"];
                let draft = Draft::new("decryptRequest", body, required, optional);
                let wanted = || {
                    let key = the(label, "use")?;
                    right(key, given)?;
                    fits(key, enciphers(one.cipher))?;
                    uses(key)?;
                    if key.material == one.material && !flipped {
                        return Ok((200, Effect::Opened(one.payload)));
                    }
                    if one.cipher == "AES" { Ok((200, Effect::Garbled(one.payload))) } else { Err(DECRYPT) }
                };
                (post("/v1/synchronousDecrypt", draft), wanted())
            }
            What::Mac { label, word } => {
                let (given, payload) = (self.given(label, word), format!("hashed {form}").into_bytes());
                let body = json!({"payload": encode(&payload), "keyName": self.label(label),
                    "keyPassword": password(given, form)});
                let draft = Draft::new("hmacRequest", body, &["payload", "keyName"], &["keyPassword"]);
                let wanted = || {
                    let key = the(label, "use")?;
                    right(key, given)?;
                    fits(key, Kind::Mac)?;
                    uses(key)?;
                    Ok((200, Effect::Maced { label, payload }))
                };
                (post("/v1/synchronousHmac", draft), wanted())
            }
            What::VerifyMac { label, of, flipped, word } => {
                let found = self.picked(&self.maced, |one| one.material, label, of);
                let nothing = Maced { material: usize::MAX, payload: b"x".to_vec(), mac: vec![7; 32] };
                let mut one = found.cloned().unwrap_or(nothing);
                if flipped {
                    flip(&mut one.mac, of);
                }
                let given = self.given(label, word);
                let body = json!({"payload": encode(&one.payload), "signature": encode(&one.mac),
                    "keyName": self.label(label), "keyPassword": password(given, form)});
                let required = &["payload", "signature", "keyName"];
                let draft = Draft::new("verifyHmacRequest", body, required, &["keyPassword"]);
                let wanted = || {
                    let key = the(label, "use")?;
                    right(key, given)?;
                    fits(key, Kind::Mac)?;
                    uses(key)?;
                    Ok((200, Effect::Valid(key.material == one.material && !flipped)))
                };
                (post("/v1/verify", draft), wanted())
            }
            What::Export { label, word, old } => {
                let given = if old { "" } else { self.given(label, word) };
                let wanted = || {
                    let key = the(label, "export")?;
                    right(key, given)?;
                    if key.leaves() { Ok((200, Effect::Exported(label))) } else { Err(FORBIDDEN) }
                };
                let call = if old {
                    ("GET", format!("/v1/key/{}/export/plain", self.in_path(label, form)), None)
                } else {
                    post("/v1/key/export/plain", named(label, given))
                };
                (call, wanted())
            }
            What::Wrap { by, of, method, words } => {
                let method = self.method(by, of, method);
                let given = (self.given(by, words.0), self.given(of, words.1));
                let body = json!({"keyToBeWrapped": self.label(of), "wrapKeyName": self.label(by),
                    "wrapMethod": method.name(), "wrapKeyPassword": password(given.0, form),
                    "keyToBeWrappedPassword": password(given.1, form / 4)});
                let required = &["keyToBeWrapped", "wrapKeyName", "wrapMethod"];
                let draft = Draft::new(
                    "wrapKeyRequest",
                    body,
                    required,
                    &["wrapKeyPassword", "keyToBeWrappedPassword"],
                );
                let wanted = || {
                    let first = self.seen(who, by).ok_or(NO_KEY)?;
                    let second = self.seen(who, of).ok_or(NO_KEY)?;
                    the(by, "use")?;
                    the(of, "export")?;
                    right(first, given.0)?;
                    right(second, given.1)?;
                    fits(first, method.by())?;
                    fits(second, method.of())?;
                    if !second.extractable || !first.uses {
                        return Err(FORBIDDEN);
                    }
                    Ok((200, Effect::Wrapped { by, of, method }))
                };
                (post("/v1/wrap", draft), wanted())
            }
            What::Unwrap { by, label, of, flipped, has, word } => {
                let found = self.picked(&self.wrapped, |one| one.by, by, of);
                let mut one = found.cloned().unwrap_or(Wrapped {
                    by: usize::MAX,
                    of: usize::MAX,
                    size: None,
                    method: Method::PadEc,
                    data: vec![7; 48],
                });
                if flipped {
                    flip(&mut one.data, of);
                }
                let given = self.given(by, word);
                let kind = one.method.of();
                let body = json!({"wrappedKey": encode(&one.data), "label": self.label(label),
                    "attributes": attributes(kind, has), "unwrapKeyName": self.label(by),
                    "wrapMethod": one.method.name(), "unwrapKeyPassword": password(given, form)});
                let required = &["wrappedKey", "label", "attributes", "unwrapKeyName", "wrapMethod"];
                let optional = &["unwrapKeyPassword", "signedApprovals", "policy"];
                let draft = Draft::new("unwrapKeyRequest", body, required, optional);
                let wanted = || {
                    let key = the(by, "use")?;
                    right(key, given)?;
                    fits(key, one.method.by())?;
                    creates(label).map_err(|refusal| if refusal == TAKEN { HSM } else { refusal })?;
                    uses(key)?;
                    if key.material != one.by || flipped {
                        return Err(HSM);
                    }
                    // Such a token does not tell how long an AES key is that it unwrapped.
                    if kind == Kind::Aes && self.module == Module::SoftHsm {
                        return Err(UNSUPPORTED);
                    }
                    let key = self.made(kind, has, false, neighbours)?;
                    let key =
                        Key { material: one.of, imported: true, unwrapped: true, size: one.size, ..key };
                    Ok((201, Effect::Made(label, Box::new(key))))
                };
                (post("/v1/synchronousUnwrap", draft), wanted())
            }
            What::Change { label, old, new } => {
                let (old, new) = (self.given(label, old), WORDS[usize::from(new.saturating_sub(1))]);
                let body = json!({"label": self.label(label), "password": password(old, form),
                    "newPassword": password(new, form / 4)});
                let draft = Draft::new("", body, &["label"], &["password", "newPassword"]);
                let wanted = || {
                    let key = the(label, "update")?;
                    if !key.modifiable {
                        return Err(FORBIDDEN);
                    }
                    if key.password == old { Ok((200, Effect::Password(label, new))) } else { Err(PASSWORD) }
                };
                (post("/v1/key/changePassword", draft), wanted())
            }
            What::Delete { label, word, by_path } => {
                let given = if by_path { "" } else { self.given(label, word) };
                let wanted = || {
                    let key = the(label, "delete")?;
                    right_if_given(key, given)?;
                    if key.destroyable { Ok((200, Effect::Gone(label))) } else { Err(FORBIDDEN) }
                };
                let call = if by_path {
                    ("DELETE", format!("/v1/key/{}", self.in_path(label, form)), None)
                } else {
                    post("/v1/key/deleteKey", named(label, given))
                };
                (call, wanted())
            }
            What::SelfSign { label, word, algorithm } => {
                let algorithm = self.algorithm(label, algorithm);
                // It is not one of certificates.
                let algorithm =
                    if algorithm == "SHA256_WITH_RSA_PSS" { "SHA256_WITH_RSA" } else { algorithm };
                let given = self.given(label, word);
                let body = json!({"signKeyName": self.label(label), "signatureAlgorithm": algorithm,
                    "commonName": "model", "validity": 30, "keyPassword": password(given, form)});
                let optional =
                    &["keyPassword", "standardCertificateAttributes", "certificateAuthority", "keyUsage"];
                let draft = Draft::new("", body, &["signKeyName", "signatureAlgorithm"], optional);
                let wanted = || {
                    let key = the(label, "use")?;
                    right(key, given)?;
                    the(label, "update")?;
                    if !key.kind.is_pair() {
                        return Err(KEY_TYPE);
                    }
                    fits(key, signs(algorithm))?;
                    uses(key)?;
                    Ok((200, Effect::Certified(label)))
                };
                (post("/v1/certificate/synchronous/selfsign", draft), wanted())
            }
            What::Certificate { label } => {
                let wanted = || {
                    let key = the(label, "get")?;
                    if !key.kind.is_pair() {
                        return Err(KEY_TYPE);
                    }
                    if key.certificate.is_some() {
                        Ok((200, Effect::Certificate(label)))
                    } else {
                        Err(NO_OBJECT)
                    }
                };
                (("GET", format!("/v1/certificate/{}", self.in_path(label, form)), None), wanted())
            }
            What::Uncertify { label } => {
                let wanted = || {
                    let key = the(label, "update")?;
                    if key.certificate.is_some() {
                        Ok((200, Effect::Uncertified(label)))
                    } else {
                        Err(NO_OBJECT)
                    }
                };
                (("DELETE", format!("/v1/certificate/{}", self.in_path(label, form)), None), wanted())
            }
            What::Keep { name, value, destroyable } => {
                let value = vec![value; 1 + usize::from(value)];
                let body = json!({"name": self.label(name), "value": encode(&value),
                    "attributes": {"private": form % 2 == 0, "destroyable": destroyable}});
                let draft = Draft::new("", body, &["name", "value"], &["attributes"]);
                let wanted = || {
                    if !who.may("create") {
                        return Err(NOT_ALLOWED);
                    }
                    if self.data.contains_key(&(neighbours, name)) {
                        return Err((400, 615));
                    }
                    let destroyable = destroyable.unwrap_or(true);
                    Ok((201, Effect::Kept { name, value, destroyable }))
                };
                (post("/v1/dataObject", draft), wanted())
            }
            What::Read { name } => {
                let wanted = || {
                    if !who.may("get") {
                        return Err(NOT_ALLOWED);
                    }
                    self.data.get(&(neighbours, name)).ok_or(NO_OBJECT)?;
                    Ok((200, Effect::Data { name }))
                };
                (("GET", format!("/v1/dataObject/{}", self.in_path(name, form)), None), wanted())
            }
            What::Forget { name } => {
                let wanted = || {
                    if !who.may("delete") {
                        return Err(NOT_ALLOWED);
                    }
                    let (_, destroyable) = self.data.get(&(neighbours, name)).ok_or(NO_OBJECT)?;
                    if *destroyable { Ok((200, Effect::Forgotten { name })) } else { Err(FORBIDDEN) }
                };
                (("DELETE", format!("/v1/dataObject/{}", self.in_path(name, form)), None), wanted())
            }
            What::Odd { which } => {
                let odd = self.odd();
                let (path, body, refusal) = odd[usize::from(which) % odd.len()].clone();
                let Value::Object(members) = body else { panic!("{body}") };
                let draft = Draft { inside: "", members, required: &[], optional: &[] };
                (post(path, draft), Err(refusal))
            }
        };
        (method, path, draft, wanted)
    }

    /// Bodies that are refused whoever sends them, whatever is there.
    fn odd(&self) -> Vec<(&'static str, Value, Refusal)> {
        let create = |label: &str, change: Value| {
            let mut body = json!({"label": label, "algorithm": "EC", "curveOid": "1.2.840.10045.3.1.7",
                "attributes": {"sign": true, "destroyable": true}});
            body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
            ("/v1/key", body)
        };
        let fresh = format!("{}-odd", self.run);
        let group = json!({"name": "g", "quorum": 1, "approvals": [{"type": "public_key", "value": "AA=="}]});
        let asks = json!({"ruleUse": {"tokens": [{"name": "t", "timelock": 0, "timeout": 0, "groups": [group]}]},
            "keyStatus": {"blocked": false}});
        let private = &self.supplies[0].private;
        let import = |change: Value| {
            let mut body = json!({"label": fresh, "algorithm": "EC", "privateKey": private,
                "attributes": {"sign": true, "destroyable": true}});
            body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
            ("/v1/key/import/plain", body)
        };
        let data = |name: &str, value: &str| ("/v1/dataObject", json!({"name": name, "value": value}));
        let rows = [
            (create("", json!({})), (400, 610)),
            (create("a/1", json!({})), (400, 610)),
            (create(&"n".repeat(256), json!({})), (400, 610)),
            (create(&fresh, json!({"algorithm": "ROT13"})), VALIDATION),
            (create(&fresh, json!({"curveOid": "1.2.3"})), VALIDATION),
            (create(&fresh, json!({"algorithm": "RSA", "curveOid": "", "keySize": 2049})), (400, 603)),
            (create(&fresh, json!({"addressFormat": {"format": "BTC"}})), ADDRESS),
            (create(&fresh, json!({"policy": asks})), UNSUPPORTED),
            (create(&fresh, json!({"policy": {"ruleUse": null}})), VALIDATION),
            (create(&fresh, json!({"password": "p".repeat(1025)})), VALIDATION),
            (create(&fresh, json!({"id": "00"})), UNSUPPORTED),
            (import(json!({"privateKey": "AAAA"})), (400, 625)),
            (import(json!({"privateKey": format!("{private}\n")})), (400, 625)),
            (import(json!({"algorithm": "RSA"})), MISMATCH),
            (import(json!({"secretKey": "AAAA"})), VALIDATION),
            (import(json!({"privateKey": null, "secretKey": "AAAA", "algorithm": "AES"})), (400, 603)),
            (import(json!({"password": "x"})), UNSUPPORTED),
            (data(&fresh, ""), (400, 616)),
            (data(&fresh, "AA"), (400, 616)),
            (data("", "AA=="), VALIDATION),
        ];
        rows.into_iter().map(|((path, body), refusal)| (path, body, refusal)).collect()
    }

    /// A key that was asked for so.
    fn made(&self, kind: Kind, has: Has, policy: bool, neighbours: bool) -> Result<Key, Refusal> {
        let policy = policy && kind.is_pair();
        if policy && has.extractable == Some(true) {
            return Err((400, 606));
        }
        Ok(Key {
            kind,
            material: self.known.len(),
            neighbours,
            uses: has.uses,
            extractable: has.extractable.unwrap_or(false),
            sensitive: has.sensitive.unwrap_or(true),
            modifiable: has.modifiable.unwrap_or(true),
            destroyable: has.destroyable.unwrap_or(false),
            imported: false,
            unwrapped: false,
            size: None,
            password: "",
            policy,
            certificate: None,
            told: None,
        })
    }

    /// What an earlier call gave: of the key, or any.
    fn picked<'a, T>(
        &self,
        all: &'a [T],
        material: impl Fn(&T) -> Material,
        label: u8,
        of: u8,
    ) -> Option<&'a T> {
        let at = usize::from(of / 2);
        if of.is_multiple_of(2)
            && let Some(key) = self.keys.get(&label)
        {
            let own: Vec<_> = all.iter().filter(|one| material(one) == key.material).collect();
            if !own.is_empty() {
                return Some(own[at % own.len()]);
            }
        }
        (!all.is_empty()).then(|| &all[at % all.len()])
    }

    fn algorithm(&self, label: u8, number: u8) -> &'static str {
        const ALL: [&str; 5] =
            ["SHA256_WITH_ECDSA", "SHA384_WITH_ECDSA", "EDDSA", "SHA256_WITH_RSA", "SHA256_WITH_RSA_PSS"];
        let fits = |one: &&str| self.keys.get(&label).is_some_and(|key| key.kind == signs(one));
        one_of(&ALL, fits, number)
    }

    fn cipher(&self, label: u8, number: u8) -> &'static str {
        let fits = |one: &&str| self.keys.get(&label).is_some_and(|key| key.kind == enciphers(one));
        one_of(&["AES_GCM", "AES", "RSA_PADDING_OAEP"], fits, number)
    }

    fn method(&self, by: u8, of: u8, number: u8) -> Method {
        let is = |label: u8, kind: Kind| self.keys.get(&label).is_some_and(|key| key.kind == kind);
        one_of(&METHODS, |one| is(by, one.by()) && is(of, one.of()), number)
    }

    /// A name in a path: all of it encoded, or what has to be.
    fn in_path(&self, label: u8, form: u8) -> String {
        use percent_encoding::{AsciiSet, CONTROLS, NON_ALPHANUMERIC, utf8_percent_encode};
        const NEEDED: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'%').add(b'?').add(b'#');
        let set = if form.is_multiple_of(2) { NEEDED } else { NON_ALPHANUMERIC };
        utf8_percent_encode(&self.label(label), set).to_string()
    }
}

const METHODS: [Method; 4] = [Method::Aes, Method::PadEc, Method::PadRsa, Method::Oaep];
const AAD: &[u8] = b"beside it";

fn one_of<T: Copy>(all: &[T], fits: impl Fn(&T) -> bool, number: u8) -> T {
    let fitting: Vec<_> = all.iter().copied().filter(fits).collect();
    if number < 128 && !fitting.is_empty() {
        return fitting[usize::from(number) % fitting.len()];
    }
    all[usize::from(number) % all.len()]
}

/// Whose algorithm it is.
pub fn signs(algorithm: &str) -> Kind {
    match algorithm {
        "EDDSA" => Kind::Ed,
        rsa if rsa.contains("_RSA") => Kind::Rsa,
        _ => Kind::Ec,
    }
}

fn enciphers(cipher: &str) -> Kind {
    if cipher.starts_with("RSA") { Kind::Rsa } else { Kind::Aes }
}

fn flip(bytes: &mut [u8], at: u8) {
    let at = usize::from(at) % bytes.len();
    bytes[at] ^= 1;
}

/// A password in one of the forms that clients send; null stands for none, and is left out.
fn password(word: &str, form: u8) -> Value {
    match (word.is_empty(), form % 4) {
        (true, 0 | 1) => Value::Null,
        (true, 2) => json!(""),
        (true, _) => json!([]),
        (false, 0 | 1) => json!(word),
        (false, 2) => word.chars().map(|one| json!(one.to_string())).collect(),
        // One entry for each byte.
        (false, _) => word.bytes().map(|byte| json!(char::from(byte).to_string())).collect(),
    }
}

fn attributes(kind: Kind, has: Has) -> Value {
    let mut attributes = Map::new();
    for name in kind.uses() {
        attributes.insert((*name).into(), json!(has.uses));
    }
    for (name, value) in [
        ("extractable", has.extractable),
        ("sensitive", has.sensitive),
        ("modifiable", has.modifiable),
        ("destroyable", has.destroyable),
    ] {
        // Left out or null, by turns.
        if value.is_some() || name.len().is_multiple_of(2) {
            attributes.insert(name.into(), json!(value));
        }
    }
    Value::Object(attributes)
}

/// What published clients send with every key.
pub fn default_policy() -> Value {
    let rule = json!({"tokens": [{"name": "main", "timelock": 0, "timeout": 0, "groups": null}]});
    json!({"ruleUse": rule, "ruleBlock": rule, "ruleUnblock": rule, "ruleModify": rule, "keyStatus": {"blocked": false}})
}

/// The data that the tags of some ciphertexts protect.
pub const fn aad(has: bool) -> &'static [u8] {
    if has { AAD } else { b"" }
}
