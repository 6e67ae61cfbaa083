//! Keys that are brought to a token.
//!
//! First there is the object, then the key on the token under the object's own id, put there by the gateway's token-host,
//! and then the controller finds it, attests it and says that it is Ready. What a death in between leaves is an object that
//! waits for its key, which the same request brings once more.

use std::{sync::Arc, time::Duration};

use axum::{Json, extract::State, http::StatusCode};
use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use kube::{
    Api, ResourceExt,
    api::{PartialObjectMeta, Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::time::timeout;

use super::{
    certificates,
    import_body::{Brought, Checked, ImportBody, public_attributes},
    key_body::{NewKey, SignedKeyAttributes},
    keys::{
        LOOKUP_WAIT, TRIES, TakeBack, allowed, another_label, api_error, client, delete_while, finished,
        not_reserved, object, take_back, taken,
    },
    operations::usage,
    password::is_whole,
};
use crate::{
    api::{HsmKey, IMPORTING, certificate::CertificateSpec, condition, key::Source},
    auth,
    gateway::{
        Shared,
        error::{ApiError, Code},
        extract::{Caller, RawBody, RequestId},
        json,
        openapi::Document,
    },
    hsm::{
        Hsm,
        import::{Import, Origin, SIGNED, Untold},
        protocol::{Find, HsmError, KeyTemplate, Kind, Reply, Request},
    },
    model::{KeyId, RequestedAttributes, curve},
    public_key::PublicKey,
    service::{
        audit::{About, Use},
        certificate::Chain,
        directory::Entry,
        sign::unexpected,
    },
    telemetry::logs,
};

/// What the document says of this endpoint.
pub fn document(document: &mut Document) {
    document.group("Keys");
    let import = document.post("/v1/key/import/plain", "importPlainKey", "Brings a key to the token");
    import.takes::<ImportBody>().gives::<SignedKeyAttributes>(201, "the key").of_the_token();
}

/// How long an object whose import was begun is left to whoever began it. Nothing is begun on a token that was asked for
/// more than half as long ago.
const BEGUN: SignedDuration = SignedDuration::from_secs(60);
/// How long a key is waited for of which it is not known whether it got on the token: the controller looks every 30 s.
const UNKNOWN_WAIT: Duration = Duration::from_secs(45);

/// `POST /v1/key/import/plain`.
pub async fn import(
    State(state): State<Shared>,
    Caller(caller): Caller,
    RequestId(request_id): RequestId,
    RawBody(body): RawBody,
) -> Result<(StatusCode, Json<SignedKeyAttributes>), ApiError> {
    let Checked { new, brought, certificate } = json::parse_secret::<ImportBody>(body)?.checked()?;
    let what = Arrival { operation: "import", method: None, new, certificate };
    what.may_create(&state, &caller, &request_id).await?;
    let (partition, hsm) = state.partitions.for_namespace(&caller.namespace)?;
    let (public, origin) = match brought {
        Brought::Key(key) => {
            (Public { known: key.spki(), claimed: key.claimed }, Origin::Plain(key.material))
        }
        Brought::Public(public) => {
            if let Some(answer) = what.again(&state, &caller, &request_id, &public).await? {
                return Ok((StatusCode::CREATED, Json(answer)));
            }
            let known = Some(Bytes::copy_from_slice(public.spki()));
            (Public { known, claimed: None }, Origin::Public)
        }
    };
    let answer = what.bring(&state, &caller, &partition, hsm, public, origin).await?;
    Ok((StatusCode::CREATED, Json(answer)))
}

/// What is known of the public half of a key that is brought.
#[derive(Default)]
pub(super) struct Public {
    /// It is so.
    pub known: Option<Bytes>,
    /// Somebody said so.
    pub claimed: Option<PublicKey>,
}

/// A key that comes to a token, however it comes.
pub(super) struct Arrival {
    /// Name of the operation in audit records.
    pub operation: &'static str,
    /// How it is wrapped.
    pub method: Option<&'static str>,
    /// How it is to be there.
    pub new: NewKey,
    /// Its certificate.
    pub certificate: Option<CertificateSpec>,
}

impl Arrival {
    /// Checks verb `create` on HsmKeys, and records it.
    pub async fn may_create(
        &self,
        state: &Shared,
        caller: &auth::Caller,
        request_id: &str,
    ) -> Result<(), ApiError> {
        let may = allowed(state, caller, "create", "").await;
        let record = Use {
            caller: &caller.username,
            namespace: &caller.namespace,
            key: self.new.label.as_str(),
            operation: self.operation,
            algorithm: Some(self.method.unwrap_or_else(|| self.new.algorithm.name())),
            // Of a key, a digest is as much as the key to whoever may guess.
            about: About::Nothing,
            request_id,
        };
        record.record(may.as_ref().err().map(|denied| denied.message.as_str()));
        may
    }

    /// What is answered where a public key or certificate comes alone, and its key is there under that name already: the
    /// certificate is taken, and everything else stays as it is.
    async fn again(
        &self,
        state: &Shared,
        caller: &auth::Caller,
        request_id: &str,
        public: &PublicKey,
    ) -> Result<Option<SignedKeyAttributes>, ApiError> {
        let entry = state.directory.find(&caller.namespace, self.new.label.as_str());
        let same = |entry: &Arc<Entry>| {
            let usable = entry.usable.as_ref();
            usable.and_then(|usable| usable.public.as_deref()) == Some(public)
        };
        let Some(entry) = entry.filter(same) else { return Ok(None) };
        if let Some(pem) = self.certificate.as_ref().and_then(|certificate| certificate.pem.as_deref()) {
            let chain = Chain::from_pem(pem, public)?;
            let about = About::Payload(chain.leaf_der());
            let record = usage(caller, &entry, request_id, "certificate import", None, about);
            let may = allowed(state, caller, "update", &entry.object.name_any()).await;
            record.record(may.as_ref().err().map(|denied| denied.message.as_str()));
            may?;
            certificates::attach(state, &entry, &chain, certificates::Over::Any).await?;
        } else {
            allowed(state, caller, "get", &entry.object.name_any()).await?;
        }
        Ok(SignedKeyAttributes::of(&entry.object))
    }

    /// Makes the object, brings the key, and waits until it is Ready.
    pub async fn bring(
        self,
        state: &Shared,
        caller: &auth::Caller,
        partition: &str,
        hsm: Arc<dyn Hsm>,
        public: Public,
        origin: Origin,
    ) -> Result<SignedKeyAttributes, ApiError> {
        let new = &self.new;
        if let Some(token) = hsm.token()
            && !token.capabilities.generates(new.algorithm, new.key_size)
        {
            let size = new.key_size.map_or_else(String::new, |size| format!(" {size}"));
            let message = format!(
                "the token '{}' of partition {partition} has no {}{size} keys; it has {}",
                token.label,
                new.algorithm,
                token.capabilities.summary()
            );
            return Err(ApiError::new(Code::Unsupported, message));
        }
        let unfinished = state.directory.find(&caller.namespace, new.label.as_str());
        let unfinished = unfinished.filter(|entry| is_unfinished(&entry.object));
        if state.directory.claimed(partition, new.label.as_str()) && unfinished.is_none() {
            return Err(taken());
        }
        not_reserved(state, partition, &new.label)?;
        if let Some(token) = hsm.token()
            && new.master
            && !token.capabilities.derived.contains(&new.algorithm)
        {
            let message = format!(
                "the token '{}' of partition {partition} makes no {} key from a seed that others are derived from: it does \
                 not list the vendor's mechanisms",
                token.label, new.algorithm
            );
            return Err(ApiError::new(Code::Unsupported, message));
        }
        if let Some(why) = state.partitions.not_creatable(partition) {
            let message = format!("no keys can be brought to partition {partition} at the moment: {why}");
            return Err(ApiError::new(Code::Busy, message));
        }
        let api = Api::<HsmKey>::namespaced(client(state)?, &caller.namespace);
        let unfinished = unfinished.map(|entry| entry.object.name_any());
        let begun = self.begin(state, caller, &api, partition, unfinished).await?;
        let (object, fresh) = (&begun.object, begun.fresh);
        let template = template(object, new)?;
        let own = template.id.clone();
        // Whoever began may have brought it. A token that overlooks what others do (SoftHSM) finds it for a question of which
        // it is the answer, and not in its look before a key is made, which finds nothing as a rule.
        if !fresh {
            let what = match object.is_public_only() {
                true => Find::Public(own.clone()),
                false => Find::Id(own.clone()),
            };
            if let Err(error) = hsm.call(Request::Find(what)).await {
                return Err(given_up(state, &api, &begun, error.into()).await);
            }
        }
        let mut job = Import { template, public_key: public.known, origin };
        let mut outcome = hsm.call(Request::Import(Box::new(job.clone()))).await;
        if let Ok(Reply::Untold(untold)) = &outcome {
            outcome = match signer(untold, public.claimed.as_ref()) {
                Ok(signer) => {
                    job.public_key = Some(Bytes::copy_from_slice(signer.spki()));
                    hsm.call(Request::Import(Box::new(job))).await
                }
                Err(refused) => return Err(given_up(state, &api, &begun, refused).await),
            };
        } else {
            // What is brought is not kept for as long as it is waited for the controller.
            drop(job);
        }
        let refused = match outcome {
            Ok(Reply::Key(_)) => {
                done(state, &api, &begun).await;
                let which = if fresh { TakeBack::Destroyed } else { TakeBack::Nothing };
                return finished(state, caller, &api, &new.label, object, which).await;
            }
            // Another request brought it, and the object is that key's.
            Ok(Reply::Keys(keys)) if keys.iter().any(|facts| facts.id.as_ref() == Some(&own)) => {
                return Err(taken());
            }
            Ok(Reply::Keys(_)) => taken(),
            Ok(other) => unexpected(&other).into(),
            Err(error) if is_certain(&error) => error.into(),
            Err(error) => return self.unknown(state, caller, &api, object, fresh, error).await,
        };
        Err(given_up(state, &api, &begun, refused).await)
    }

    /// What is answered where nobody knows whether the key got on the token. If it did, the controller finds it.
    async fn unknown(
        &self,
        state: &Shared,
        caller: &auth::Caller,
        api: &Api<HsmKey>,
        object: &HsmKey,
        fresh: bool,
        error: HsmError,
    ) -> Result<SignedKeyAttributes, ApiError> {
        // One that was there before may get another key.
        if fresh {
            let finished = finished(state, caller, api, &self.new.label, object, TakeBack::Destroyed);
            if let Ok(answer) = timeout(UNKNOWN_WAIT, finished).await {
                return answer;
            }
        }
        let mut answer = ApiError::from(error);
        answer.message += &format!(
            "; whether the key is on the token is not known. HsmKey {}/{} is kept: if it is not Ready in a minute, the \
             same request brings the key once more",
            caller.namespace,
            object.name_any()
        );
        Err(answer)
    }

    /// The object of the key: a new one, or one whose key was not brought by whoever began it.
    async fn begin(
        &self,
        state: &Shared,
        caller: &auth::Caller,
        api: &Api<HsmKey>,
        partition: &str,
        unfinished: Option<String>,
    ) -> Result<Begun, ApiError> {
        let mut wanted = object(&self.new, partition.to_owned(), caller);
        wanted.spec.certificate.clone_from(&self.certificate);
        let since = Timestamp::now().to_string();
        wanted.annotations_mut().insert(IMPORTING.into(), since.clone());
        if let Some(name) = unfinished {
            // Whoever wrote it chose its name.
            return resume(state, api, &name, &wanted).await;
        }
        match api.create(&PostParams::default(), &wanted).await {
            Ok(object) => {
                state.metrics.wrote("HsmKey", "create");
                if let Err(error) = is_whole(&wanted, &object) {
                    take_back(state, api, &object).await;
                    return Err(error);
                }
                Ok(Begun { object, fresh: true, since })
            }
            Err(kube::Error::Api(status)) if status.code == 409 => {
                if let Some(error) = another_label(api, &self.new.label).await {
                    return Err(error);
                }
                resume(state, api, &wanted.name_any(), &wanted).await
            }
            Err(kube::Error::Api(status)) if matches!(status.code, 400 | 403 | 422) => {
                Err(ApiError::new(Code::Validation, status.message.clone()))
            }
            Err(error) => Err(api_error(&error)),
        }
    }
}

/// An object whose key this request brings.
struct Begun {
    object: HsmKey,
    /// This request made it.
    fresh: bool,
    /// What this request noted on it; another one that took it over noted something else.
    since: String,
}

impl Begun {
    /// Whether no other request took the object over.
    fn is_of(&self, now: &PartialObjectMeta<HsmKey>) -> bool {
        now.uid() == self.object.uid() && now.annotations().get(IMPORTING) == Some(&self.since)
    }
}

/// Takes an object over whose import somebody began and did not finish: one of its requests at a time.
async fn resume(state: &Shared, api: &Api<HsmKey>, name: &str, wanted: &HsmKey) -> Result<Begun, ApiError> {
    let busy =
        |what: &str| ApiError::new(Code::Busy, format!("the key is being brought to its token {what}"));
    // Of several that find it left alone, one gets it. Who else writes there is the controller.
    for _ in 0..TRIES {
        let found = timeout(LOOKUP_WAIT, api.get_opt(name)).await;
        let found = found.map_err(|_| ApiError::new(Code::Busy, super::keys::API_AWAY))?;
        let Some(object) = found.map_err(|error| api_error(&error))? else {
            return Err(busy("and was taken back just now; try again"));
        };
        if !is_unfinished(&object) || !is_the_same(&object, wanted) {
            return Err(taken());
        }
        let now = Timestamp::now();
        if object.importing_since().is_some_and(|since| now.duration_since(since) < BEGUN) {
            break;
        }
        let mut claim = json!({ "metadata": {
            "uid": object.uid(), "resourceVersion": object.resource_version(),
            "annotations": { IMPORTING: now.to_string() },
        } });
        if let Some(certificate) = &wanted.spec.certificate {
            // The one that an earlier request left is not this key's, or the same.
            claim["spec"] = json!({ "certificate": certificate });
        }
        match api.patch_metadata(name, &PatchParams::default(), &Patch::Merge(&claim)).await {
            Ok(_) => {
                state.metrics.wrote("HsmKey", "patch");
                return Ok(Begun { object, fresh: false, since: now.to_string() });
            }
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
            Err(error) => return Err(api_error(&error)),
        }
    }
    Err(busy("by another request; try again in a minute"))
}

/// Whether the key of an object is still to be brought, by a gateway that is at it, died while it was or was refused by the
/// token. Of derived keys only those come here whose master has a password, and the controller makes none of them: their
/// objects need not say that a gateway began. A key that was there once is not made again.
fn is_unfinished(object: &HsmKey) -> bool {
    let status = object.status.as_ref();
    let recorded = status.is_some_and(|status| {
        status.key_id.is_some() || condition::is_true(&status.conditions, condition::GENERATED)
    });
    let brought = object.spec.source != Source::Generated || object.spec.derived_from.is_some();
    brought && !recorded && object.metadata.deletion_timestamp.is_none()
}

/// Whether an object asks for the key that this request brings. How it is called, published and let go of is for whoever
/// wrote it to say.
fn is_the_same(object: &HsmKey, wanted: &HsmKey) -> bool {
    let (one, other) = (&object.spec, &wanted.spec);
    object.label() == wanted.label()
        && one.partition_ref == other.partition_ref
        && one.algorithm == other.algorithm
        && one.source == other.source
        // Of what is brought, an object need not say these.
        && (one.key_size.is_none() || one.key_size == other.key_size)
        && (one.curve_oid.is_none() || one.curve_oid == other.curve_oid)
        && same_attributes(object, wanted)
        && one.policy == other.policy
        && one.address_format == other.address_format
        && one.derived_from == other.derived_from
}

fn same_attributes(object: &HsmKey, wanted: &HsmKey) -> bool {
    let (one, other) = (&object.spec.attributes, &wanted.spec.attributes);
    if object.spec.source != Source::ImportedPublic {
        return one == other;
    }
    let one = public_attributes(Some(one.clone()), object.spec.algorithm);
    let destroyable = one.destroyable.or(other.destroyable);
    RequestedAttributes { destroyable, ..one } == *other
}

/// Leaves things as they were before a request whose key certainly did not get on the token.
async fn given_up(state: &Shared, api: &Api<HsmKey>, begun: &Begun, refused: ApiError) -> ApiError {
    if !begun.fresh {
        // One that was there before belongs to whoever made it.
        done(state, api, begun).await;
        return refused;
    }
    delete_while(state, api, &begun.object.name_any(), |now| begun.is_of(now)).await;
    refused
}

/// Says that nobody brings the key any more, which also has the controller look for it. Whoever is killed before leaves that to the
/// controller's next look.
async fn done(state: &Shared, api: &Api<HsmKey>, begun: &Begun) {
    let name = begun.object.name_any();
    for _ in 0..TRIES {
        let Some(now) = still_own(api, begun).await else { return };
        let patch = json!({ "metadata": {
            "uid": now.uid(), "resourceVersion": now.resource_version(), "annotations": { IMPORTING: null },
        } });
        match api.patch_metadata(&name, &PatchParams::default(), &Patch::Merge(&patch)).await {
            Ok(_) => return state.metrics.wrote("HsmKey", "patch"),
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => {
                tracing::warn!(name, error = %logs::chain(&error), "cannot say that a key was imported");
                return;
            }
        }
    }
}

/// The object as it is now, if no other request took it over meanwhile.
async fn still_own(api: &Api<HsmKey>, begun: &Begun) -> Option<PartialObjectMeta<HsmKey>> {
    let read = timeout(LOOKUP_WAIT, api.get_metadata_opt(&begun.object.name_any())).await;
    read.ok()?.ok()?.filter(|now| begun.is_of(now))
}

/// The public half of a key that says nothing of it but by its signatures.
fn signer(untold: &Untold, claimed: Option<&PublicKey>) -> Result<PublicKey, ApiError> {
    let signed: Vec<_> =
        SIGNED.iter().map(|text| &text[..]).zip(untold.signatures.iter().map(|one| &one[..])).collect();
    let signer = curve::by_oid(&untold.curve_oid).and_then(|curve| PublicKey::of_signer(curve, &signed));
    let signer = signer.ok_or_else(|| {
        ApiError::new(Code::Hsm, "the signatures that the token made with the key are not of one key")
    })?;
    if claimed.is_some_and(|claimed| *claimed != signer) {
        return Err(ApiError::new(Code::KeyEncoding, "the public key does not belong to the private key"));
    }
    Ok(signer)
}

/// Whether the key is certainly not on the token.
const fn is_certain(error: &HsmError) -> bool {
    error.kind.not_done()
        || matches!(
            error.kind,
            Kind::Unsupported
                | Kind::Invalid
                | Kind::Forbidden
                | Kind::Full
                | Kind::Ambiguous
                | Kind::KeyNotFound
        )
}

/// How the key of an object is to be on the token: under the id that the controller looks for.
fn template(object: &HsmKey, new: &NewKey) -> Result<KeyTemplate, ApiError> {
    let uid = object.uid().and_then(|uid| uid.parse().ok());
    let (Some(uid), Some(namespace)) = (uid, object.namespace()) else {
        return Err(ApiError::new(Code::General, "the API server made an object without UID"));
    };
    Ok(KeyTemplate {
        id: KeyId::for_object(uid, &namespace, &object.name_any()),
        label: new.label.clone(),
        algorithm: new.algorithm,
        key_size: new.key_size,
        curve_oid: new.curve_oid.clone(),
        attributes: new.attributes.resolved(),
    })
}
