//! The token-host and its supervisor on real tokens: SoftHSM 2 and kryoptic, a fresh token and a process per test.
#![allow(missing_docs, reason = "tests")]

#[path = "token/agreement.rs"]
mod agreement;
#[path = "token/algorithms.rs"]
mod algorithms;
#[path = "token/attests.rs"]
mod attests;
#[path = "token/blame.rs"]
mod blame;
#[path = "token/certificates.rs"]
mod certificates;
#[path = "token/chaos.rs"]
mod chaos;
#[path = "token/chaos_keys.rs"]
mod chaos_keys;
#[path = "token/chaos_open.rs"]
mod chaos_open;
#[path = "token/chaos_races.rs"]
mod chaos_races;
#[path = "token/chaos_repair.rs"]
mod chaos_repair;
#[path = "token/ciphers.rs"]
mod ciphers;
mod common;
#[path = "token/contexts.rs"]
mod contexts;
#[path = "token/data.rs"]
mod data;
#[path = "token/derivation.rs"]
mod derivation;
#[path = "token/errors.rs"]
mod errors;
#[path = "token/fault_module.rs"]
mod fault_module;
#[path = "token/faults.rs"]
mod faults;
#[path = "token/hosts.rs"]
mod hosts;
#[path = "token/imports.rs"]
mod imports;
#[path = "token/index.rs"]
mod index;
#[path = "token/inventory.rs"]
mod inventory;
#[path = "token/keys.rs"]
mod keys;
#[path = "token/ladder.rs"]
mod ladder;
#[path = "token/load.rs"]
mod load;
#[path = "token/lone.rs"]
mod lone;
#[path = "token/overlooked.rs"]
mod overlooked;
#[path = "token/pin.rs"]
mod pin;
#[path = "token/probes.rs"]
mod probes;
#[path = "token/replicas.rs"]
mod replicas;
#[path = "token/seeds.rs"]
mod seeds;
#[path = "token/sessions.rs"]
mod sessions;
#[path = "token/stage.rs"]
mod stage;
#[path = "token/stateful.rs"]
mod stateful;
#[path = "token/vendor_module.rs"]
mod vendor_module;
#[path = "token/wraps.rs"]
mod wraps;
#[path = "token/wycheproof.rs"]
mod wycheproof;

use bytes::Bytes;
use hsm_operator::{
    hsm::{
        Hsm, Supervisor,
        protocol::{Find, HsmError, InventoryEntry, KeyFacts, KeyTemplate, Reply, Request},
    },
    model::{KeyAlgorithm, KeyId, KeyLabel, RequestedAttributes, SignatureAlgorithm},
};

/// Makes a test of each function for each module.
macro_rules! on_both_tokens {
    ($($test:ident,)+) => {
        mod softhsm {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                super::$test(crate::common::token::Token::new(crate::common::token::Module::SoftHsm)).await;
            })+
        }
        mod kryoptic {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                super::$test(crate::common::token::Token::new(crate::common::token::Module::Kryoptic)).await;
            })+
        }
    };
}
pub(crate) use on_both_tokens;

fn id(name: &str) -> KeyId {
    KeyId::for_purpose(name)
}

/// A signing key that may be destroyed.
fn template(name: &str, algorithm: KeyAlgorithm, size: Option<u32>, curve: Option<&str>) -> KeyTemplate {
    let attributes = RequestedAttributes {
        sign: Some(algorithm != KeyAlgorithm::Aes),
        decrypt: Some(matches!(algorithm, KeyAlgorithm::Rsa | KeyAlgorithm::Aes)),
        destroyable: Some(true),
        ..Default::default()
    };
    KeyTemplate {
        id: id(name),
        label: KeyLabel::new(name).unwrap(),
        algorithm,
        key_size: size,
        curve_oid: curve.map(Into::into),
        attributes: attributes.resolved(),
    }
}

fn p256(name: &str) -> KeyTemplate {
    template(name, KeyAlgorithm::Ec, None, Some("1.2.840.10045.3.1.7"))
}

async fn generate(hsm: &Supervisor, template: KeyTemplate) -> Result<KeyFacts, HsmError> {
    match hsm.call(Request::Generate(template)).await? {
        Reply::Key(facts) => Ok(*facts),
        other => panic!("{other:?}"),
    }
}

async fn sign(
    hsm: &Supervisor,
    key: &str,
    algorithm: SignatureAlgorithm,
    payload: &[u8],
) -> Result<Bytes, HsmError> {
    let payload = Bytes::copy_from_slice(payload);
    match hsm.call(Request::Sign { key: id(key), algorithm, payload }).await? {
        Reply::Signature(signature) => Ok(signature),
        other => panic!("{other:?}"),
    }
}

async fn find(hsm: &Supervisor, what: Find) -> Result<Vec<KeyFacts>, HsmError> {
    match hsm.call(Request::Find(what)).await? {
        Reply::Keys(keys) => Ok(keys),
        other => panic!("{other:?}"),
    }
}

async fn destroy(hsm: &Supervisor, key: &str) {
    assert!(matches!(hsm.call(Request::Destroy(id(key))).await, Ok(Reply::Done)));
}

async fn inventory(hsm: &Supervisor) -> Vec<InventoryEntry> {
    match hsm.call(Request::Inventory).await {
        Ok(Reply::Inventory(entries)) => entries,
        other => panic!("{other:?}"),
    }
}
