//! Passwords of keys, as far as they are the controller's: it carries none, so it does nothing with a key that has one; and it
//! takes away what is left of passwords whose keys are gone.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Preconditions},
    runtime::reflector::ObjectRef,
};

use super::{context::Context, error::Error};
use crate::{
    api::{HsmKey, password::SECRET_LABEL},
    service::password::{Record, is_record},
};

/// How often is looked for what is left over.
const EVERY: Duration = Duration::from_secs(600);
/// How old a Secret has to be before it is left over. A key is made within minutes of it, or not at all.
const AGE: i64 = 3600;

fn secrets(ctx: &Context) -> Api<Secret> {
    Api::namespaced(ctx.client.clone(), &ctx.namespace)
}

/// Why a key cannot be used without its password; `None` where it has none.
///
/// # Errors
/// When the API server does not say.
pub async fn forbids(key: &HsmKey, ctx: &Context) -> Result<Option<String>, Error> {
    let Some(reference) = &key.spec.password else { return Ok(None) };
    let name = &reference.secret_name;
    let read = secrets(ctx).get_opt(name).await;
    let found = read.map_err(|source| Error::ReadSecret { name: name.clone(), source: Box::new(source) })?;
    let of = key.name_any();
    let unknown = |why: String| {
        Some(format!(
            "the password of HsmKey {of} cannot be checked: Secret {}/{name} {why}; restore it, or make a new key",
            ctx.namespace
        ))
    };
    let Some(secret) = found else { return Ok(unknown("does not exist".into())) };
    Ok(match Record::of(&secret) {
        Err(why) => unknown(why.to_string()),
        Ok(record) if !record.is_about(&key.namespace().unwrap_or_default(), &of) => {
            unknown("is about another key".into())
        }
        Ok(Record { hash: None, .. }) => None,
        Ok(Record { hash: Some(_), .. }) => {
            Some(format!("HsmKey {of} has a password, which only a REST call can carry"))
        }
    })
}

/// Takes away the Secret of a key that goes.
///
/// # Errors
/// When the API server does not do it.
pub async fn forget(key: &HsmKey, ctx: &Context) -> Result<(), Error> {
    let Some(reference) = &key.spec.password else { return Ok(()) };
    let name = &reference.secret_name;
    let read = secrets(ctx).get_opt(name).await;
    let found = read.map_err(|source| Error::ReadSecret { name: name.clone(), source: Box::new(source) })?;
    match found {
        // Somebody may have named another key's.
        Some(secret) if is_of(&secret, &key.namespace().unwrap_or_default(), &key.name_any()) => {
            delete(&secret, ctx).await
        }
        _ => Ok(()),
    }
}

fn is_of(secret: &Secret, namespace: &str, name: &str) -> bool {
    Record::of(secret).is_ok_and(|record| record.is_about(namespace, name))
}

async fn delete(secret: &Secret, ctx: &Context) -> Result<(), Error> {
    let name = secret.name_any();
    let only_this = Preconditions { uid: secret.uid(), resource_version: secret.resource_version() };
    let params = DeleteParams { preconditions: Some(only_this), ..DeleteParams::default() };
    match secrets(ctx).delete(&name, &params).await {
        Ok(_) => ctx.metrics.wrote("Secret", "delete"),
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        Err(source) => return Err(Error::WriteSecret { name, source: Box::new(source) }),
    }
    Ok(())
}

/// Looks for what is left over again and again.
pub async fn keep_tidy(ctx: &Context) {
    let _ = ctx.filled.subscribe().wait_for(|filled| *filled).await;
    loop {
        if let Err(error) = tidy(ctx).await {
            let error = crate::telemetry::logs::chain(&error);
            tracing::warn!(%error, "cannot look for passwords without a key");
        }
        tokio::time::sleep(super::jittered(EVERY)).await;
    }
}

/// Takes away Secrets that no key refers to: a gateway ended between making one and making its key, or the key went while
/// nobody could delete its Secret. What cannot be read may be what somebody is about to restore.
async fn tidy(ctx: &Context) -> Result<(), Error> {
    let all = ListParams::default().labels(&format!("{SECRET_LABEL}=true"));
    let listed = secrets(ctx).list(&all).await;
    let read = |source| Error::ReadSecret { name: "with passwords".into(), source: Box::new(source) };
    for secret in listed.map_err(read)? {
        let Ok(record) = Record::of(&secret) else { continue };
        let Some((namespace, name)) = record.key.split_once('/') else { continue };
        if !is_record(&secret) || !is_old(&secret, ctx.now()) {
            continue;
        }
        let refers = match refers(namespace, name, &secret.name_any(), ctx).await {
            Ok(refers) => refers,
            // An object that cannot be read, say. The others are looked at all the same.
            Err(error) => {
                let error = crate::telemetry::logs::chain(&error);
                tracing::warn!(namespace, name, %error, "cannot tell whether a key has this password");
                continue;
            }
        };
        if !refers {
            tracing::info!(namespace, name, secret = secret.name_any(), "no key has this password any more");
            delete(&secret, ctx).await?;
        }
    }
    Ok(())
}

fn is_old(secret: &Secret, now: Timestamp) -> bool {
    let made = secret.metadata.creation_timestamp.as_ref();
    made.is_some_and(|made| now.as_second() - made.0.as_second() > AGE)
}

/// Whether a key has its password in a Secret. That it has not is believed only from the API server itself.
async fn refers(namespace: &str, name: &str, secret: &str, ctx: &Context) -> Result<bool, Error> {
    let is =
        |key: &HsmKey| key.spec.password.as_ref().is_some_and(|reference| reference.secret_name == secret);
    let known = ctx.keys.get(&ObjectRef::new(name).within(namespace));
    if known.as_ref().and_then(|guarded| guarded.0.as_ref().ok()).is_some_and(is) {
        return Ok(true);
    }
    let read = Api::<HsmKey>::namespaced(ctx.client.clone(), namespace).get_opt(name).await;
    let found = read
        .map_err(|source| Error::ReadKey { name: format!("{namespace}/{name}"), source: Box::new(source) })?;
    Ok(found.as_ref().is_some_and(is))
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        sync::{Arc, Mutex},
    };

    use axum::{
        Json, Router,
        extract::{Path, State},
        http::StatusCode,
        response::{IntoResponse, Response},
        routing::get,
    };
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use kube::runtime::{
        reflector::{self, store::Writer},
        watcher::Event,
    };
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        controller::context::Guarded,
        model::Password,
        service::password::{Hash, changed, secret},
    };

    /// What the API server has.
    #[derive(Default)]
    struct Cluster {
        secrets: Mutex<BTreeMap<String, Secret>>,
        keys: Mutex<BTreeMap<String, HsmKey>>,
    }

    struct World {
        ctx: Context,
        cluster: Arc<Cluster>,
        seen: Writer<Guarded<HsmKey>>,
    }

    type Shared = State<Arc<Cluster>>;

    fn or_404(object: Option<impl serde::Serialize>) -> Response {
        let missing = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404, "reason": "NotFound"});
        object.map_or_else(
            || (StatusCode::NOT_FOUND, Json(missing)).into_response(),
            |object| Json(object).into_response(),
        )
    }

    async fn list(State(cluster): Shared) -> Json<Value> {
        let items: Vec<_> = cluster.secrets.lock().unwrap().values().cloned().collect();
        Json(json!({"apiVersion": "v1", "kind": "SecretList", "metadata": {}, "items": items}))
    }

    async fn read(State(cluster): Shared, Path(name): Path<String>) -> Response {
        or_404(cluster.secrets.lock().unwrap().get(&name))
    }

    async fn remove(
        State(cluster): Shared,
        Path(name): Path<String>,
        Json(options): Json<Value>,
    ) -> Response {
        let gone = cluster.secrets.lock().unwrap().remove(&name);
        let only = &options["preconditions"];
        let wanted =
            gone.as_ref().map(|gone| json!({"uid": gone.uid(), "resourceVersion": gone.resource_version()}));
        assert_eq!(Some(only), wanted.as_ref());
        or_404(gone)
    }

    async fn read_key(State(cluster): Shared, Path(name): Path<String>) -> Response {
        or_404(cluster.keys.lock().unwrap().get(&name))
    }

    impl World {
        fn new() -> Self {
            let cluster = Arc::new(Cluster::default());
            let api = Router::new()
                .route("/api/v1/namespaces/hsm-operator/secrets", get(list))
                .route("/api/v1/namespaces/hsm-operator/secrets/{name}", get(read).delete(remove))
                .route("/apis/hsm-operator.io/v1alpha1/namespaces/ns/hsmkeys/{name}", get(read_key))
                .with_state(Arc::clone(&cluster));
            let (keys, seen) = reflector::store();
            Self { ctx: Context::alone(kube::Client::new(api, "default"), keys), cluster, seen }
        }

        /// A Secret for a key, made so many seconds ago.
        fn secret(&self, name: &str, of: &str, age: i64) {
            let mut secret = secret(name, "ns", of, &Hash::of(&Password::new("x").unwrap()));
            let made = Timestamp::from_second(Timestamp::now().as_second() - age).unwrap();
            secret.metadata.creation_timestamp = Some(Time(made));
            (secret.metadata.uid, secret.metadata.resource_version) =
                (Some(format!("u-{name}")), Some("7".into()));
            self.cluster.secrets.lock().unwrap().insert(name.into(), secret);
        }

        fn change(&self, name: &str, change: impl FnOnce(&mut Secret)) {
            change(self.cluster.secrets.lock().unwrap().get_mut(name).unwrap());
        }

        fn names(&self) -> Vec<String> {
            self.cluster.secrets.lock().unwrap().keys().cloned().collect()
        }
    }

    fn key(name: &str, secret: Option<&str>) -> HsmKey {
        let mut spec = json!({"partitionRef": {"name": "p"}, "algorithm": "ED"});
        if let Some(secret) = secret {
            spec["password"] = json!({"secretName": secret});
        }
        let mut key = HsmKey::new(name, serde_json::from_value(spec).unwrap());
        key.metadata.namespace = Some("ns".into());
        key
    }

    #[tokio::test]
    async fn a_key_with_a_password_is_not_used_without_it_and_one_that_lost_it_neither() {
        let world = World::new();
        let says = async |key: &HsmKey| forbids(key, &world.ctx).await.unwrap();
        assert_eq!(says(&key("k", None)).await, None);
        let locked = key("k", Some("s"));
        assert!(says(&locked).await.unwrap().contains("Secret hsm-operator/s does not exist"));
        world.secret("s", "k", 0);
        assert_eq!(says(&locked).await.unwrap(), "HsmKey k has a password, which only a REST call can carry");
        assert!(says(&key("other", Some("s"))).await.unwrap().contains("is about another key"));
        world.change("s", |secret| {
            let none: Secret = serde_json::from_value(changed(None)).unwrap();
            secret.data.as_mut().unwrap().extend(none.data.unwrap());
        });
        assert_eq!(says(&locked).await, None, "it was taken away");
        world.change("s", |secret| secret.data = None);
        assert!(says(&locked).await.unwrap().contains("has no 'key'"));
    }

    #[tokio::test]
    async fn a_key_that_goes_takes_its_own_password_along_and_no_other() {
        let world = World::new();
        world.secret("s", "k", 0);
        forget(&key("other", Some("s")), &world.ctx).await.unwrap();
        forget(&key("k", None), &world.ctx).await.unwrap();
        forget(&key("k", Some("none")), &world.ctx).await.unwrap();
        assert_eq!(world.names(), ["s"]);
        forget(&key("k", Some("s")), &world.ctx).await.unwrap();
        assert_eq!(world.names(), [""; 0]);
    }

    #[tokio::test]
    async fn what_no_key_refers_to_goes_after_an_hour() {
        let mut world = World::new();
        world.secret("new", "coming", 60);
        world.secret("left", "never-came", 2 * AGE);
        world.secret("known", "k", 2 * AGE);
        world.secret("unseen", "fresh", 2 * AGE);
        world.secret("second", "k", 2 * AGE);
        world.secret("damaged", "x", 2 * AGE);
        world.change("damaged", |secret| secret.data = None);
        world.secret("theirs", "x", 2 * AGE);
        world.change("theirs", |secret| secret.type_ = Some("Opaque".into()));
        let k = serde_json::to_value(key("k", Some("known"))).unwrap();
        world.seen.apply_watcher_event(&Event::Apply(serde_json::from_value(k.clone()).unwrap()));
        // A key that no watch has shown yet.
        let keys = [key("fresh", Some("unseen")), serde_json::from_value(k).unwrap()];
        for key in keys {
            world.cluster.keys.lock().unwrap().insert(key.name_any(), key);
        }
        tidy(&world.ctx).await.unwrap();
        assert_eq!(world.names(), ["damaged", "known", "new", "theirs", "unseen"]);
    }
}
