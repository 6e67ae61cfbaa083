//! ServiceAccount tokens, checked by the API server's TokenReview for our own audience.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::{Api, Client, api::PostParams};
use sha2::{Digest, Sha256};

use super::{
    Authenticate, Caller, Refused,
    memory::{Ages, Memory},
};
use crate::telemetry::Metrics;

/// A grant is asked for again after a minute, a refusal after five seconds; ten minutes is what a caller whom
/// we know gets while the API server is down.
const AGES: Ages = Ages {
    grant: Duration::from_secs(60),
    refusal: Duration::from_secs(5),
    stale: Duration::from_secs(600),
    known: Duration::from_secs(1),
    unknown: Duration::from_secs(10),
};

/// Longest token that is looked at.
const TOKEN_MAX: usize = 16 * 1024;

/// [`Authenticate`] by TokenReview.
pub struct TokenReviews {
    reviews: Api<TokenReview>,
    audience: String,
    memory: Memory<[u8; 32], Grant, Refused>,
    metrics: Arc<Metrics>,
}

impl TokenReviews {
    /// Accepts tokens for `audience` only.
    #[must_use]
    pub fn new(client: Client, audience: String, metrics: Arc<Metrics>) -> Self {
        Self { reviews: Api::all(client), audience, memory: Memory::new(100_000, AGES), metrics }
    }
}

#[async_trait]
impl Authenticate for TokenReviews {
    async fn authenticate(&self, token: &str) -> Result<Arc<Caller>, Refused> {
        if token.len() > TOKEN_MAX {
            return Err(Refused::Invalid("it is too long".into()));
        }
        let digest: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let ask = || {
            let (reviews, audience, token) = (self.reviews.clone(), self.audience.clone(), token.to_owned());
            async move {
                let end = expiry(&token);
                if has_passed(end) {
                    return Ok(Err(expired()));
                }
                let spec = TokenReviewSpec { audiences: Some(vec![audience.clone()]), token: Some(token) };
                let review = TokenReview { spec, ..Default::default() };
                match reviews.create(&PostParams::default(), &review).await {
                    Ok(answer) => Ok(judge(answer.status.unwrap_or_default(), &audience)
                        .map(|caller| Grant { caller, end })),
                    Err(error) => {
                        tracing::warn!(error = %crate::telemetry::logs::chain(&error), "TokenReview failed");
                        Err(Refused::Unavailable)
                    }
                }
            }
        };
        match self.memory.get(digest, Refused::Unavailable, ask).await {
            Ok((answer, source)) => {
                self.metrics.decided(
                    "authenticate",
                    if answer.is_ok() { "allowed" } else { "refused" },
                    source.name(),
                );
                let grant = answer?;
                // A remembered grant must not outlive the token. The time is only believed to refuse earlier.
                if has_passed(grant.end) { Err(expired()) } else { Ok(grant.caller) }
            }
            Err(error) => {
                self.metrics.decided("authenticate", "error", "api");
                Err(error)
            }
        }
    }
}

fn judge(status: TokenReviewStatus, audience: &str) -> Result<Arc<Caller>, Refused> {
    if status.authenticated != Some(true) {
        return Err(Refused::Invalid(
            status.error.unwrap_or_else(|| "the API server does not know it".into()),
        ));
    }
    // An API server that does not understand audiences leaves the list empty: refuse, never assume.
    if !status.audiences.unwrap_or_default().iter().any(|one| one == audience) {
        return Err(Refused::Invalid(format!("its audience is not '{audience}'")));
    }
    let user = status.user.unwrap_or_default();
    let username = user.username.unwrap_or_default();
    let namespace =
        match username.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':')) {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => namespace.to_owned(),
            _ => return Err(Refused::NotServiceAccount(username)),
        };
    let (uid, groups) = (user.uid.unwrap_or_default(), user.groups.unwrap_or_default());
    Ok(Arc::new(Caller { username, uid, groups, namespace }))
}

/// What is remembered of a token that was accepted.
#[derive(Clone)]
struct Grant {
    caller: Arc<Caller>,
    /// When the token expires, in seconds since the epoch.
    end: Option<u64>,
}

fn has_passed(end: Option<u64>) -> bool {
    end.is_some_and(|end| end <= now())
}

fn expired() -> Refused {
    Refused::Invalid("it has expired".into())
}

/// The `exp` claim, unverified.
fn expiry(token: &str) -> Option<u64> {
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    serde_json::from_slice::<serde_json::Value>(&claims).ok()?.get("exp")?.as_u64()
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::authentication::v1::UserInfo;

    use super::*;

    fn status(audiences: Option<Vec<String>>, username: &str) -> TokenReviewStatus {
        TokenReviewStatus {
            authenticated: Some(true),
            audiences,
            user: Some(UserInfo { username: Some(username.into()), ..Default::default() }),
            ..Default::default()
        }
    }

    #[test]
    fn a_token_without_our_audience_is_refused() {
        let sa = "system:serviceaccount:ns:app";
        assert!(judge(status(None, sa), "hsm-operator").is_err());
        assert!(judge(status(Some(vec!["other".into()]), sa), "hsm-operator").is_err());
        let caller = judge(status(Some(vec!["hsm-operator".into()]), sa), "hsm-operator").unwrap();
        assert_eq!(caller.namespace, "ns");
    }

    #[test]
    fn a_user_who_is_no_service_account_is_refused() {
        let answer = judge(status(Some(vec!["hsm-operator".into()]), "admin"), "hsm-operator");
        assert_eq!(answer, Err(Refused::NotServiceAccount("admin".into())));
    }

    #[test]
    fn the_expiry_is_read_from_the_claims() {
        let token = format!("x.{}.y", URL_SAFE_NO_PAD.encode(r#"{"exp":17}"#));
        assert_eq!(expiry(&token), Some(17));
        assert_eq!(expiry("not a jwt"), None);
    }
}
