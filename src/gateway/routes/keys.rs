//! Keys: create, list, describe, delete, attest.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, PartialObjectMeta, PostParams, Preconditions},
    core::{DeserializeGuard, ObjectMeta},
};
use tokio::time::timeout;

use super::{
    derived,
    key_body::{CreateBody, NameBody, NewKey, SignedKeyAttributes},
    password::{self, Laid},
};
use crate::{
    api::{
        HsmKey, IMPORTING, LocalRef, condition,
        key::{DeletionPolicy, HsmKeySpec},
        password::{PASSWORD_REQUIRED, PasswordRef},
    },
    attestation::{Bundle, Signer, chain},
    auth::{self, Action},
    gateway::{
        Shared,
        error::{ApiError, Code},
        extract::{Caller, JsonBody, PathName, RequestId},
        openapi::Document,
    },
    model::{KeyLabel, Password, name::InvalidLabel},
    service::{
        attest,
        directory::{Entry, Usable},
    },
    telemetry::logs,
};

/// What the document says of these endpoints.
pub fn document(document: &mut Document) {
    document.group("Keys");
    let create = document.post("/v1/key", "createKey", "Makes a key");
    create.takes::<CreateBody>().gives::<SignedKeyAttributes>(201, "the key").of_the_token();
    let list = document.get("/v1/key", "getKeys", "Names of the keys");
    list.gives::<Vec<String>>(200, "labels of the keys that are ready");
    let one = document.post("/v1/key/attributes", "getKeyAttributesWithKeyPassword", "What a key is");
    one.takes::<NameBody>().gives::<SignedKeyAttributes>(200, "the key").of_a_name();
    let old = document.get("/v1/key/{keyName}/attributes", "getKeyAttributes", "What a key is");
    old.gives::<SignedKeyAttributes>(200, "the key").of_a_name().deprecated();
    let zip =
        document.post("/v1/key/keyAttestation", "getKeyAttestationAsFileDownload", "How a key was made");
    zip.takes::<NameBody>().gives_file("application/zip", "the attestation").of_a_name();
    let remove = document.delete("/v1/key/{keyName}", "deleteKey", "Destroys a key");
    remove.gives_nothing("it is gone").of_a_name().of_the_token();
    let remove = document.post("/v1/key/deleteKey", "deleteKeyWithKeyPassword", "Destroys a key");
    remove.takes::<NameBody>().gives_nothing("it is gone").of_a_name().of_the_token();
}

/// How long a request waits for a key to be made: RSA-8192 takes a token a minute.
const CREATE_WAIT: Duration = Duration::from_secs(80);
/// Reasons for which a key is refused before it is made.
const BEFOREHAND: &[&str] =
    &["InvalidSpec", "NamespaceNotAllowed", "Conflict", "Recoverable", "Unsupported", PASSWORD_REQUIRED];
/// How long a request waits for the API server to say whether there is a key.
pub const LOOKUP_WAIT: Duration = Duration::from_secs(5);
/// The same where an earlier answer can be used instead.
const LOOKUP_WAIT_KNOWN: Duration = Duration::from_secs(1);
pub const API_AWAY: &str =
    "the Kubernetes API server did not answer; keys can be used but not made or deleted";
/// How long a request waits for a key to be destroyed.
const DELETE_WAIT: Duration = Duration::from_secs(30);
/// How often the API server is asked whether it is, where the view does not know.
const GONE_POLL: Duration = Duration::from_millis(250);

/// `POST /v1/key`: makes an HsmKey in the caller's namespace and answers when it is Ready.
pub async fn create(
    State(state): State<Shared>,
    Caller(caller): Caller,
    JsonBody(body): JsonBody<CreateBody>,
) -> Result<(StatusCode, Json<SignedKeyAttributes>), ApiError> {
    let new = body.checked()?;
    allowed(&state, &caller, "create", "").await?;
    let (partition, hsm) = state.partitions.for_namespace(&caller.namespace)?;
    if let Some(token) = hsm.token()
        && !token.capabilities.generates(new.algorithm, new.key_size)
    {
        let size = new.key_size.map_or_else(String::new, |size| format!(" {size}"));
        return Err(ApiError::new(
            Code::Unsupported,
            format!(
                "the token '{}' of partition {partition} makes no {}{size} keys; it makes {}",
                token.label,
                new.algorithm,
                token.capabilities.summary()
            ),
        ));
    }
    if let Some(token) = hsm.token()
        && new.master
        && !token.capabilities.derived.contains(&new.algorithm)
    {
        let message = format!(
            "the token '{}' of partition {partition} derives no {} keys along a path: leave out bip32 and slip10",
            token.label, new.algorithm
        );
        return Err(ApiError::new(Code::Unsupported, message));
    }
    put(&state, &caller, new, partition).await.map(|made| (StatusCode::CREATED, Json(made)))
}

/// Makes an HsmKey of which nothing is there yet, as far as is known, and waits until it is Ready.
pub(super) async fn put(
    state: &Shared,
    caller: &auth::Caller,
    mut new: NewKey,
    partition: String,
) -> Result<SignedKeyAttributes, ApiError> {
    if state.directory.claimed(&partition, new.label.as_str()) {
        return Err(taken());
    }
    not_reserved(state, &partition, &new.label)?;
    if let Some(why) = state.partitions.not_creatable(&partition) {
        let message = format!("no keys can be made on partition {partition} at the moment: {why}");
        return Err(ApiError::new(Code::Busy, message));
    }
    let api = Api::<HsmKey>::namespaced(client(state)?, &caller.namespace);
    let mut wanted = object(&new, partition, caller);
    // Before the key that refers to it: a key is never there without the password that was asked for.
    let laid = match new.password.take() {
        Some(password) => Some(Laid::down(state, &caller.namespace, &wanted.name_any(), &password).await?),
        None => None,
    };
    wanted.spec.password = laid.as_ref().map(|laid| PasswordRef { secret_name: laid.name.clone() });
    let made = api.create(&PostParams::default(), &wanted).await;
    // Of what the API server did not refuse, nobody knows whether it came to be.
    let refused = match &made {
        Ok(made) => password::is_whole(&wanted, made).is_err(),
        Err(error) => matches!(error, kube::Error::Api(status) if status.code < 500),
    };
    if let Some(laid) = laid
        && refused
    {
        laid.take_back(state).await;
    }
    let made = match made {
        Ok(made) => made,
        Err(kube::Error::Api(status)) if status.code == 409 => {
            return Err(another_label(&api, &new.label).await.unwrap_or_else(taken));
        }
        Err(kube::Error::Api(status)) if matches!(status.code, 400 | 403 | 422) => {
            return Err(ApiError::new(Code::Validation, status.message.clone()));
        }
        Err(error) => return Err(api_error(&error)),
    };
    state.metrics.wrote("HsmKey", "create");
    if let Err(error) = password::is_whole(&wanted, &made) {
        take_back(state, &api, &made).await;
        return Err(error);
    }
    finished(state, caller, &api, &new.label, &made, TakeBack::Refused).await
}

/// Which objects are taken back whose keys will not be Ready.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum TakeBack {
    /// Those whose keys go with them, and those of which nothing is on the token.
    Refused,
    /// Those whose keys go with them: the key is on the token.
    Destroyed,
    /// None: it is somebody else's.
    Nothing,
}

/// What a key is, when it is Ready. What is done with one that will not be, `take_back` says.
pub(super) async fn finished(
    state: &Shared,
    caller: &auth::Caller,
    api: &Api<HsmKey>,
    label: &KeyLabel,
    made: &HsmKey,
    which: TakeBack,
) -> Result<SignedKeyAttributes, ApiError> {
    let name = made.name_any();
    match settled(state, &caller.namespace, made, which != TakeBack::Refused).await {
        Settled::Ready(answer) => Ok(*answer),
        Settled::Stalled { reason, mut error } => {
            // What left nothing on the token may leave nothing in the cluster either. A key that is there and
            // would stay keeps its object: it would belong to nobody.
            let goes = made.spec.deletion_policy == DeletionPolicy::Destroy && which != TakeBack::Nothing;
            if goes || (which == TakeBack::Refused && BEFOREHAND.contains(&reason.as_str())) {
                take_back(state, api, made).await;
            } else {
                error.message += &format!("; HsmKey {}/{name} is kept", caller.namespace);
            }
            Err(error)
        }
        Settled::Late => Err(ApiError::new(
            Code::Timeout,
            format!(
                "the key '{label}' is still being made; HsmKey {}/{name} says how far it is",
                caller.namespace
            ),
        )),
    }
}

/// Refuses the labels of keys that attest others, before anything of that label comes to the token.
pub(super) fn not_reserved(state: &Shared, partition: &str, label: &KeyLabel) -> Result<(), ApiError> {
    let object = state.partitions.object(partition);
    if object.is_some_and(|object| object.spec.attestation.is_name(label.as_str())) {
        let message =
            format!("the label '{label}' belongs to a key that attests others: choose another label");
        return Err(ApiError::new(Code::KeyExists, message));
    }
    Ok(())
}

pub(super) fn taken() -> ApiError {
    ApiError::new(Code::KeyExists, "Could not create key. The key name is already in use.")
}

/// What is said where the name of the object is taken and the label is not: somebody made it with a label of its own.
pub(super) async fn another_label(api: &Api<HsmKey>, label: &KeyLabel) -> Option<ApiError> {
    let name = label.object_name();
    let found = timeout(LOOKUP_WAIT, api.get_opt(&name)).await.ok()?.ok()??;
    let theirs = found.label();
    (theirs != label.as_str()).then(|| {
        let message = format!(
            "the key '{label}' would be HsmKey {name}, and an HsmKey of that name has the label '{theirs}'"
        );
        ApiError::new(Code::KeyExists, message)
    })
}

pub(super) fn object(new: &NewKey, partition: String, caller: &auth::Caller) -> HsmKey {
    let label = new.label.as_str();
    let name = new.label.object_name();
    // A key that may be destroyed is destroyed when it is deleted over REST, as the contract has it.
    let destroyable = new.attributes.destroyable == Some(true);
    let mut key = HsmKey::new(
        &name,
        HsmKeySpec {
            partition_ref: LocalRef { name: partition },
            label: (label != name).then(|| label.to_owned()),
            algorithm: new.algorithm,
            source: new.source,
            key_size: new.key_size.and_then(|size| i32::try_from(size).ok()),
            curve_oid: new.curve_oid.clone(),
            attributes: new.attributes.clone(),
            adopt: false,
            deletion_policy: if destroyable { DeletionPolicy::Destroy } else { DeletionPolicy::Retain },
            public_key_secret_name: None,
            derived_from: new.derived_from.clone(),
            certificate: None,
            policy: new.policy.clone(),
            address_format: new.address_format,
            password: None,
        },
    );
    key.metadata = ObjectMeta {
        namespace: Some(caller.namespace.clone()),
        annotations: Some([("hsm-operator.io/created-by".to_owned(), caller.username.clone())].into()),
        ..key.metadata
    };
    key
}

/// Bytes as bodies have them.
pub(super) fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

enum Settled {
    Ready(Box<SignedKeyAttributes>),
    Stalled { reason: String, error: ApiError },
    Late,
}

/// Waits until a key is Ready or a person must act.
async fn settled(state: &Shared, namespace: &str, made: &HsmKey, brought: bool) -> Settled {
    let mut changes = state.directory.changes();
    let (name, uid) = (made.name_any(), made.uid());
    // What was said before the key came says nothing of it, and is only taken back at the controller's next look.
    let earlier = stalled(made).map(|(reason, error)| (reason.to_owned(), error.message));
    let is_new = |reason: &str, error: &ApiError| {
        !earlier.as_ref().is_some_and(|(old, message)| old == reason && *message == error.message)
    };
    let wait = async {
        loop {
            changes.borrow_and_update();
            // The view may still have an earlier object of that name.
            let entry = state.directory.by_name(namespace, &name);
            if let Some(entry) = entry.filter(|entry| entry.object.uid() == uid) {
                if entry.usable.is_some()
                    && let Some(answer) = SignedKeyAttributes::of(&entry.object)
                {
                    return Settled::Ready(Box::new(answer));
                }
                if let Some((reason, error)) = stalled(&entry.object)
                    // Said of a key that only a gateway makes, before it was brought.
                    && !(brought && reason == PASSWORD_REQUIRED)
                    && is_new(reason, &error)
                {
                    return Settled::Stalled { reason: reason.to_owned(), error };
                }
            }
            if changes.changed().await.is_err() {
                return Settled::Late;
            }
        }
    };
    timeout(CREATE_WAIT, wait).await.unwrap_or(Settled::Late)
}

/// Why a key will not become Ready by itself: the condition's reason, and what a client is told.
fn stalled(key: &HsmKey) -> Option<(&str, ApiError)> {
    let conditions = &key.status.as_ref()?.conditions;
    let stalled = condition::find(conditions, condition::STALLED).filter(|found| found.status == "True")?;
    let code = match stalled.reason.as_str() {
        "Conflict" | "Recoverable" | "SecretConflict" => Code::KeyExists,
        "Unsupported" | "NotAttested" => Code::Unsupported,
        "InvalidSpec" => Code::Validation,
        "NamespaceNotAllowed" => Code::NotAllowed,
        _ => Code::Hsm,
    };
    Some((&stalled.reason, ApiError::new(code, stalled.message.clone())))
}

/// Deletes the object that a request made, unless another request noted on it that it brings the key.
pub(super) async fn take_back(state: &Shared, api: &Api<HsmKey>, made: &HsmKey) {
    let note = made.annotations().get(IMPORTING);
    let is_own = |now: &PartialObjectMeta<HsmKey>| {
        let noted = now.annotations().get(IMPORTING);
        now.uid() == made.uid() && (noted.is_none() || noted == note)
    };
    delete_while(state, api, &made.name_any(), is_own).await;
}

/// Deletes an object as long as it is as `is_own` says, in the moment in which it is deleted.
pub(super) async fn delete_while(
    state: &Shared,
    api: &Api<HsmKey>,
    name: &str,
    is_own: impl Fn(&PartialObjectMeta<HsmKey>) -> bool,
) {
    let failed = |error: String| tracing::warn!(name, error, "cannot take back the object of a refused key");
    for _ in 0..TRIES {
        let now = match timeout(LOOKUP_WAIT, api.get_metadata_opt(name)).await {
            Ok(Ok(Some(now))) if is_own(&now) => now,
            Ok(Ok(_)) => return,
            Ok(Err(error)) => return failed(logs::chain(&error)),
            Err(_) => return failed(API_AWAY.into()),
        };
        let only_this = Preconditions { uid: now.uid(), resource_version: now.resource_version() };
        let params = DeleteParams { preconditions: Some(only_this), ..DeleteParams::default() };
        match api.delete(name, &params).await {
            Ok(_) => return state.metrics.wrote("HsmKey", "delete"),
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return failed(logs::chain(&error)),
        }
    }
    failed("others change it all the time".into());
}

/// How often something is tried that others' changes of an object get in the way of.
pub(super) const TRIES: usize = 5;

/// `GET /v1/key`: labels of the caller's namespace.
pub async fn list(
    State(state): State<Shared>,
    Caller(caller): Caller,
) -> Result<Json<Vec<String>>, ApiError> {
    allowed(&state, &caller, "list", "").await?;
    Ok(Json(state.directory.labels(&caller.namespace)))
}

/// `POST /v1/key/attributes`.
pub async fn attributes(
    State(state): State<Shared>,
    Caller(caller): Caller,
    RequestId(request_id): RequestId,
    JsonBody(body): JsonBody<NameBody>,
) -> Result<Json<SignedKeyAttributes>, ApiError> {
    describe(&state, &caller, &request_id, &body.label, body.password.as_ref()).await
}

/// What a key is, for both forms of asking.
pub async fn describe(
    state: &Shared,
    caller: &auth::Caller,
    request_id: &str,
    label: &str,
    given: Option<&Password>,
) -> Result<Json<SignedKeyAttributes>, ApiError> {
    let named = derived::named(state, caller, label).await?;
    allowed(state, caller, "get", &named.entry.object.name_any()).await?;
    named.unlock_to_show(state, caller, request_id, given).await?;
    named.described(state).await.map(Json)
}

/// `POST /v1/key/keyAttestation`: the attestation as a zip.
pub async fn attestation(
    State(state): State<Shared>,
    Caller(caller): Caller,
    JsonBody(body): JsonBody<NameBody>,
) -> Result<Response, ApiError> {
    let entry = lookup(&state, &caller, &body.label).await?;
    allowed(&state, &caller, "get", &entry.object.name_any()).await?;
    let usable = usable_public(&entry)?;
    password::check_if_given(&state, &entry, body.password.as_ref()).await?;
    let incomplete = || ApiError::new(Code::Busy, format!("the key '{}' is not attested yet", body.label));
    let statement =
        entry.object.status.as_ref().and_then(|status| status.attestation.as_ref()).ok_or_else(incomplete)?;
    let partition = state.partitions.object(&usable.partition).ok_or_else(incomplete)?;
    let status = partition.status.as_ref().filter(|status| status.attestation.is_some());
    let status = status.ok_or_else(incomplete)?;
    let unreadable = |error: &dyn std::error::Error| {
        tracing::error!(
            key = entry.label,
            error = crate::telemetry::logs::chain(error),
            "cannot pack an attestation"
        );
        ApiError::new(Code::General, "the attestation cannot be packed")
    };
    let signature = STANDARD.decode(&statement.xml_signature).map_err(|error| unreadable(&error))?;
    let known = attest::chain_of(status, statement).zip(statement.algorithm());
    let (by, algorithm) = known.ok_or_else(|| {
        let message = format!(
            "the certificates of the key that attested '{}' are not known any more; its attributes have the attestation",
            body.label
        );
        ApiError::new(Code::General, message)
    })?;
    let chain = chain::from_pem(&by.chain).map_err(|error| unreadable(&error))?;
    let signer = if by.is_device() { Signer::Device(algorithm) } else { Signer::Operator };
    let bundle = Bundle {
        label: &entry.label,
        xml: statement.xml.as_bytes(),
        signature: &signature,
        chain: &chain,
        signer,
    };
    let zip = bundle.to_zip().map_err(|error| unreadable(&error))?;
    let file = entry.object.name_any();
    let headers = [
        (header::CONTENT_TYPE, "application/zip".to_owned()),
        (header::CONTENT_DISPOSITION, format!("attachment; filename=\"{file}-attestation.zip\"")),
    ];
    Ok((headers, zip).into_response())
}

/// `DELETE /v1/key/{name}`.
pub async fn remove(
    State(state): State<Shared>,
    Caller(caller): Caller,
    PathName(name): PathName,
) -> Result<StatusCode, ApiError> {
    delete(&state, &caller, &name, None).await
}

/// `POST /v1/key/deleteKey`.
pub async fn remove_by_body(
    State(state): State<Shared>,
    Caller(caller): Caller,
    JsonBody(body): JsonBody<NameBody>,
) -> Result<StatusCode, ApiError> {
    delete(&state, &caller, &body.label, body.password.as_ref()).await
}

async fn delete(
    state: &Shared,
    caller: &auth::Caller,
    label: &str,
    given: Option<&Password>,
) -> Result<StatusCode, ApiError> {
    if KeyLabel::new(label).is_err() && state.directory.find(&caller.namespace, label).is_none() {
        // A key that is derived for a moment is not there to be deleted.
        return Err(ApiError::no_key(label));
    }
    let entry = lookup(state, caller, label).await?;
    let name = entry.object.name_any();
    allowed(state, caller, "delete", &name).await?;
    password::check_if_given(state, &entry, given).await?;
    let spec = &entry.object.spec;
    if spec.attributes.destroyable != Some(true) {
        return Err(ApiError::new(Code::Forbidden, format!("the key '{label}' is not destroyable")));
    }
    if spec.deletion_policy == DeletionPolicy::Retain {
        return Err(ApiError::new(
            Code::Forbidden,
            format!(
                "HsmKey {}/{name} has deletionPolicy Retain: set it to Destroy, or delete the object to let go of the key",
                caller.namespace
            ),
        ));
    }
    let api = Api::<HsmKey>::namespaced(client(state)?, &caller.namespace);
    let only_this = Preconditions { uid: entry.object.uid(), resource_version: None };
    let params = DeleteParams { preconditions: Some(only_this), ..DeleteParams::default() };
    match api.delete(&name, &params).await {
        Ok(_) => state.metrics.wrote("HsmKey", "delete"),
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => {}
        Err(error) => return Err(api_error(&error)),
    }
    // Gone means gone from the token too: the object's finalizer goes after the key.
    match timeout(DELETE_WAIT, gone(state, &api, &entry.object)).await {
        Ok(()) => Ok(StatusCode::OK),
        Err(_) => Err(ApiError::new(
            Code::Timeout,
            format!(
                "the key '{label}' is still being destroyed; HsmKey {}/{name} says why",
                caller.namespace
            ),
        )),
    }
}

/// Waits until an object is gone.
async fn gone(state: &Shared, api: &Api<HsmKey>, key: &HsmKey) {
    let (namespace, name, uid) = (key.namespace().unwrap_or_default(), key.name_any(), key.uid());
    let mut changes = state.directory.changes();
    loop {
        changes.borrow_and_update();
        let still = state.directory.by_name(&namespace, &name);
        if still.is_none_or(|other| other.object.uid() != uid) || changes.changed().await.is_err() {
            break;
        }
    }
    // The view of a replica that never saw the key says nothing of its end.
    loop {
        match api.get_metadata_opt(&name).await {
            Ok(still) if still.as_ref().is_none_or(|other| other.uid() != uid) => return,
            _ => tokio::time::sleep(GONE_POLL).await,
        }
    }
}

/// The key of a label in the caller's namespace. Another replica may have made it a moment ago, so the API
/// server is asked before it is said not to exist.
pub async fn lookup(state: &Shared, caller: &auth::Caller, label: &str) -> Result<Arc<Entry>, ApiError> {
    let known = state.directory.find(&caller.namespace, label);
    if let Some(entry) = &known
        && entry.usable.is_some()
    {
        return Ok(Arc::clone(entry));
    }
    let checked = match KeyLabel::new(label) {
        Ok(checked) => checked,
        // One that is derived and kept, and not Ready.
        Err(InvalidLabel::Derivation) if known.is_some() => {
            return known.ok_or_else(|| ApiError::no_key(label));
        }
        Err(InvalidLabel::Derivation) => return Err(Box::pin(derived::refusal(state, caller, label)).await),
        Err(_) => return Err(ApiError::no_key(label)),
    };
    let Some(client) = &state.client else {
        return known.ok_or_else(|| ApiError::no_key(label));
    };
    // After an interruption the watch may lag for half a minute, and the API server may be away again.
    let set_aside = || state.directory.from_aside(&caller.namespace, label);
    let wait = if set_aside().is_some() { LOOKUP_WAIT_KNOWN } else { LOOKUP_WAIT };
    match timeout(wait, in_api(client, &caller.namespace, &checked)).await {
        // Not put into the directory: the watch may know of a later change, or of the object's end.
        Ok(Ok(Some(found))) => {
            let entry = Arc::new(Entry::of(Arc::new(found)));
            state.directory.set_aside(&caller.namespace, Arc::clone(&entry));
            Ok(entry)
        }
        Ok(Ok(None)) => known.ok_or_else(|| ApiError::no_key(label)),
        Ok(Err(error)) => set_aside().or(known).ok_or_else(|| api_error(&error)),
        Err(_) => set_aside().or(known).ok_or_else(|| ApiError::new(Code::Busy, API_AWAY)),
    }
}

/// The object of a label, as the API server has it: under the name that REST gives it, or under any other.
async fn in_api(client: &Client, namespace: &str, label: &KeyLabel) -> Result<Option<HsmKey>, kube::Error> {
    let is = |key: &HsmKey| key.label() == label.as_str();
    let api = Api::<HsmKey>::namespaced(client.clone(), namespace);
    if let Some(found) = api.get_opt(&label.object_name()).await?.filter(is) {
        return Ok(Some(found));
    }
    let api = Api::<DeserializeGuard<HsmKey>>::namespaced(client.clone(), namespace);
    let all = api.list(&ListParams::default()).await?;
    Ok(all.items.into_iter().filter_map(|one| one.0.ok()).filter(is).min_by_key(|key| !key.is_ready()))
}

/// The key's object as the API server has it now: the view may be a moment behind.
pub async fn fresh(state: &Shared, entry: &Entry) -> Result<Entry, ApiError> {
    let (namespace, name) = (entry.object.namespace().unwrap_or_default(), entry.object.name_any());
    let api = Api::<HsmKey>::namespaced(client(state)?, &namespace);
    let found = timeout(LOOKUP_WAIT, api.get_opt(&name)).await;
    let found = found.map_err(|_| ApiError::new(Code::Busy, API_AWAY))?.map_err(|error| api_error(&error))?;
    found
        .map(|key| Entry::of(Arc::new(key)))
        .filter(|now| now.label == entry.label)
        .ok_or_else(|| ApiError::no_key(&entry.label))
}

/// What is needed to use a key's private or secret half, or why it cannot be used.
pub fn usable(entry: &Entry) -> Result<&Usable, ApiError> {
    let found = usable_public(entry)?;
    if found.public_only {
        let message =
            format!("'{}' is a public key alone: its private half is not on the token", entry.label);
        return Err(ApiError::new(Code::KeyType, message));
    }
    Ok(found)
}

/// The same for what takes the public half at most.
pub fn usable_public(entry: &Entry) -> Result<&Usable, ApiError> {
    entry.usable.as_ref().ok_or_else(|| {
        stalled(&entry.object).map(|(_, error)| error).unwrap_or_else(|| {
            let ready = entry
                .object
                .status
                .as_ref()
                .and_then(|status| condition::find(&status.conditions, condition::READY));
            let why = ready.map_or_else(|| "it was not looked at yet".into(), |found| found.message.clone());
            ApiError::new(Code::Busy, format!("the key '{}' is not ready: {why}", entry.label))
        })
    })
}

/// Checks a verb on HsmKeys.
pub async fn allowed(
    state: &Shared,
    caller: &auth::Caller,
    verb: &'static str,
    name: &str,
) -> Result<(), ApiError> {
    let action =
        Action { verb, resource: "hsmkeys", namespace: caller.namespace.clone(), name: name.to_owned() };
    Ok(state.authorize.authorize(caller, &action).await?)
}

pub fn client(state: &Shared) -> Result<Client, ApiError> {
    state.client.clone().ok_or_else(|| ApiError::new(Code::General, "there is no API server"))
}

pub fn api_error(error: &kube::Error) -> ApiError {
    tracing::warn!(error = %crate::telemetry::logs::chain(error), "the API server did not do as asked");
    ApiError::new(Code::Busy, API_AWAY)
}
