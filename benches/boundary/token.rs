//! The token that is measured: SoftHSM, fresh, with one key of each kind; driven in this process.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    mechanism::Mechanism,
    object::{Attribute, ObjectClass, ObjectHandle},
    session::{Session, UserType},
    slot::Slot,
    types::AuthPin,
};
use hsm_operator::model::KeyId;
use sha2::{Digest, Sha256};
use tokio::sync::oneshot;

use crate::common::token::Token;

/// DigestInfo of SHA-256, RFC 8017.
const SHA256_INFO: &[u8] = b"\x30\x31\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00\x04\x20";

/// The library, loaded into this process, and logged in.
pub struct InProcess {
    context: Pkcs11,
    slot: Slot,
    /// Keeps the login.
    _keeper: Session,
}

impl InProcess {
    /// Loads the library and logs in.
    pub fn open(token: &Token) -> Self {
        for (name, value) in &token.environment {
            // SAFETY: one thread runs so far, and the library reads it once.
            #[expect(unsafe_code, reason = "SoftHSM takes its configuration from the environment")]
            unsafe {
                std::env::set_var(name, value);
            }
        }
        let context = Pkcs11::new(&token.library).expect("SoftHSM is installed by e2e/setup.sh");
        context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).expect("it starts");
        let slots = context.get_slots_with_token().expect("it lists its slots");
        let labelled =
            |slot: &Slot| context.get_token_info(*slot).is_ok_and(|info| info.label() == token.label);
        let slot = slots.into_iter().find(labelled).expect("the token is there");
        let keeper = context.open_ro_session(slot).expect("a session");
        keeper
            .login(UserType::User, Some(&AuthPin::new(token.pin.clone().into())))
            .expect("the PIN is right");
        Self { context, slot, _keeper: keeper }
    }

    fn signer(&self, id: &KeyId, rsa: bool) -> Signer {
        let session = self.context.open_ro_session(self.slot).expect("a session");
        let template = [Attribute::Class(ObjectClass::PRIVATE_KEY), Attribute::Id(id.as_bytes().to_vec())];
        let key = *session.find_objects(&template).expect("a search").first().expect("the key is there");
        Signer { session, key, rsa }
    }

    /// Signatures per second of threads that do nothing else.
    pub fn loops(&self, id: &KeyId, rsa: bool, threads: usize, time: Duration) -> f64 {
        let (stop, count) = (AtomicBool::new(false), AtomicU64::new(0));
        let started = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..threads {
                let signer = self.signer(id, rsa);
                let (stop, count) = (&stop, &count);
                scope.spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        signer.sign(b"Payload");
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

    /// Threads with a queue before them: what a service without token-hosts would have.
    pub fn pool(&self, id: &KeyId, rsa: bool, threads: usize) -> Arc<Pool> {
        let (jobs, inbox) = flume::bounded::<Job>(1024);
        for _ in 0..threads {
            let (signer, inbox) = (self.signer(id, rsa), inbox.clone());
            std::thread::spawn(move || {
                while let Ok((payload, answer)) = inbox.recv() {
                    let _ = answer.send(signer.sign(&payload));
                }
            });
        }
        Arc::new(Pool { jobs })
    }
}

struct Signer {
    session: Session,
    key: ObjectHandle,
    rsa: bool,
}

impl Signer {
    fn sign(&self, payload: &[u8]) -> Vec<u8> {
        let digest = Sha256::digest(payload);
        let signature = if self.rsa {
            self.session.sign(&Mechanism::RsaPkcs, self.key, &[SHA256_INFO, &digest].concat())
        } else {
            self.session.sign(&Mechanism::Ecdsa, self.key, &digest)
        };
        signature.expect("a signature")
    }
}

type Job = (Bytes, oneshot::Sender<Vec<u8>>);

/// See [`InProcess::pool`].
pub struct Pool {
    jobs: flume::Sender<Job>,
}

impl Pool {
    /// A signature.
    pub async fn sign(&self, payload: Bytes) -> Vec<u8> {
        let (answer, signature) = oneshot::channel();
        self.jobs.try_send((payload, answer)).expect("the threads live, and there is room");
        signature.await.expect("a thread answers")
    }
}
