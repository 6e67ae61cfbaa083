//! Permissions, decided by the API server's SubjectAccessReview.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::{Api, Client, api::PostParams};

use super::{
    Action, Authorize, Caller, Denied,
    memory::{Ages, Memory},
};
use crate::{api, telemetry::Metrics};

/// A change of RBAC is seen within ten seconds; ten minutes is what a caller whom we know gets while the API
/// server is down.
const AGES: Ages = Ages {
    grant: Duration::from_secs(10),
    refusal: Duration::from_secs(3),
    stale: Duration::from_secs(600),
    known: Duration::from_secs(1),
    unknown: Duration::from_secs(10),
};

/// [`Authorize`] by SubjectAccessReview.
pub struct AccessReviews {
    client: Client,
    memory: Memory<(String, String, Action), (), Denied>,
    metrics: Arc<Metrics>,
}

impl AccessReviews {
    /// Asks through `client`.
    #[must_use]
    pub fn new(client: Client, metrics: Arc<Metrics>) -> Self {
        Self { client, memory: Memory::new(200_000, AGES), metrics }
    }
}

#[async_trait]
impl Authorize for AccessReviews {
    async fn authorize(&self, caller: &Caller, action: &Action) -> Result<(), Denied> {
        // Groups belong to the user as authenticated; a new pod of the same account has the same ones.
        let key = (caller.username.clone(), caller.uid.clone(), action.clone());
        let ask = || {
            let (client, review) = (self.client.clone(), review(caller, action));
            let refusal = refusal(caller, action);
            async move {
                match is_allowed(client, &review).await {
                    Ok(true) => Ok(Ok(())),
                    Ok(false) => Ok(Err(Denied::Forbidden(refusal))),
                    Err(error) => {
                        tracing::warn!(error = %crate::telemetry::logs::chain(&error), "SubjectAccessReview failed");
                        Err(Denied::Unavailable)
                    }
                }
            }
        };
        match self.memory.get(key, Denied::Unavailable, ask).await {
            Ok((answer, source)) => {
                self.metrics.decided(
                    "authorize",
                    if answer.is_ok() { "allowed" } else { "refused" },
                    source.name(),
                );
                answer
            }
            Err(error) => {
                self.metrics.decided("authorize", "error", "api");
                Err(error)
            }
        }
    }
}

/// Whether the API server allows it. One that has just begun does not know all RoleBindings yet, and refuses what it
/// allows a moment later: a refusal counts when it is repeated by one that says that it is ready.
async fn is_allowed(client: Client, review: &SubjectAccessReview) -> Result<bool, kube::Error> {
    let reviews = Api::<SubjectAccessReview>::all(client.clone());
    let ask = async || {
        let answer = reviews.create(&PostParams::default(), review).await?;
        Ok::<_, kube::Error>(
            answer.status.is_some_and(|status| status.allowed && status.denied != Some(true)),
        )
    };
    if ask().await? {
        return Ok(true);
    }
    let ready = axum::http::Request::get("/readyz").body(Vec::new()).map_err(kube::Error::HttpError)?;
    match client.request_text(ready).await {
        // A cluster may keep it to itself.
        Err(kube::Error::Api(status)) if status.code < 500 => {}
        other => drop(other?),
    }
    ask().await
}

fn review(caller: &Caller, action: &Action) -> SubjectAccessReview {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: Some(caller.username.clone()),
            uid: some(&caller.uid),
            groups: Some(caller.groups.clone()),
            resource_attributes: Some(ResourceAttributes {
                group: Some(api::GROUP.into()),
                resource: Some(action.resource.into()),
                verb: Some(action.verb.into()),
                namespace: some(&action.namespace),
                name: some(&action.name),
                ..Default::default()
            }),
            ..Default::default()
        },
        ..Default::default()
    }
}

fn refusal(caller: &Caller, action: &Action) -> String {
    let Action { verb, resource, namespace, name } = action;
    let object = if name.is_empty() { (*resource).to_owned() } else { format!("{resource}/{name}") };
    let place = if namespace.is_empty() { String::new() } else { format!(" in namespace {namespace}") };
    format!(
        "{} may not {verb} {object}{place}: grant verb '{verb}' on {resource}.{} by RBAC",
        caller.username,
        api::GROUP
    )
}
