//! Bodies of the key endpoints.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    address_body,
    policy_body::{self, Told},
};
use crate::{
    api::{
        HsmKey,
        key::{Address, AddressSpec, Derivation, DerivedFrom, Source},
    },
    gateway::{
        error::{ApiError, Code},
        json::object,
    },
    model::{
        KeyAlgorithm, KeyAttributes, KeyLabel, KeyPolicy, Password, RequestedAttributes,
        algorithm::InvalidParameter,
        curve,
        derivation::{self, NoTree},
    },
};

/// Body of `POST /v1/key`.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CreateBody {
    label: String,
    password: Option<Password>,
    id: Option<String>,
    #[schemars(with = "Option<KeyAlgorithm>")]
    algorithm: Option<String>,
    algorithm_oid: Option<String>,
    curve_oid: Option<String>,
    key_size: Option<i64>,
    #[schemars(with = "Option<AddressSpec>")]
    address_format: Option<serde_json::Value>,
    #[serde(deserialize_with = "object")]
    attributes: RequestedAttributes,
    #[schemars(with = "Option<KeyPolicy>")]
    policy: Option<serde_json::Value>,
}

/// A key to make, checked.
pub struct NewKey {
    pub label: KeyLabel,
    /// Others are to be derived from it.
    pub master: bool,
    pub algorithm: KeyAlgorithm,
    pub key_size: Option<u32>,
    pub curve_oid: Option<String>,
    pub attributes: RequestedAttributes,
    pub policy: Option<KeyPolicy>,
    pub address_format: Option<AddressSpec>,
    pub password: Option<Password>,
    pub source: Source,
    /// The key that it is derived from, and the way from there.
    pub derived_from: Option<DerivedFrom>,
}

impl CreateBody {
    /// Checks everything that can be checked without asking a token.
    pub fn checked(self) -> Result<NewKey, ApiError> {
        let unsupported =
            |what: &str| Err(ApiError::new(Code::Unsupported, format!("{what} are not served yet")));
        if self.id.is_some_and(|id| !id.is_empty()) {
            return unsupported("ids chosen by the caller");
        }
        let label =
            KeyLabel::new(self.label).map_err(|error| ApiError::new(Code::KeyName, error.to_string()))?;
        let algorithm = match (self.algorithm.as_deref(), self.algorithm_oid.as_deref()) {
            (Some(name), _) => name.parse::<KeyAlgorithm>().map_err(|error| {
                ApiError::new(Code::Validation, format!("Unsupported algorithm: {error}"))
            })?,
            (None, Some(oid)) => KeyAlgorithm::by_oid(oid)
                .ok_or_else(|| ApiError::new(Code::Validation, format!("Unsupported algorithm: '{oid}'")))?,
            (None, None) => {
                return Err(ApiError::new(Code::Validation, "algorithm or algorithmOid is missing"));
            }
        };
        // Published clients ask for keys that can leave, of every algorithm.
        let attributes =
            if algorithm.is_stateful() { self.attributes.without_copies() } else { self.attributes };
        let policy = policy_body::read(self.policy.as_ref(), label.as_str(), algorithm, &attributes)?;
        // Published clients send 0 for algorithms without sizes.
        let key_size = match self.key_size {
            None | Some(0) => None,
            Some(size) => Some(u32::try_from(size).map_err(|_| {
                ApiError::new(Code::KeySize, format!("keySize {size} does not fit {algorithm}"))
            })?),
        };
        let curve_oid = self.curve_oid.filter(|oid| !oid.is_empty()).map(|oid| curve::meant(&oid).to_owned());
        // Of the two kinds of ED, an identifier names one.
        let curve_oid = match (&self.algorithm, self.algorithm_oid.as_deref(), curve_oid) {
            (None, Some(curve::ED448_OID), None) => Some(curve::ED448_OID.to_owned()),
            (None, Some(curve::ED448_OID), Some(other)) if other != curve::ED448_OID => {
                let message = "algorithmOid and curveOid name different curves";
                return Err(ApiError::new(Code::Validation, message));
            }
            (_, _, curve_oid) => curve_oid,
        };
        algorithm.check(key_size, curve_oid.as_deref()).map_err(|error| {
            let code =
                if matches!(error, InvalidParameter::Size { .. }) { Code::KeySize } else { Code::Validation };
            ApiError::new(code, error.to_string())
        })?;
        let row = algorithm.row();
        let curve_oid = curve_oid.and_then(|oid| curve::by_oid(&oid)).map(|curve| curve.oid.to_owned());
        let address_format = address_body::read(
            self.address_format.as_ref(),
            policy.as_ref(),
            algorithm,
            curve_oid.as_deref(),
        )?;
        let master = is_master(&attributes, algorithm, curve_oid.as_deref())?;
        Ok(NewKey {
            master,
            label,
            algorithm,
            key_size: key_size.filter(|_| {
                !matches!(
                    row.parameter,
                    crate::model::algorithm::Parameter::Curve | crate::model::algorithm::Parameter::Edwards
                )
            }),
            curve_oid,
            attributes,
            policy,
            address_format,
            password: self.password.filter(|password| !password.is_empty()),
            source: Source::Generated,
            derived_from: None,
        })
    }
}

/// Whether others are to be derived from a key.
pub fn is_master(
    attributes: &RequestedAttributes,
    algorithm: KeyAlgorithm,
    curve_oid: Option<&str>,
) -> Result<bool, ApiError> {
    derivation::is_master(attributes, algorithm, curve_oid).map_err(|error| {
        let code = match &error {
            NoTree::Algorithm(_) => Code::Derivation,
            NoTree::Curve(_) | NoTree::Cardano => Code::Unsupported,
            NoTree::NotDerive => Code::Attributes,
        };
        ApiError::new(code, error.to_string())
    })
}

/// Body of the endpoints that name a key.
#[derive(Deserialize, JsonSchema)]
pub struct NameBody {
    pub label: String,
    pub password: Option<Password>,
}

/// A key's attributes with their attestation: answer of three endpoints.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SignedKeyAttributes {
    xml: String,
    json: Json,
    xml_signature: String,
    attestation_key_name: String,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "KeyAttributesJson")]
struct Json {
    label: String,
    id: Option<String>,
    uuid: Option<String>,
    algorithm: &'static str,
    algorithm_oid: &'static str,
    curve_oid: Option<String>,
    derived_attributes: Option<DerivedAttributes>,
    key_size: Option<i32>,
    key_usage_count: i32,
    create_time: String,
    attest_time: String,
    public_key: Option<String>,
    address_truncated: Option<AddressTruncated>,
    attributes: KeyAttributes,
    policy: Option<Told>,
}

/// Place of a key in a tree of keys.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct DerivedAttributes {
    derivation_type: String,
    derivation_value: String,
}

impl From<Derivation> for DerivedAttributes {
    fn from(Derivation { kind, value }: Derivation) -> Self {
        Self { derivation_type: kind, derivation_value: value }
    }
}

/// The key's address.
#[derive(Serialize, JsonSchema)]
struct AddressTruncated {
    address: String,
    format: &'static str,
}

impl From<Address> for AddressTruncated {
    fn from(Address { format, value }: Address) -> Self {
        Self { address: value, format: format.name() }
    }
}

impl SignedKeyAttributes {
    /// From what a Ready object says; `None` where it does not say enough.
    pub fn of(key: &HsmKey) -> Option<Self> {
        let status = key.status.clone()?;
        let attestation = status.attestation?;
        let row = key.spec.algorithm.row();
        Some(Self {
            json: Json {
                label: status.label.unwrap_or_else(|| key.label()),
                // Always null: published clients stop at anything else.
                id: None,
                uuid: None,
                algorithm: row.echo,
                algorithm_oid: key.spec.algorithm.oid(status.curve_oid.as_deref()),
                curve_oid: status.curve_oid,
                derived_attributes: status.derivation.map(DerivedAttributes::from),
                key_size: status.key_size,
                key_usage_count: 0,
                create_time: status.create_time.unwrap_or_default(),
                attest_time: attestation.attest_time,
                public_key: status.public_key,
                address_truncated: status.address.map(AddressTruncated::from),
                attributes: status.attributes.unwrap_or_default(),
                policy: key.spec.policy.as_ref().map(|policy| Told::of(policy, status.blocked)),
            },
            xml: attestation.xml,
            xml_signature: attestation.xml_signature,
            attestation_key_name: attestation.attestation_key_name,
        })
    }
}
