//! Keys derived from others along a path: for a moment, by their names, or to stay.
//!
//! Derivation along a path is the vendor's mechanism, and no private key leaves a token for it. Tokens without it are
//! told from keys of which nothing is derived anywhere.

use std::{borrow::Cow, sync::Arc};

use axum::{Json, extract::State, http::StatusCode};
use bytes::Bytes;
use jiff::Timestamp;
use kube::ResourceExt;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    imports::{Arrival, Public},
    key_body::{NewKey, SignedKeyAttributes},
    keys::{self, allowed, lookup, usable, usable_public},
    operations::usage,
    password,
};
use crate::{
    api::{
        HsmKey,
        key::{Derivation, DerivedFrom, Source},
    },
    auth,
    gateway::{
        Shared,
        error::{ApiError, Code},
        extract::{Caller, JsonBody, RequestId},
        json::object_or_none,
        openapi::Document,
    },
    hsm::{Hsm, import::Origin, protocol::KeyFacts},
    model::{
        KeyAlgorithm, KeyLabel, Password, RequestedAttributes,
        derivation::{DerivationPath, DerivedName, InvalidDerivation, SLIP10},
    },
    service::{
        address, attest,
        audit::About,
        derive::Found,
        directory::{Entry, Usable},
    },
    telemetry::logs::chain,
};

/// What the document says of these endpoints.
pub fn document(document: &mut Document) {
    document.group("Keys");
    for (path, id) in [("/v1/derivedKey", "deriveKey"), ("/v1/derivedkey", "deriveKey_1")] {
        let derive = document.post(path, id, "Derives a key from another one");
        derive.takes::<DeriveBody>().gives::<SignedKeyAttributes>(201, "the key").of_a_name().of_the_token();
    }
}

/// A key by its name, or one that is derived from a master for a moment.
pub struct Named {
    /// Whose permissions count and what is recorded: the master's object, under the whole name.
    pub entry: Arc<Entry>,
    path: Option<DerivationPath>,
}

/// What is needed to use a [`Named`] key.
pub struct Key<'a> {
    /// The master's id on the token, and the public half of the key itself.
    pub usable: Cow<'a, Usable>,
    /// The way from the master.
    pub path: Option<&'a DerivationPath>,
}

/// The key of a name. One that is kept under that name comes before one that would have to be derived.
pub async fn named(state: &Shared, caller: &auth::Caller, name: &str) -> Result<Named, ApiError> {
    if !name.contains('/') {
        return Ok(Named { entry: lookup(state, caller, name).await?, path: None });
    }
    let DerivedName { master, path } = DerivedName::parse(name).map_err(|error| bad_name(&error))?;
    let label = format!("{master}/{path}");
    // One that never came to be takes the name from nobody.
    let kept = |entry: &Arc<Entry>| {
        let status = entry.object.status.as_ref();
        entry.usable.is_some() || status.is_some_and(|status| status.key_id.is_some())
    };
    if let Some(entry) = state.directory.find(&caller.namespace, &label).filter(kept) {
        return Ok(Named { entry, path: None });
    }
    let master = lookup(state, caller, master.as_str()).await?;
    let object = Arc::clone(&master.object);
    let entry = Arc::new(Entry { label, usable: master.usable.clone(), object });
    Ok(Named { entry, path: Some(path) })
}

impl Named {
    /// Checks the password for whoever only looks: to derive a key for a moment is to use its master, whose password is
    /// needed then, and which is recorded.
    pub async fn unlock_to_show(
        &self,
        state: &Shared,
        caller: &auth::Caller,
        request_id: &str,
        given: Option<&Password>,
    ) -> Result<(), ApiError> {
        if self.path.is_none() {
            return password::check_if_given(state, &self.entry, given).await;
        }
        let record = usage(caller, &self.entry, request_id, "derive", None, About::Nothing);
        password::unlock(state, &self.entry, given, &record).await?;
        record.record(None);
        Ok(())
    }

    /// The same for whoever checks a signature, which takes the public half of a key that is there, and no password.
    pub async fn unlock_to_verify(&self, state: &Shared, given: Option<&Password>) -> Result<(), ApiError> {
        match self.path {
            Some(_) => password::check(state, &self.entry, given).await,
            None => Ok(()),
        }
    }

    /// What is needed to use the key; for a derived one the token is asked. Only for who may use or see it.
    pub async fn key(&self, state: &Shared) -> Result<Key<'_>, ApiError> {
        let Some(path) = &self.path else {
            return Ok(Key { usable: Cow::Borrowed(usable_public(&self.entry)?), path: None });
        };
        let (master, found) = self.derived(state, path).await?;
        let usable = Usable { public: Some(Arc::clone(&found.public)), ..master.clone() };
        Ok(Key { usable: Cow::Owned(usable), path: Some(path) })
    }

    /// The same to sign with it.
    pub async fn signer(&self, state: &Shared) -> Result<Key<'_>, ApiError> {
        usable(&self.entry)?;
        self.key(state).await
    }

    async fn derived(
        &self,
        state: &Shared,
        path: &DerivationPath,
    ) -> Result<(&Usable, Arc<Found>), ApiError> {
        let (master, hsm) = derivable(state, &self.entry, path)?;
        let found = state.derived.find(hsm.as_ref(), master, path).await;
        let found =
            found.inspect_err(|error| state.missed.note(state.client.as_ref(), &self.entry, error))?;
        Ok((master, found))
    }

    /// What the key is, in the contract's form. The attributes of a derived one are its master's.
    pub async fn described(&self, state: &Shared) -> Result<SignedKeyAttributes, ApiError> {
        let label = &self.entry.label;
        let late = || ApiError::new(Code::Busy, format!("the key '{label}' is not attested yet"));
        let Some(path) = &self.path else {
            usable_public(&self.entry)?;
            return SignedKeyAttributes::of(&self.entry.object).ok_or_else(late);
        };
        let (master, found) = self.derived(state, path).await?;
        let (partition, hsm) = state
            .partitions
            .object(&master.partition)
            .zip(state.partitions.hsm(&master.partition).ok())
            .ok_or_else(late)?;
        let mut key = HsmKey::clone(&self.entry.object);
        let status = key.status.get_or_insert_default();
        let facts = KeyFacts {
            label: label.clone(),
            attributes: status.attributes.clone().unwrap_or_default(),
            ..found.facts.clone()
        };
        let create_time = status.create_time.clone().unwrap_or_default();
        let attested = attest::attest_passing(
            hsm.as_ref(),
            &partition,
            &facts,
            &self.entry.object.spec,
            &create_time,
            Timestamp::now(),
        );
        let attestation = attested.await.map_err(|error| {
            tracing::warn!(key = label, error = chain(&error), "cannot attest a derived key");
            match error.hsm() {
                Some(error) => error.clone().into(),
                None => ApiError::new(Code::Hsm, "the derived key cannot be attested"),
            }
        })?;
        status.attestation = Some(attestation);
        status.label = Some(label.clone());
        status.public_key = Some(keys::base64(found.public.spki()));
        status.address = address::of(&self.entry.object.spec, &found.public)?;
        status.derivation = facts
            .chain_code
            .as_deref()
            .map(|code| Derivation { kind: SLIP10.into(), value: hex::encode_upper(code) });
        SignedKeyAttributes::of(&key).ok_or_else(late)
    }
}

/// The master and its token, where a key can be derived along the path.
fn derivable<'a>(
    state: &Shared,
    master: &'a Entry,
    path: &DerivationPath,
) -> Result<(&'a Usable, Arc<dyn Hsm>), ApiError> {
    let found = usable(master)?;
    if let Some(error) = not_derived(state, master, found) {
        return Err(error);
    }
    if let Some(step) = path.impossible(found.algorithm) {
        let message =
            format!("ED keys are derived by hardened steps only, and '{step}' is none: write {step}'");
        return Err(ApiError::new(Code::KeyName, message));
    }
    Ok((found, state.partitions.hsm(&found.partition)?))
}

/// Why nothing is derived from a key, whatever the path.
fn not_derived(state: &Shared, master: &Entry, found: &Usable) -> Option<ApiError> {
    let label = master.object.label();
    if !matches!(found.algorithm, KeyAlgorithm::Ec | KeyAlgorithm::Ed) {
        let message = format!(
            "keys are derived from EC and ED keys only, and '{label}' is of type {}",
            found.algorithm
        );
        return Some(ApiError::new(Code::Derivation, message));
    }
    let derives = |hsm: Arc<dyn Hsm>| {
        hsm.token().is_none_or(|token| token.capabilities.derived.contains(&found.algorithm))
    };
    match state.partitions.hsm(&found.partition).map(derives) {
        Ok(true) => {}
        Ok(false) => {
            let message = format!(
                "no key can be derived from '{label}': the token of partition {} offers no key derivation along a path",
                found.partition
            );
            return Some(ApiError::new(Code::Unsupported, message));
        }
        Err(error) => return Some(error),
    }
    let status = master.object.status.as_ref();
    if status.is_none_or(|status| status.derivation.is_none()) {
        let message =
            format!("no key can be derived from '{label}': it was made without derive and bip32 or slip10");
        return Some(ApiError::new(Code::Derivation, message));
    }
    None
}

fn bad_name(error: &InvalidDerivation) -> ApiError {
    ApiError::new(Code::KeyName, error.to_string())
}

/// Why an operation does not take a key that is derived for a moment. It is the caller's master key that is looked for;
/// the slash is no way around the answer that it does not exist.
pub async fn refusal(state: &Shared, caller: &auth::Caller, name: &str) -> ApiError {
    let derived = match DerivedName::parse(name) {
        Ok(derived) => derived,
        Err(error) => return bad_name(&error),
    };
    let master = match lookup(state, caller, derived.master.as_str()).await {
        Ok(master) => master,
        Err(error) => return error,
    };
    // What is said of the key is only for who may use or see it.
    let object = master.object.name_any();
    if let Err(error) = allowed(state, caller, "use", &object).await
        && allowed(state, caller, "get", &object).await.is_err()
    {
        return error;
    }
    let refused = usable(&master).map(|found| not_derived(state, &master, found));
    match refused {
        Err(error) | Ok(Some(error)) => error,
        Ok(None) => {
            let message = format!(
                "'{name}' is derived for a moment only, to sign, verify or show attributes: keep it with derivedKey first"
            );
            ApiError::new(Code::Unsupported, message)
        }
    }
}

/// Body of `POST /v1/derivedKey`.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeriveBody {
    master_key_label: String,
    master_key_password: Option<Password>,
    derivation_path: String,
    #[serde(default, deserialize_with = "object_or_none")]
    attributes: Option<RequestedAttributes>,
}

/// `POST /v1/derivedKey`: a key that is derived and kept.
pub async fn derive(
    State(state): State<Shared>,
    Caller(caller): Caller,
    RequestId(request_id): RequestId,
    JsonBody(body): JsonBody<DeriveBody>,
) -> Result<(StatusCode, Json<SignedKeyAttributes>), ApiError> {
    let DeriveBody { master_key_label, master_key_password, derivation_path, attributes } = body;
    let parsed = DerivedName::parse(&format!("{master_key_label}/{derivation_path}")).and_then(|name| {
        // A master that is itself derived has a way of its own, which belongs to the path.
        KeyLabel::new(&master_key_label)?;
        Ok((name, DerivationPath::parse(&derivation_path)?))
    });
    let (name, path) = parsed.map_err(|error| bad_name(&error))?;
    let master = lookup(&state, &caller, &master_key_label).await?;
    let about = About::Payload(derivation_path.as_bytes());
    let record = usage(&caller, &master, &request_id, "derive", None, about);
    let may = match allowed(&state, &caller, "create", "").await {
        Ok(()) => allowed(&state, &caller, "use", &master.object.name_any()).await,
        refused => refused,
    };
    let may = match may {
        Ok(()) => password::check(&state, &master, master_key_password.as_ref()).await,
        refused => refused,
    };
    let checked = may.and_then(|()| new(&state, &master, &name, &path, attributes));
    record.record(checked.as_ref().err().map(|error| error.message.as_str()));
    let (partition, key) = checked?;
    let made = if state.passwords.secret_of(&master.object).is_some() {
        by_gateway(&state, &caller, &master, &path, key).await
    } else {
        keys::put(&state, &caller, key, partition).await
    };
    made.map(|made| (StatusCode::CREATED, Json(made)))
}

/// Has the token derive a key from a master with a password, which was right: the controller, which makes other keys, is never
/// given one. It takes the key over when it is there, as one that is imported.
async fn by_gateway(
    state: &Shared,
    caller: &auth::Caller,
    master: &Entry,
    path: &DerivationPath,
    new: NewKey,
) -> Result<SignedKeyAttributes, ApiError> {
    let (usable, hsm) = derivable(state, master, path)?;
    let found = state.derived.find(hsm.as_ref(), usable, path).await;
    let found = found.inspect_err(|error| state.missed.note(state.client.as_ref(), master, error))?;
    let public = Public { known: Some(Bytes::copy_from_slice(found.public.spki())), claimed: None };
    let origin = Origin::Derived { master: usable.id.clone(), path: path.clone() };
    let partition = usable.partition.clone();
    let what = Arrival { operation: "derive", method: None, new, certificate: None };
    what.bring(state, caller, &partition, hsm, public, origin).await
}

/// A key that is to be derived and kept, and its partition.
fn new(
    state: &Shared,
    master: &Entry,
    name: &DerivedName,
    path: &DerivationPath,
    attributes: Option<RequestedAttributes>,
) -> Result<(String, NewKey), ApiError> {
    let (found, _) = derivable(state, master, path)?;
    let spec = &master.object.spec;
    let attributes = attributes_of(&spec.attributes, attributes)?;
    let label = KeyLabel::stored(name.to_string())
        .map_err(|error| ApiError::new(Code::KeyName, error.to_string()))?;
    let key = NewKey {
        label,
        master: false,
        algorithm: spec.algorithm,
        key_size: None,
        curve_oid: spec.curve_oid.clone(),
        attributes,
        // The master's holds for its children, and they have addresses where it has one.
        policy: spec.policy.clone(),
        address_format: spec.address_format,
        password: None,
        source: Source::Generated,
        derived_from: Some(DerivedFrom { key: master.object.name_any(), path: path.to_string() }),
    };
    Ok((found.partition.clone(), key))
}

/// What a derived key may do: what was asked for, or else what its master may, but for being a master itself. It is
/// never less protected than its master.
fn attributes_of(
    master: &RequestedAttributes,
    asked: Option<RequestedAttributes>,
) -> Result<RequestedAttributes, ApiError> {
    let asked = asked.unwrap_or_else(|| RequestedAttributes {
        derive: None,
        extractable: None,
        destroyable: None,
        ..master.clone()
    });
    let modifiable = asked.modifiable.or((!master.resolved().modifiable).then_some(false));
    let attributes = RequestedAttributes { bip32: None, slip10: None, modifiable, ..asked };
    match attributes.weaker_than(master) {
        None => Ok(attributes),
        Some(how) => Err(ApiError::new(Code::Attributes, format!("a derived key cannot be {how}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes(json: &str) -> RequestedAttributes {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_derived_key_is_never_less_protected_than_its_master() {
        let master = attributes(r#"{"sign":true,"derive":true,"slip10":true,"modifiable":false}"#);
        for asked in [r#"{"sign":true,"extractable":true}"#, r#"{"sign":true,"modifiable":true}"#] {
            assert_eq!(attributes_of(&master, Some(attributes(asked))).unwrap_err().code, Code::Attributes);
        }
        let copy = attributes_of(&master, None).unwrap();
        assert_eq!(copy, attributes(r#"{"sign":true,"modifiable":false}"#));
        // As a published client sends it.
        let asked = attributes(r#"{"sign":true,"slip10":true,"destroyable":true}"#);
        let own = attributes_of(&master, Some(asked)).unwrap();
        assert_eq!(own, attributes(r#"{"sign":true,"modifiable":false,"destroyable":true}"#));
    }
}
