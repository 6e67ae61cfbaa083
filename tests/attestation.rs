//! Attestations made with software keys in the place of the token's, checked by openssl and by ourselves.

use hsm_operator::attestation::verify::verify_chain;
use hsm_operator::attestation::{
    AttestedKey, Bundle, CertificateRequest, ChainError, Evidence, EvidenceError, Protection, Role, Signer,
    Statements, Tbs, chain, fingerprint, read_unverified, verify,
};
use hsm_operator::model::{KeyAlgorithm, KeyAttributes, SignatureAlgorithm};
use hsm_operator::public_key::PublicKey;
use jiff::{Timestamp, ToSpan};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::LazyLock;
use tempfile::TempDir;

const LABEL: &str = "Anna's key";

/// Keys, chain and one attestation, made once.
struct World {
    folder: TempDir,
    chain: Vec<Vec<u8>>,
    xml: String,
    signature: Vec<u8>,
    attested: PublicKey,
}

static WORLD: LazyLock<World> = LazyLock::new(World::make);

fn now() -> Timestamp {
    Timestamp::now()
}

fn run(folder: &Path, program: &str, arguments: &[&str]) -> Output {
    let output = Command::new(program).args(arguments).current_dir(folder).output();
    output.unwrap_or_else(|error| panic!("{program} is needed for this test: {error}"))
}

fn ok(folder: &Path, program: &str, arguments: &[&str]) -> Vec<u8> {
    let output = run(folder, program, arguments);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {}: {complaint}", arguments.join(" "));
    output.stdout
}

fn generate(folder: &Path, file: &str) -> PublicKey {
    let rsa = ["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:3072", "-out", file];
    ok(folder, "openssl", &rsa);
    public(folder, file)
}

fn public(folder: &Path, file: &str) -> PublicKey {
    let spki = ok(folder, "openssl", &["pkey", "-in", file, "-pubout", "-outform", "DER"]);
    PublicKey::from_spki(&spki).unwrap()
}

/// What `C_Sign` with `CKM_SHA256_RSA_PKCS` does on the token.
fn sign(folder: &Path, key: &str, message: &[u8]) -> Vec<u8> {
    let file = tempfile::NamedTempFile::new_in(folder).unwrap();
    std::fs::write(file.path(), message).unwrap();
    ok(folder, "openssl", &["dgst", "-sha256", "-sign", key, file.path().to_str().unwrap()])
}

fn request<'a>(role: Role, subject: &'a PublicKey, issuer: &'a PublicKey) -> CertificateRequest<'a> {
    let begin = now() - 1.hour();
    CertificateRequest {
        role,
        partition: "demo",
        attestation_key: "attestation-key",
        subject,
        issuer,
        serial: rand::random(),
        not_before: begin,
        not_after: chain::root_end(begin),
    }
}

fn certificate(folder: &Path, issuer_file: &str, request: &CertificateRequest<'_>) -> Vec<u8> {
    let tbs = Tbs::new(request).unwrap();
    let signature = sign(folder, issuer_file, tbs.to_be_signed());
    tbs.assemble(&signature).unwrap()
}

impl World {
    fn make() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let [root, ca, leaf] = ["root.key", "ca.key", "leaf.key"].map(|file| generate(path, file));
        let chain = vec![
            certificate(path, "ca.key", &request(Role::Leaf, &leaf, &ca)),
            certificate(path, "root.key", &request(Role::Ca, &ca, &root)),
            certificate(path, "root.key", &request(Role::Root, &root, &root)),
        ];
        ok(path, "openssl", &["ecparam", "-genkey", "-name", "secp384r1", "-noout", "-out", "attested.key"]);
        let attested = public(path, "attested.key");
        let attributes = KeyAttributes {
            sign: Some(true),
            sensitive: Some(true),
            always_sensitive: Some(true),
            extractable: Some(false),
            never_extractable: Some(true),
            ..KeyAttributes::default()
        };
        let xml = AttestedKey {
            label: LABEL,
            create_time: now() - 1.minute(),
            attest_time: now(),
            algorithm: KeyAlgorithm::Ec,
            curve_oid: Some("1.3.132.0.34"),
            key_size: None,
            public_key: Some(attested.spki()),
            attributes: &attributes,
            derivation: None,
            address: None,
            public_only: false,
            local: Some(true),
            policy: None,
        }
        .to_xml()
        .unwrap();
        let signature = sign(path, "leaf.key", xml.as_bytes());
        Self { chain, xml, signature, attested, folder }
    }

    fn root(&self) -> String {
        fingerprint(&self.chain[2])
    }

    fn bundle(&self) -> Bundle<'_> {
        Bundle {
            label: LABEL,
            xml: self.xml.as_bytes(),
            signature: &self.signature,
            chain: &self.chain,
            signer: Signer::Operator,
        }
    }

    fn verify(&self, xml: &[u8], signature: &[u8]) -> Result<Statements, EvidenceError> {
        verify(&Evidence { xml, signature, chain: &self.chain }, &self.root(), now())
    }

    /// A chain with one certificate replaced.
    fn with(&self, index: usize, certificate: Vec<u8>) -> Result<PublicKey, EvidenceError> {
        let mut chain = self.chain.clone();
        chain[index] = certificate;
        verify_chain(&chain, &self.root(), now())
    }
}

/// The unpacked zip in a folder of its own, and the root as a person got it from elsewhere.
fn unpacked(world: &World) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("bundle.zip"), world.bundle().to_zip().unwrap()).unwrap();
    ok(folder.path(), "python3", &["-m", "zipfile", "-e", "bundle.zip", "."]);
    std::fs::write(folder.path().join("root.pem"), chain::to_pem(&world.chain[2..])).unwrap();
    folder
}

#[test]
fn the_published_procedure_accepts_the_bundle() {
    let folder = unpacked(&WORLD);
    let path = folder.path();
    let chain = "PrimusHSM_Attestation.crt";
    ok(path, "openssl", &["verify", "-CAfile", "root.pem", "-untrusted", chain, chain]);
    for pem in ["Anna_s_key.pem", "PrimusHSM_Attestation_PublicKey.pem"] {
        let arguments = ["dgst", "-verify", pem, "-sha256", "-signature", "Anna_s_key.sig", "Anna_s_key.xml"];
        assert_eq!(ok(path, "openssl", &arguments), b"Verified OK\n");
    }
    // The public key is found by looking for its name, and nothing else bears it.
    let lines = ok(path, "grep", &["public_key", "Anna_s_key.xml"]);
    assert_eq!(String::from_utf8(lines).unwrap().lines().count(), 1);
    let cut = "grep public_key Anna_s_key.xml | sed 's/.*<public_key>//;s/<.*//' | base64 -d";
    assert_eq!(ok(path, "sh", &["-c", cut]), WORLD.attested.spki());
}

#[test]
fn the_hardened_procedure_accepts_the_bundle() {
    let folder = unpacked(&WORLD);
    let path = folder.path();
    let chain = "PrimusHSM_Attestation.crt";
    ok(path, "openssl", &["x509", "-in", chain, "-out", "leaf.pem"]);
    let strict = ["verify", "-x509_strict", "-CAfile", "root.pem", "-untrusted", chain, "leaf.pem"];
    ok(path, "openssl", &strict);
    let usage =
        ok(path, "openssl", &["x509", "-in", "leaf.pem", "-noout", "-ext", "basicConstraints,keyUsage"]);
    let usage = String::from_utf8(usage).unwrap();
    assert!(usage.contains("CA:FALSE") && usage.contains("Digital Signature, Non Repudiation"), "{usage}");
    let leaf_key = ok(path, "openssl", &["x509", "-in", "leaf.pem", "-noout", "-pubkey"]);
    std::fs::write(path.join("leaf.pub"), leaf_key).unwrap();
    let arguments =
        ["dgst", "-sha256", "-verify", "leaf.pub", "-signature", "Anna_s_key.sig", "Anna_s_key.xml"];
    ok(path, "openssl", &arguments);
    let program = "import sys, xml.etree.ElementTree as e; r = e.parse('Anna_s_key.xml').getroot(); \
        print(r.tag, r.get('creation'), r.get('enforcement'), r.findtext('label'), \
        *(r.findtext('attributes/' + n) for n in ('sensitive', 'always_sensitive', 'extractable', 'never_extractable')))";
    let seen = String::from_utf8(ok(path, "python3", &["-c", program])).unwrap();
    assert_eq!(seen.trim(), "private_key generated software Anna's key true true false true");
}

#[test]
fn the_commands_of_our_own_readme_work() {
    let folder = unpacked(&WORLD);
    let readme = std::fs::read_to_string(folder.path().join("README_attestation.md")).unwrap();
    assert!(readme.contains(&WORLD.root()) && !readme.contains('@'), "{readme}");
    let blocks: Vec<&str> = readme.split("```").skip(1).step_by(2).collect();
    assert_eq!(blocks.len(), 2);
    let script = format!("set -eu\n{}", blocks.concat());
    let output = String::from_utf8(ok(folder.path(), "bash", &["-o", "pipefail", "-c", &script])).unwrap();
    let colons = WORLD.root().to_uppercase();
    let colons = colons.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
    assert!(output.contains(&colons.collect::<Vec<_>>().join(":")), "{output}");
    assert!(output.contains("chain-1.pem: OK") && output.contains("Verified OK"), "{output}");
    assert!(output.contains("secp384r1"), "{output}");
}

#[test]
fn the_certificates_follow_the_profile_and_name_the_operator() {
    let folder = unpacked(&WORLD);
    let path = folder.path();
    let expected = [
        ("CN=attestation-key", "CA:FALSE", "Digital Signature, Non Repudiation"),
        (
            "CN=hsm-operator software attestation CA (partition demo)",
            "CA:TRUE, pathlen:0",
            "Non Repudiation, Certificate Sign, CRL Sign",
        ),
        (
            "CN=hsm-operator software attestation root (partition demo)",
            "CA:TRUE, pathlen:1",
            "Non Repudiation, Certificate Sign, CRL Sign",
        ),
    ];
    for (der, (name, constraints, usage)) in WORLD.chain.iter().zip(expected) {
        std::fs::write(path.join("one.der"), der).unwrap();
        let text = ok(
            path,
            "openssl",
            &["x509", "-inform", "DER", "-in", "one.der", "-noout", "-text", "-nameopt", "RFC2253"],
        );
        let text = String::from_utf8(text).unwrap();
        for part in [name, constraints, usage, "sha256WithRSAEncryption", "(3072 bit)"] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(text.matches(": critical").count() == 2 && !text.to_lowercase().contains("primus"), "{text}");
    }
}

#[test]
fn we_accept_our_own_evidence_and_read_it() {
    let statements = WORLD.verify(WORLD.xml.as_bytes(), &WORLD.signature).unwrap();
    assert_eq!(statements.label, LABEL);
    assert_eq!(statements.public_key.as_deref(), Some(WORLD.attested.spki()));
    assert_eq!(statements.root["enforcement"], "software");
    assert_eq!(statements.root["issuer"], "hsm-operator");
    assert_eq!(statements.curve_oid.as_deref(), Some("1.3.132.0.34"));
    assert_eq!(statements.protection(), Protection::NeverOutside);
    let upper = WORLD.root().to_uppercase();
    let evidence = Evidence { xml: WORLD.xml.as_bytes(), signature: &WORLD.signature, chain: &WORLD.chain };
    assert!(verify(&evidence, &upper, now()).is_ok());
}

#[test]
fn a_changed_byte_or_line_end_is_detected() {
    let xml = &WORLD.xml;
    for changed in [
        xml.replace("generated", "imported"),
        xml.trim_end().to_owned(),
        xml.strip_suffix('\n').unwrap().to_owned(),
        format!("{xml}\n"),
        xml.replace('\n', "\r\n"),
        xml.replace(" enforcement=\"software\"", ""),
    ] {
        assert_eq!(WORLD.verify(changed.as_bytes(), &WORLD.signature), Err(EvidenceError::Signature));
    }
    let mut signature = WORLD.signature.clone();
    signature[100] ^= 1;
    assert_eq!(WORLD.verify(xml.as_bytes(), &signature), Err(EvidenceError::Signature));
}

#[test]
fn a_signed_document_that_is_no_attestation_is_refused() {
    let doctype = WORLD.xml.replacen("<private_key", "<!DOCTYPE private_key>\n<private_key", 1);
    let signature = sign(WORLD.folder.path(), "leaf.key", doctype.as_bytes());
    assert!(matches!(WORLD.verify(doctype.as_bytes(), &signature), Err(EvidenceError::Document(_))));
}

#[test]
fn another_root_or_another_time_is_not_trusted() {
    let other = "00".repeat(32);
    let error = verify_chain(&WORLD.chain, &other, now()).unwrap_err();
    assert_eq!(error, EvidenceError::UntrustedRoot { found: WORLD.root() });
    for at in [now() - 3.hours(), now() + (24 * 366 * 31).hours()] {
        let error = verify_chain(&WORLD.chain, &WORLD.root(), at).unwrap_err();
        assert!(matches!(error, EvidenceError::Validity { .. }), "{error}");
    }
    let reversed: Vec<_> = WORLD.chain.iter().rev().cloned().collect();
    assert!(verify_chain(&reversed, &WORLD.root(), now()).is_err());
    assert!(verify_chain(&WORLD.chain[2..], &WORLD.root(), now()).is_err());
    assert!(verify_chain(&[], &WORLD.root(), now()).is_err());
    let gap = [WORLD.chain[0].clone(), WORLD.chain[2].clone()];
    assert_eq!(verify_chain(&gap, &WORLD.root(), now()), Err(EvidenceError::Issuer { index: 0 }));
}

#[test]
fn a_chain_with_a_forged_link_is_refused() {
    let path = WORLD.folder.path();
    let [root, ca, leaf] = ["root.key", "ca.key", "leaf.key"].map(|file| public(path, file));
    // A leaf that the leaf itself signed: right names, wrong key.
    let self_made = certificate(path, "leaf.key", &request(Role::Leaf, &leaf, &leaf));
    assert_eq!(WORLD.with(0, self_made), Err(EvidenceError::CertificateSignature { index: 0 }));
    // The CA passing off as an attestation key.
    let authority = certificate(path, "root.key", &request(Role::Ca, &ca, &root));
    let chain = [authority, WORLD.chain[2].clone()];
    let error = verify_chain(&chain, &WORLD.root(), now()).unwrap_err();
    assert!(matches!(error, EvidenceError::NotAllowed { index: 0, .. }), "{error}");
    // Any byte of any certificate.
    for index in 0..3 {
        for place in [10, 60, 300, WORLD.chain[index].len() - 5] {
            let mut changed = WORLD.chain[index].clone();
            changed[place] ^= 1;
            assert!(WORLD.with(index, changed).is_err(), "certificate {index}, byte {place}");
        }
    }
}

#[test]
fn a_leaf_that_signs_a_leaf_is_refused() {
    let path = WORLD.folder.path();
    let leaf = public(path, "leaf.key");
    let attacker = generate(path, "attacker.key");
    // An attestation key may be labelled like the CA; then the names of a chain below it are right.
    let name = "hsm-operator software attestation CA (partition demo)";
    let ca = public(path, "ca.key");
    let posing = CertificateRequest { attestation_key: name, ..request(Role::Leaf, &leaf, &ca) };
    let mut chain = vec![
        certificate(path, "leaf.key", &request(Role::Leaf, &attacker, &leaf)),
        certificate(path, "ca.key", &posing),
    ];
    chain.extend(WORLD.chain[1..].iter().cloned());
    let error = verify_chain(&chain, &WORLD.root(), now()).unwrap_err();
    assert!(matches!(error, EvidenceError::NotAllowed { index: 1, .. }), "{error}");
}

#[test]
fn nothing_is_certified_with_a_signature_of_another_key() {
    let path = WORLD.folder.path();
    let (root, ca) = (public(path, "root.key"), public(path, "ca.key"));
    let tbs = Tbs::new(&request(Role::Ca, &ca, &root)).unwrap();
    let signature = sign(path, "ca.key", tbs.to_be_signed());
    assert_eq!(tbs.assemble(&signature), Err(ChainError::Signature));
    assert_eq!(Tbs::new(&request(Role::Root, &ca, &root)).unwrap_err(), ChainError::RootIssuer);
    let ec = Tbs::new(&request(Role::Leaf, &ca, &WORLD.attested)).unwrap_err();
    assert_eq!(ec, ChainError::IssuerKey(KeyAlgorithm::Ec));
}

#[test]
fn long_names_and_foreign_letters_still_make_a_chain() {
    let path = WORLD.folder.path();
    let root = public(path, "root.key");
    let partition = "ü".repeat(253);
    let request = CertificateRequest { partition: &partition, ..request(Role::Root, &root, &root) };
    let der = certificate(path, "root.key", &request);
    std::fs::write(path.join("long.der"), &der).unwrap();
    ok(path, "openssl", &["x509", "-inform", "DER", "-in", "long.der", "-out", "long.pem"]);
    ok(path, "openssl", &["verify", "-x509_strict", "-CAfile", "long.pem", "long.pem"]);
}

#[test]
fn a_chain_comes_back_from_pem_as_it_was() {
    let text = format!("subject=\n{}trailing text\n", chain::to_pem(&WORLD.chain));
    assert_eq!(chain::from_pem(&text).unwrap(), WORLD.chain);
    assert!(chain::from_pem(&text[..text.len() - 60]).is_err());
    assert!(chain::from_pem("no certificate here").unwrap().is_empty());
}

#[test]
fn the_same_bundle_is_the_same_bytes_whatever_its_key_is_called() {
    assert_eq!(WORLD.bundle().to_zip().unwrap(), WORLD.bundle().to_zip().unwrap());
    let label = "PrimusHSM_Attestation_PublicKey";
    assert!(Bundle { label, ..WORLD.bundle() }.to_zip().is_ok());
}

/// What tells the two apart is in the signed bytes, in the certificates, and in how the signature is made.
#[test]
fn a_bundle_of_the_operator_is_not_taken_for_one_of_an_hsm() {
    let statements = WORLD.verify(WORLD.xml.as_bytes(), &WORLD.signature).unwrap();
    assert!(statements.is_software() && chain::names_operator(&WORLD.chain));
    let folder = unpacked(&WORLD);
    let path = folder.path();
    let usual =
        ["dgst", "-sha256", "-verify", "Anna_s_key.pem", "-signature", "Anna_s_key.sig", "Anna_s_key.xml"];
    ok(path, "openssl", &usual);
    let pss = ["-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:digest"];
    let as_of_an_hsm = [&usual[..2], &pss, &usual[2..]].concat();
    assert!(!run(path, "openssl", &as_of_an_hsm).status.success());
    // The readme of an HSM's bundle asks for what this one does not have.
    let signer = Signer::Device(SignatureAlgorithm::Sha256WithRsaPss);
    let posing = Bundle { signer, ..WORLD.bundle() };
    std::fs::write(path.join("posing.zip"), posing.to_zip().unwrap()).unwrap();
    ok(path, "python3", &["-m", "zipfile", "-e", "posing.zip", "."]);
    let readme = std::fs::read_to_string(path.join("README_attestation.md")).unwrap();
    assert!(!readme.contains('@') && readme.contains("It must not say `enforcement`"), "{readme}");
    let script = format!("set -eu\n{}", readme.split("```").nth(1).unwrap());
    let output = run(path, "bash", &["-o", "pipefail", "-c", &script]);
    // Its certificates hold; it is the signature that is made otherwise.
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("chain-1.pem: OK") && said.contains("Verification failure"), "{said}");
    assert!(!said.contains("Verified OK") && !output.status.success(), "{said}");
}

#[test]
fn no_text_that_people_choose_makes_a_document_of_another_kind() {
    for label in [
        "PRIMUS HSM KEY (SN: 1)",
        "a</label></private_key>",
        "\"><private_key creation=\"generated\"><label>b",
        "a<!-- ",
        "<![CDATA[a]]>",
        "&lt;b&gt;&#60;",
    ] {
        let attributes = KeyAttributes::default();
        let xml = AttestedKey {
            label,
            create_time: now(),
            attest_time: now(),
            algorithm: KeyAlgorithm::Ec,
            curve_oid: Some("1.3.132.0.34"),
            key_size: None,
            public_key: Some(WORLD.attested.spki()),
            attributes: &attributes,
            derivation: None,
            address: None,
            public_only: false,
            local: None,
            policy: None,
        }
        .to_xml()
        .unwrap();
        let root = "<private_key creation=\"imported\" enforcement=\"software\" issuer=\"hsm-operator\">";
        assert_eq!(xml.lines().nth(1), Some(root), "{label}");
        let statements = read_unverified(xml.as_bytes()).unwrap();
        assert!(statements.is_software(), "{label}");
        assert_eq!(statements.label, label);
    }
}

#[test]
fn an_attestation_key_whatever_its_name_has_no_certificate_of_an_hsm() {
    let path = WORLD.folder.path();
    let (ca, leaf) = (public(path, "ca.key"), public(path, "leaf.key"));
    for name in ["PRIMUS_HSM_ROOTKEY", "PRIMUS HSM KEY (SN: 1)", "SECUROSYS_ROOTKEY_DEV", "PrimusHSM"] {
        let request = CertificateRequest { attestation_key: name, ..request(Role::Leaf, &leaf, &ca) };
        let der = certificate(path, "ca.key", &request);
        assert!(chain::names_operator(&[&der]), "{name}");
        std::fs::write(path.join("posing.der"), &der).unwrap();
        let shown = [
            "x509",
            "-inform",
            "DER",
            "-in",
            "posing.der",
            "-noout",
            "-subject",
            "-issuer",
            "-nameopt",
            "RFC2253",
        ];
        let shown = String::from_utf8(ok(path, "openssl", &shown)).unwrap();
        let common = format!("subject=CN=hsm-operator software attestation key {name}");
        assert!(shown.starts_with(&common), "{shown}");
        assert_eq!(shown.matches("O=hsm-operator").count(), 2, "{shown}");
        let mut chain = WORLD.chain.clone();
        chain[0] = der;
        verify_chain(&chain, &WORLD.root(), now()).unwrap();
    }
}
