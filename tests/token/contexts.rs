//! Signatures of ML-DSA and SLH-DSA in a context, checked by openssl; tokens that refuse a context or ignore it.

use std::sync::Arc;

use bytes::Bytes;
use hsm_operator::{
    api::partition::VerifySignatures,
    hsm::{
        Hsm, Supervisor,
        protocol::{HsmError, KeyFacts, Kind, Reply, Request, TokenFacts},
    },
    model::{KeyAlgorithm, SignatureAlgorithm, SignatureType},
    public_key::PublicKey,
    service::{
        directory::Usable,
        sign::{Job, SignError, Signer},
    },
};

use crate::{
    common::{
        openssl,
        token::{Module, Token},
    },
    generate, id,
    stage::{PATIENCE, Stage},
    template,
};

async fn sign(
    hsm: &dyn Hsm,
    key: &str,
    algorithm: SignatureAlgorithm,
    context: &[u8],
    payload: &[u8],
) -> Result<Bytes, HsmError> {
    let (context, payload) = (Bytes::copy_from_slice(context), Bytes::copy_from_slice(payload));
    match hsm.call(Request::SignInContext { key: id(key), algorithm, context, payload }).await? {
        Reply::Signature(signature) => Ok(signature),
        other => panic!("{other:?}"),
    }
}

async fn made(hsm: &Supervisor, algorithm: KeyAlgorithm) -> KeyFacts {
    generate(hsm, template(algorithm.name(), algorithm, None, None)).await.unwrap()
}

/// A token that signs without any context that it is given, as one would that does not read its parameter.
struct Deaf(Arc<Supervisor>);

#[async_trait::async_trait]
impl Hsm for Deaf {
    async fn call(&self, request: Request) -> Result<Reply, HsmError> {
        let request = match request {
            Request::SignInContext { key, algorithm, payload, .. } => {
                Request::Sign { key, algorithm, payload }
            }
            other => other,
        };
        self.0.call(request).await
    }

    fn token(&self) -> Option<Arc<TokenFacts>> {
        self.0.token()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_context_is_signed_with_every_parameter_set_and_hash() {
    let token = Token::new(Module::Kryoptic);
    let hsm = token.supervisor().await;
    let offered = hsm.token().unwrap().capabilities.signature_algorithms.clone();
    let mut checked = Vec::new();
    for algorithm in KeyAlgorithm::ALL.iter().copied() {
        let signs =
            |one: &&SignatureAlgorithm| one.fits(algorithm) && one.takes_context() && offered.contains(one);
        let all: Vec<_> = SignatureAlgorithm::ALL.iter().copied().filter(|one| signs(&one)).collect();
        if all.is_empty() {
            continue;
        }
        let facts = made(&hsm, algorithm).await;
        let public = PublicKey::from_spki(&facts.public_key.unwrap()).unwrap();
        for signature_algorithm in all {
            let name = format!("{algorithm} {signature_algorithm}");
            // The longest there is, with every byte that a context may have.
            let context: Vec<u8> = (0..=254).collect();
            let signature =
                sign(hsm.as_ref(), algorithm.name(), signature_algorithm, &context, b"a message").await;
            let signature = signature.unwrap_or_else(|error| panic!("{name}: {error}"));
            let fits = |context: &[u8], message: &[u8]| {
                public.verify_in_context(signature_algorithm, context, message, &signature).unwrap()
            };
            assert!(fits(&context, b"a message"), "{name}");
            assert!(!fits(&context, b"another"), "{name}");
            assert!(!fits(&context[..254], b"a message") && !fits(b"", b"a message"), "{name}");
            assert_eq!(public.verify(signature_algorithm, b"a message", &signature), Ok(false), "{name}");
            // It knows no HashML-DSA and no HashSLH-DSA.
            if matches!(signature_algorithm, SignatureAlgorithm::MlDsa | SignatureAlgorithm::SlhDsa) {
                let accepts = |context: &[u8], message: &[u8]| {
                    openssl::newer_accepts_in_context(
                        token.path(),
                        public.spki(),
                        context,
                        message,
                        &signature,
                    )
                };
                assert!(accepts(&context, b"a message"), "{name}");
                assert!(!accepts(&context, b"another"), "{name}");
                assert!(!accepts(b"another", b"a message") && !accepts(b"", b"a message"), "{name}");
                assert!(
                    !openssl::newer_accepts(token.path(), public.spki(), b"a message", &signature),
                    "{name}"
                );
            }
            checked.push(signature_algorithm);
            // One whole round of the slow ones is enough.
            if algorithm.name().starts_with("SLH-") && algorithm != KeyAlgorithm::SlhDsaSha2128f {
                break;
            }
        }
    }
    use SignatureAlgorithm as A;
    for must in [A::MlDsa, A::SlhDsa, A::Sha2512WithMlDsa, A::Sha3256WithMlDsa, A::Sha2256WithSlhDsa] {
        assert!(checked.contains(&must), "{must} is missing");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signature_of_another_kind_has_no_context() {
    let token = Token::new(Module::Kryoptic);
    let hsm = token.supervisor().await;
    generate(&hsm, crate::p256("ec")).await.unwrap();
    made(&hsm, KeyAlgorithm::MlDsa44).await;
    for (key, algorithm) in [
        ("ec", SignatureAlgorithm::Sha256WithEcdsa),
        ("ec", SignatureAlgorithm::MlDsa),
        ("ML-DSA-44", SignatureAlgorithm::SlhDsa),
    ] {
        let error = sign(hsm.as_ref(), key, algorithm, b"context", b"x").await.unwrap_err();
        assert_eq!(error.kind, Kind::Invalid, "{key} {algorithm}: {error}");
    }
    // More than the standard has: the token's own refusal.
    let error =
        sign(hsm.as_ref(), "ML-DSA-44", SignatureAlgorithm::MlDsa, &[1; 256], b"x").await.unwrap_err();
    assert_eq!(error.kind, Kind::Unsupported, "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_takes_no_context_says_so() {
    let stage = Stage::new(Token::new(Module::Kryoptic), PATIENCE).await;
    made(&stage.hsm, KeyAlgorithm::MlDsa44).await;
    let signed = || sign(stage.hsm.as_ref(), "ML-DSA-44", SignatureAlgorithm::MlDsa, b"context", b"x");
    signed().await.unwrap();
    stage.faults.set(&["C_SignInit times=1 return=0x71"]);
    let error = signed().await.unwrap_err();
    assert_eq!(error.kind, Kind::Unsupported);
    assert!(
        error
            .message
            .starts_with("the token signs by ML_DSA without a context only: CKR_MECHANISM_PARAM_INVALID"),
        "{error}"
    );
    signed().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signature_without_its_context_is_not_handed_out() {
    let token = Token::new(Module::Kryoptic);
    let hsm = token.supervisor().await;
    let facts = made(&hsm, KeyAlgorithm::MlDsa44).await;
    let public = Arc::new(PublicKey::from_spki(&facts.public_key.unwrap()).unwrap());
    let key = Usable {
        partition: "p".into(),
        id: id("ML-DSA-44"),
        algorithm: KeyAlgorithm::MlDsa44,
        public: Some(Arc::clone(&public)),
        public_only: false,
    };
    let signer = Signer::new(Arc::default());
    let job = |context: &'static str| Job {
        algorithm: SignatureAlgorithm::MlDsa,
        form: SignatureType::Der,
        payload: "x".into(),
        context: context.into(),
        // The first is right, so that the others would not be looked at.
        verify: VerifySignatures::First,
    };
    let deaf = Deaf(Arc::clone(&hsm));
    signer.sign(&deaf, &key, job("")).await.unwrap();
    let Err(SignError::Hsm(error)) = signer.sign(&deaf, &key, job("context")).await else { panic!() };
    assert_eq!(error.kind, Kind::Unsupported);
    assert!(error.message.contains("ignores the context"), "{error}");
    // It is no damage: its other signatures go on.
    signer.sign(&deaf, &key, job("")).await.unwrap();
    let signature = signer.sign(hsm.as_ref(), &key, job("context")).await.unwrap();
    assert_eq!(public.verify_in_context(SignatureAlgorithm::MlDsa, b"context", b"x", &signature), Ok(true));
}
