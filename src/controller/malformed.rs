//! Objects that the API server stores and we cannot read: said on the object, and out of the others' way.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{
    Api, Resource,
    api::{ApiResource, DynamicObject, Patch, PatchParams},
    core::error_boundary::InvalidObject,
};
use serde_json::json;

use super::context::Context;
use crate::api::condition::{self, Report};

/// Writes a condition that says what is wrong.
pub async fn report<K: Resource<DynamicType = ()>>(ctx: &Context, invalid: &InvalidObject) {
    let (name, namespace) =
        (invalid.metadata.name.clone().unwrap_or_default(), invalid.metadata.namespace.as_deref());
    let message = format!("the object cannot be read: {}", invalid.error);
    tracing::warn!(kind = %K::kind(&()), namespace, name, error = invalid.error, "malformed object");
    let resource = ApiResource::erase::<K>(&());
    let api: Api<DynamicObject> = match namespace {
        Some(namespace) => Api::namespaced_with(ctx.client.clone(), namespace, &resource),
        None => Api::all_with(ctx.client.clone(), &resource),
    };
    // The time never changes, so that writing it again changes nothing and wakes nobody.
    let since = invalid.metadata.creation_timestamp.clone().unwrap_or(Time(Timestamp::UNIX_EPOCH)).0;
    let reports = [
        Report::new(condition::READY, Some(false), "Malformed", &message),
        Report::new(condition::STALLED, Some(true), "Malformed", &message),
    ];
    let conditions = condition::apply(&[], &reports, invalid.metadata.generation, since);
    let patch = json!({ "status": { "conditions": conditions } });
    if let Err(error) = api.patch_status(&name, &PatchParams::default(), &Patch::Merge(&patch)).await {
        tracing::warn!(name, error = %crate::telemetry::logs::chain(&error), "cannot say that an object is malformed");
    }
}
