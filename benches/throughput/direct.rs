//! The same key on the same token, driven directly through PKCS#11 by threads with a session each.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    mechanism::Mechanism,
    object::{Attribute, ObjectClass, ObjectHandle},
    session::{Session, UserType},
    slot::Slot,
    types::AuthPin,
};
use sha2::{Digest, Sha256};

use crate::cluster::Cluster;

/// A key on the token.
pub struct Key {
    context: Pkcs11,
    slot: Slot,
    id: Vec<u8>,
    /// Keeps the login.
    _keeper: Session,
    mechanism: Mechanism<'static>,
    input: Arc<Vec<u8>>,
}

impl Key {
    /// Finds the key of an HsmKey on the SoftHSM token of the cluster.
    pub fn open(cluster: &Cluster, name: &str) -> Self {
        let configuration = cluster.softhsm_configuration();
        // One thread runs so far, and the library reads it once.
        // SAFETY: nothing else reads or writes the environment at this moment.
        #[expect(unsafe_code, reason = "SoftHSM takes its configuration from the environment")]
        unsafe {
            std::env::set_var("SOFTHSM2_CONF", configuration);
        }
        let context = Pkcs11::new("/usr/lib/softhsm/libsofthsm2.so").expect("SoftHSM is installed by e2e/setup.sh");
        // A second key finds the library initialised.
        let _ = context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK));
        let slots = context.get_slots_with_token().expect("the library lists its slots");
        let slot = slots
            .into_iter()
            .find(|slot| context.get_token_info(*slot).is_ok_and(|token| token.label() == "demo"))
            .expect("there is a token `demo`");
        let keeper = context.open_ro_session(slot).expect("a session");
        let _ = keeper.login(UserType::User, Some(&AuthPin::new(cluster.pin().into())));
        let digest = Sha256::digest(b"Payload");
        let (mechanism, input) = if name.ends_with("rsa") {
            let mut info = hex::decode("3031300d060960864801650304020105000420").expect("hexadecimal");
            info.extend_from_slice(&digest);
            (Mechanism::RsaPkcs, info)
        } else {
            (Mechanism::Ecdsa, digest.to_vec())
        };
        Self { context, slot, id: cluster.key_id(name), _keeper: keeper, mechanism, input: Arc::new(input) }
    }

    fn find(&self, session: &Session) -> ObjectHandle {
        let template = [Attribute::Class(ObjectClass::PRIVATE_KEY), Attribute::Id(self.id.clone())];
        *session.find_objects(&template).expect("a search").first().expect("the key is on the token")
    }

    /// Signatures per second of `threads` threads.
    pub fn signatures_per_second(&self, threads: usize, time: Duration) -> f64 {
        let (stop, count) = (AtomicBool::new(false), AtomicU64::new(0));
        let started = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    let session = self.context.open_ro_session(self.slot).expect("a session");
                    let key = self.find(&session);
                    while !stop.load(Ordering::Relaxed) {
                        session.sign(&self.mechanism, key, &self.input).expect("a signature");
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            std::thread::sleep(time);
            stop.store(true, Ordering::Relaxed);
        });
        #[expect(clippy::cast_precision_loss, reason = "a few million at most")]
        let signatures = count.load(Ordering::Relaxed) as f64;
        signatures / started.elapsed().as_secs_f64()
    }
}
