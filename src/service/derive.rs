//! Keys that are derived for a moment: what is public of them, remembered.

use std::{sync::Arc, time::Duration};

use moka::sync::Cache;

use super::{directory::Usable, sign::unexpected};
use crate::{
    hsm::{
        Hsm,
        protocol::{HsmError, KeyFacts, Kind, Reply, Request},
    },
    model::{KeyId, derivation::DerivationPath},
    public_key::PublicKey,
};

/// A partition, a master on it by id and fingerprint, and the way from there.
type Place = (String, KeyId, String, DerivationPath);

/// A derived key, as far as it is public.
#[derive(Debug)]
pub struct Found {
    /// What the token says of it.
    pub facts: KeyFacts,
    /// Its public half.
    pub public: Arc<PublicKey>,
}

/// Public halves of derived keys. They follow from the master, so that nothing of them ever changes.
pub struct Derived {
    known: Cache<Place, Arc<Found>>,
}

impl Default for Derived {
    fn default() -> Self {
        let builder = Cache::builder().max_capacity(10_000);
        Self { known: builder.time_to_idle(Duration::from_secs(24 * 3600)).build() }
    }
}

impl Derived {
    /// What is public of the key at the end of a path.
    ///
    /// # Errors
    /// When the token does not derive it.
    pub async fn find(
        &self,
        hsm: &dyn Hsm,
        master: &Usable,
        path: &DerivationPath,
    ) -> Result<Arc<Found>, HsmError> {
        let fingerprint = master.public.as_ref().map(|public| public.fingerprint()).unwrap_or_default();
        let place = (master.partition.clone(), master.id.clone(), fingerprint, path.clone());
        if let Some(known) = self.known.get(&place) {
            return Ok(known);
        }
        let request = Request::Derived { master: master.id.clone(), path: path.clone() };
        let facts = match hsm.call(request).await? {
            Reply::Key(facts) => *facts,
            other => return Err(unexpected(&other)),
        };
        let wrong =
            || HsmError::new(Kind::Device, "the token derived a key without a public half that can be read");
        let spki = facts.public_key.as_deref().ok_or_else(wrong)?;
        let public = PublicKey::from_spki(spki).map_err(|_| wrong())?;
        let same = |master: &Arc<PublicKey>| master.curve() == public.curve();
        if facts.algorithm != Some(master.algorithm) || !master.public.as_ref().is_some_and(same) {
            return Err(HsmError::new(
                Kind::Device,
                "the token derived a key of another kind than its master",
            ));
        }
        let found = Arc::new(Found { facts, public: Arc::new(public) });
        self.known.insert(place, Arc::clone(&found));
        Ok(found)
    }
}
