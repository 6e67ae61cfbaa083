//! Keys behind PKCS#11 as gateway and controller see them.

mod client;
#[doc(hidden)]
pub mod fake;
pub mod frame;
pub mod hosts;
pub mod probe;
pub mod protocol;
pub mod recovery;
pub mod registry;
pub mod supervisor;

use async_trait::async_trait;
use protocol::{HsmError, Reply, Request};

pub use hosts::Hosts;
pub use protocol::Kind;
pub use recovery::{OnRecovery, Recovery, Rung};
pub use registry::{PartitionConfig, Registry};
pub use supervisor::{HostState, Supervisor, SupervisorConfig};

/// A token, however it is reached.
#[async_trait]
pub trait Hsm: Send + Sync {
    /// Carries out one request, within the deadline that fits it.
    ///
    /// # Errors
    /// [`HsmError`], whose kind says whether it may have been carried out all the same.
    async fn call(&self, request: Request) -> Result<Reply, HsmError>;

    /// The token as it presented itself when it was last opened; `None` before the first time.
    fn token(&self) -> Option<std::sync::Arc<protocol::TokenFacts>>;
}
