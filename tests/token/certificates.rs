//! Certificates signed by real tokens: openssl verifies them strictly.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use hsm_operator::{
    hsm::{Supervisor, protocol::KeyTemplate},
    model::{
        KeyAlgorithm,
        certificate::{CertificateAlgorithm, KeyUsage, Subject},
    },
    public_key::PublicKey,
    service::{
        certificate::{self, Authority, Chain, Request, Unsigned, Usages, armour},
        directory::Usable,
        sign::Signer,
    },
    telemetry::Metrics,
};
use jiff::Timestamp;

use crate::{
    common::token::{Token, run},
    generate, on_both_tokens, template,
};

on_both_tokens! {
    every_kind_of_key_signs_requests_and_certificates,
}

struct Desk {
    token: Token,
    hsm: Arc<Supervisor>,
    signer: Signer,
}

impl Desk {
    async fn key(&self, template: KeyTemplate) -> Usable {
        let facts = generate(&self.hsm, template).await.unwrap();
        Usable {
            partition: "p".into(),
            id: facts.id.unwrap(),
            algorithm: facts.algorithm.unwrap(),
            public: Some(Arc::new(PublicKey::from_spki(&facts.public_key.unwrap()).unwrap())),
            public_only: false,
        }
    }

    async fn signed(&self, unsigned: Unsigned, key: &Usable) -> Vec<u8> {
        unsigned.signed(&self.signer, self.hsm.as_ref(), key).await.unwrap()
    }

    fn file(&self, name: &str, content: String) -> PathBuf {
        let path = self.token.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }
}

fn subject(name: &str) -> x509_cert::name::Name {
    let country = Some("CH".to_owned());
    certificate::name(&Subject { common_name: Some(name.into()), country, ..Subject::default() }).unwrap()
}

fn verify(authority: &Path, certificate: &Path) {
    let mut command = Command::new("openssl");
    command.args(["verify", "-x509_strict", "-check_ss_sig", "-CAfile"]).arg(authority).arg(certificate);
    run(&mut command);
}

async fn every_kind_of_key_signs_requests_and_certificates(token: Token) {
    use CertificateAlgorithm as A;
    let hsm = token.supervisor().await;
    let desk = Desk { token, hsm, signer: Signer::new(Arc::new(Metrics::default())) };
    let rsa: &[A] = &[A::Sha224WithRsa, A::Sha256WithRsa, A::Sha384WithRsa, A::Sha512WithRsa];
    let ecdsa: &[A] = &[A::Sha256WithEcdsa, A::Sha384WithEcdsa, A::Sha512WithEcdsa];
    let keys = [
        (template("rsa", KeyAlgorithm::Rsa, Some(2048), None), rsa),
        (template("p256", KeyAlgorithm::Ec, None, Some("1.2.840.10045.3.1.7")), ecdsa),
        (template("p521", KeyAlgorithm::Ec, None, Some("1.3.132.0.35")), ecdsa),
        (template("ed", KeyAlgorithm::Ed, None, Some("1.3.101.112")), &[A::EdDsa]),
    ];
    let now = Timestamp::now();
    let authority = Usages { authority: true, ..Usages::default() };
    let end = Usages { key: vec![KeyUsage::DigitalSignature], ..Usages::default() };
    let mut requests = Vec::new();
    let mut authorities = Vec::new();
    for (template, algorithms) in keys {
        let key = desk.key(template).await;
        let public = key.public.clone().unwrap();
        for algorithm in algorithms {
            let request = Unsigned::request(&public, *algorithm, subject("leaf"), &end).unwrap();
            let request = armour::request(&desk.signed(request, &key).await);
            let file = desk.file("request", request.clone());
            run(Command::new("openssl").args(["req", "-verify", "-noout", "-in"]).arg(&file));
            requests.push(Request::from_pem(&request).unwrap());
            let own =
                Unsigned::self_signed(&public, *algorithm, subject("root"), &authority, 30, now).unwrap();
            let own = Chain::from_der(desk.signed(own, &key).await, &public).unwrap();
            let file = desk.file("own", own.pem());
            verify(&file, &file);
            authorities.push((key.clone(), *algorithm, own));
        }
    }
    assert_eq!((requests.len(), authorities.len()), (11, 11));
    // Each kind certifies each other kind.
    for (at, (key, algorithm, own)) in authorities.iter().enumerate() {
        let public = key.public.as_deref().unwrap();
        let request = &requests[(at + 4) % requests.len()];
        let issuer = Authority::of(own, now).unwrap();
        let leaf =
            Unsigned::issued(public, *algorithm, issuer, request, subject("leaf"), &end, 10, now).unwrap();
        let leaf = desk.signed(leaf, key).await;
        let (own, leaf) = (desk.file("own", own.pem()), desk.file("leaf", armour::certificates(&[leaf])));
        verify(&own, &leaf);
        let begin =
            run(Command::new("openssl").args(["x509", "-noout", "-checkend", "863000", "-in"]).arg(&leaf));
        assert!(String::from_utf8_lossy(&begin.stdout).contains("will not expire"));
    }
    desk.hsm.shutdown().await;
}
