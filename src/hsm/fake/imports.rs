//! Keys that the fake takes and gives away.

use aws_lc_rs::{
    digest,
    key_wrap::{AES_128, AES_256, AesKek, KeyWrap, KeyWrapPadded},
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair},
};
use der::{
    Decode, Encode,
    asn1::{ObjectIdentifier, OctetStringRef},
};
use pkcs8::PrivateKeyInfoRef;
use sec1::EcPrivateKey;

use super::{
    super::{
        import::{Exported, Import, Origin, SIGNED, Untold, Wrap, Wrapped},
        protocol::{HsmError, KeyFacts, Kind, Reply},
    },
    Inner, Stored,
    keys::{Private, broken, unsupported},
    reported,
};
use crate::model::{
    KeyAlgorithm, KeyAttributes, KeyId, SignatureAlgorithm, material::Material, secret::Plaintext,
    wrap::Wrapping,
};

const P256: &str = "1.2.840.10045.3.1.7";

impl Inner {
    pub(super) fn import(&mut self, job: Import) -> Result<Reply, HsmError> {
        let Import { template, public_key, origin } = job;
        let labelled = |key: &&Stored| key.facts.label == template.label.as_str();
        let others: Vec<_> = self.keys.iter().filter(labelled).map(|key| key.facts.clone()).collect();
        if let Some(known) = self.find(&template.id) {
            let same = known.facts.public_key.is_some() && known.facts.public_key == public_key;
            let facts = known.facts.clone();
            return Ok(if same { Reply::Key(Box::new(facts)) } else { Reply::Keys(vec![facts]) });
        }
        if !others.is_empty() {
            return Ok(Reply::Keys(others));
        }
        let material = match origin {
            Origin::Plain(material) => material,
            Origin::Wrapped(wrapped) => self.unwrapped(&wrapped)?,
            Origin::Seed(_) => return Err(unsupported("way to make a key from a seed")),
            Origin::Derived { .. } => return Err(unsupported("trees")),
            Origin::Public => return Err(unsupported("place for a public key alone")),
        };
        let key_size = match &material {
            Material::Secret(bytes) if template.algorithm == KeyAlgorithm::Aes => {
                u32::try_from(8 * bytes.expose().len()).ok()
            }
            _ => template.key_size,
        };
        let private = private(&material, template.algorithm)?;
        let curve_oid =
            template.curve_oid.or_else(|| matches!(private, Private::Ec { .. }).then(|| P256.into()));
        if let (Private::Ec { .. }, None, Some(curve)) = (&private, &public_key, &curve_oid) {
            let sign =
                |text: &[u8; 20]| private.sign(SignatureAlgorithm::NoneWithEcdsa, text).map(Into::into);
            let signatures = SIGNED.into_iter().map(sign).collect::<Result<_, _>>()?;
            return Ok(Reply::Untold(Untold { curve_oid: curve.clone(), signatures }));
        }
        let attributes = KeyAttributes {
            always_sensitive: Some(false),
            never_extractable: Some(false),
            ..reported(&template.attributes)
        };
        let facts = KeyFacts {
            id: Some(template.id),
            label: template.label.into(),
            algorithm: Some(template.algorithm),
            key_size,
            curve_oid,
            public_key,
            attributes,
            local: Some(false),
            chain_code: None,
            twins: 1,
        };
        self.keys.push(Stored {
            facts: facts.clone(),
            may_sign: template.attributes.sign,
            may_encrypt: template.attributes.encrypt,
            destroyable: template.attributes.destroyable,
            private,
            material: Some(material),
        });
        Ok(Reply::Key(Box::new(facts)))
    }

    /// Only of keys that were imported, and secret ones.
    fn material(&self, id: &KeyId) -> Result<(&Stored, Material), HsmError> {
        let key = self.find(id).ok_or_else(|| HsmError::new(Kind::KeyNotFound, format!("no key {id}")))?;
        let material = match (&key.material, &key.private) {
            (Some(material), _) => material.clone(),
            (None, Private::Secret(bytes)) => Material::Secret(bytes.clone().into()),
            _ => return Err(unsupported("way to tell a key that it made itself")),
        };
        Ok((key, material))
    }

    pub(super) fn export(&self, id: &KeyId) -> Result<Reply, HsmError> {
        let (key, material) = self.material(id)?;
        if key.facts.attributes.extractable != Some(true) || key.facts.attributes.sensitive != Some(false) {
            return Err(HsmError::new(Kind::Forbidden, "the key does not leave its token in plain"));
        }
        Ok(Reply::Exported(Box::new(Exported { facts: key.facts.clone(), material })))
    }

    pub(super) fn wrap(&self, job: &Wrap) -> Result<Reply, HsmError> {
        let (by, (key, of)) = (self.secret(&job.by)?, self.material(&job.key)?);
        if key.facts.attributes.extractable != Some(true) {
            return Err(HsmError::new(Kind::Forbidden, "CKR_KEY_UNEXTRACTABLE: the key is not extractable"));
        }
        let bytes = match of {
            Material::Secret(bytes) => bytes,
            Material::Scalar(scalar) if key.facts.algorithm == Some(KeyAlgorithm::Ec) => {
                pkcs8(scalar.expose()).map_err(broken)?.into()
            }
            _ => return Err(unsupported("way to wrap such a pair")),
        };
        let mut out = vec![0; bytes.expose().len() + 16];
        let length = match job.method.row().wrapping {
            Wrapping::Kw => kek(&by)?.wrap(bytes.expose(), &mut out).map_err(broken)?.len(),
            Wrapping::Kwp => kek(&by)?.wrap_with_padding(bytes.expose(), &mut out).map_err(broken)?.len(),
            Wrapping::Pkcs1 | Wrapping::Oaep => return Err(unsupported(job.method)),
        };
        out.truncate(length);
        Ok(Reply::Wrapped(out.into()))
    }

    fn unwrapped(&self, job: &Wrapped) -> Result<Material, HsmError> {
        let by = self.secret(&job.by)?;
        let bad = |_| HsmError::new(Kind::Invalid, "the wrapped key cannot be unwrapped");
        let mut out = vec![0; job.data.len() + 16];
        let length = match job.method.row().wrapping {
            Wrapping::Kw => kek(&by)?.unwrap(&job.data, &mut out).map_err(bad)?.len(),
            Wrapping::Kwp => kek(&by)?.unwrap_with_padding(&job.data, &mut out).map_err(bad)?.len(),
            Wrapping::Pkcs1 | Wrapping::Oaep => return Err(unsupported(job.method)),
        };
        out.truncate(length);
        if job.method.row().of == KeyAlgorithm::Ec {
            let info = PrivateKeyInfoRef::try_from(&out[..]).map_err(broken)?;
            let key = EcPrivateKey::from_der(info.private_key.as_bytes()).map_err(broken)?;
            return Ok(Material::Scalar(key.private_key.to_vec().into()));
        }
        Ok(Material::Secret(out.into()))
    }

    fn secret(&self, id: &KeyId) -> Result<Plaintext, HsmError> {
        match self.material(id)?.1 {
            Material::Secret(bytes) => Ok(bytes),
            _ => Err(unsupported("way to wrap with a pair")),
        }
    }
}

/// Of a key on P-256.
fn pkcs8(scalar: &[u8]) -> der::Result<Vec<u8>> {
    let inside = EcPrivateKey { private_key: scalar, parameters: None, public_key: None }.to_der()?;
    let curve = ObjectIdentifier::new_unwrap(P256);
    let oid = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
    let algorithm = spki::AlgorithmIdentifierRef { oid, parameters: Some((&curve).into()) };
    PrivateKeyInfoRef::new(algorithm, OctetStringRef::new(&inside)?).to_der()
}

fn kek(bytes: &Plaintext) -> Result<AesKek, HsmError> {
    let cipher = if bytes.expose().len() == 16 { &AES_128 } else { &AES_256 };
    AesKek::new(cipher, bytes.expose()).map_err(broken)
}

fn private(material: &Material, algorithm: KeyAlgorithm) -> Result<Private, HsmError> {
    match (material, algorithm) {
        (Material::Secret(bytes), _) => Ok(Private::Secret(bytes.expose().to_vec())),
        (Material::Scalar(seed), KeyAlgorithm::Ed) => {
            Ok(Private::Ed(Ed25519KeyPair::from_seed_unchecked(seed.expose()).map_err(broken)?))
        }
        (Material::Scalar(scalar), KeyAlgorithm::Ec) => {
            let key = EcPrivateKey { private_key: scalar.expose(), parameters: None, public_key: None };
            let key = key.to_der().map_err(broken)?;
            let pair = EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_FIXED_SIGNING, &key);
            Ok(Private::Ec { pair: pair.map_err(broken)?, digest: &digest::SHA256 })
        }
        _ => Err(unsupported(format_args!("way to take {algorithm} keys"))),
    }
}
