//! The Secret with a key's public half.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use k8s_openapi::{ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::OwnerReference};
use kube::{
    Api, Resource, ResourceExt,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
    runtime::reflector::ObjectRef,
};
use serde_json::{Map, Value, json};

use super::plan::Refusal;
use crate::{
    api::{HsmKey, KEY_LABEL, condition, key::HsmKeyStatus},
    controller::{
        context::{Context, MANAGER},
        error::Error,
    },
    public_key::PublicKey,
    service::attest::chain_of,
};

/// What may be in such a Secret.
const PUBLISHED: [&str; 6] = [
    "publicKey.pem",
    "publicKey.der",
    "attestation.xml",
    "attestation.sig",
    "attestation-chain.pem",
    "tls.crt",
];

/// Writes the Secret if it is absent or differs; a refusal if one of that name is somebody else's.
pub async fn secret(key: &HsmKey, status: &HsmKeyStatus, ctx: &Context) -> Result<Option<Refusal>, Error> {
    let name = key.public_secret();
    let api: Api<Secret> = Api::namespaced(ctx.client.clone(), &key.namespace().unwrap_or_default());
    let owner = key.controller_owner_ref(&()).ok_or(Error::Incomplete("uid"))?;
    let data = data(key, status, ctx);
    let read = |source| Error::ReadSecret { name: name.clone(), source: Box::new(source) };
    let wrote = |source| Error::WriteSecret { name: name.clone(), source: Box::new(source) };
    // Of a new key there is none, as a rule: it is not asked for first.
    let published = condition::is_true(&status.conditions, condition::PUBLISHED);
    let existing = if published { api.get_opt(&name).await.map_err(read)? } else { None };
    let existing = match existing {
        Some(existing) => existing,
        None => match api.create(&manager(), &new(key, owner.clone(), data.clone())).await {
            Ok(_) => {
                ctx.metrics.wrote("Secret", "create");
                return Ok(None);
            }
            Err(kube::Error::Api(status)) if status.is_already_exists() => {
                api.get(&name).await.map_err(read)?
            }
            Err(source) => return Err(wrote(source)),
        },
    };
    let ours = existing.owner_references().iter().any(|one| one.uid == owner.uid);
    if ours && existing.data.as_ref() == Some(&data) {
        return Ok(None);
    }
    if !ours && !left_over(&existing, key) {
        return Ok(Some(Refusal::secret(&name)));
    }
    let gone = existing.data.iter().flatten().filter(|(name, _)| !data.contains_key(*name));
    let gone: Map<String, Value> = gone.map(|(name, _)| (name.clone(), Value::Null)).collect();
    let Secret { metadata, data, .. } = new(key, owner, data);
    let mut change = json!({
        "metadata": {"resourceVersion": existing.resource_version(), "labels": metadata.labels},
        "data": data,
    });
    if !ours {
        change["metadata"]["ownerReferences"] = json!(metadata.owner_references);
    }
    change["data"].as_object_mut().expect("it was just made").extend(gone);
    let params = PatchParams { field_manager: Some(MANAGER.into()), ..Default::default() };
    api.patch_metadata(&name, &params, &Patch::Merge(&change)).await.map_err(wrote)?;
    ctx.metrics.wrote("Secret", "patch");
    Ok(None)
}

fn manager() -> PostParams {
    PostParams { field_manager: Some(MANAGER.into()), ..Default::default() }
}

fn new(key: &HsmKey, owner: OwnerReference, data: BTreeMap<String, ByteString>) -> Secret {
    Secret {
        metadata: ObjectMeta {
            name: Some(key.public_secret()),
            labels: Some([(KEY_LABEL.to_owned(), label_value(&key.name_any()))].into()),
            owner_references: Some(vec![owner]),
            ..Default::default()
        },
        type_: Some("Opaque".into()),
        data: Some(data),
        ..Default::default()
    }
}

/// Whether a Secret was written for an earlier object of the key's name, from which a restore brought it or whose
/// deletion has not reached it yet: nobody else's are taken.
fn left_over(secret: &Secret, key: &HsmKey) -> bool {
    let of_an_earlier_one = |owner: &OwnerReference| {
        owner.kind == HsmKey::kind(&())
            && owner.api_version == HsmKey::api_version(&())
            && owner.name == key.name_any()
    };
    secret.labels().get(KEY_LABEL) == Some(&label_value(&key.name_any()))
        && secret.owner_references().iter().all(of_an_earlier_one)
        && secret.data.iter().flatten().all(|(name, _)| PUBLISHED.contains(&name.as_str()))
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
    let mut put = |name: &str, bytes: Vec<u8>| {
        debug_assert!(PUBLISHED.contains(&name));
        data.insert(name.to_owned(), ByteString(bytes))
    };
    if let Some(der) = status.public_key.as_ref().and_then(|text| STANDARD.decode(text).ok()) {
        if let Ok(public) = PublicKey::from_spki(&der) {
            put("publicKey.pem", public.pem().into_bytes());
        }
        put("publicKey.der", der);
    }
    let partition = ctx.partitions.get(&ObjectRef::new(&key.spec.partition_ref.name));
    let known = partition
        .as_ref()
        .and_then(|guarded| guarded.0.as_ref().ok())
        .and_then(|partition| partition.status.as_ref());
    if let Some(attestation) = &status.attestation {
        put("attestation.xml", attestation.xml.clone().into_bytes());
        put("attestation.sig", STANDARD.decode(&attestation.xml_signature).unwrap_or_default());
        // Never those of another key than the one that signed, which may have been another one then.
        if let Some(by) = known.and_then(|known| chain_of(known, attestation)) {
            put("attestation-chain.pem", by.chain.clone().into_bytes());
        }
    }
    if let Some(certificate) = &status.certificate {
        put("tls.crt", certificate.pem.clone().into_bytes());
    }
    data
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(label: &str, owner: Option<(&str, &str)>, data: &str) -> Secret {
        let owners: Vec<_> = owner
            .iter()
            .map(|(kind, name)| {
                json!({
                    "apiVersion": "hsm-operator.io/v1alpha1", "kind": kind, "name": name, "uid": "earlier"
                })
            })
            .collect();
        let secret = json!({
            "metadata": {"name": "k-public", "labels": {KEY_LABEL: label}, "ownerReferences": owners},
            "data": {data: ""},
        });
        serde_json::from_value(secret).unwrap()
    }

    #[test]
    fn a_secret_of_an_earlier_object_of_the_name_is_taken_and_nobody_elses() {
        let spec = json!({"partitionRef": {"name": "p"}, "algorithm": "ED"});
        let key = HsmKey::new("k", serde_json::from_value(spec).unwrap());
        let taken = |label, owner, data| left_over(&secret(label, owner, data), &key);
        assert!(taken("k", Some(("HsmKey", "k")), "publicKey.pem"));
        assert!(taken("k", None, "publicKey.pem"), "some restores bring no owners");
        assert!(!taken("other", None, "publicKey.pem"));
        assert!(!taken("k", Some(("HsmKey", "other")), "publicKey.pem"));
        assert!(!taken("k", Some(("Deployment", "k")), "publicKey.pem"));
        assert!(!taken("k", None, "password"));
    }
}
