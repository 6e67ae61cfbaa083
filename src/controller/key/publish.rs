//! The Secret with a key's public half.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Api, Resource, ResourceExt,
    api::{ObjectMeta, Patch, PatchParams},
    runtime::reflector::ObjectRef,
};

use super::plan::Refusal;
use crate::{
    api::{HsmKey, KEY_LABEL, key::HsmKeyStatus},
    controller::{
        context::{Context, MANAGER},
        error::Error,
    },
    public_key::PublicKey,
};

/// Writes the Secret if it is absent or differs; a refusal if one of that name is somebody else's.
pub async fn secret(key: &HsmKey, status: &HsmKeyStatus, ctx: &Context) -> Result<Option<Refusal>, Error> {
    let name = key.public_secret();
    let api: Api<Secret> = Api::namespaced(ctx.client.clone(), &key.namespace().unwrap_or_default());
    let read = |source| Error::ReadSecret { name: name.clone(), source: Box::new(source) };
    let existing = api.get_opt(&name).await.map_err(read)?;
    if let Some(secret) = &existing
        && !secret.owner_references().iter().any(|owner| Some(&owner.uid) == key.uid().as_ref())
    {
        return Ok(Some(Refusal::secret(&name)));
    }
    let data = data(key, status, ctx);
    if existing.is_some_and(|secret| secret.data.as_ref() == Some(&data)) {
        return Ok(None);
    }
    let owner = key.controller_owner_ref(&()).ok_or(Error::Incomplete("uid"))?;
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            labels: Some([(KEY_LABEL.to_owned(), label_value(&key.name_any()))].into()),
            owner_references: Some(vec![owner]),
            ..Default::default()
        },
        type_: Some("Opaque".into()),
        data: Some(data),
        ..Default::default()
    };
    let written = api.patch(&name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&secret)).await;
    written.map_err(|source| Error::WriteSecret { name, source: Box::new(source) })?;
    ctx.metrics.wrote("Secret", "apply");
    Ok(None)
}

/// A label's value has at most 63 characters; names may have 253.
fn label_value(name: &str) -> String {
    name.chars()
        .take(63)
        .collect::<String>()
        .trim_end_matches(|c: char| !c.is_ascii_alphanumeric())
        .to_owned()
}

fn data(key: &HsmKey, status: &HsmKeyStatus, ctx: &Context) -> BTreeMap<String, ByteString> {
    let mut data = BTreeMap::new();
    let mut put = |name: &str, bytes: Vec<u8>| data.insert(name.to_owned(), ByteString(bytes));
    if let Some(der) = status.public_key.as_ref().and_then(|text| STANDARD.decode(text).ok()) {
        if let Ok(public) = PublicKey::from_spki(&der) {
            put("publicKey.pem", public.pem().into_bytes());
        }
        put("publicKey.der", der);
    }
    if let Some(attestation) = &status.attestation {
        put("attestation.xml", attestation.xml.clone().into_bytes());
        put("attestation.sig", STANDARD.decode(&attestation.xml_signature).unwrap_or_default());
    }
    let partition = ctx.partitions.get(&ObjectRef::new(&key.spec.partition_ref.name));
    let chain = partition
        .as_ref()
        .and_then(|guarded| guarded.0.as_ref().ok())
        .and_then(|partition| partition.status.as_ref())
        .and_then(|status| status.attestation.as_ref());
    if let Some(attestation) = chain {
        put("attestation-chain.pem", attestation.chain.clone().into_bytes());
    }
    data
}
