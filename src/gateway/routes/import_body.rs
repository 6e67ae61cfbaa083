//! Body of the endpoint that takes keys in plain.

use base64::{Engine, engine::general_purpose::STANDARD};
use schemars::JsonSchema;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::{address_body, key_body::NewKey, policy_body};
use crate::{
    api::{
        certificate::CertificateSpec,
        key::{AddressSpec, Source},
    },
    gateway::{
        error::{ApiError, Code},
        json::object_or_none,
    },
    key_material::{self, Key, Unreadable},
    model::{KeyAlgorithm, KeyLabel, KeyPolicy, Password, RequestedAttributes, algorithm::InvalidParameter},
    public_key::PublicKey,
    service::certificate::Chain,
};

/// Most characters of a member that carries a key: RSA-8192 in PKCS #8 has half as many.
const KEY_MAX: usize = 16 * 1024;

/// Body of `POST /v1/key/import/plain`.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "KeyImport")]
pub struct ImportBody {
    label: String,
    #[schemars(with = "KeyAlgorithm")]
    algorithm: String,
    /// PKCS #8, or PKCS #1 of an RSA key.
    #[schemars(with = "Option<String>", extend("contentEncoding" = "base64"))]
    private_key: Option<SecretString>,
    /// SubjectPublicKeyInfo, of the private key.
    #[schemars(extend("contentEncoding" = "base64"))]
    public_key: Option<String>,
    /// Of the private key, in the place of `publicKey`.
    certificate: Option<String>,
    /// The bytes of a secret key, in the place of `privateKey`.
    #[schemars(with = "Option<String>", extend("contentEncoding" = "base64"))]
    secret_key: Option<SecretString>,
    #[schemars(with = "Option<AddressSpec>")]
    address_format: Option<serde_json::Value>,
    #[serde(default, deserialize_with = "object_or_none")]
    attributes: Option<RequestedAttributes>,
    #[schemars(with = "Option<KeyPolicy>")]
    policy: Option<serde_json::Value>,
    /// Not taken here, unless it is empty.
    password: Option<Password>,
}

/// What is brought of a key.
pub enum Brought {
    /// The private or secret key.
    Key(Key),
    /// Nothing but the public half.
    Public(PublicKey),
}

/// A key to bring to a token, checked.
pub struct Checked {
    /// How it is to be there.
    pub new: NewKey,
    /// What is brought of it.
    pub brought: Brought,
    /// The certificate that came with it.
    pub certificate: Option<CertificateSpec>,
}

impl ImportBody {
    /// Checks everything that can be checked without asking a token.
    pub fn checked(self) -> Result<Checked, ApiError> {
        let bad = |message: &str| ApiError::new(Code::Validation, message);
        if self.password.as_ref().is_some_and(|password| !password.is_empty()) {
            // The contract has none here.
            let message = "no password is taken here: give the key one by changePassword";
            return Err(ApiError::new(Code::Unsupported, message));
        }
        let label = KeyLabel::new(self.label.as_str())
            .map_err(|error| ApiError::new(Code::KeyName, error.to_string()))?;
        let algorithm = self
            .algorithm
            .parse::<KeyAlgorithm>()
            .map_err(|error| ApiError::new(Code::Validation, format!("Unsupported algorithm: {error}")))?;
        if self.public_key.is_some() && self.certificate.is_some() {
            return Err(bad("publicKey and certificate exclude each other"));
        }
        let key = match (&self.private_key, &self.secret_key) {
            (Some(_), Some(_)) => return Err(bad("privateKey and secretKey exclude each other")),
            (None, Some(_)) if self.public_key.is_some() || self.certificate.is_some() => {
                return Err(bad("secretKey excludes publicKey and certificate"));
            }
            (Some(text), None) => key_material::private_key(&decoded("privateKey", text.expose_secret())?)?,
            (None, Some(text)) => {
                let bytes = decoded("secretKey", text.expose_secret())?;
                key_material::secret_key(algorithm, bytes.to_vec().into())?
            }
            (None, None) if self.public_key.is_some() || self.certificate.is_some() => {
                return self.public(label, algorithm);
            }
            (None, None) => return Err(bad("privateKey or secretKey is missing")),
        };
        if key.algorithm != algorithm {
            let message = format!("the privateKey is of type {}, not {algorithm}", key.algorithm);
            return Err(ApiError::new(Code::AlgorithmNotSupportedByKey, message));
        }
        let mut key = key;
        let certificate = beside(&mut key, self.public_key.as_deref(), self.certificate.as_deref())?;
        let attributes = self.attributes.ok_or_else(|| bad("attributes is missing"))?;
        no_master(&attributes)?;
        let policy = policy_body::read(self.policy.as_ref(), label.as_str(), algorithm, &attributes)?;
        let address_format = address_body::read(
            self.address_format.as_ref(),
            policy.as_ref(),
            algorithm,
            key.curve_oid.as_deref(),
        )?;
        let new = NewKey {
            label,
            algorithm,
            key_size: key.key_size,
            curve_oid: key.curve_oid.clone(),
            attributes,
            policy,
            address_format,
            password: None,
            source: Source::Imported,
            derived_from: None,
            master: false,
        };
        Ok(Checked { new, brought: Brought::Key(key), certificate })
    }

    /// A public key or certificate that comes alone.
    fn public(self, label: KeyLabel, algorithm: KeyAlgorithm) -> Result<Checked, ApiError> {
        let (public, certificate) = match (&self.public_key, &self.certificate) {
            (Some(text), _) => (spki(text)?, None),
            (None, text) => {
                let der = certificate_der(text.as_deref().unwrap_or_default())?;
                let public = Chain::key_of(&der)?;
                let chain = Chain::from_der(der, &public)?;
                (public, Some(CertificateSpec { pem: Some(chain.pem()), self_signed: None }))
            }
        };
        if public.algorithm() != algorithm {
            let message = format!("the public key is of type {}, not {algorithm}", public.algorithm());
            return Err(ApiError::new(Code::AlgorithmNotSupportedByKey, message));
        }
        if !matches!(algorithm, KeyAlgorithm::Rsa | KeyAlgorithm::Ec | KeyAlgorithm::Ed) {
            let message =
                format!("a public key of type {algorithm} is not kept alone: RSA, EC and ED keys are");
            return Err(ApiError::new(Code::Unsupported, message));
        }
        if let Some(asked) = &self.attributes {
            no_master(asked)?;
        }
        let attributes = public_attributes(self.attributes, algorithm);
        if policy_body::read(self.policy.as_ref(), label.as_str(), algorithm, &attributes)?.is_some() {
            // As with symmetric keys: clients send one with every key, and this asks nobody.
            tracing::warn!(%label, "the policy of a public key alone is ignored");
        }
        let curve = public.curve().map(|curve| curve.oid);
        address_body::read(self.address_format.as_ref(), None, algorithm, curve)?;
        let new = NewKey {
            label,
            algorithm,
            key_size: (algorithm == KeyAlgorithm::Rsa).then(|| public.bits()),
            curve_oid: curve.map(str::to_owned),
            attributes,
            policy: None,
            address_format: None,
            password: None,
            source: Source::ImportedPublic,
            derived_from: None,
            master: false,
        };
        Ok(Checked { new, brought: Brought::Public(public), certificate })
    }
}

/// What a public key alone may do: what public keys do, unless it is said otherwise. What is said of the private half is about
/// nothing that is here. Of a key without attributes nothing is lost when it is destroyed.
pub fn public_attributes(asked: Option<RequestedAttributes>, algorithm: KeyAlgorithm) -> RequestedAttributes {
    let destroyable = asked.is_none().then_some(true);
    let asked = asked.unwrap_or_default();
    let rsa = algorithm == KeyAlgorithm::Rsa;
    RequestedAttributes {
        verify: asked.verify.or(Some(true)),
        encrypt: asked.encrypt.or(Some(rsa)),
        wrap: asked.wrap.or(Some(rsa)),
        destroyable: asked.destroyable.or(destroyable),
        modifiable: asked.modifiable,
        copyable: asked.copyable,
        ..RequestedAttributes::default()
    }
}

fn spki(text: &str) -> Result<PublicKey, ApiError> {
    PublicKey::from_spki(&decoded("publicKey", text)?)
        .map_err(|error| ApiError::new(Code::KeyEncoding, format!("publicKey: {error}")))
}

fn certificate_der(text: &str) -> Result<Vec<u8>, ApiError> {
    let der = decoded("certificate", text);
    der.map(|der| der.to_vec()).map_err(|error| ApiError { code: Code::CertificateEncoding, ..error })
}

/// Refuses to bring the master of a tree of keys: what is brought has no chain code.
pub(super) fn no_master(attributes: &RequestedAttributes) -> Result<(), ApiError> {
    if attributes.bip32 == Some(true) || attributes.slip10 == Some(true) {
        let message = "a key that is brought is no master of others: leave bip32 and slip10 out";
        return Err(ApiError::new(Code::Unsupported, message));
    }
    Ok(())
}

/// What came with a private key has to be of it. Returns the certificate.
fn beside(
    key: &mut Key,
    public_key: Option<&str>,
    certificate: Option<&str>,
) -> Result<Option<CertificateSpec>, ApiError> {
    if let Some(text) = public_key {
        let given = spki(text)?;
        if key.public.as_ref().or(key.claimed.as_ref()).is_some_and(|own| *own != given) {
            return Err(ApiError::new(Code::KeyEncoding, "the publicKey does not belong to the privateKey"));
        }
        // Where it cannot be known before, the token's signatures tell.
        key.claimed = Some(given);
    }
    let Some(text) = certificate else { return Ok(None) };
    let Some(public) = key.public.as_ref().or(key.claimed.as_ref()) else {
        let message = "a certificate cannot come with a key on this curve: import it when the key is there";
        return Err(ApiError::new(Code::Unsupported, message));
    };
    let chain = Chain::from_der(certificate_der(text)?, public)?;
    Ok(Some(CertificateSpec { pem: Some(chain.pem()), self_signed: None }))
}

/// The words around PEM that are passed over, as the contract has it.
const ARMOUR: [&str; 3] = ["PRIVATE KEY", "PUBLIC KEY", "CERTIFICATE"];

/// Decodes a member, without leaving a copy of it anywhere.
fn decoded(member: &str, text: &str) -> Result<Zeroizing<Vec<u8>>, ApiError> {
    if text.len() > KEY_MAX {
        let message = format!("the '{member}' has {} characters and at most {KEY_MAX} are taken", text.len());
        return Err(ApiError::new(Code::KeyEncoding, message));
    }
    let inside = |text: &'_ str| -> std::ops::Range<usize> {
        let mut range = 0..text.len();
        for word in ARMOUR {
            let (begin, end) = (format!("-----BEGIN {word}-----"), format!("-----END {word}-----"));
            if text[range.clone()].starts_with(&begin) {
                range.start += begin.len();
            }
            if text[range.clone()].ends_with(&end) {
                range.end -= end.len();
            }
        }
        range
    };
    let text = &text[inside(text)];
    let mut bytes = Zeroizing::new(vec![0; text.len() / 4 * 3 + 3]);
    match STANDARD.decode_slice(text, &mut bytes) {
        Ok(length) if length > 0 => {
            bytes.truncate(length);
            Ok(bytes)
        }
        _ => {
            let message =
                format!("The '{member}' is not valid 'base64' encoded: it takes the DER in one line");
            Err(ApiError::new(Code::KeyEncoding, message))
        }
    }
}

impl From<Unreadable> for ApiError {
    fn from(error: Unreadable) -> Self {
        let code = match &error {
            Unreadable::Curve(_) | Unreadable::Kind(_) => Code::Validation,
            Unreadable::Size(InvalidParameter::Size { .. }) | Unreadable::SecretLength { .. } => {
                Code::KeySize
            }
            Unreadable::Size(_) => Code::Validation,
            Unreadable::Algorithm(_) => Code::AlgorithmNotSupportedByKey,
            Unreadable::Primes => Code::Unsupported,
            Unreadable::Der
            | Unreadable::Encrypted
            | Unreadable::Parameters(_)
            | Unreadable::Inside(_)
            | Unreadable::ScalarLength { .. }
            | Unreadable::Numbers
            | Unreadable::OtherPublic
            | Unreadable::Public(_) => Code::KeyEncoding,
        };
        Self::new(code, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_pem_are_passed_over_and_nothing_else_is() {
        for word in ARMOUR {
            let text = format!("-----BEGIN {word}-----AAEC-----END {word}-----");
            assert_eq!(decoded("x", &text).unwrap().as_slice(), [0, 1, 2], "{word}");
        }
        assert_eq!(decoded("x", "AAEC").unwrap().as_slice(), [0, 1, 2]);
        for bad in [
            "",
            "AAE",
            "AAEC\n",
            "AA EC",
            "AAEC====",
            "-----BEGIN PRIVATE KEY-----",
            "-----BEGIN PRIVATE KEY-----\nAAEC\n-----END PRIVATE KEY-----",
            "-----BEGIN RSA PRIVATE KEY-----AAEC-----END RSA PRIVATE KEY-----",
            "-----END PRIVATE KEY-----AAEC",
            "AA-_",
        ] {
            let error = decoded("privateKey", bad).unwrap_err();
            assert!(
                error.code == Code::KeyEncoding && error.message.contains("'privateKey'"),
                "{bad}: {error}"
            );
        }
    }
}
