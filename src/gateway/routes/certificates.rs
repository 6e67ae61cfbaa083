//! Certificates: requests, self-signed and issued ones, and the one that a key carries.
//!
//! A key's certificate is in `spec.certificate` of its HsmKey, and nowhere else: what is made or imported here is
//! written there before it is answered, and read from there by every gateway.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use jiff::Timestamp;
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{
    certificate_body::{CertificateAnswer, ImportBody, RequestAnswer, SignBody, Wanted},
    keys::{API_AWAY, LOOKUP_WAIT, allowed, api_error, client, fresh, lookup, usable, usable_public},
    operations::{may_use, usage},
    password,
};
use crate::{
    api::HsmKey,
    auth::{Caller as Who, Denied},
    gateway::{
        Shared,
        error::{ApiError, Code},
        extract::{Caller, JsonBody, PathName, RawBody, RequestId},
        openapi::Document,
    },
    model::{Password, SignatureAlgorithm, certificate::KeyUsage},
    public_key::PublicKey,
    service::{
        audit::{About, Use},
        certificate::{Authority, Chain, Error, Request, Unsigned, Usages, armour, attached::attached},
        directory::{Entry, Usable},
        sign::SignError,
    },
};

/// Who writes `spec.certificate`, as the API server notes it.
const MANAGER: &str = "hsm-operator-gateway";
/// How long an answer waits for this gateway's own view to show what was written.
const VIEW_WAIT: Duration = Duration::from_secs(1);
/// How often a write is tried that others' writes to the same object get ahead of.
const TRIES: usize = 5;

/// What the document says of these endpoints.
pub fn document(document: &mut Document) {
    const BASE: &str = "/v1/certificate";
    document.group("Certificates");
    let ask = document.post(&format!("{BASE}/synchronous/request"), "signCsr", "Asks for a certificate");
    ask.takes::<SignBody>().gives::<RequestAnswer>(200, "the request").of_a_name().of_the_token();
    let (path, id) =
        (format!("{BASE}/synchronous/request/download"), "synchronousCreateCertificateRequestFileDownload");
    let file = document.post(&path, id, "Asks for a certificate, as a file");
    file.takes::<SignBody>().gives_file("application/x-pem-file", "the request").of_a_name().of_the_token();
    for (path, id) in [("selfsign", "selfSignCertificate"), ("create/selfSigned", "selfSignCertificate_1")] {
        let path = format!("{BASE}/synchronous/{path}");
        let own = document.post(&path, id, "Gives a key a certificate that it signs itself");
        own.takes::<SignBody>().gives::<CertificateAnswer>(200, "the certificate").of_a_name().of_the_token();
    }
    let issue = document.post(&format!("{BASE}/synchronous/sign"), "signCertificate", "Answers a request");
    issue.takes::<SignBody>().gives::<CertificateAnswer>(200, "the certificate").of_a_name().of_the_token();
    let import = document.post(
        &format!("{BASE}/import/plain"),
        "importPlainCertificate",
        "Gives a key a certificate that somebody else signed",
    );
    import.takes::<ImportBody>().gives::<CertificateAnswer>(200, "the certificate").of_a_name();
    let path = format!("{BASE}/{{keyName}}");
    let read = document.get(&path, "getCertificate", "The certificate that a key carries");
    read.gives::<CertificateAnswer>(200, "the certificate").of_a_name();
    let remove = document.delete(&path, "deleteCertificate", "Takes a key's certificate away");
    remove.gives_nothing("it has none").of_a_name();
}

/// `POST /v1/certificate/synchronous/request`.
pub async fn request(
    State(state): State<Shared>,
    Caller(caller): Caller,
    RequestId(id): RequestId,
    JsonBody(body): JsonBody<SignBody>,
) -> Result<Json<RequestAnswer>, ApiError> {
    let (entry, der) = make_request(&state, &caller, &id, body).await?;
    Ok(Json(RequestAnswer::new(&entry.label, &der)))
}

/// `POST /v1/certificate/synchronous/request/download`: the same as a file.
pub async fn request_file(
    State(state): State<Shared>,
    Caller(caller): Caller,
    RequestId(id): RequestId,
    JsonBody(body): JsonBody<SignBody>,
) -> Result<Response, ApiError> {
    let (entry, der) = make_request(&state, &caller, &id, body).await?;
    let file = entry.object.name_any();
    let headers = [
        (header::CONTENT_TYPE, "application/x-pem-file".to_owned()),
        (header::CONTENT_DISPOSITION, format!("attachment; filename=\"{file}.csr\"")),
    ];
    Ok((headers, armour::request(&der) + "\n").into_response())
}

async fn make_request(
    state: &Shared,
    caller: &Who,
    request_id: &str,
    body: SignBody,
) -> Result<(Arc<Entry>, Vec<u8>), ApiError> {
    let Wanted { key, password, algorithm, subject, usages, days, .. } = body.checked()?;
    let entry = lookup(state, caller, &key).await?;
    let task = Task { state, caller, request_id, entry: &entry, operation: "certificate request" };
    let key = task.key(algorithm.signature(), password.as_ref()).await?;
    let public = public(&entry, key)?;
    let unsigned = Unsigned::request(public, algorithm, subject.clone(), &usages)?;
    let der = task.sign(key, algorithm.signature(), unsigned).await?;
    // The contract has a key carry a certificate from then on, for those who may give it one.
    if entry.object.spec.certificate.is_none() && may_update(state, caller, &entry).await? {
        let authority = usages.authority || usages.key.contains(&KeyUsage::KeyCertSign);
        let usages = Usages { authority, ..usages };
        let unsigned = Unsigned::self_signed(public, algorithm, subject, &usages, days, Timestamp::now())?;
        let task = Task { operation: "certificate selfsign", ..task };
        let own = task.sign(key, algorithm.signature(), unsigned).await?;
        attach(state, &entry, &Chain::from_der(own, public)?, Over::Nothing).await?;
    }
    Ok((entry, der))
}

/// `POST /v1/certificate/synchronous/selfsign`.
pub async fn self_sign(
    State(state): State<Shared>,
    Caller(caller): Caller,
    RequestId(id): RequestId,
    JsonBody(body): JsonBody<SignBody>,
) -> Result<Json<CertificateAnswer>, ApiError> {
    let Wanted { key, password, algorithm, subject, usages, days, .. } = body.checked()?;
    usages.check()?;
    let entry = lookup(&state, &caller, &key).await?;
    let operation = "certificate selfsign";
    let task = Task { state: &state, caller: &caller, request_id: &id, entry: &entry, operation };
    let key = task.key(algorithm.signature(), password.as_ref()).await?;
    task.may_change(&[]).await?;
    let public = public(&entry, key)?;
    let unsigned = Unsigned::self_signed(public, algorithm, subject, &usages, days, Timestamp::now())?;
    let chain = Chain::from_der(task.sign(key, algorithm.signature(), unsigned).await?, public)?;
    attach(&state, &entry, &chain, Over::Any).await?;
    Ok(Json(CertificateAnswer::of(&entry.label, &chain)))
}

/// `POST /v1/certificate/synchronous/sign`: a certificate for a request, by a key that carries an authority's.
pub async fn issue(
    State(state): State<Shared>,
    Caller(caller): Caller,
    RequestId(id): RequestId,
    JsonBody(body): JsonBody<SignBody>,
) -> Result<Json<CertificateAnswer>, ApiError> {
    let Wanted { key, password, algorithm, subject, usages, days, request } = body.checked()?;
    usages.check()?;
    let request =
        request.ok_or_else(|| ApiError::new(Code::Validation, "certificateSigningRequest is missing"))?;
    let request = Request::from_pem(&request)?;
    let entry = lookup(&state, &caller, &key).await?;
    let operation = "certificate sign";
    let task = Task { state: &state, caller: &caller, request_id: &id, entry: &entry, operation };
    let key = task.key(algorithm.signature(), password.as_ref()).await?;
    let public = public(&entry, key)?;
    let now = Timestamp::now();
    let authority = match authority(&entry.object, public, now) {
        Ok(authority) => authority,
        // Another gateway may have attached one a moment ago.
        Err(_) => authority(&fresh(&state, &entry).await?.object, public, now)?,
    };
    let unsigned = Unsigned::issued(public, algorithm, authority, &request, subject, &usages, days, now)?;
    let der = task.sign(key, algorithm.signature(), unsigned).await?;
    Ok(Json(CertificateAnswer::new(&entry.label, &der)))
}

fn authority(key: &HsmKey, public: &PublicKey, now: Timestamp) -> Result<Authority, ApiError> {
    let chain = attached(key, public)?.ok_or_else(|| {
        let message = "the signing key has no certificate, whose name the new one would carry: selfsign or import one first";
        ApiError::new(Code::Certificate, message)
    })?;
    Ok(Authority::of(&chain, now)?)
}

/// `POST /v1/certificate/import/plain`.
pub async fn import(
    State(state): State<Shared>,
    Caller(caller): Caller,
    RequestId(id): RequestId,
    RawBody(body): RawBody,
) -> Result<Json<CertificateAnswer>, ApiError> {
    let body = ImportBody::read(&body)?;
    let der = body.der()?;
    let entry = lookup(&state, &caller, &body.label).await?;
    let operation = "certificate import";
    let task = Task { state: &state, caller: &caller, request_id: &id, entry: &entry, operation };
    task.may_change(&der).await?;
    let chain = Chain::from_der(der, public(&entry, usable_public(&entry)?)?)?;
    task.record(None, chain.leaf_der()).record(None);
    attach(&state, &entry, &chain, Over::Any).await?;
    Ok(Json(CertificateAnswer::of(&entry.label, &chain)))
}

/// `GET /v1/certificate/{name}`.
pub async fn read(
    State(state): State<Shared>,
    Caller(caller): Caller,
    PathName(name): PathName,
) -> Result<Json<CertificateAnswer>, ApiError> {
    let entry = lookup(&state, &caller, &name).await?;
    allowed(&state, &caller, "get", &entry.object.name_any()).await?;
    let entry = fresh(&state, &entry).await?;
    let public = public(&entry, usable_public(&entry)?)?;
    let chain = attached(&entry.object, public)?.ok_or_else(|| none(&entry))?;
    Ok(Json(CertificateAnswer::of(&entry.label, &chain)))
}

/// `DELETE /v1/certificate/{name}`: the key stays, without a certificate.
pub async fn remove(
    State(state): State<Shared>,
    Caller(caller): Caller,
    RequestId(id): RequestId,
    PathName(name): PathName,
) -> Result<StatusCode, ApiError> {
    let entry = lookup(&state, &caller, &name).await?;
    let operation = "certificate delete";
    let task = Task { state: &state, caller: &caller, request_id: &id, entry: &entry, operation };
    task.may_change(&[]).await?;
    let entry = fresh(&state, &entry).await?;
    if entry.object.spec.certificate.is_none() {
        return Err(none(&entry));
    }
    task.record(None, &[]).record(None);
    write(&state, &entry, &Value::Null, None).await?;
    Ok(StatusCode::OK)
}

/// Not the reason of a missing key: a published client forgets the key then.
fn none(entry: &Entry) -> ApiError {
    ApiError::new(Code::NoCertificate, format!("the key '{}' has no certificate", entry.label))
}

/// One thing that is done with one key for a caller.
#[derive(Clone, Copy)]
struct Task<'a> {
    state: &'a Shared,
    caller: &'a Who,
    request_id: &'a str,
    entry: &'a Entry,
    operation: &'static str,
}

impl<'a> Task<'a> {
    fn record(&self, algorithm: Option<SignatureAlgorithm>, payload: &'a [u8]) -> Use<'a> {
        let algorithm = algorithm.map(SignatureAlgorithm::name);
        usage(self.caller, self.entry, self.request_id, self.operation, algorithm, About::Payload(payload))
    }

    /// The key, if the caller may use it. What would be signed is written only after that: a refusal has no payload.
    async fn key(
        &self,
        algorithm: SignatureAlgorithm,
        given: Option<&Password>,
    ) -> Result<&'a Usable, ApiError> {
        let record = self.record(Some(algorithm), &[]);
        may_use(self.state, self.caller, self.entry, &record).await?;
        let usable = usable(self.entry)?;
        password::unlock(self.state, self.entry, given, &record).await?;
        Ok(usable)
    }

    /// Checks that the caller may change the object; a refusal is recorded.
    async fn may_change(&self, payload: &'a [u8]) -> Result<(), ApiError> {
        let decision = allowed(self.state, self.caller, "update", &self.entry.object.name_any()).await;
        decision.inspect_err(|denied| self.record(None, payload).record(Some(&denied.message)))
    }

    async fn sign(
        &self,
        key: &Usable,
        algorithm: SignatureAlgorithm,
        unsigned: Unsigned,
    ) -> Result<Vec<u8>, ApiError> {
        let (hsm, _) = self.state.partitions.to_sign_with(&key.partition)?;
        self.record(Some(algorithm), unsigned.to_be_signed()).record(None);
        let signed = unsigned.signed(&self.state.signer, hsm.as_ref(), key).await;
        let signed = signed.inspect_err(|error| {
            if let Error::Sign(SignError::Hsm(error)) = error {
                self.state.missed.note(self.state.client.as_ref(), self.entry, error);
            }
        });
        Ok(signed?)
    }
}

fn public<'a>(entry: &Entry, key: &'a Usable) -> Result<&'a PublicKey, ApiError> {
    key.public.as_deref().ok_or_else(|| {
        let message = format!("the {} key '{}' has no public half to certify", key.algorithm, entry.label);
        ApiError::new(Code::KeyType, message)
    })
}

async fn may_update(state: &Shared, caller: &Who, entry: &Entry) -> Result<bool, ApiError> {
    let action = crate::auth::Action {
        verb: "update",
        resource: "hsmkeys",
        namespace: caller.namespace.clone(),
        name: entry.object.name_any(),
    };
    match state.authorize.authorize(caller, &action).await {
        Ok(()) => Ok(true),
        Err(Denied::Forbidden(_)) => Ok(false),
        Err(denied @ Denied::Unavailable) => Err(denied.into()),
    }
}

/// What a certificate may take the place of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Over {
    /// Whatever is there.
    Any,
    /// Nothing: one that is there stays.
    Nothing,
}

/// Writes the certificate into the key's object.
pub(super) async fn attach(state: &Shared, entry: &Entry, chain: &Chain, over: Over) -> Result<(), ApiError> {
    // What a manifest says stays beside it: taken away, the manifest would put it back.
    let spec = json!({ "pem": chain.pem() });
    if over == Over::Any {
        return write(state, entry, &spec, None).await.map(|_| ());
    }
    for _ in 0..TRIES {
        let now = fresh(state, entry).await?;
        if now.object.spec.certificate.is_some() {
            return Ok(());
        }
        // Whoever writes meanwhile goes first, and then it is looked again.
        if write(state, entry, &spec, now.object.resource_version()).await? == Written::Done {
            return Ok(());
        }
    }
    Err(crowded(&entry.object.name_any()))
}

fn crowded(name: &str) -> ApiError {
    ApiError::new(Code::Busy, format!("HsmKey {name} changes all the time; try again"))
}

#[derive(PartialEq, Eq)]
enum Written {
    Done,
    /// The object is not the one of that version any more.
    Changed,
}

async fn write(
    state: &Shared,
    entry: &Entry,
    certificate: &Value,
    version: Option<String>,
) -> Result<Written, ApiError> {
    let (namespace, name) = (entry.object.namespace().unwrap_or_default(), entry.object.name_any());
    let api = Api::<HsmKey>::namespaced(client(state)?, &namespace);
    // With the UID, an object of the same name made meanwhile is not meant.
    let mut patch =
        json!({ "metadata": { "uid": entry.object.uid() }, "spec": { "certificate": certificate } });
    let versioned = version.is_some();
    if let Some(version) = version {
        patch["metadata"]["resourceVersion"] = json!(version);
    }
    let params = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
    let mut changes = state.directory.changes();
    let patched = match timeout(LOOKUP_WAIT, api.patch(&name, &params, &Patch::Merge(&patch))).await {
        Ok(Ok(patched)) => patched,
        Ok(Err(kube::Error::Api(status))) if status.code == 409 && versioned => return Ok(Written::Changed),
        Ok(Err(kube::Error::Api(status))) if status.code == 404 => {
            return Err(ApiError::no_key(&entry.label));
        }
        // Another object has the name meanwhile, or too many write to this one.
        Ok(Err(kube::Error::Api(status))) if status.code == 409 => {
            let same = fresh(state, entry).await?.object.uid() == entry.object.uid();
            return Err(if same { crowded(&name) } else { ApiError::no_key(&entry.label) });
        }
        Ok(Err(kube::Error::Api(status))) if matches!(status.code, 400 | 403 | 422) => {
            return Err(ApiError::new(Code::Validation, status.message.clone()));
        }
        Ok(Err(error)) => return Err(api_error(&error)),
        Err(_) => return Err(ApiError::new(Code::Busy, API_AWAY)),
    };
    state.metrics.wrote("HsmKey", "patch");
    // It is written, whether or not the view hears of it in time.
    let seen = async {
        let shown = |key: &HsmKey| key.spec.certificate == patched.spec.certificate;
        while !state.directory.by_name(&namespace, &name).is_some_and(|entry| shown(&entry.object)) {
            if changes.changed().await.is_err() {
                break;
            }
        }
    };
    let _ = timeout(VIEW_WAIT, seen).await;
    Ok(Written::Done)
}
