//! A token driven directly through PKCS#11 in this process, by somebody else's code: what ours is compared with.
#![allow(dead_code, reason = "every bench uses its own part of this")]

use std::{
    collections::BTreeMap,
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    mechanism::{Mechanism, aead::GcmParams},
    object::{Attribute, AttributeType, ObjectClass, ObjectHandle},
    session::{Session, UserType},
    slot::Slot,
    types::AuthPin,
};
use sha2::{Digest, Sha256};

/// DigestInfo of SHA-256, RFC 8017.
const SHA256_INFO: &[u8] = b"\x30\x31\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00\x04\x20";
/// The curve P-256, as `CKA_EC_PARAMS` names it.
const P256: &[u8] = b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07";

/// The library, loaded into this process, and logged in to a token.
pub struct Raw {
    context: Pkcs11,
    slot: Slot,
    /// Keeps the login.
    keeper: Session,
}

impl Raw {
    /// Loads the library and logs in to the token of a label.
    pub fn open(library: &Path, environment: &[(String, String)], label: &str, pin: &str) -> Self {
        for (name, value) in environment {
            // SAFETY: nobody else reads or writes the environment at this moment, and the library reads it once.
            #[expect(unsafe_code, reason = "SoftHSM takes its configuration from the environment")]
            unsafe {
                std::env::set_var(name, value);
            }
        }
        let context = Pkcs11::new(library).expect("SoftHSM is installed by e2e/setup.sh");
        context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).expect("it starts");
        let slots = context.get_slots_with_token().expect("it lists its slots");
        let labelled = |slot: &Slot| context.get_token_info(*slot).is_ok_and(|info| info.label() == label);
        let slot = slots.into_iter().find(labelled).expect("the token is there");
        let keeper = context.open_rw_session(slot).expect("a session");
        keeper.login(UserType::User, Some(&AuthPin::new(pin.into()))).expect("the PIN is right");
        Self { context, slot, keeper }
    }

    /// A session that signs with the key of an id.
    pub fn signer(&self, id: &[u8], rsa: bool) -> Signer {
        let session = self.context.open_ro_session(self.slot).expect("a session");
        let template = [Attribute::Class(ObjectClass::PRIVATE_KEY), Attribute::Id(id.to_vec())];
        let key = *session.find_objects(&template).expect("a search").first().expect("the key is there");
        Signer { session, key, rsa }
    }

    /// A session with the secret key of an id.
    pub fn secret(&self, id: &[u8]) -> Secret {
        let session = self.context.open_ro_session(self.slot).expect("a session");
        let template = [Attribute::Class(ObjectClass::SECRET_KEY), Attribute::Id(id.to_vec())];
        let key = *session.find_objects(&template).expect("a search").first().expect("the key is there");
        Secret { session, key, counter: 0 }
    }

    /// Signatures per second of threads that do nothing else.
    pub fn loops(&self, id: &[u8], rsa: bool, threads: usize, time: Duration) -> f64 {
        let sign = || {
            let signer = self.signer(id, rsa);
            move || drop(signer.sign(b"Payload"))
        };
        rate(threads, time, sign)
    }

    /// Makes a P-256 key for signing.
    pub fn generate(&self, id: &[u8], label: &str) -> [ObjectHandle; 2] {
        let named = |class| {
            let (id, label) = (Attribute::Id(id.to_vec()), Attribute::Label(label.into()));
            vec![Attribute::Class(class), Attribute::Token(true), id, label]
        };
        let mut public = named(ObjectClass::PUBLIC_KEY);
        public.extend([Attribute::EcParams(P256.to_vec()), Attribute::Verify(true)]);
        let mut private = named(ObjectClass::PRIVATE_KEY);
        private.extend([Attribute::Private(true), Attribute::Sensitive(true), Attribute::Sign(true)]);
        let pair = self.keeper.generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private);
        pair.expect("a key").into()
    }

    /// Makes so many keys and returns how many a second that were. They are destroyed again.
    pub fn generations(&self, count: u32) -> f64 {
        let begun = Instant::now();
        let made: Vec<_> =
            (0..count).map(|number| self.generate(&number.to_be_bytes(), &format!("raw-{number}"))).collect();
        let rate = f64::from(count) / begun.elapsed().as_secs_f64();
        for half in made.into_iter().flatten() {
            self.keeper.destroy_object(half).expect("it is ours");
        }
        rate
    }

    /// Looks at every object of the token, as whoever makes an inventory must, and counts the private keys. What the
    /// module remembers of all that is its own.
    pub fn look_at_all(&self) -> usize {
        let objects = self.keeper.find_objects(&[Attribute::Token(true)]).expect("a search");
        let is_private = |object: &ObjectHandle| {
            let wanted = [
                AttributeType::Class,
                AttributeType::Id,
                AttributeType::Label,
                AttributeType::KeyType,
                AttributeType::Modulus,
                AttributeType::EcParams,
                AttributeType::ValueLen,
                AttributeType::Local,
            ];
            let attributes = self.keeper.get_attributes(*object, &wanted).expect("attributes");
            attributes.contains(&Attribute::Class(ObjectClass::PRIVATE_KEY))
        };
        objects.iter().filter(|object| is_private(object)).count()
    }
}

impl Raw {
    /// Median time, in microseconds, of reading both halves of some key of many whose handles are known.
    pub fn read_known(&self, time: Duration) -> f64 {
        let mut halves: BTreeMap<Vec<u8>, Vec<ObjectHandle>> = BTreeMap::new();
        for object in self.keeper.find_objects(&[Attribute::Token(true)]).expect("a search") {
            let id = self.keeper.get_attributes(object, &[AttributeType::Id]).expect("attributes");
            let [Attribute::Id(id)] = &id[..] else { panic!("an id") };
            halves.entry(id.clone()).or_default().push(object);
        }
        let keys: Vec<_> = halves.into_values().collect();
        // What is told of a key.
        let wanted = [
            AttributeType::Class,
            AttributeType::Id,
            AttributeType::Label,
            AttributeType::KeyType,
            AttributeType::Modulus,
            AttributeType::PublicExponent,
            AttributeType::EcParams,
            AttributeType::EcPoint,
            AttributeType::ValueLen,
            AttributeType::Local,
            AttributeType::Decrypt,
            AttributeType::Sign,
            AttributeType::Unwrap,
            AttributeType::Derive,
            AttributeType::Sensitive,
            AttributeType::AlwaysSensitive,
            AttributeType::Extractable,
            AttributeType::NeverExtractable,
            AttributeType::Modifiable,
            AttributeType::Copyable,
            AttributeType::Destroyable,
        ];
        let (mut times, end) = (Vec::new(), Instant::now() + time);
        while Instant::now() < end {
            let key = &keys[rand::random_range(0..keys.len())];
            let begun = Instant::now();
            for half in key {
                self.keeper.get_attributes(*half, &wanted).expect("attributes");
            }
            times.push(begun.elapsed().as_secs_f64() * 1e6);
        }
        crate::table::median(&times)
    }
}

/// How often a second threads do what `worker` makes for each of them, and nothing else.
pub fn rate<F: FnMut() + Send>(threads: usize, time: Duration, worker: impl Fn() -> F) -> f64 {
    let (stop, count) = (AtomicBool::new(false), AtomicU64::new(0));
    let started = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let mut work = worker();
            let (stop, count) = (&stop, &count);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    work();
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        std::thread::sleep(time);
        stop.store(true, Ordering::Relaxed);
    });
    #[expect(clippy::cast_precision_loss, reason = "a few million at most")]
    let done = count.load(Ordering::Relaxed) as f64;
    done / started.elapsed().as_secs_f64()
}

/// A session with a key.
pub struct Signer {
    session: Session,
    key: ObjectHandle,
    rsa: bool,
}

impl Signer {
    /// A signature over the SHA-256 of the payload.
    pub fn sign(&self, payload: &[u8]) -> Vec<u8> {
        let digest = Sha256::digest(payload);
        let signature = if self.rsa {
            self.session.sign(&Mechanism::RsaPkcs, self.key, &[SHA256_INFO, &digest].concat())
        } else {
            self.session.sign(&Mechanism::Ecdsa, self.key, &digest)
        };
        signature.expect("a signature")
    }
}

/// A session with a secret key.
pub struct Secret {
    session: Session,
    key: ObjectHandle,
    counter: u64,
}

impl Secret {
    /// Encrypts with AES-GCM, each time with another initialization vector.
    pub fn encrypt(&mut self, payload: &[u8]) -> Vec<u8> {
        self.counter += 1;
        let mut iv = [0; 12];
        iv[4..].copy_from_slice(&self.counter.to_be_bytes());
        let parameters = GcmParams::new(&mut iv, &[], 128_u64.into()).expect("lengths that fit");
        self.session.encrypt(&Mechanism::AesGcm(parameters), self.key, payload).expect("a ciphertext")
    }

    /// An HMAC-SHA-256.
    pub fn hmac(&self, payload: &[u8]) -> Vec<u8> {
        self.session.sign(&Mechanism::Sha256Hmac, self.key, payload).expect("an HMAC")
    }
}
