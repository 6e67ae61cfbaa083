//! What gateway or controller and token-host say to each other: all that the two processes share.
//!
//! A frame is a `u32` length, little-endian, of what follows, a `u64` id, little-endian, and a
//! [postcard](https://postcard.jamesmunns.com/wire-format) message: a [`Request`] one way, a
//! `Result<Reply, HsmError>` with the same id back. Requests are answered in any order. The first request
//! is [`Request::Open`]; the PIN travels in it and nowhere else.
//!
//! There are two sockets, so that neither kind of work waits behind the other; [`Lane`] says what goes where.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    cipher::Job as CipherJob,
    import::{Exported, Import, Untold, Wrap},
    moment::Moment,
    probe::{Findings, Probe},
    recovery::Rung,
};
use crate::model::{
    CipherAlgorithm, KeyAlgorithm, KeyAttributes, KeyId, KeyLabel, SignatureAlgorithm,
    attributes::ResolvedAttributes,
    data::{DataAttributes, DataName, DataValue},
    derivation::DerivationPath,
    secret::{Pin, Plaintext},
    vendor::VendorNumbers,
};

/// Largest frame that is read; a payload, a key list page or a certificate is far below.
pub const FRAME_MAX: usize = 16 * 1024 * 1024;

/// How to reach one token.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Open {
    /// Path of the PKCS#11 library.
    pub library: String,
    /// Which of its tokens.
    pub token: TokenSelector,
    /// PIN of the token's user.
    pub pin: Pin,
    /// Text for `pReserved` of `C_Initialize`, which some modules are configured by.
    pub init_args: Option<String>,
    /// Sessions that sign, each on its own thread.
    pub workers: u16,
    /// Numbers of the vendor's own mechanisms.
    pub vendor: Box<VendorNumbers>,
}

/// Chooses a token. Slot numbers are the last resort: they may change when a token is initialised.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum TokenSelector {
    /// By `CK_TOKEN_INFO.label`, without trailing blanks.
    Label(String),
    /// By `CK_TOKEN_INFO.serialNumber`, without trailing blanks.
    Serial(String),
    /// By slot identifier.
    Slot(u64),
}

/// Work for the token-host.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Request {
    /// Load the module, find the token, log in. Answered by [`Reply::Opened`].
    Open(Open),
    /// Answered by [`Reply::Alive`], without touching the module.
    Ping,
    /// From now on so many sessions sign. Answered by [`Reply::Done`]; what is being signed is not disturbed.
    Workers(u16),
    /// Make a key unless one with this id exists, which is then described. Answered by [`Reply::Key`].
    Generate(KeyTemplate),
    /// The same, unless other keys have the label: then nothing is made, and they are described. One look tells of
    /// both, and nobody makes anything meanwhile. Answered by [`Reply::Key`] or [`Reply::Keys`].
    Claim(KeyTemplate),
    /// All keys with this id or label, at most [`FIND_MAX`]; several are the caller's problem to judge.
    /// Answered by [`Reply::Keys`], empty only under a proven login.
    Find(Find),
    /// Every key and certificate of the token, with what it takes to tell them apart. Answered by [`Reply::Inventory`].
    Inventory,
    /// Sign. Answered by [`Reply::Signature`], in the token's form: ECDSA is r‖s.
    Sign {
        /// The key.
        key: KeyId,
        /// What to do with the payload.
        algorithm: SignatureAlgorithm,
        /// The payload, decoded.
        payload: Bytes,
    },
    /// Destroy every object of a key: both halves and certificates under its id. Answered by [`Reply::Done`],
    /// also when there was nothing left to destroy.
    Destroy(KeyId),
    /// Random bytes from the token. Answered by [`Reply::Random`].
    Random(u32),
    /// Keep a certificate (DER) on the token under the id of its key, in place of an earlier one. Answered by
    /// [`Reply::Done`].
    PutCertificate {
        /// Id of the key that the certificate is for.
        key: KeyId,
        /// `CKA_LABEL`.
        label: String,
        /// The certificate, DER.
        der: Bytes,
    },
    /// The certificate under an id. Answered by [`Reply::Certificate`].
    GetCertificate(KeyId),
    /// Try what the token can do. Answered by [`Reply::Findings`].
    Probe(Probe),
    /// Another request, and since when it waits: what was seen of the token after that answers it.
    Since(Moment, Box<Self>),
    /// Encrypt with a secret key. Answered by [`Reply::Encrypted`].
    Encrypt(Box<CipherJob>),
    /// Decrypt with a private or secret key. Answered by [`Reply::Decrypted`]; what cannot be decrypted is
    /// [`Kind::Invalid`], whatever the reason is.
    Decrypt(Box<CipherJob>),
    /// Make the HMAC-SHA-256 of a payload. Answered by [`Reply::Hmac`].
    Hmac {
        /// The key.
        key: KeyId,
        /// The payload, decoded.
        payload: Plaintext,
    },
    /// Keep a data object, unless there is one of its name. Answered by [`Reply::DataKept`].
    PutData {
        /// Whose it is and what it is called.
        name: DataName,
        /// `CKA_VALUE`.
        value: DataValue,
        /// How it is kept.
        attributes: DataAttributes,
    },
    /// A data object. Answered by [`Reply::Data`], empty only under a proven login.
    GetData(DataName),
    /// Destroy a data object. Answered by [`Reply::DataGone`].
    DestroyData(DataName),
    /// Bring a key to the token, or the seed of one, or a public half alone, unless it is there or other keys have its id or
    /// label. Answered by [`Reply::Key`], by
    /// [`Reply::Keys`] with those that are in its place, or by [`Reply::Untold`] if its public half has to be known first.
    Import(Box<Import>),
    /// A key in plain, if it may leave the token so. Answered by [`Reply::Exported`].
    Export(KeyId),
    /// Encrypt a key by another one. Answered by [`Reply::Wrapped`].
    Wrap(Wrap),
    /// The secret that an EC key has in common with somebody's point: the x coordinate of their product, which says nothing
    /// of the key and is of use for what was encrypted with that point. Answered by [`Reply::Agreed`].
    Agree {
        /// The key.
        key: KeyId,
        /// The point, in uncompressed form. The caller has checked that it is on the key's curve.
        point: Bytes,
    },
    /// Derive a key from a master for a moment, to see its public half. Answered by [`Reply::Key`], without id.
    Derived {
        /// The master.
        master: KeyId,
        /// The way from there.
        path: DerivationPath,
    },
    /// The same, to sign with it. Answered by [`Reply::Signature`].
    SignDerived {
        /// The master.
        master: KeyId,
        /// The way from there.
        path: DerivationPath,
        /// What to do with the payload.
        algorithm: SignatureAlgorithm,
        /// The payload, decoded.
        payload: Bytes,
    },
    /// Derive a key from a master to stay, unless one with its id exists, which is then described, or other keys have the
    /// label. Answered as [`Self::Claim`].
    Derive(Box<DerivedTemplate>),
    /// Sign by ML-DSA or SLH-DSA in a context. Answered by [`Reply::Signature`].
    SignInContext {
        /// The key.
        key: KeyId,
        /// What to do with the payload.
        algorithm: SignatureAlgorithm,
        /// The context, not empty and of at most 255 bytes.
        context: Bytes,
        /// The payload, decoded.
        payload: Bytes,
    },
    /// Sign with a key that has a state (see [`KeyAlgorithm::is_stateful`]): the token is asked for the signature once at
    /// most, whatever becomes of it. Answered by [`Reply::Signature`].
    SignStateful {
        /// The key.
        key: KeyId,
        /// How.
        algorithm: SignatureAlgorithm,
        /// The payload, decoded.
        payload: Bytes,
    },
    /// Make the key that the HSM itself attests others with, unless one with this id exists, or the label is that of such a
    /// key already. Answered by [`Reply::AttestationKey`], or by [`Reply::Keys`] with other keys of that label: then nothing
    /// is made.
    AttestationKey {
        /// `CKA_ID`, for a key that is made.
        id: KeyId,
        /// `CKA_LABEL`.
        label: KeyLabel,
    },
    /// Have the HSM itself say what a key is. Answered by [`Reply::Attested`].
    Attest {
        /// The HSM's attestation key.
        by: KeyId,
        /// The key that is spoken of, private or secret.
        key: KeyId,
    },
}

/// A key to derive and keep.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DerivedTemplate {
    /// The key; its algorithm and curve are those of the master.
    pub template: KeyTemplate,
    /// The master.
    pub master: KeyId,
    /// The way from there.
    pub path: DerivationPath,
}

/// Most keys that [`Request::Find`] reports: more than one is an error, so a few are enough to name them.
pub const FIND_MAX: usize = 4;

/// What to look for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Find {
    /// By `CKA_ID`.
    Id(KeyId),
    /// By `CKA_LABEL`.
    Label(KeyLabel),
    /// The same, as far as it is known without a look at the token: that nothing is found proves nothing.
    Known(KeyLabel),
    /// By `CKA_ID`, a public key that has no private half here: what every other look-up takes for a leftover.
    Public(KeyId),
}

/// A key to make.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KeyTemplate {
    /// `CKA_ID`, fixed by the caller before the key exists.
    pub id: KeyId,
    /// `CKA_LABEL`.
    pub label: KeyLabel,
    /// Algorithm.
    pub algorithm: KeyAlgorithm,
    /// Bits, where the algorithm has sizes.
    pub key_size: Option<u32>,
    /// Curve, where the algorithm has curves; the standard identifier.
    pub curve_oid: Option<String>,
    /// Attributes, all of them explicit.
    pub attributes: ResolvedAttributes,
}

/// What came of a request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Reply {
    /// See [`Request::Open`].
    Opened(Box<TokenFacts>),
    /// It is done.
    Done,
    /// See [`Request::Ping`].
    Alive {
        /// The module is making a key of a kind that may take it minutes.
        making: bool,
        /// How long the longest of the other calls into the module that are under way has taken.
        longest: Duration,
    },
    /// See [`Request::Generate`].
    Key(Box<KeyFacts>),
    /// See [`Request::Find`].
    Keys(Vec<KeyFacts>),
    /// See [`Request::Inventory`].
    Inventory(Vec<InventoryEntry>),
    /// See [`Request::Sign`].
    Signature(Bytes),
    /// See [`Request::Random`].
    Random(Bytes),
    /// See [`Request::GetCertificate`].
    Certificate(Option<Bytes>),
    /// Asked for by nobody, the last words of a token-host, under the id [`LAST_WORDS`]: the module crashed while it
    /// worked on the request of this id. The number is little-endian and as an array, so that a signal handler can
    /// write it into a frame that was prepared before.
    Crashed([u8; 8]),
    /// Asked for by nobody, under the same id: a step was taken to bring the token back to use.
    Recovery {
        /// Which step.
        rung: Rung,
        /// What had happened, in words.
        cause: String,
    },
    /// See [`Request::Probe`].
    Findings(Box<Findings>),
    /// See [`Request::Encrypt`].
    Encrypted {
        /// The ciphertext, with the tag at its end.
        ciphertext: Bytes,
        /// The initialization vector that was used: a token may put its own in place of the request's.
        iv: Bytes,
    },
    /// See [`Request::Decrypt`].
    Decrypted(Plaintext),
    /// See [`Request::Hmac`]: 32 bytes.
    Hmac(Bytes),
    /// See [`Request::PutData`]: its attributes by the token's word; `None` where there was one of that name.
    DataKept(Option<DataAttributes>),
    /// See [`Request::GetData`].
    Data(Option<Box<DataFacts>>),
    /// See [`Request::DestroyData`]: whether there was one.
    DataGone(bool),
    /// See [`Request::Export`].
    Exported(Box<Exported>),
    /// See [`Request::Wrap`].
    Wrapped(Bytes),
    /// See [`Request::Agree`]: as many bytes as a coordinate of the curve has.
    Agreed(Plaintext),
    /// See [`Request::Import`].
    Untold(Untold),
    /// See [`Request::AttestationKey`].
    AttestationKey(Box<AttestationKey>),
    /// See [`Request::Attest`].
    Attested(Box<Attested>),
}

/// The key that an HSM attests others with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttestationKey {
    /// The key, as its token reports it. It signs nothing but attestations.
    pub facts: KeyFacts,
    /// Its certificates, as PEM one after the other: its own, the device's, the root. Nobody has checked them.
    pub chain: String,
}

/// What an HSM says of a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attested {
    /// The document.
    pub xml: Bytes,
    /// The signature over exactly these bytes; ECDSA in DER.
    pub signature: Bytes,
    /// How it was made: RSASSA-PSS or ECDSA, with SHA-256.
    pub algorithm: SignatureAlgorithm,
}

/// A data object as its token reports it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataFacts {
    /// `CKA_VALUE`.
    pub value: DataValue,
    /// How it is kept.
    pub attributes: DataAttributes,
}

/// Id of frames that answer no request; no request has it.
pub const LAST_WORDS: u64 = u64::MAX;

/// A token as it presents itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenFacts {
    /// `CK_TOKEN_INFO.label`.
    pub label: String,
    /// `CK_TOKEN_INFO.manufacturerID`.
    pub manufacturer: String,
    /// `CK_TOKEN_INFO.model`.
    pub model: String,
    /// `CK_TOKEN_INFO.serialNumber`.
    pub serial: String,
    /// `CK_TOKEN_INFO.firmwareVersion`, `major.minor`.
    pub firmware: String,
    /// `CK_INFO.libraryDescription` and version.
    pub library: String,
    /// The slot where it was found.
    pub slot: u64,
    /// What can be made and done on it, in the contract's words.
    pub capabilities: Capabilities,
}

/// What a token can do, in the contract's words, from its list of mechanisms.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// Key algorithms it generates, with the sizes it names.
    pub key_algorithms: Vec<KeyCapability>,
    /// Signature algorithms it makes, some with a digest computed outside.
    pub signature_algorithms: Vec<SignatureAlgorithm>,
    /// Ciphers for which it has the mechanism.
    pub cipher_algorithms: Vec<CipherAlgorithm>,
    /// Whether it has the mechanism for [`Request::Agree`].
    pub agreement: bool,
    /// Key algorithms of which it derives keys along a path.
    pub derived: Vec<KeyAlgorithm>,
    /// Whether the HSM itself says what its keys are, see [`Request::Attest`].
    pub attests: bool,
}

/// One key algorithm that a token generates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyCapability {
    /// The algorithm.
    pub algorithm: KeyAlgorithm,
    /// Smallest size in bits, as the token says; 0 where it says nothing useful.
    pub min_bits: u32,
    /// Largest size in bits, likewise.
    pub max_bits: u32,
}

impl Capabilities {
    /// Whether keys of `algorithm` with `bits` are generated, as far as the token's list tells.
    #[must_use]
    pub fn generates(&self, algorithm: KeyAlgorithm, bits: Option<u32>) -> bool {
        self.key_algorithms.iter().any(|row| {
            row.algorithm == algorithm
                && bits.is_none_or(|bits| row.max_bits == 0 || (row.min_bits..=row.max_bits).contains(&bits))
        })
    }

    /// A short list for a person: `RSA 512-16384, EC, AES 128-256`.
    #[must_use]
    pub fn summary(&self) -> String {
        let one = |row: &KeyCapability| match (row.min_bits, row.max_bits) {
            (_, 0) => row.algorithm.to_string(),
            (min, max) => format!("{} {min}-{max}", row.algorithm),
        };
        self.key_algorithms.iter().map(one).collect::<Vec<_>>().join(", ")
    }
}

/// A key as its token reports it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyFacts {
    /// `CKA_ID`; `None` where the token has none, so the key cannot be addressed.
    pub id: Option<KeyId>,
    /// `CKA_LABEL`, lossily where it is not UTF-8.
    pub label: String,
    /// Algorithm; `None` for a key type that the contract does not have.
    pub algorithm: Option<KeyAlgorithm>,
    /// Bits of an RSA modulus or a secret key.
    pub key_size: Option<u32>,
    /// Curve of an EC key, as object identifier.
    pub curve_oid: Option<String>,
    /// SubjectPublicKeyInfo, DER.
    pub public_key: Option<Bytes>,
    /// Attributes of the private or secret key.
    pub attributes: KeyAttributes,
    /// `CKA_LOCAL`: made on the token, not brought there.
    pub local: Option<bool>,
    /// Chain code of a key of a tree (BIP-32, SLIP-10).
    pub chain_code: Option<Bytes>,
    /// How many objects of the private or secret class carry this id; more than one is an error.
    pub twins: u32,
}

/// One line of an inventory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InventoryEntry {
    /// `CKA_ID`, empty where there is none.
    pub id: Vec<u8>,
    /// `CKA_LABEL`, lossily.
    pub label: String,
    /// What kind of object it is.
    pub class: ObjectClass,
    /// A private or secret key that is not complete: what a process that was killed while a token made a key may leave.
    pub ghost: bool,
    /// Algorithm of a private or secret key, where the contract has it.
    pub algorithm: Option<KeyAlgorithm>,
    /// Bits of an RSA modulus or a secret key.
    pub key_size: Option<u32>,
    /// Curve of an EC key, as object identifier.
    pub curve_oid: Option<String>,
    /// How well a private or secret key is kept.
    pub kept: Kept,
}

/// What of a key may be hardened after it was made, by whoever reaches its token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// `CKA_SENSITIVE`.
    pub sensitive: Option<bool>,
    /// `CKA_EXTRACTABLE`.
    pub extractable: Option<bool>,
}

impl From<&KeyAttributes> for Kept {
    fn from(attributes: &KeyAttributes) -> Self {
        Self { sensitive: attributes.sensitive, extractable: attributes.extractable }
    }
}

impl InventoryEntry {
    /// Something a caller could sign or decrypt with, once it is complete.
    #[must_use]
    pub const fn is_key(&self) -> bool {
        matches!(self.class, ObjectClass::PrivateKey | ObjectClass::SecretKey)
    }
}

/// Kinds of objects that an inventory tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, strum::IntoStaticStr)]
pub enum ObjectClass {
    /// The private half of a pair.
    PrivateKey,
    /// A secret key.
    SecretKey,
    /// The public half of a pair.
    PublicKey,
    /// A certificate.
    Certificate,
    /// The token lists it and does not say what it is.
    Unreadable,
}

/// Why a request to a token failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct HsmError {
    /// What kind of trouble it is; decides on retries and reasons.
    pub kind: Kind,
    /// The module's return value, if it was the module that refused.
    pub code: Option<u64>,
    /// A sentence for a person, with the code's name.
    pub message: String,
}

impl HsmError {
    /// An error of a kind, without a module's code.
    #[must_use]
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, code: None, message: message.into() }
    }
}

/// Kinds of trouble with a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, strum::IntoStaticStr)]
pub enum Kind {
    /// The library cannot be loaded. A person must act.
    LibraryNotLoaded,
    /// The library loads and has no such token. A person must act.
    TokenNotFound,
    /// The token is there, and its user has no PIN yet. A person must act.
    TokenNotInitialized,
    /// The token refused the PIN, which is not tried again. A person must act.
    PinRejected,
    /// The PIN is locked. A person must act.
    PinLocked,
    /// One wrong PIN more would lock it, so that none is tried. A person must act.
    PinFinalTry,
    /// No such key, under a proven login.
    KeyNotFound,
    /// Several objects claim one identity.
    Ambiguous,
    /// The token cannot do what was asked.
    Unsupported,
    /// What was asked makes no sense to the token: the caller's fault.
    Invalid,
    /// The token refuses: an attribute of the key forbids it.
    Forbidden,
    /// No room on the token.
    Full,
    /// A session, a login or a handle is gone; it is set right before the next call.
    Lost,
    /// Every worker is busy and the queue is full.
    Busy,
    /// No answer in time.
    Timeout,
    /// The token-host ended before it answered; whether the work was done is not known.
    Crashed,
    /// The library crashed on the request, and again when it was repeated. Nobody else shall try it.
    Poisonous,
    /// There is no token-host at the moment.
    Unavailable,
    /// The module failed and does not say why.
    Device,
}

/// Who has to do something about a kind of trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub enum Actor {
    /// It passes by itself.
    Nobody,
    /// Somebody who looks after the cluster or the HSM.
    Person,
    /// Whoever made the object or sent the request.
    Caller,
}

impl Kind {
    /// Who has to do something about it.
    #[must_use]
    pub const fn actor(self) -> Actor {
        match self {
            Self::LibraryNotLoaded
            | Self::TokenNotFound
            | Self::TokenNotInitialized
            | Self::PinRejected
            | Self::PinLocked
            | Self::PinFinalTry
            | Self::Ambiguous
            | Self::Full
            | Self::Poisonous => Actor::Person,
            Self::KeyNotFound | Self::Unsupported | Self::Invalid | Self::Forbidden => Actor::Caller,
            Self::Lost | Self::Busy | Self::Timeout | Self::Crashed | Self::Unavailable | Self::Device => {
                Actor::Nobody
            }
        }
    }

    /// Whether only a person can help; everything else may pass by itself.
    #[must_use]
    pub const fn needs_person(self) -> bool {
        matches!(
            self,
            Self::LibraryNotLoaded
                | Self::TokenNotFound
                | Self::TokenNotInitialized
                | Self::PinRejected
                | Self::PinLocked
                | Self::PinFinalTry
                | Self::Unsupported
        )
    }

    /// Whether the request was certainly not carried out.
    #[must_use]
    pub const fn not_done(self) -> bool {
        matches!(
            self,
            Self::LibraryNotLoaded
                | Self::TokenNotFound
                | Self::TokenNotInitialized
                | Self::PinRejected
                | Self::PinLocked
                | Self::PinFinalTry
                | Self::Busy
                | Self::Unavailable
        )
    }
}

/// Lanes of the token-host; requests of one do not wait for those of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub enum Lane {
    /// Signatures, ciphers and random bytes: over the socket on standard output, for as many threads as there are sessions.
    Sign,
    /// What changes the token; like all that follows, over the socket on standard input and on one thread.
    Change,
    /// What only looks at it, and what is no business of the module's.
    Look,
}

impl Lane {
    /// Every lane.
    pub const ALL: [Self; 3] = [Self::Sign, Self::Change, Self::Look];
}

impl Request {
    /// The lane that it belongs to.
    #[must_use]
    pub const fn lane(&self) -> Lane {
        match self {
            Self::Sign { .. } | Self::Random(_) => Lane::Sign,
            Self::Generate(_) | Self::Claim(_) | Self::Destroy(_) | Self::PutCertificate { .. } => {
                Lane::Change
            }
            Self::Find(_)
            | Self::Inventory
            | Self::GetCertificate(_)
            | Self::Probe(_)
            | Self::Open(_)
            | Self::Workers(_)
            | Self::Ping => Lane::Look,
            Self::Since(_, request) => request.lane(),
            Self::Encrypt(_) | Self::Decrypt(_) | Self::Hmac { .. } => Lane::Sign,
            Self::PutData { .. } | Self::DestroyData(_) => Lane::Change,
            Self::GetData(_) => Lane::Look,
            Self::Import(_) => Lane::Change,
            Self::Export(_) | Self::Wrap(_) => Lane::Look,
            Self::Agree { .. } | Self::Derived { .. } | Self::SignDerived { .. } => Lane::Sign,
            Self::Derive(_) => Lane::Change,
            Self::SignInContext { .. } => Lane::Sign,
            Self::SignStateful { .. } => Lane::Sign,
            Self::AttestationKey { .. } => Lane::Change,
            Self::Attest { .. } => Lane::Sign,
        }
    }

    /// Whether its frame is overwritten as soon as it was sent: it carries a key.
    #[must_use]
    pub const fn is_secret(&self) -> bool {
        match self {
            Self::Import(_) => true,
            Self::Since(_, request) => request.is_secret(),
            _ => false,
        }
    }

    /// Whether doing it twice is as good as once, so that it may be repeated after a crash.
    #[must_use]
    pub const fn repeatable(&self) -> bool {
        match self {
            Self::Ping
            | Self::Workers(_)
            | Self::Find(_)
            | Self::Inventory
            | Self::Sign { .. }
            | Self::Random(_)
            | Self::GetCertificate(_)
            | Self::Destroy(_) => true,
            // A module that does not survive a probe shall not have it again.
            Self::Open(_)
            | Self::Generate(_)
            | Self::Claim(_)
            | Self::PutCertificate { .. }
            | Self::Probe(_) => false,
            Self::Since(_, request) => request.repeatable(),
            // The initialization vector is in the request: a second time gives the same ciphertext.
            Self::Encrypt(_) | Self::Decrypt(_) | Self::Hmac { .. } => true,
            Self::GetData(_) => true,
            // The second time it would say that there is one already, or none.
            Self::PutData { .. } | Self::DestroyData(_) => false,
            Self::Import(_) => false,
            Self::Export(_) | Self::Wrap(_) => true,
            Self::Agree { .. } => true,
            Self::Derived { .. } | Self::SignDerived { .. } => true,
            Self::Derive(_) => false,
            Self::SignInContext { .. } => true,
            // The token may have signed, and the part of the key that it signed with is spent.
            Self::SignStateful { .. } => false,
            Self::AttestationKey { .. } => false,
            Self::Attest { .. } => true,
        }
    }

    /// Whether it makes a key that has a state, or signs with one: only where there is one token.
    #[must_use]
    pub const fn is_stateful(&self) -> bool {
        match self {
            Self::SignStateful { .. } => true,
            Self::Generate(template) | Self::Claim(template) => template.algorithm.is_stateful(),
            Self::Since(_, request) => request.is_stateful(),
            _ => false,
        }
    }

    /// A fixed name for metrics and logs.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Open(_) => "open",
            Self::Ping => "ping",
            Self::Workers(_) => "workers",
            Self::Generate(_) => "generate",
            Self::Claim(_) => "claim",
            Self::Find(_) => "find",
            Self::Inventory => "inventory",
            Self::Sign { .. } => "sign",
            Self::Destroy(_) => "destroy",
            Self::Random(_) => "random",
            Self::PutCertificate { .. } => "put_certificate",
            Self::GetCertificate(_) => "get_certificate",
            Self::Probe(_) => "probe",
            Self::Since(_, request) => request.name(),
            Self::Encrypt(_) => "encrypt",
            Self::Decrypt(_) => "decrypt",
            Self::Hmac { .. } => "hmac",
            Self::PutData { .. } => "put_data",
            Self::GetData(_) => "get_data",
            Self::DestroyData(_) => "destroy_data",
            Self::Import(_) => "import",
            Self::Export(_) => "export",
            Self::Wrap(_) => "wrap",
            Self::Agree { .. } => "agree",
            Self::Derived { .. } => "derived",
            Self::SignDerived { .. } => "sign_derived",
            Self::Derive(_) => "derive",
            Self::SignInContext { .. } => "sign_in_context",
            Self::SignStateful { .. } => "sign_stateful",
            Self::AttestationKey { .. } => "attestation_key",
            Self::Attest { .. } => "attest",
        }
    }
}
