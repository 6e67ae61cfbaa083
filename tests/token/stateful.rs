//! Keys of LMS and XMSS on a token that has them: each signature is asked for once, whatever goes wrong, and none is handed out that
//! is not right.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use hsm_operator::{
    api::partition::VerifySignatures,
    hsm::{
        Hsm, Rung, Supervisor,
        protocol::{Find, HsmError, KeyFacts, Kind, Reply, Request},
    },
    model::{KeyAlgorithm, SignatureAlgorithm, SignatureType},
    public_key::PublicKey,
    service::{
        directory::Usable,
        sign::{Job, SignError, Signer},
    },
};

use crate::{
    common::{faults::Faults, hss, token::Token, vendor},
    find, generate, id, inventory,
    ladder::told,
    sign, template,
};

const LMS: SignatureAlgorithm = SignatureAlgorithm::Lms;
/// What a key has.
const SIGNATURES: usize = 32;

async fn made(hsm: &Supervisor, name: &str) -> (KeyFacts, PublicKey) {
    let facts = generate(hsm, template(name, KeyAlgorithm::Lms, None, None)).await.unwrap();
    let public = PublicKey::from_spki(facts.public_key.as_deref().unwrap()).unwrap();
    (facts, public)
}

async fn ask(hsm: &dyn Hsm, key: &str, payload: &[u8]) -> Result<Bytes, HsmError> {
    let payload = Bytes::copy_from_slice(payload);
    match hsm.call(Request::SignStateful { key: id(key), algorithm: LMS, payload }).await? {
        Reply::Signature(signature) => Ok(signature),
        other => panic!("{other:?}"),
    }
}

/// How often the module was asked to sign, and which parts of its only key are spent.
fn counted(token: &Token) -> (usize, Vec<String>) {
    let text = std::fs::read_to_string(token.path().join("store.hss")).unwrap();
    let asked = text.lines().filter(|line| line.starts_with("asked ")).count();
    let spent = text.lines().filter(|line| line.starts_with("spent "));
    (asked, spent.filter_map(|line| Some(line.rsplit_once(' ')?.1.to_owned())).collect())
}

/// Another library's word.
fn fits(public: &PublicKey, message: &[u8], signature: &[u8]) -> bool {
    hss::accepts(public.spki(), message, signature)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_signs_as_often_as_it_can_and_then_no_more() {
    let token = vendor::token();
    let hsm = token.supervisor().await;
    let capabilities = hsm.token().unwrap().capabilities.clone();
    assert!(capabilities.generates(KeyAlgorithm::Lms, None));
    assert!(capabilities.signature_algorithms.contains(&LMS));
    let (facts, public) = made(&hsm, "k").await;
    let told = (facts.algorithm, facts.key_size, facts.curve_oid.as_deref(), facts.local);
    assert_eq!(told, (Some(KeyAlgorithm::Lms), None, None, Some(true)));
    assert_eq!((facts.attributes.sensitive, facts.attributes.extractable), (Some(true), Some(false)));
    assert_eq!(public.algorithm(), KeyAlgorithm::Lms);
    assert_eq!(find(&hsm, Find::Id(id("k"))).await.unwrap(), [facts]);
    let entries = inventory(&hsm).await;
    let keys: Vec<_> = entries.iter().filter(|entry| entry.is_key()).collect();
    let [key] = keys.as_slice() else { panic!("{entries:?}") };
    assert_eq!((key.algorithm, key.ghost, &key.curve_oid), (Some(KeyAlgorithm::Lms), false, &None));
    for number in 0..SIGNATURES {
        let message = format!("message {number}");
        let signature = ask(hsm.as_ref(), "k", message.as_bytes()).await.unwrap();
        // As long as the vendor's documents say.
        assert_eq!(signature.len(), 8688);
        assert_eq!(public.verify(LMS, message.as_bytes(), &signature), Ok(true), "{number}");
        assert_eq!(public.verify(LMS, b"another", &signature), Ok(false), "{number}");
        assert!(fits(&public, message.as_bytes(), &signature) && !fits(&public, b"another", &signature));
    }
    let error = ask(hsm.as_ref(), "k", b"one more").await.unwrap_err();
    assert_eq!(error.kind, Kind::Forbidden);
    assert!(error.message.starts_with("CKR_KEY_EXHAUSTED"), "{error}");
    let (asked, spent) = counted(&token);
    assert_eq!((asked, spent.len()), (SIGNATURES + 1, SIGNATURES));
    assert_eq!(hsm.counters().restarts, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signature_is_asked_for_once_whatever_goes_wrong() {
    let token = vendor::token();
    let faults = Faults::new(&token);
    let hsm = Supervisor::start(faults.config());
    let (_, public) = made(&hsm, "k").await;
    for (rule, kind) in [
        ("C_Sign times=1 return=CKR_DEVICE_ERROR", Kind::Device),
        ("C_Sign times=1 return=CKR_GENERAL_ERROR", Kind::Device),
        ("C_Sign times=1 return=CKR_USER_NOT_LOGGED_IN", Kind::Device),
        ("C_Sign times=1 return=CKR_SESSION_HANDLE_INVALID", Kind::Device),
        ("C_Sign times=1 return=CKR_OBJECT_HANDLE_INVALID", Kind::Device),
        ("C_Sign times=1 return=CKR_DEVICE_MEMORY", Kind::Device),
        ("C_Sign times=1 return=CKR_BUFFER_TOO_SMALL", Kind::Device),
        // What of others would say that nothing was done.
        // CKR_SLOT_ID_INVALID, CKR_TOKEN_NOT_RECOGNIZED and CKR_CANT_LOCK.
        ("C_Sign times=1 return=0x3", Kind::Device),
        ("C_Sign times=1 return=0xe1", Kind::Device),
        ("C_Sign times=1 return=0xa", Kind::Device),
        ("C_Sign times=1 return=CKR_PIN_LOCKED", Kind::Device),
        // CKR_DATA_INVALID is what the token says of the request.
        ("C_Sign times=1 return=0x20", Kind::Invalid),
        ("C_Sign segv", Kind::Crashed),
        ("C_Sign hang", Kind::Timeout),
    ] {
        let (before, _) = counted(&token);
        let fired = faults.set(&[rule])[0];
        let error = ask(hsm.as_ref(), "k", b"x").await.unwrap_err();
        assert_eq!(error.kind, kind, "{rule}: {error}");
        // The fault module ends by a call what it answers itself.
        assert!(counted(&token).0 <= before + 1, "{rule}");
        assert!(!error.kind.not_done(), "{rule}");
        let says = error.message.as_str();
        assert!(kind != Kind::Device || says.matches("again").count() == 1, "{rule}: {error}");
        assert_eq!(faults.fired(fired), 1, "{rule}");
        faults.clear();
        // The next one is somebody else's, or asked for by a person.
        let signature = loop {
            match ask(hsm.as_ref(), "k", b"next").await {
                Ok(signature) => break signature,
                Err(error) => assert!(matches!(error.kind, Kind::Crashed | Kind::Timeout), "{rule}: {error}"),
            }
        };
        assert_eq!(public.verify(LMS, b"next", &signature), Ok(true), "{rule}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_before_the_token_is_asked_is_tried_again() {
    let token = vendor::token();
    let faults = Faults::new(&token);
    let hsm = Supervisor::start(faults.config());
    let (_, public) = made(&hsm, "k").await;
    for (number, rule) in [
        "C_SignInit times=1 return=CKR_SESSION_HANDLE_INVALID",
        "C_SignInit times=1 logout",
        "C_SignInit times=1 return=CKR_GENERAL_ERROR",
        "C_SignInit times=1 stale",
    ]
    .into_iter()
    .enumerate()
    {
        let fired = faults.set(&[rule])[0];
        let signature = ask(hsm.as_ref(), "k", b"x").await.unwrap_or_else(|error| panic!("{rule}: {error}"));
        assert_eq!(public.verify(LMS, b"x", &signature), Ok(true), "{rule}");
        assert_eq!(faults.fired(fired), 1, "{rule}");
        let (asked, spent) = counted(&token);
        assert_eq!((asked, spent.len()), (number + 1, number + 1), "{rule}");
    }
}

/// The request that meets the trouble is not made again, and yet ends it: there may be no others. Where a key that is made for it
/// does not sign either, the module is started over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_token_failed_of_is_set_right_and_the_signature_not_asked_for_again() {
    use Rung::{Canary, Initialise, Login, Session};
    let token = vendor::token();
    let faults = Faults::new(&token);
    let steps: Arc<Mutex<Vec<Rung>>> = Arc::default();
    let mut config = faults.config();
    config.on_recovery = Some(Arc::new({
        let steps = Arc::clone(&steps);
        move |rung| steps.lock().unwrap().push(rung)
    }));
    let hsm = Supervisor::start(config);
    let (_, public) = made(&hsm, "k").await;
    for (rule, taken) in [
        ("C_Sign times=1 logout", &[Session, Login, Canary][..]),
        ("C_Sign times=2 return=CKR_FUNCTION_FAILED", &[Session, Canary, Initialise, Canary]),
    ] {
        steps.lock().unwrap().clear();
        let (before, _) = counted(&token);
        faults.set(&[rule]);
        let error = ask(hsm.as_ref(), "k", b"x").await.unwrap_err();
        assert_eq!(error.kind, Kind::Device, "{error}");
        told(&steps, taken).await;
        assert_eq!(counted(&token).0, before + 1, "{rule}");
        faults.clear();
        let signature = ask(hsm.as_ref(), "k", b"next").await.unwrap();
        assert_eq!(public.verify(LMS, b"next", &signature), Ok(true), "{rule}");
        assert_eq!(*steps.lock().unwrap(), taken, "nothing was left to do");
    }
    assert_eq!(hsm.counters().restarts, 0);
}

/// Its tree takes seconds to make.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn xmss_signs_with_the_parameter_set_that_the_token_has() {
    let token = vendor::token();
    let hsm = token.supervisor().await;
    let (algorithm, how) = (KeyAlgorithm::XmssSha2, SignatureAlgorithm::XmssSha2);
    let facts = generate(&hsm, template("k", algorithm, None, None)).await.unwrap();
    assert_eq!((facts.algorithm, &facts.curve_oid, facts.local), (Some(algorithm), &None, Some(true)));
    let public = PublicKey::from_spki(facts.public_key.as_deref().unwrap()).unwrap();
    assert_eq!(public.algorithm(), algorithm);
    for message in ["one", "two"] {
        let request = Request::SignStateful { key: id("k"), algorithm: how, payload: message.into() };
        let Ok(Reply::Signature(signature)) = hsm.call(request).await else { panic!() };
        assert_eq!(signature.len(), 2500);
        assert_eq!(public.verify(how, message.as_bytes(), &signature), Ok(true));
        assert_eq!(public.verify(how, b"another", &signature), Ok(false));
    }
    assert_eq!(counted(&token), (2, vec!["0".into(), "1".into()]));
    for (key, algorithm) in [("k", LMS), ("k", SignatureAlgorithm::XmssShake)] {
        let request = Request::SignStateful { key: id(key), algorithm, payload: "x".into() };
        assert_eq!(hsm.call(request).await.unwrap_err().kind, Kind::Invalid, "{algorithm}");
    }
    // The list of mechanisms does not say which sets there are.
    let other = generate(&hsm, template("other", KeyAlgorithm::XmssShake, None, None)).await.unwrap_err();
    assert_eq!(other.kind, Kind::Unsupported);
    assert!(other.message.contains("CKR_PARAMETER_SET_NOT_SUPPORTED"), "{other}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_signature_is_neither_handed_out_nor_made_again() {
    let token = vendor::token();
    let faults = Faults::new(&token);
    let hsm = Supervisor::start(faults.config());
    let (_, public) = made(&hsm, "k").await;
    let key = Usable {
        partition: "p".into(),
        id: id("k"),
        algorithm: KeyAlgorithm::Lms,
        public: Some(Arc::new(public)),
        public_only: false,
    };
    let signer = Signer::new(Arc::default());
    let job = || Job {
        algorithm: LMS,
        form: SignatureType::Der,
        payload: "x".into(),
        context: Bytes::new(),
        // The first is right, so that the others would not be looked at.
        verify: VerifySignatures::First,
    };
    signer.sign(hsm.as_ref(), &key, job()).await.unwrap();
    let fired = faults.set(&["C_Sign flip"])[0];
    let Err(SignError::Wrong { tokens, .. }) = signer.sign(hsm.as_ref(), &key, job()).await else { panic!() };
    assert_eq!((faults.fired(fired), tokens.len()), (1, 1));
    faults.clear();
    signer.sign(hsm.as_ref(), &key, job()).await.unwrap();
    assert_eq!(counted(&token), (3, vec!["0".into(), "1".into(), "2".into()]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_is_no_other_way_to_such_a_signature_and_none_to_the_key() {
    let token = vendor::token();
    let hsm = token.supervisor().await;
    made(&hsm, "k").await;
    let error = sign(&hsm, "k", LMS, b"x").await.unwrap_err();
    assert_eq!(error.kind, Kind::Invalid, "{error}");
    // And keys without a state are not asked for once.
    generate(&hsm, crate::p256("ec")).await.unwrap();
    let error = ask(hsm.as_ref(), "ec", b"x").await.unwrap_err();
    assert_eq!(error.kind, Kind::Invalid, "{error}");
    let other = SignatureAlgorithm::Sha256WithEcdsa;
    let request = Request::SignStateful { key: id("ec"), algorithm: other, payload: "x".into() };
    assert_eq!(hsm.call(request).await.unwrap_err().kind, Kind::Invalid);
    let error = sign(&hsm, "k", other, b"x").await.unwrap_err();
    assert_eq!(error.kind, Kind::Invalid, "{error}");
    let error = hsm.call(Request::Export(id("k"))).await.unwrap_err();
    assert!(matches!(error.kind, Kind::Forbidden | Kind::Unsupported), "{error}");
    let mut open = template("open", KeyAlgorithm::Lms, None, None);
    open.attributes.extractable = true;
    generate(&hsm, open).await.unwrap_err();
    let (asked, spent) = counted(&token);
    assert_eq!((asked, spent.len()), (0, 0));
}
