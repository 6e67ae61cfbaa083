//! The address that a key is to have, in the body of a request that makes one.

use serde_json::Value;

use crate::{
    api::key::AddressSpec,
    gateway::error::{ApiError, Code},
    model::{
        KeyAlgorithm, KeyPolicy,
        address::{AddressFormat, NoAddress},
    },
};

/// Reads `addressFormat`; `None` for a key without an address.
///
/// # Errors
/// 600 where it is none, 605 where the format is unknown or not served, 630 for a key without policy, 607 for a key that
/// has no such address.
pub fn read(
    given: Option<&Value>,
    policy: Option<&KeyPolicy>,
    algorithm: KeyAlgorithm,
    curve_oid: Option<&str>,
) -> Result<Option<AddressSpec>, ApiError> {
    let Some(given) = given.filter(|given| !given.is_null()) else { return Ok(None) };
    let wrong = |message: &str| ApiError::new(Code::Validation, message);
    let given = given.as_object().ok_or_else(|| wrong("addressFormat: an object expected"))?;
    let word = given.get("format").filter(|format| !format.is_null());
    let word = word.ok_or_else(|| wrong("addressFormat.format is missing"))?;
    let word = word.as_str().ok_or_else(|| wrong("addressFormat.format: a text expected"))?;
    let format = word.parse::<AddressFormat>().map_err(|unknown| {
        let message = format!("Cryptocurrency '{}' is not supported", unknown.given);
        ApiError::new(Code::Cryptocurrency, message)
    })?;
    if policy.is_none() {
        return Err(ApiError::new(Code::Address, "only keys with a policy have an address"));
    }
    format.check(algorithm, curve_oid)?;
    Ok(Some(AddressSpec { format }))
}

impl From<NoAddress> for ApiError {
    fn from(error: NoAddress) -> Self {
        let code = match &error {
            NoAddress::Unsupported(_) => Code::Cryptocurrency,
            NoAddress::Key { .. } => Code::AlgorithmNotSupportedByKey,
        };
        Self::new(code, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const SECP256K1: &str = "1.3.132.0.10";

    #[test]
    fn what_is_no_address_is_refused_by_the_code_that_fits() {
        let policy = KeyPolicy::default();
        let ec = |given: &Value, policy| read(Some(given), policy, KeyAlgorithm::Ec, Some(SECP256K1));
        assert_eq!(ec(&Value::Null, None), Ok(None));
        assert_eq!(read(None, None, KeyAlgorithm::Ec, None), Ok(None));
        let btc = json!({"format": "BTC", "unknown": 1});
        assert_eq!(ec(&btc, Some(&policy)).unwrap().unwrap().format, AddressFormat::Btc);
        for (given, code) in [
            (json!("BTC"), Code::Validation),
            (json!(["BTC"]), Code::Validation),
            (json!({}), Code::Validation),
            (json!({"format": null}), Code::Validation),
            (json!({"format": 1}), Code::Validation),
            (json!({"format": "btc"}), Code::Cryptocurrency),
            (json!({"format": ""}), Code::Cryptocurrency),
        ] {
            for policy in [None, Some(&policy)] {
                assert_eq!(ec(&given, policy).unwrap_err().code, code, "{given}");
            }
        }
        for format in ["XLM", "IOTA"] {
            let refused = ec(&json!({"format": format}), Some(&policy)).unwrap_err();
            assert_eq!(refused.code, Code::Cryptocurrency);
            assert_eq!(refused.message, format!("Cryptocurrency '{format}' is not supported"));
        }
        let doge = ec(&json!({"format": "DOGE"}), Some(&policy)).unwrap_err();
        assert_eq!(doge.message, "Cryptocurrency 'DOGE' is not supported");
        assert_eq!(ec(&btc, None).unwrap_err().code, Code::Address);
        let p256 = read(Some(&btc), Some(&policy), KeyAlgorithm::Ec, Some("1.2.840.10045.3.1.7"));
        assert_eq!(p256.unwrap_err().code, Code::AlgorithmNotSupportedByKey);
    }
}
