//! The same key on the same token, driven directly through PKCS#11 by threads with a session each.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
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
    rsa: bool,
    input: Vec<u8>,
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
        let context =
            Pkcs11::new("/usr/lib/softhsm/libsofthsm2.so").expect("SoftHSM is installed by e2e/setup.sh");
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
        let rsa = name.ends_with("rsa");
        let mut input = Vec::new();
        if rsa {
            // DigestInfo of SHA-256, RFC 8017.
            input = hex::decode("3031300d060960864801650304020105000420").expect("hexadecimal");
        }
        input.extend_from_slice(&digest);
        Self { context, slot, id: cluster.key_id(name), _keeper: keeper, rsa, input }
    }

    /// Signatures per second of `threads` threads.
    pub fn signatures_per_second(&self, threads: usize, time: Duration) -> f64 {
        let (stop, count) = (AtomicBool::new(false), AtomicU64::new(0));
        let started = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..threads {
                let context = self.context.clone();
                let (stop, count, slot, id, input, rsa) =
                    (&stop, &count, self.slot, &self.id, &self.input, self.rsa);
                scope.spawn(move || {
                    let session = context.open_ro_session(slot).expect("a session");
                    let key = find(&session, id);
                    let mechanism = if rsa { Mechanism::RsaPkcs } else { Mechanism::Ecdsa };
                    while !stop.load(Ordering::Relaxed) {
                        session.sign(&mechanism, key, input).expect("a signature");
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

fn find(session: &Session, id: &[u8]) -> ObjectHandle {
    let template = [Attribute::Class(ObjectClass::PRIVATE_KEY), Attribute::Id(id.to_vec())];
    *session.find_objects(&template).expect("a search").first().expect("the key is on the token")
}
