//! Bodies of the certificate endpoints.

use std::{fmt::Display, str::FromStr};

use base64::{Engine, engine::general_purpose::STANDARD};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use x509_cert::name::Name;

use crate::{
    gateway::{
        error::{ApiError, Code},
        json,
    },
    model::{
        Password,
        certificate::{CertificateAlgorithm, ExtendedKeyUsage, KeyUsage, Subject},
    },
    service::certificate::{self, Chain, Error, Usages, armour, attached::Missing},
};

/// Body of the endpoints that have a key sign: tables E, F and G of the contract, which differ in what they need.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "CertificateBody")]
pub struct SignBody {
    sign_key_name: String,
    key_password: Option<Password>,
    signature_algorithm: CertificateAlgorithm,
    /// In days.
    validity: Option<i64>,
    #[serde(default, deserialize_with = "json::object_or_none")]
    standard_certificate_attributes: Option<Subject>,
    common_name: Option<String>,
    certificate_authority: Option<bool>,
    #[schemars(with = "Option<Vec<KeyUsage>>")]
    key_usage: Option<Words<KeyUsage>>,
    #[schemars(with = "Option<Vec<ExtendedKeyUsage>>")]
    extended_key_usage: Option<Words<ExtendedKeyUsage>>,
    /// PEM.
    certificate_signing_request: Option<String>,
}

/// A list of words. Published clients join them with commas into one string, and send `[""]` for none.
struct Words<T>(Vec<T>);

impl<'de, T> Deserialize<'de> for Words<T>
where
    T: FromStr,
    T::Err: Display,
{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let texts = Vec::<String>::deserialize(deserializer)?;
        let words =
            texts.iter().flat_map(|text| text.split(',')).map(str::trim).filter(|word| !word.is_empty());
        words.map(|word| word.parse().map_err(serde::de::Error::custom)).collect::<Result<_, _>>().map(Self)
    }
}

/// What is to be signed, checked.
pub struct Wanted {
    pub key: String,
    pub password: Option<Password>,
    pub algorithm: CertificateAlgorithm,
    pub subject: Name,
    pub usages: Usages,
    pub days: u32,
    /// The request that is answered by a certificate.
    pub request: Option<String>,
}

impl SignBody {
    /// Checks everything that can be checked without the key.
    pub fn checked(self) -> Result<Wanted, ApiError> {
        let mut subject = self.standard_certificate_attributes.unwrap_or_default();
        // The older clients send the name alone.
        if subject.common_name.as_ref().is_none_or(|name| name.trim().is_empty()) {
            subject.common_name = self.common_name;
        }
        Ok(Wanted {
            key: self.sign_key_name,
            password: self.key_password,
            algorithm: self.signature_algorithm,
            subject: certificate::name(&subject)?,
            usages: Usages {
                key: self.key_usage.map(|words| words.0).unwrap_or_default(),
                extended: self.extended_key_usage.map(|words| words.0).unwrap_or_default(),
                authority: self.certificate_authority.unwrap_or_default(),
            },
            days: certificate::days(self.validity)?,
            request: self.certificate_signing_request,
        })
    }
}

/// Answer of `POST /v1/certificate/synchronous/request`.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RequestAnswer {
    label: String,
    certificate_signing_request: String,
    /// The same: one client looks for it here.
    csr: String,
}

impl RequestAnswer {
    pub fn new(label: &str, der: &[u8]) -> Self {
        let pem = armour::request(der);
        Self { label: label.to_owned(), certificate_signing_request: pem.clone(), csr: pem }
    }
}

/// Answer of the endpoints that give a certificate.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CertificateAnswer {
    label: String,
    certificate: String,
    /// The same without armour: one client reads only this.
    #[schemars(extend("contentEncoding" = "base64"))]
    raw_certificate: String,
}

impl CertificateAnswer {
    pub fn new(label: &str, der: &[u8]) -> Self {
        Self {
            label: label.to_owned(),
            certificate: armour::one_line(der),
            raw_certificate: STANDARD.encode(der),
        }
    }

    pub fn of(label: &str, chain: &Chain) -> Self {
        Self::new(label, chain.leaf_der())
    }
}

/// Body of `POST /v1/certificate/import/plain`.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "CertificateImport")]
pub struct ImportBody {
    pub label: String,
    /// DER.
    #[schemars(extend("contentEncoding" = "base64"))]
    certificate: String,
}

impl ImportBody {
    /// Reads the body; a comma after its last member, which a published client always sends, is passed over.
    pub fn read(bytes: &[u8]) -> Result<Self, ApiError> {
        json::parse(bytes)
            .or_else(|error| without_last_comma(bytes).map_or(Err(error), |bytes| json::parse(&bytes)))
    }

    /// The certificate's DER. Armour is taken off, line breaks are not: the contract refuses them.
    pub fn der(&self) -> Result<Vec<u8>, ApiError> {
        let text = self.certificate.as_str();
        let text = text.strip_prefix("-----BEGIN CERTIFICATE-----").unwrap_or(text);
        let text = text.strip_suffix("-----END CERTIFICATE-----").unwrap_or(text);
        let der = STANDARD.decode(text).ok().filter(|der| !der.is_empty());
        der.ok_or_else(|| {
            let message = "The 'certificate' is not valid 'base64' encoded: it takes the DER in one line";
            ApiError::new(Code::CertificateEncoding, message)
        })
    }
}

/// The object without the comma before its end; `None` if there is none.
fn without_last_comma(bytes: &[u8]) -> Option<Vec<u8>> {
    let inside = bytes.trim_ascii_end().strip_suffix(b"}")?;
    let inside = inside.trim_ascii_end().strip_suffix(b",")?;
    // A comma after nothing is none after a member.
    (!inside.trim_ascii_end().ends_with(b"{")).then(|| [inside, b"}"].concat())
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        let code = match &error {
            Error::Subject(_) | Error::Usage(_) => Code::Validation,
            Error::Validity(_) => Code::Range,
            Error::Mismatch(_) => Code::AlgorithmNotSupportedByKey,
            Error::Request(_) => Code::CertificateRequest,
            Error::Unreadable(_) => Code::CertificateEncoding,
            Error::Unfit(_) => Code::Certificate,
            Error::Encode(_) | Error::Write(_) => {
                tracing::error!(error = crate::telemetry::logs::chain(&error), "cannot write a certificate");
                Code::General
            }
            Error::Sign(_) => {
                let Error::Sign(error) = error else { unreachable!("it was just looked at") };
                return error.into();
            }
        };
        Self::new(code, error.to_string())
    }
}

impl From<Missing> for ApiError {
    fn from(missing: Missing) -> Self {
        let code = match &missing {
            Missing::NotYet => Code::Busy,
            Missing::Refused(_) | Missing::Bad(_) => Code::Certificate,
        };
        Self::new(code, missing.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usages(json: &str) -> Result<Vec<KeyUsage>, String> {
        serde_json::from_str::<Words<KeyUsage>>(json).map(|words| words.0).map_err(|error| error.to_string())
    }

    #[test]
    fn words_may_be_joined_and_blank() {
        let both = vec![KeyUsage::DigitalSignature, KeyUsage::KeyCertSign];
        for joined in [
            r#"["DIGITAL_SIGNATURE","KEY_CERT_SIGN"]"#,
            r#"["DIGITAL_SIGNATURE,KEY_CERT_SIGN"]"#,
            r#"["DIGITAL_SIGNATURE, KEY_CERT_SIGN", ""]"#,
        ] {
            assert_eq!(usages(joined).unwrap(), both);
        }
        assert_eq!(usages(r#"[""]"#).unwrap(), []);
        assert!(usages(r#"["DIGITAL_SIGNATURE;KEY_CERT_SIGN"]"#).unwrap_err().contains("CRL_SIGN"));
        assert!(usages(r#""DIGITAL_SIGNATURE""#).is_err());
    }

    #[test]
    fn one_comma_too_many_is_passed_over_at_the_end_only() {
        let read = |text: &str| ImportBody::read(text.as_bytes()).map(|body| body.label);
        assert_eq!(read(r#"{"label": "a", "certificate": "AA==", }"#).unwrap(), "a");
        assert_eq!(read("{\"label\": \"a\", \"certificate\": \"AA==\",\n\t}\n").unwrap(), "a");
        for bad in [
            r#"{"label": "a",, "certificate": "AA=="}"#,
            r#"{"label": "a", "certificate": "AA==",,}"#,
            r#"{"label": "a", "certificate": ,}"#,
            r#"{"label": "a", "certificate": "AA==,}"#,
            "{,}",
            ",}",
            "",
        ] {
            assert_eq!(read(bad).unwrap_err().code, Code::Json, "{bad}");
        }
    }
}
