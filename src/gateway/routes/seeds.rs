//! Masters of trees from a seed that is brought to a token: `POST /v1/importedKey`.
//!
//! The token makes the master, where its list has the vendor's mechanisms; no private key is computed here. Everything else
//! is as with keys that are brought in plain, see `imports`.

use axum::{Json, extract::State, http::StatusCode};
use base64::{Engine, engine::general_purpose::STANDARD};
use schemars::JsonSchema;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::{
    address_body,
    imports::{Arrival, Public},
    key_body::{self, NewKey, SignedKeyAttributes},
    policy_body,
};
use crate::{
    api::key::{AddressSpec, Source},
    gateway::{
        Shared,
        error::{ApiError, Code},
        extract::{Caller, RawBody, RequestId},
        json::{self, object},
        openapi::Document,
    },
    hsm::import::Origin,
    model::{KeyAlgorithm, KeyLabel, KeyPolicy, Password, RequestedAttributes, curve, secret::Plaintext},
};

/// What the document says of this endpoint.
pub fn document(document: &mut Document) {
    document.group("Keys");
    let import = document.post("/v1/importedKey", "importKey", "Makes a master key from a seed");
    import.takes::<SeedBody>().gives::<SignedKeyAttributes>(201, "the key").of_a_name().of_the_token();
}

/// Bytes of a seed: 128 to 512 bits.
const SEED: std::ops::RangeInclusive<usize> = 16..=64;
/// Characters of one, in base64.
const SEED_TEXT_MAX: usize = 88;

/// Body of `POST /v1/importedKey`.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SeedBody {
    label: String,
    /// 16 to 64 bytes.
    #[schemars(with = "String", extend("contentEncoding" = "base64"))]
    seed: SecretString,
    curve_oid: String,
    #[schemars(with = "Option<AddressSpec>")]
    address_format: Option<serde_json::Value>,
    #[serde(deserialize_with = "object")]
    attributes: RequestedAttributes,
    #[schemars(with = "Option<KeyPolicy>")]
    policy: Option<serde_json::Value>,
    password: Option<Password>,
}

impl SeedBody {
    /// Checks everything that can be checked without asking a token.
    pub fn checked(self) -> Result<(NewKey, Plaintext), ApiError> {
        if self.password.is_some_and(|password| !password.is_empty()) {
            // The contract has none here.
            let message = "no password is taken here: give the key one by changePassword";
            return Err(ApiError::new(Code::Unsupported, message));
        }
        let label =
            KeyLabel::new(self.label).map_err(|error| ApiError::new(Code::KeyName, error.to_string()))?;
        let seed = seed(self.seed.expose_secret())?;
        let oid = curve::meant(&self.curve_oid);
        let curve = curve::by_oid(oid).ok_or_else(|| {
            let oid: String = oid.chars().take(64).collect();
            ApiError::new(Code::Validation, format!("Unsupported Curve: '{oid}'"))
        })?;
        let algorithm = if curve.weierstrass.is_some() { KeyAlgorithm::Ec } else { KeyAlgorithm::Ed };
        // From a seed comes a master, whether or not it is said of which kind.
        let mut attributes = self.attributes;
        if attributes.bip32 != Some(true) {
            attributes.slip10 = Some(true);
        }
        key_body::is_master(&attributes, algorithm, Some(curve.oid))?;
        let policy = policy_body::read(self.policy.as_ref(), label.as_str(), algorithm, &attributes)?;
        let address_format =
            address_body::read(self.address_format.as_ref(), policy.as_ref(), algorithm, Some(curve.oid))?;
        let new = NewKey {
            label,
            master: true,
            algorithm,
            key_size: None,
            curve_oid: Some(curve.oid.to_owned()),
            attributes,
            policy,
            address_format,
            password: None,
            source: Source::Imported,
            derived_from: None,
        };
        Ok((new, seed))
    }
}

/// Decodes a seed, without leaving a copy of it anywhere.
fn seed(text: &str) -> Result<Plaintext, ApiError> {
    let length = |bytes: usize| {
        let message = format!("a seed has 16 to 64 bytes (128 to 512 bits), this one has {bytes}");
        ApiError::new(Code::Validation, message)
    };
    if text.len() > SEED_TEXT_MAX {
        return Err(length(text.len() / 4 * 3));
    }
    // Room for what decoding may take besides.
    let mut bytes = Zeroizing::new(vec![0; SEED_TEXT_MAX]);
    let count = STANDARD
        .decode_slice(text, &mut bytes)
        .map_err(|_| ApiError::new(Code::Encoding, "The 'seed' is not valid 'base64' encoded."))?;
    if SEED.contains(&count) { Ok(bytes[..count].to_vec().into()) } else { Err(length(count)) }
}

/// `POST /v1/importedKey`.
pub async fn import(
    State(state): State<Shared>,
    Caller(caller): Caller,
    RequestId(request_id): RequestId,
    RawBody(body): RawBody,
) -> Result<(StatusCode, Json<SignedKeyAttributes>), ApiError> {
    let (new, seed) = json::parse_secret::<SeedBody>(body)?.checked()?;
    let what = Arrival { operation: "import", method: Some("SEED"), new, certificate: None };
    what.may_create(&state, &caller, &request_id).await?;
    let (partition, hsm) = state.partitions.for_namespace(&caller.namespace)?;
    let origin = Origin::Seed(seed);
    let answer = what.bring(&state, &caller, &partition, hsm, Public::default(), origin).await?;
    Ok((StatusCode::CREATED, Json(answer)))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn checked(change: Value) -> Result<NewKey, (Code, String)> {
        let mut body = json!({"label": "m", "seed": STANDARD.encode([7; 32]), "curveOid": "1.3.132.0.10",
            "attributes": {"sign": true, "derive": true}});
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let read = json::parse::<SeedBody>(body.to_string().as_bytes());
        let checked = read.and_then(SeedBody::checked);
        checked.map(|(new, _)| new).map_err(|error| (error.code, error.message))
    }

    #[test]
    fn from_a_seed_comes_a_master() {
        let new = checked(json!({})).unwrap();
        assert!(new.master && new.attributes.slip10 == Some(true));
        assert_eq!((new.algorithm, new.source), (KeyAlgorithm::Ec, Source::Imported));
        let bip32 = checked(json!({"attributes": {"derive": true, "bip32": true}})).unwrap();
        assert_eq!(bip32.attributes.slip10, None);
        let ed = checked(json!({"curveOid": curve::ED25519_OID})).unwrap();
        assert_eq!(ed.algorithm, KeyAlgorithm::Ed);
        let policy = json!({"policy": {"keyStatus": {"blocked": false}}, "addressFormat": {"format": "BTC"}});
        assert!(checked(policy).unwrap().address_format.is_some());
    }

    #[test]
    fn what_is_no_seed_is_refused_and_not_repeated() {
        let of = |length: usize| json!({"seed": STANDARD.encode(vec![7; length])});
        for length in [16, 17, 33, 64] {
            assert!(checked(of(length)).is_ok(), "{length}");
        }
        for length in [0, 1, 15, 65, 66, 67, 1000] {
            assert_eq!(checked(of(length)).err().unwrap().0, Code::Validation, "{length}");
        }
        let good = STANDARD.encode([7; 32]);
        for seed in ["?".into(), good.replace('=', ""), format!("{good}\n"), good.replace('/', "_") + "A"] {
            let (code, message) = checked(json!({"seed": seed})).err().unwrap();
            assert!(code == Code::Encoding && !message.contains(&good[..8]), "{seed}: {code:?} {message}");
        }
        for (change, code) in [
            (json!({"label": ""}), Code::KeyName),
            (json!({"label": "a/b"}), Code::KeyName),
            (json!({"curveOid": "1.2.3"}), Code::Validation),
            (json!({"curveOid": curve::ED448_OID}), Code::Unsupported),
            (json!({"attributes": {}}), Code::Attributes),
            (json!({"attributes": {"derive": false, "slip10": true}}), Code::Attributes),
            (
                json!({"curveOid": curve::ED25519_OID, "attributes": {"derive": true, "bip32": true}}),
                Code::Unsupported,
            ),
            (json!({"addressFormat": {"format": "BTC"}}), Code::Address),
            (json!({"password": "x"}), Code::Unsupported),
            (json!({"attributes": null}), Code::Validation),
            (json!({"seed": 7}), Code::Validation),
        ] {
            assert_eq!(checked(change.clone()).err().unwrap().0, code, "{change}");
        }
    }
}
