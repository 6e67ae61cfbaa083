//! Objects that the API server stores and we cannot read: said on the object, and out of the others' way.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{
    Api, Resource,
    api::{ApiResource, DynamicObject, Patch, PatchParams},
    core::error_boundary::InvalidObject,
};
use serde_json::json;

use super::context::{Context, kind_name};
use crate::api::condition::{self, Report};

/// Writes a condition and an event that say what is wrong, once.
pub async fn report<K: Resource<DynamicType = ()>>(ctx: &Context, invalid: &InvalidObject) {
    let (name, namespace) =
        (invalid.metadata.name.clone().unwrap_or_default(), invalid.metadata.namespace.as_deref());
    let resource = ApiResource::erase::<K>(&());
    let api: Api<DynamicObject> = match namespace {
        Some(namespace) => Api::namespaced_with(ctx.client.clone(), namespace, &resource),
        None => Api::all_with(ctx.client.clone(), &resource),
    };
    if let Err(error) = tell(ctx, invalid, &name, &api, &resource).await {
        tracing::warn!(name, error = %crate::telemetry::logs::chain(&error), "cannot say that an object is malformed");
    }
}

async fn tell(
    ctx: &Context,
    invalid: &InvalidObject,
    name: &str,
    api: &Api<DynamicObject>,
    resource: &ApiResource,
) -> Result<(), kube::Error> {
    let message = format!("the object cannot be read: {}", invalid.error);
    let Some(object) = api.get_opt(name).await? else { return Ok(()) };
    // Conditions that cannot be read either are written anew.
    let old: Vec<Condition> =
        serde_json::from_value(object.data["status"]["conditions"].clone()).unwrap_or_default();
    let known = condition::find(&old, condition::READY)
        .is_some_and(|ready| ready.reason == "Malformed" && ready.message == message);
    if known {
        return Ok(());
    }
    let namespace = invalid.metadata.namespace.as_deref();
    tracing::warn!(kind = %resource.kind, namespace, name, error = invalid.error, "malformed object");
    let reports = [
        Report::new(condition::READY, Some(false), "Malformed", &message),
        Report::new(condition::STALLED, Some(true), "Malformed", &message),
    ];
    let conditions = condition::apply(&[], &reports, invalid.metadata.generation, ctx.now());
    let patch = json!({ "status": { "conditions": conditions } });
    api.patch_status(name, &PatchParams::default(), &Patch::Merge(&patch)).await?;
    ctx.metrics.wrote(kind_name(&resource.kind), "patch_status");
    ctx.event_on(object.object_ref(resource), true, "Malformed", "Read", message).await;
    Ok(())
}
