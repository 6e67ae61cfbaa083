//! What a success says, compared with what the model knows, by programs and libraries that are not the gateway's; and what
//! the model learns of it.

use std::path::Path;

use aws_lc_rs::{aead, hmac};
use base64::{Engine, engine::general_purpose::STANDARD};
use hsm_operator::model::SignatureAlgorithm;
use serde_json::{Value, json};

use super::state::{Effect, Key, Known, Maced, Model, Sealed, Signed, Wrapped, aad, default_policy};
use crate::{common::openssl, world::Answer};

/// Things of a kind that are remembered.
const KEPT: usize = 12;

type Checked = Result<(), String>;

fn same(what: &str, given: &Value, expected: &Value) -> Checked {
    if given == expected { Ok(()) } else { Err(format!("{what} is {given}, and should be {expected}")) }
}

fn bytes(value: &Value) -> Result<Vec<u8>, String> {
    let text = value.as_str().ok_or_else(|| format!("{value} is no text"))?;
    STANDARD.decode(text).map_err(|error| format!("{text}: {error}"))
}

fn members(value: &Value, expected: &[&str]) -> Checked {
    let object = value.as_object().ok_or_else(|| format!("{value} is no object"))?;
    let mut expected = expected.to_vec();
    expected.sort_unstable();
    let given: Vec<_> = object.keys().map(String::as_str).collect();
    if given == expected {
        Ok(())
    } else {
        Err(format!("the members are {given:?}, and should be {expected:?}"))
    }
}

fn keep<T>(all: &mut Vec<T>, one: T) {
    if all.len() == KEPT {
        all.remove(0);
    }
    all.push(one);
}

impl Model {
    /// Compares an answer, and changes what is so. Files go to `directory`.
    pub fn learn(&mut self, effect: Effect, neighbours: bool, answer: &Answer, directory: &Path) -> Checked {
        let json = || serde_json::from_slice::<Value>(&answer.body).map_err(|error| error.to_string());
        let empty = || if answer.body.is_empty() { Ok(()) } else { Err("the body is not empty".to_owned()) };
        match effect {
            Effect::Made(label, key) => self.made_so(label, *key, json()?),
            Effect::Names(names) => same("the list", &json()?, &json!(names)),
            Effect::Described(label) => {
                let key = &self.keys[&label];
                same("the description", &json()?, key.told.as_ref().expect("it was told when it was made"))
            }
            Effect::Zip => {
                if answer.body.starts_with(b"PK\x03\x04") {
                    Ok(())
                } else {
                    Err("it is no zip".into())
                }
            }
            Effect::Signed { label, algorithm, form, payload } => {
                let body = json()?;
                members(&body, &["signature"])?;
                let signature = bytes(&body["signature"])?;
                let material = self.keys[&label].material;
                self.is_signed(material, algorithm, form, &payload, &signature, directory);
                keep(&mut self.signed, Signed { material, algorithm, payload, signature });
                Ok(())
            }
            Effect::Valid(valid) => same("the answer", &json()?, &json!({"signatureValid": valid})),
            Effect::Sealed { label, cipher, payload, aad } => {
                self.sealed_so(label, cipher, payload, aad, json()?)
            }
            Effect::Opened(payload) => {
                same("the answer", &json()?, &json!({"payload": STANDARD.encode(payload)}))
            }
            Effect::Garbled(payload) => {
                let body = json()?;
                if bytes(&body["payload"])? == payload { Err("another key opened it".into()) } else { Ok(()) }
            }
            Effect::Maced { label, payload } => {
                let body = json()?;
                members(&body, &["keyedHash"])?;
                let (mac, material) = (bytes(&body["keyedHash"])?, self.keys[&label].material);
                if let Some(key) = &self.known[material].private {
                    let key = hmac::Key::new(hmac::HMAC_SHA256, &STANDARD.decode(key).unwrap());
                    hmac::verify(&key, &payload, &mac).map_err(|_| "the HMAC is not that of aws-lc")?;
                }
                keep(&mut self.maced, Maced { material, payload, mac });
                Ok(())
            }
            Effect::Exported(label) => {
                let material = self.keys[&label].material;
                let body = json()?;
                let pair = self.keys[&label].kind.is_pair();
                let member = if pair { "privateKey" } else { "secretKey" };
                members(&body, &["privateKey", "publicKey", "secretKey"])?;
                same("publicKey", &body["publicKey"], &json!(self.known[material].public))?;
                same("what it is not", &body[if pair { "secretKey" } else { "privateKey" }], &Value::Null)?;
                let private = body[member].as_str().ok_or_else(|| format!("{member} is no text"))?.to_owned();
                match &self.known[material].private {
                    Some(known) => same(member, &json!(private), &json!(known)),
                    None => {
                        self.known[material].private = Some(private);
                        Ok(())
                    }
                }
            }
            Effect::Wrapped { by, of, method } => {
                let body = json()?;
                members(&body, &["wrappedKey"])?;
                let data = bytes(&body["wrappedKey"])?;
                let (by, of) = (self.keys[&by].material, &self.keys[&of]);
                let wrapped = Wrapped { by, of: of.material, size: of.size, method, data };
                keep(&mut self.wrapped, wrapped);
                Ok(())
            }
            Effect::Password(label, new) => {
                self.keys.get_mut(&label).unwrap().password = new;
                empty()
            }
            Effect::Gone(label) => {
                self.keys.remove(&label);
                empty()
            }
            Effect::Certified(label) => {
                let certificate = self.certificate(label, &json()?)?;
                self.keys.get_mut(&label).unwrap().certificate = Some(certificate);
                Ok(())
            }
            Effect::Certificate(label) => {
                let certificate = self.certificate(label, &json()?)?;
                same("the certificate", &json!(certificate), &json!(self.keys[&label].certificate))
            }
            Effect::Uncertified(label) => {
                self.keys.get_mut(&label).unwrap().certificate = None;
                empty()
            }
            Effect::Kept { name, value, destroyable } => {
                let body = json()?;
                members(&body, &["name", "attributes"])?;
                same("the name", &body["name"], &json!(self.label(name)))?;
                same("destroyable", &body["attributes"]["destroyable"], &json!(destroyable))?;
                self.data.insert((neighbours, name), (value, destroyable));
                Ok(())
            }
            Effect::Data { name } => {
                let (value, destroyable) = &self.data[&(neighbours, name)];
                let body = json()?;
                members(&body, &["name", "value", "attributes"])?;
                same("the name", &body["name"], &json!(self.label(name)))?;
                same("the value", &body["value"], &json!(STANDARD.encode(value)))?;
                same("destroyable", &body["attributes"]["destroyable"], &json!(destroyable))
            }
            Effect::Forgotten { name } => {
                self.data.remove(&(neighbours, name));
                empty()
            }
        }
    }

    fn made_so(&mut self, label: u8, mut key: Key, told: Value) -> Checked {
        members(&told, &["xml", "json", "xmlSignature", "attestationKeyName"])?;
        let body = &told["json"];
        let public = body["publicKey"].as_str().map(str::to_owned);
        if key.kind.is_pair() != public.is_some() {
            return Err(format!("publicKey is {public:?}"));
        }
        if key.material == self.known.len() {
            if let Some(public) = &public
                && self.known.iter().any(|known| known.public.as_ref() == Some(public))
            {
                return Err("a new key is one that was there before".into());
            }
            self.known.push(Known { public, private: None });
        } else {
            same("publicKey", &json!(public), &json!(self.known[key.material].public))?;
        }
        same("label", &body["label"], &json!(self.label(label)))?;
        same("algorithm", &body["algorithm"], &json!(key.kind.name()))?;
        same("keySize", &body["keySize"], &json!(key.size))?;
        same("policy", &body["policy"], &if key.policy { default_policy() } else { Value::Null })?;
        let attributes = &body["attributes"];
        for (name, expected) in [
            ("extractable", key.extractable),
            ("sensitive", key.sensitive),
            ("modifiable", key.modifiable),
            ("destroyable", key.destroyable),
            ("alwaysSensitive", key.sensitive && !key.imported),
            ("neverExtractable", !key.extractable && !key.imported),
        ] {
            // Of a key that was unwrapped, kryoptic does not say what it always was.
            let untold = key.unwrapped && ["alwaysSensitive", "neverExtractable"].contains(&name);
            if !(untold && attributes[name].is_null()) {
                same(name, &attributes[name], &json!(expected))?;
            }
        }
        for name in ["sign", "decrypt", "unwrap"] {
            let has = key.kind.has(name) && key.uses;
            same(name, &attributes[name], &json!(has))?;
        }
        key.told = Some(told);
        self.keys.insert(label, key);
        Ok(())
    }

    fn is_signed(
        &self,
        material: usize,
        algorithm: &str,
        form: &str,
        payload: &[u8],
        signature: &[u8],
        directory: &Path,
    ) {
        let public = self.known[material].public.as_ref().expect("pairs have one");
        let public = STANDARD.decode(public).unwrap();
        let algorithm: SignatureAlgorithm = algorithm.parse().unwrap();
        if form == "RAW" {
            openssl::verify(directory, &public, algorithm, payload, signature);
        } else {
            openssl::verify_native(directory, &public, algorithm, payload, signature);
        }
    }

    fn sealed_so(
        &mut self,
        label: u8,
        cipher: &'static str,
        payload: Vec<u8>,
        beside: bool,
        body: Value,
    ) -> Checked {
        members(
            &body,
            &[
                "encryptedPayload",
                "encryptedPayloadWithoutMessageAuthenticationCode",
                "initializationVector",
                "messageAuthenticationCode",
            ],
        )?;
        let ciphertext = bytes(&body["encryptedPayload"])?;
        let iv = body["initializationVector"].clone();
        let (bare, tag) =
            (&body["encryptedPayloadWithoutMessageAuthenticationCode"], &body["messageAuthenticationCode"]);
        let material = self.keys[&label].material;
        match cipher {
            "AES_GCM" => {
                let whole = [bytes(bare)?, bytes(tag)?].concat();
                if whole != ciphertext || bytes(tag)?.len() != 16 || bytes(&iv)?.len() != 12 {
                    return Err(format!("the parts are not those of AES_GCM: {body}"));
                }
                if let Some(key) = &self.known[material].private {
                    let key = STANDARD.decode(key).unwrap();
                    let algorithm = if key.len() == 16 { &aead::AES_128_GCM } else { &aead::AES_256_GCM };
                    let key = aead::LessSafeKey::new(aead::UnboundKey::new(algorithm, &key).unwrap());
                    let nonce = aead::Nonce::try_assume_unique_for_key(&bytes(&iv)?).unwrap();
                    let mut opened = ciphertext.clone();
                    let opened = key.open_in_place(nonce, aead::Aad::from(aad(beside)), &mut opened);
                    if opened.map_err(|_| "aws-lc does not open it")? != payload {
                        return Err("aws-lc opens it as something else".into());
                    }
                }
            }
            "AES" => {
                same("messageAuthenticationCode", tag, &Value::Null)?;
                same("the bare payload", bare, &body["encryptedPayload"])?;
                if bytes(&iv)?.len() != 16 {
                    return Err(format!("the vector is {iv}"));
                }
            }
            _ => same("what RSA does not have", &json!([bare, tag, iv]), &json!([null, null, null]))?,
        }
        keep(&mut self.sealed, Sealed { material, cipher, payload, aad: beside, ciphertext, iv });
        Ok(())
    }

    /// The certificate in an answer, which has to be of the key.
    fn certificate(&self, label: u8, body: &Value) -> Result<String, String> {
        members(body, &["label", "certificate", "rawCertificate"])?;
        same("label", &body["label"], &json!(self.label(label)))?;
        let der = bytes(&body["rawCertificate"])?;
        let (rest, certificate) =
            x509_parser::parse_x509_certificate(&der).map_err(|error| error.to_string())?;
        let public = self.known[self.keys[&label].material].public.as_ref().expect("pairs have one");
        if !rest.is_empty() || STANDARD.encode(certificate.public_key().raw) != *public {
            return Err("the certificate is of another key".into());
        }
        Ok(STANDARD.encode(der))
    }
}
