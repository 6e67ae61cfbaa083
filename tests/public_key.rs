//! Signatures made by openssl with software keys, against our reading of keys and signatures.

use hsm_operator::model::curve::CURVES;
use hsm_operator::model::digest::Hash;
use hsm_operator::model::signature::{Input, Scheme};
use hsm_operator::model::{KeyAlgorithm, SignatureAlgorithm as A, SignatureType as Form};
use hsm_operator::public_key::{PublicKey, ecdsa_der_to_raw, ecdsa_raw_to_der, encode};
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// A private key that only openssl ever reads.
struct SoftwareKey {
    folder: TempDir,
    public: PublicKey,
}

fn openssl(folder: &Path, arguments: &[&str]) -> Vec<u8> {
    let output = Command::new("openssl").args(arguments).current_dir(folder).output();
    let output = output.expect("openssl must be installed for this test");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "openssl {}: {complaint}", arguments.join(" "));
    output.stdout
}

impl SoftwareKey {
    fn generate(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        openssl(folder.path(), &[&["genpkey", "-out", "key.pem"], arguments].concat());
        let spki = openssl(folder.path(), &["pkey", "-in", "key.pem", "-pubout", "-outform", "DER"]);
        Self { folder, public: PublicKey::from_spki(&spki).unwrap() }
    }

    fn ec(openssl_curve: &str) -> Self {
        let curve = format!("ec_paramgen_curve:{openssl_curve}");
        Self::generate(&["-algorithm", "EC", "-pkeyopt", &curve, "-pkeyopt", "ec_param_enc:named_curve"])
    }

    fn rsa(bits: u32) -> Self {
        Self::generate(&["-algorithm", "RSA", "-pkeyopt", &format!("rsa_keygen_bits:{bits}")])
    }

    fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    /// Signs prepared bytes: a digest, or what shall be padded as it is.
    fn sign_prepared(&self, prepared: &[u8], options: &[String]) -> Vec<u8> {
        self.file("in", prepared);
        let mut arguments = vec!["pkeyutl", "-sign", "-inkey", "key.pem", "-in", "in"];
        for option in options {
            arguments.extend(["-pkeyopt", option]);
        }
        openssl(self.folder.path(), &arguments)
    }

    /// Signs a payload as the contract's algorithm says, with the padding made by openssl.
    fn sign(&self, algorithm: A, payload: &[u8]) -> Vec<u8> {
        let row = algorithm.row();
        let prepared = algorithm.prepare(payload).unwrap();
        let mut options = Vec::new();
        match row.scheme {
            Scheme::RsaPkcs1 => options.push("rsa_padding_mode:pkcs1".to_owned()),
            Scheme::RsaPss(hash) => options.extend([
                "rsa_padding_mode:pss".to_owned(),
                "rsa_pss_saltlen:digest".to_owned(),
                format!("digest:{}", name(hash)),
            ]),
            _ => {}
        }
        if let (Scheme::RsaPkcs1, Input::Message(hash) | Input::Digest(hash)) = (row.scheme, row.input) {
            options.push(format!("digest:{}", name(hash)));
        }
        self.sign_prepared(&prepared, &options)
    }

    fn assert_only_this_verifies(&self, algorithm: A, payload: &[u8], signature: &[u8]) {
        let context = format!("{algorithm} {:?} {}", self.public.curve().map(|c| c.name), self.public.bits());
        let verify = |payload: &[u8], signature: &[u8]| self.public.verify(algorithm, payload, signature);
        assert_eq!(verify(payload, signature), Ok(true), "{context}");
        for place in [0, signature.len() / 2, signature.len() - 1] {
            let mut bad = signature.to_vec();
            bad[place] ^= 1;
            assert_eq!(verify(payload, &bad), Ok(false), "{context} flipped in byte {place}");
        }
        let mut other = payload.to_vec();
        other[0] ^= 0x80;
        assert_eq!(verify(&other, signature), Ok(false), "{context} other payload");
        for wrong_length in [&signature[..signature.len() - 1], &[signature, &[7]].concat(), &[]] {
            assert_eq!(verify(payload, wrong_length), Ok(false), "{context} wrong length");
        }
    }
}

fn name(hash: Hash) -> &'static str {
    match hash {
        Hash::Sha1 => "sha1",
        Hash::Sha224 => "sha224",
        Hash::Sha256 => "sha256",
        Hash::Sha384 => "sha384",
        Hash::Sha512 => "sha512",
        other => panic!("openssl is never asked for {other:?}"),
    }
}

/// A payload that fits the algorithm.
fn payload(algorithm: A) -> Vec<u8> {
    match algorithm.row().input {
        Input::Message(_) => b"a message".to_vec(),
        Input::Digest(hash) => hash.digest(b"a message"),
        Input::Bytes => Hash::Sha256.digest(b"a message"),
    }
}

fn algorithms_of(key: KeyAlgorithm) -> impl Iterator<Item = A> {
    A::ALL.iter().copied().filter(move |a| a.fits(key) && *a != A::NoneWithEcSchnorrBip0340)
}

const OPENSSL_CURVES: [(&str, &str); 14] = [
    ("P-224", "secp224r1"),
    ("P-256", "prime256v1"),
    ("P-384", "secp384r1"),
    ("P-521", "secp521r1"),
    ("secp224k1", "secp224k1"),
    ("secp256k1", "secp256k1"),
    ("brainpool224r1", "brainpoolP224r1"),
    ("brainpool256r1", "brainpoolP256r1"),
    ("brainpool320r1", "brainpoolP320r1"),
    ("brainpool384r1", "brainpoolP384r1"),
    ("brainpool512r1", "brainpoolP512r1"),
    ("prime239v1", "prime239v1"),
    ("prime239v2", "prime239v2"),
    ("prime239v3", "prime239v3"),
];

#[test]
fn every_ecdsa_algorithm_on_every_curve_verifies_in_every_form() {
    for curve in CURVES.iter().filter(|curve| curve.weierstrass.is_some()) {
        let (_, openssl_name) = OPENSSL_CURVES.iter().find(|(name, _)| *name == curve.name).unwrap();
        let key = SoftwareKey::ec(openssl_name);
        assert_eq!(key.public.algorithm(), KeyAlgorithm::Ec);
        assert_eq!(key.public.curve(), Some(curve));
        for algorithm in algorithms_of(KeyAlgorithm::Ec) {
            let payload = payload(algorithm);
            let der = key.sign(algorithm, &payload);
            key.assert_only_this_verifies(algorithm, &payload, &der);
            let raw = ecdsa_der_to_raw(&der, curve.scalar_len()).unwrap();
            assert_eq!(ecdsa_raw_to_der(&raw).unwrap(), der);
            key.assert_only_this_verifies(algorithm, &payload, &raw);
            for (form, expected) in [(Form::Der, &der), (Form::Raw, &raw)] {
                assert_eq!(&encode(&raw, form, algorithm, &key.public, &payload).unwrap(), expected);
            }
        }
    }
}

/// The signed transaction of EIP-155, whose private key is 0x4646…46: what is signed, and r, s and v without the chain's
/// number.
#[test]
fn the_example_of_eip155_is_a_signature_with_its_recovery_byte() {
    let key = "3056301006072a8648ce3d020106052b8104000a034200044bc2a31265153f07e70e0bab08724e6b85e217f8cd628ceb62974247bb493382ce28cab79ad7119ee1ad3ebcdb98a16805211530ecc6cfefa1b88e6dff99232a";
    let key = PublicKey::from_spki(&hex::decode(key).unwrap()).unwrap();
    let payload = hex::decode(
        "ec098504a817c800825208943535353535353535353535353535353535353535880de0b6b3a764000080018080",
    );
    let rs = "28ef61340bd939bc2195fe537567866003e1a15d3c71ff63e1590620aa63627667cbe9d8997f761aecb703304b3800ccf555c9f3dc64214b297fb1966a3b6d83";
    let (payload, rs) = (payload.unwrap(), hex::decode(rs).unwrap());
    let eth = encode(&rs, Form::Eth, A::Keccak256WithEcdsa, &key, &payload).unwrap();
    assert_eq!(eth, [&rs[..], &[27]].concat());
    assert_eq!(key.verify(A::Keccak256WithEcdsa, &payload, &eth), Ok(true));
    assert_eq!(key.verify(A::Keccak256WithEcdsa, &payload, &[&rs[..], &[28]].concat()), Ok(false));
}

#[test]
fn digests_of_any_length_are_cut_as_openssl_cuts_them() {
    for curve in ["secp224k1", "secp521r1", "prime256v1", "brainpoolP320r1"] {
        let key = SoftwareKey::ec(curve);
        for len in [20, 28, 32, 33, 48, 64] {
            let digest = vec![0xa7; len];
            let signature = key.sign_prepared(&digest, &[]);
            key.assert_only_this_verifies(A::NoneWithEcdsa, &digest, &signature);
        }
    }
}

#[test]
fn every_rsa_algorithm_verifies_and_stays_as_the_token_made_it() {
    for bits in [2048, 2304, 3072] {
        let key = SoftwareKey::rsa(bits);
        assert_eq!((key.public.algorithm(), key.public.bits()), (KeyAlgorithm::Rsa, bits));
        for algorithm in algorithms_of(KeyAlgorithm::Rsa) {
            let payload = payload(algorithm);
            let signature = key.sign(algorithm, &payload);
            key.assert_only_this_verifies(algorithm, &payload, &signature);
            for form in [Form::Der, Form::Raw] {
                assert_eq!(encode(&signature, form, algorithm, &key.public, &payload).unwrap(), signature);
            }
        }
        let short = key.sign(A::NoneWithRsa, b"any text");
        key.assert_only_this_verifies(A::NoneWithRsa, b"any text", &short);
        assert_eq!(key.public.verify(A::NoneWithRsa, &vec![1; bits as usize / 8], &short), Ok(false));
    }
}

#[test]
fn the_algorithms_of_rsa_do_not_pass_for_each_other() {
    let key = SoftwareKey::rsa(2048);
    let signature = key.sign(A::Sha256WithRsa, b"a message");
    let digest = Hash::Sha256.digest(b"a message");
    assert_eq!(key.public.verify(A::NoneSha256WithRsa, &digest, &signature), Ok(true));
    assert_eq!(key.public.verify(A::NoneWithRsa, &digest, &signature), Ok(false));
    assert_eq!(key.public.verify(A::NoneWithRsaPss, &digest, &signature), Ok(false));
    assert_eq!(key.public.verify(A::Sha224WithRsa, b"a message", &signature), Ok(false));
}

#[test]
fn a_key_of_8192_bits_is_read_and_used() {
    let key = SoftwareKey::rsa(8192);
    for algorithm in [A::Sha224WithRsa, A::Sha512WithRsa, A::Sha1WithRsaPss, A::Sha384WithRsaPss] {
        let signature = key.sign(algorithm, b"a message");
        key.assert_only_this_verifies(algorithm, b"a message", &signature);
    }
}

#[test]
fn ed25519_verifies_the_message_itself() {
    let key = SoftwareKey::generate(&["-algorithm", "ED25519"]);
    assert_eq!(key.public.curve().unwrap().name, "Ed25519");
    key.file("in", b"a message");
    let arguments = ["pkeyutl", "-sign", "-rawin", "-inkey", "key.pem", "-in", "in"];
    let signature = openssl(key.folder.path(), &arguments);
    key.assert_only_this_verifies(A::EdDsa, b"a message", &signature);
    assert_eq!(encode(&signature, Form::Raw, A::EdDsa, &key.public, b"a message").unwrap(), signature);
}

#[test]
fn the_ethereum_form_has_a_low_s_and_a_recovery_byte_that_matters() {
    let key = SoftwareKey::ec("secp256k1");
    let algorithm = A::Keccak256WithEcdsa;
    for round in 0..8_u8 {
        let payload = [round; 40];
        let raw = ecdsa_der_to_raw(&key.sign(algorithm, &payload), 32).unwrap();
        let eth = encode(&raw, Form::Eth, algorithm, &key.public, &payload).unwrap();
        assert_eq!(eth.len(), 65);
        assert!(eth[32] < 0x80, "s is in the lower half");
        key.assert_only_this_verifies(algorithm, &payload, &eth[..64]);
        assert_eq!(key.public.verify(algorithm, &payload, &eth), Ok(true));
        let with_v = |v: u8| [&eth[..64], &[v]].concat();
        assert_eq!(key.public.verify(algorithm, &payload, &with_v(55 - eth[64])), Ok(false));
        assert_eq!(key.public.verify(algorithm, &payload, &with_v(29)), Ok(false));
    }
}

#[test]
fn what_we_print_is_what_openssl_prints() {
    for key in [SoftwareKey::rsa(2048), SoftwareKey::ec("secp384r1")] {
        let pem = openssl(key.folder.path(), &["pkey", "-in", "key.pem", "-pubout"]);
        assert_eq!(key.public.pem().as_bytes(), pem);
        assert_eq!(PublicKey::from_pem(&key.public.pem()).unwrap(), key.public);
        key.file("spki", key.public.spki());
        let digest = openssl(key.folder.path(), &["dgst", "-sha256", "-r", "spki"]);
        assert!(String::from_utf8(digest).unwrap().starts_with(&key.public.fingerprint()));
    }
}

#[test]
fn keys_that_a_contract_does_not_have_are_refused() {
    let refused = |arguments: &[&str]| {
        let folder = tempfile::tempdir().unwrap();
        openssl(folder.path(), &[&["genpkey", "-out", "key.pem"], arguments].concat());
        let form = vec!["pkey", "-in", "key.pem", "-pubout", "-outform", "DER"];
        PublicKey::from_spki(&openssl(folder.path(), &form)).unwrap_err().to_string()
    };
    let explicit =
        ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-pkeyopt", "ec_param_enc:explicit"];
    assert_eq!(refused(&explicit), "the parameters of an EC key are not as its standard demands");
    assert_eq!(refused(&["-algorithm", "X25519"]), "public keys of algorithm 1.3.101.110 are not supported");
    assert_eq!(
        refused(&["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024"]),
        "an RSA key of 1024 bits is not supported, 2048 to 8192 are"
    );
    assert_eq!(
        refused(&["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:brainpoolP160r1"]),
        "Unsupported Curve: '1.3.36.3.3.2.8.1.1.1'"
    );
}

/// Test cases of RFC 8554, of two levels each; and every byte of them matters.
#[test]
fn signatures_of_lms_are_those_of_the_rfc() {
    let lines = include_str!("vectors/rfc8554.txt").lines().skip(1);
    let all: Vec<Vec<u8>> = lines.map(|line| hex::decode(line.split_once(' ').unwrap().1).unwrap()).collect();
    for case in all.chunks_exact(3) {
        let [key, message, signature] = case else { panic!() };
        let spki = [&hex::decode("304e300d060b2a864886f70d0109100311033d00").unwrap()[..], key].concat();
        let public = PublicKey::from_spki(&spki).unwrap();
        assert_eq!(public.algorithm(), KeyAlgorithm::Lms);
        let fits = |message: &[u8], signature: &[u8]| public.verify(A::Lms, message, signature).unwrap();
        assert!(fits(message, signature));
        assert!(!fits(&message[1..], signature) && !fits(b"", signature));
        for at in (0..signature.len()).step_by(97) {
            let mut changed = signature.clone();
            changed[at] ^= 1;
            assert!(!fits(message, &changed), "{at}");
            assert!(!fits(message, &signature[..at]), "{at}");
        }
        assert!(!fits(message, &[&signature[..], &[0]].concat()));
        // One tree of two is none, and what it signed is not a message of the key's.
        let one = [&[0; 4][..], &signature[4..]].concat();
        assert!(!fits(message, &one));
        // Other parameters than there are; and a key that says it has more levels.
        for (at, value) in [(3 + 20, 0), (3 + 20, 9), (7 + 20, 4), (7 + 20, 10), (11 + 20, 0), (11 + 20, 5)] {
            let mut changed = spki.clone();
            changed[at] = value;
            assert!(PublicKey::from_spki(&changed).is_err(), "{at} {value}");
        }
    }
}

/// Signatures that the implementation of RFC 8391's authors made, and Botan reads; and every byte of them matters.
#[test]
fn signatures_of_xmss_are_those_of_others() {
    let lines = include_str!("vectors/rfc8391.txt").lines().filter(|line| !line.starts_with('#'));
    let all: Vec<Vec<u8>> = lines.map(|line| hex::decode(line.split_once(' ').unwrap().1).unwrap()).collect();
    let mut algorithms = Vec::new();
    for case in all.chunks_exact(3) {
        let [key, message, signature] = case else { panic!() };
        let spki = [&hex::decode("3053300a06082b06010505070622034500").unwrap()[..], key].concat();
        let public = PublicKey::from_spki(&spki).unwrap();
        let (algorithm, other) = match public.algorithm() {
            KeyAlgorithm::XmssSha2 => (A::XmssSha2, A::XmssShake),
            _ => (A::XmssShake, A::XmssSha2),
        };
        algorithms.push(algorithm);
        let fits = |message: &[u8], signature: &[u8]| public.verify(algorithm, message, signature).unwrap();
        assert!(fits(message, signature));
        assert!(!fits(b"another", signature));
        assert!(public.verify(other, message, signature).is_err());
        // Number, randomizer, the first and the last chain, and the path. A check costs thousands of hashes.
        for at in [3, 4, 36, 36 + 67 * 32 - 1, signature.len() - 1] {
            let mut changed = signature.clone();
            changed[at] ^= 1;
            assert!(!fits(message, &changed), "{at}");
        }
        assert!(!fits(message, &signature[1..]) && !fits(message, &[&signature[..], &[0]].concat()));
        // The same tree by the other hash, and sets that are not the contract's.
        let mut changed = spki.clone();
        changed[20] ^= 0x11;
        let hashed = PublicKey::from_spki(&changed).unwrap();
        assert_eq!(hashed.verify(other, message, signature), Ok(false));
        changed[20] = 2;
        assert!(PublicKey::from_spki(&changed).is_err());
    }
    assert_eq!(algorithms, [[A::XmssSha2; 3], [A::XmssShake; 3]].concat());
}
