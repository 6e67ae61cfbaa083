//! Keys behind PKCS#11 as gateway and controller see them.

mod answers;
pub mod canary;
pub mod cipher;
mod client;
#[doc(hidden)]
pub mod fake;
pub mod frame;
pub mod health;
pub mod hosts;
pub mod import;
pub mod knee;
mod link;
mod member;
mod memory;
mod moment;
pub mod probe;
mod process;
pub mod protocol;
pub mod recovery;
pub mod registry;
pub mod replicas;
pub mod supervisor;

use async_trait::async_trait;
use protocol::{HsmError, Reply, Request};

use crate::model::KeyId;

pub use canary::Canary;
pub use hosts::Hosts;
pub use member::{Hosted, Member, OnChange};
pub use protocol::Kind;
pub use recovery::{OnRecovery, Recovery, Rung};
pub use registry::{PartitionConfig, Registry, Wanted};
pub use replicas::Replicas;
pub use supervisor::{HostState, Supervisor, SupervisorConfig};

/// Which of several tokens with the same keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Source(u32);

/// A token, however it is reached.
#[async_trait]
pub trait Hsm: Send + Sync {
    /// Carries out one request, within the deadline that fits it.
    ///
    /// # Errors
    /// [`HsmError`], whose kind says whether it may have been carried out all the same.
    async fn call(&self, request: Request) -> Result<Reply, HsmError>;

    /// The same, and which of several tokens answered: none of `but`, if another can.
    ///
    /// # Errors
    /// As [`Self::call`].
    async fn call_but(&self, request: Request, _but: &[Source]) -> Result<(Reply, Source), HsmError> {
        Ok((self.call(request).await?, Source::default()))
    }

    /// Takes note that a signature of one of them with a key was wrong. Returns which it is, for a person.
    fn wrong(&self, _source: Source, _key: &KeyId) -> String {
        label_of(self)
    }

    /// The token as it presented itself when it was last opened; `None` before the first time.
    fn token(&self) -> Option<std::sync::Arc<protocol::TokenFacts>>;
}

/// What a token calls itself.
fn label_of(hsm: &(impl Hsm + ?Sized)) -> String {
    hsm.token().map(|token| token.label.clone()).unwrap_or_default()
}
