//! A gateway before a real token.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};
use hsm_operator::{
    api::{
        HsmKey, HsmPartition,
        condition::{self, Report},
        key::HsmKeyStatus,
    },
    gateway::partitions::Known,
    hsm::{
        Hsm, Supervisor,
        protocol::{KeyTemplate, Reply, Request},
    },
    model::{KeyAlgorithm, KeyId, KeyLabel},
    service::files::Files,
};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    common::token::{Module, Token},
    world::{NAMESPACE, PARTITION, World, object, office},
};

/// Each of the tests named, on a `Stage` of its module with either token.
macro_rules! on_both_tokens {
    ($($test:ident,)+) => {
        mod softhsm {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                super::$test(&super::Stage::new(super::Module::SoftHsm).await).await;
            })+
        }
        mod kryoptic {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                super::$test(&super::Stage::new(super::Module::Kryoptic).await).await;
            })+
        }
    };
}
pub(crate) use on_both_tokens;

/// A gateway before a real token.
pub struct Stage {
    pub world: World,
    pub hsm: Arc<Supervisor>,
    pub token: Token,
}

impl Stage {
    pub async fn new(module: Module) -> Self {
        Self::with(module, Files::default()).await
    }

    pub async fn with(module: Module, files: Files) -> Self {
        let (world, token) = (World::with_files(files).await, Token::new(module));
        let hsm = token.supervisor().await;
        let behind: Arc<dyn Hsm> = hsm.clone();
        world.partitions.put(Known { object: Arc::new(office().await.partition.clone()), hsm: Some(behind) });
        Self { world, hsm, token }
    }

    /// Changes the partition.
    pub fn partition(&self, change: impl FnOnce(&mut HsmPartition)) {
        let mut partition = (*self.world.partitions.object(PARTITION).unwrap()).clone();
        change(&mut partition);
        let hsm: Arc<dyn Hsm> = self.hsm.clone();
        self.world.partitions.put(Known { object: Arc::new(partition), hsm: Some(hsm) });
    }

    /// Changes a key's object.
    pub fn change(&self, name: &str, change: impl FnOnce(&mut HsmKey)) {
        let mut key = (*self.world.directory.by_name(NAMESPACE, name).unwrap().object).clone();
        change(&mut key);
        self.world.directory.put(Arc::new(key));
    }

    /// Makes a key; the result is its public half.
    pub async fn make(&self, name: &str, mut spec: Value) -> Vec<u8> {
        spec["partitionRef"] = json!({"name": PARTITION});
        let mut key = object(NAMESPACE, name, spec);
        let template = KeyTemplate {
            id: KeyId::for_purpose(name),
            label: KeyLabel::new(name).unwrap(),
            algorithm: key.spec.algorithm,
            key_size: (key.spec.algorithm == KeyAlgorithm::Rsa).then_some(2048),
            curve_oid: key.spec.curve_oid.clone(),
            attributes: key.spec.attributes.resolved(),
        };
        let Ok(Reply::Key(facts)) = self.hsm.call(Request::Generate(template)).await else {
            panic!("{name}")
        };
        let public = facts.public_key.unwrap();
        let ready = [Report::new(condition::READY, Some(true), "Ready", "the key can be used")];
        key.status = Some(HsmKeyStatus {
            conditions: condition::apply(&[], &ready, Some(1), Timestamp::now()),
            key_id: Some(KeyId::for_purpose(name).to_string()),
            public_key: Some(STANDARD.encode(&public)),
            attributes: Some(facts.attributes),
            ..HsmKeyStatus::default()
        });
        self.world.directory.put(Arc::new(key));
        public.to_vec()
    }
}
