//! Tries what a token can do, with keys that end with their session.
//!
//! Nothing here may change the token or disturb who else uses it: no object outlives the probe, and nobody is logged
//! out. Each trial that may leave a session in the middle of an operation has a session of its own.

mod agreement;
mod ciphers;
mod curves;
mod dsa;
mod edwards;
mod hmac;
mod rsa;
mod sessions;

use std::time::{Duration, Instant};

use cryptoki_sys::*;

use super::{
    mechanism::{self, KeyShape},
    mechanism_names, object, quirk,
    raw::{Attribute, Failure, Mechanism, Object, Session},
    token::Token,
};
use crate::{
    hsm::{
        probe::{Findings, Probe, Quirk, Speed},
        protocol::{HsmError, Kind},
    },
    model::{
        KeyAlgorithm, KeyId, SignatureAlgorithm,
        signature::{Input, Scheme},
    },
};

/// What keys of probes are called.
pub const LABEL: &str = "hsm-operator probe";

/// Tries one thing. `Err` where the token did not even get so far. Whoever asks has all objects to itself, except for
/// [`Probe::Sessions`], which takes long and sees to that itself.
pub fn run(token: &Token, probe: Probe) -> Result<Findings, HsmError> {
    match probe {
        Probe::Token => list(token),
        Probe::EllipticCurves => curves::probe(token),
        Probe::Edwards => edwards::probe(token),
        Probe::Rsa => rsa::probe(token),
        Probe::Hmac => hmac::probe(token),
        Probe::Dsa => dsa::probe(token),
        Probe::Ciphers => ciphers::probe(token),
        Probe::Agreement => agreement::probe(token),
        Probe::Sessions => sessions::probe(token),
    }
}

fn list(token: &Token) -> Result<Findings, HsmError> {
    let mut names: Vec<_> = token.mechanisms.iter().map(|number| mechanism_names::name(*number)).collect();
    names.sort_unstable();
    let mut quirks = quirk::known(&token.facts);
    let derived: Vec<_> = token.facts.capabilities.derived.iter().map(ToString::to_string).collect();
    if !derived.is_empty() {
        let value = format!("SLIP-10 of {}", derived.join(" and "));
        quirks.push(Quirk::usual("keyDerivation", value, "keys are derived on the token, along a path"));
    }
    if token.facts.capabilities.attests {
        const MEANS: &str = "the HSM says itself what its keys are, unless attestation.mode is Software";
        quirks.push(Quirk::usual("keyAttestation", "offered by the HSM", MEANS));
    }
    if has(token, CKM_ECDSA) {
        const MEANS: &str = "the operator hashes, and the token signs the digest";
        let missing = mechanism::without_hashed_ecdsa(&token.mechanisms);
        quirks.push(match missing.as_slice() {
            [] => Quirk::usual("hashedEcdsa", "all", MEANS),
            missing if has(token, CKM_ECDSA_SHA256) => {
                let names: Vec<_> =
                    missing.iter().map(|hash| format!("{hash:?}").replace('_', "-")).collect();
                Quirk::odd("hashedEcdsa", format!("not with {}", names.join(", ")), MEANS)
            }
            _ => Quirk::odd("hashedEcdsa", "none", MEANS),
        });
    }
    Ok(Findings { mechanisms: names, limits: Some(token.limits()?), quirks, ..Findings::default() })
}

fn has(token: &Token, mechanism: CK_MECHANISM_TYPE) -> bool {
    token.mechanisms.contains(&mechanism)
}

/// Both halves of a key pair that ends with the session that it was made in.
struct Pair {
    public: Object,
    private: Object,
}

impl Pair {
    /// Makes one, with what is particular to the algorithm.
    fn make(
        session: &Session,
        mechanism: CK_MECHANISM_TYPE,
        specific: &[Attribute],
    ) -> Result<Self, Failure> {
        let public = common(CKO_PUBLIC_KEY).into_iter().chain([Attribute::bool(CKA_VERIFY, true)]);
        let public: Vec<_> = public.chain(specific.iter().cloned()).collect();
        let private = common(CKO_PRIVATE_KEY).into_iter().chain([
            Attribute::bool(CKA_SIGN, true),
            Attribute::bool(CKA_SENSITIVE, true),
            Attribute::bool(CKA_EXTRACTABLE, false),
        ]);
        let private: Vec<_> = private
            .chain(specific.iter().find(|attribute| attribute.kind == CKA_KEY_TYPE).cloned())
            .collect();
        let (public, private) = session.generate_pair(&Mechanism::plain(mechanism), &public, &private)?;
        Ok(Self { public, private })
    }
}

/// Attributes of every object of a probe.
fn common(class: CK_OBJECT_CLASS) -> Vec<Attribute> {
    vec![
        Attribute::number(CKA_CLASS, class),
        Attribute::bool(CKA_TOKEN, false),
        Attribute::bool(CKA_PRIVATE, class != CKO_PUBLIC_KEY),
        // Nobody shall take it for a key that is wanted.
        Attribute::bytes(CKA_ID, KeyId::for_purpose("probe").as_bytes()),
        Attribute::bytes(CKA_LABEL, LABEL),
    ]
}

/// Whether the token refuses something for good, as far as a code tells.
const fn refuses(error: &HsmError) -> bool {
    matches!(error.kind, Kind::Unsupported | Kind::Invalid | Kind::Forbidden)
}

/// A failure that says something of the token; one that only says that a session was lost ends the probe.
fn settled(failure: Failure) -> Result<HsmError, HsmError> {
    let error = HsmError::from(failure);
    if error.kind == Kind::Lost { Err(error) } else { Ok(error) }
}

/// Why something was not found out, in a word.
fn word(error: &HsmError) -> &str {
    error.message.split(": ").next().unwrap_or_default()
}

/// Algorithms that the token's list promises and that it refuses with this key.
fn refuted(token: &Token, session: &Session, key: Object, shape: KeyShape) -> Vec<SignatureAlgorithm> {
    let promised = token.facts.capabilities.signature_algorithms.iter().copied();
    let refused = |algorithm: &SignatureAlgorithm| {
        // It is for keys on one curve alone, and the key of this trial need not be on it.
        if algorithm.row().scheme == Scheme::SchnorrBip340 {
            return false;
        }
        let payload = match algorithm.row().input {
            Input::Digest(hash) => hash.digest(b"probe"),
            Input::Message(_) => b"probe".to_vec(),
            Input::Bytes => vec![0x5a; 32],
        };
        // A key of another type is no refusal of the token's.
        let Ok((mechanism, data)) = mechanism::plan(*algorithm, shape, &token.mechanisms, &payload) else {
            return false;
        };
        session.sign(&mechanism, key, &data).is_err_and(|failure| refuses(&failure.into()))
    };
    promised.filter(refused).collect()
}

/// What of a list of algorithms a person needs to know.
fn refusals(refuted: &[SignatureAlgorithm]) -> Option<Quirk> {
    const MEANS: &str = "the token's list of mechanisms promises them and the token refuses them";
    let names: Vec<_> = refuted.iter().map(|algorithm| algorithm.name()).collect();
    (!names.is_empty()).then(|| Quirk::odd("refusedSignatures", names.join(", "), MEANS))
}

/// A key type that the list promises and that is not made, although the token makes keys that end with a session.
fn refuted_key(token: &Token, error: &HsmError, algorithm: KeyAlgorithm) -> Vec<KeyAlgorithm> {
    let for_good = error.kind == Kind::Unsupported || object::curve_refused(algorithm, error);
    let others = || {
        let key = [
            Attribute::number(CKA_KEY_TYPE, CKK_AES),
            Attribute::number(CKA_VALUE_LEN, 32),
            Attribute::bool(CKA_ENCRYPT, true),
        ];
        let key: Vec<_> = common(CKO_SECRET_KEY).into_iter().chain(key).collect();
        let session = token.session()?;
        Ok::<_, HsmError>(session.generate_key(&Mechanism::plain(CKM_AES_KEY_GEN), &key)?)
    };
    if for_good && others().is_ok() { vec![algorithm] } else { Vec::new() }
}

/// The median of a few signatures.
fn speed(session: &Session, mechanism: &Mechanism, key: Object, data: &[u8], name: &str) -> Option<Speed> {
    const MOST: usize = 15;
    const ENOUGH: Duration = Duration::from_millis(100);
    let mut times = Vec::with_capacity(MOST);
    let begun = Instant::now();
    // The first one may have to wake something up.
    session.sign(mechanism, key, data).ok()?;
    while times.len() < MOST && (times.len() < 3 || begun.elapsed() < ENOUGH) {
        let begun = Instant::now();
        session.sign(mechanism, key, data).ok()?;
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    let microseconds = u32::try_from(times[times.len() / 2].as_micros()).ok()?;
    Some(Speed { key: name.into(), microseconds })
}

/// Whether the module says before a signature how long it will be.
fn signature_size(token: &Token, mechanism: &Mechanism, key: Object, data: &[u8]) -> Result<Quirk, HsmError> {
    const NAME: &str = "signatureSizes";
    const MEANS: &str = "nobody asks: there is room for any signature";
    // A module may take the question for the end of the operation.
    Ok(match token.session()?.sign_asking(mechanism, key, data) {
        Ok((said, signature)) if said == signature.len() => Quirk::usual(NAME, "right", MEANS),
        Ok((said, signature)) if said > signature.len() => {
            Quirk::usual(NAME, format!("says {said} for {}", signature.len()), MEANS)
        }
        Ok((said, signature)) => Quirk::odd(NAME, format!("says {said} for {}", signature.len()), MEANS),
        Err(failure) => Quirk::not_probed(NAME, word(&failure.into()), MEANS),
    })
}
