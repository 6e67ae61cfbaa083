//! Who is calling, and what they may do.

pub mod access;
pub mod memory;
pub mod token_review;

use async_trait::async_trait;

/// Someone who proved who they are. Made by an [`Authenticate`] and by nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// User name, as the API server knows it.
    pub username: String,
    /// Unique identifier of the user.
    pub uid: String,
    /// Groups of the user.
    pub groups: Vec<String>,
    /// Namespace of the ServiceAccount: whose keys the caller names.
    pub namespace: String,
}

/// Why a credential is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// None was given.
    #[error("no access token was sent: 'Authorization: Bearer …' is missing")]
    Missing,
    /// It is not valid, or not for this audience.
    #[error("the access token is not valid for this service: {0}")]
    Invalid(String),
    /// It is valid and not a ServiceAccount's.
    #[error("'{0}' is not a ServiceAccount")]
    NotServiceAccount(String),
    /// Whether it is valid cannot be found out now.
    #[error("the access token cannot be checked at the moment")]
    Unavailable,
}

/// Turns a credential into a caller.
#[async_trait]
pub trait Authenticate: Send + Sync {
    /// Who sent this bearer token.
    ///
    /// # Errors
    /// [`Refused`]; there is no anonymous caller.
    async fn authenticate(&self, token: &str) -> Result<std::sync::Arc<Caller>, Refused>;
}

/// What a caller wants to do, in Kubernetes' words.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Action {
    /// Verb: `use`, `get`, `list`, `create`, `delete`.
    pub verb: &'static str,
    /// Resource of our group.
    pub resource: &'static str,
    /// Namespace, empty for cluster-scoped resources.
    pub namespace: String,
    /// Name of the object, empty where the verb has none.
    pub name: String,
}

/// Why an action is not allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// RBAC does not allow it.
    #[error("{0}")]
    Forbidden(String),
    /// Whether it is allowed cannot be found out now.
    #[error("permissions cannot be checked at the moment")]
    Unavailable,
}

/// Decides on actions.
#[async_trait]
pub trait Authorize: Send + Sync {
    /// Whether `caller` may do `action`.
    ///
    /// # Errors
    /// [`Denied`] says what is missing.
    async fn authorize(&self, caller: &Caller, action: &Action) -> Result<(), Denied>;
}
