//! `kubectl hsm doctor`, run as a person runs it.

use std::{path::Path, process::Command};

use hsm_operator::api::HsmPartition;
use kube::Api;
use serde_json::{Value, json};

use crate::{
    caller, tools,
    world::{Token, World},
};

/// Runs the doctor; its exit code, what it printed, and what it complained about.
fn doctor(args: &[&str], kubeconfig: Option<&Path>) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hsm-operator"));
    command.args(["kubectl", "doctor"]).args(args);
    if let Some(path) = kubeconfig {
        command.env("KUBECONFIG", path);
    }
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// Waits until what was found out about a token is in its partition's status.
async fn probed(world: &World, token: Token) -> HsmPartition {
    let is = |partition: &HsmPartition| {
        let token = partition.status.as_ref().and_then(|status| status.token.as_ref());
        token.is_some_and(|token| token.probed.is_some())
    };
    world.until(&Api::all(world.client.clone()), token.partition(), "probed", is).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_tells_what_a_token_is_like() {
    let world = World::new().await;
    for token in Token::BOTH {
        let name = token.partition();
        let status = probed(&world, token).await.status.unwrap();
        let size = serde_json::to_vec(&status.token).unwrap().len();
        assert!(size < 12 * 1024, "the token fills {size} bytes of the status");
        let (code, text, complaint) = doctor(&[name], None);
        assert_eq!((code, complaint.as_str()), (Some(0), ""), "{text}");
        let (odd, usual): (&[&str], &[&str]) = match token {
            Token::SoftHsm => (
                &[
                    "hashedEcdsa: none",
                    "publicKeyInfo: empty",
                    "edwardsContext: ignored",
                    "hmacKey: at least 32 bytes",
                ],
                &["ecPoint: OCTET STRING", "signatureSizes: right"],
            ),
            Token::Kryoptic => (
                &["threads: wait for each other", "digestLength: not checked"],
                &[
                    "hashedEcdsa: all",
                    "publicKeyInfo: right",
                    "edwardsContext: heeded",
                    "hmacKey: any length",
                ],
            ),
        };
        let starts =
            |lines: &str, start: &str| lines.lines().any(|line| line.trim_start().starts_with(start));
        let (head, rest) = text.split_once("\nWhat is odd\n").unwrap_or_else(|| panic!("{text}"));
        let (odd_lines, rest) = rest.split_once("\nWhat is as usual\n").unwrap_or_else(|| panic!("{text}"));
        let (usual_lines, conditions) = rest.split_once("\nConditions\n").unwrap_or_else(|| panic!("{text}"));
        for start in [
            &format!("Partition   {name}"),
            "Library     /hsm/lib/",
            &format!("Token       {name}: "),
            "Keys        RSA ",
            "Curves      ",
            "Signatures  SHA1_WITH_RSA,",
            "Ciphers     RSA_PADDING_OAEP",
            "Speed       ",
            "Limits      sessions: ",
            "Objects     ",
            "Mechanisms  ",
        ] {
            assert!(head.lines().any(|line| line.starts_with(start)), "no {start} in {text}");
        }
        for start in odd {
            assert!(starts(odd_lines, start), "no {start} in {text}");
        }
        for start in usual {
            assert!(starts(usual_lines, start), "no {start} in {text}");
        }
        assert!(starts(conditions, "Ready True, Ready: the token '"), "{text}");

        let (code, text, _) = doctor(&[name, "-o", "json"], None);
        let record: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((code, &record["partition"]), (Some(0), &json!(name)));
        assert_eq!(record["token"], serde_json::to_value(status.token).unwrap());
        assert!(record["token"]["probed"]["speed"]["microseconds"].as_i64().unwrap() > 0, "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_says_why_it_can_say_nothing() {
    let world = World::new().await;
    let folder = tempfile::tempdir().unwrap();
    let fails = |args: &[&str], kubeconfig: Option<&Value>| {
        let path = folder.path().join("config");
        if let Some(config) = kubeconfig {
            std::fs::write(&path, config.to_string()).unwrap();
        }
        let (code, text, complaint) = doctor(args, kubeconfig.map(|_| path.as_path()));
        assert_eq!((code, text.as_str()), (Some(1), ""), "{complaint}");
        complaint
    };
    let said = fails(&["nobody"], None);
    assert!(said.starts_with("error: there is no HsmPartition 'nobody'; there are: "), "{said}");
    assert!(said.contains("demo") && said.contains("demo-kryoptic"), "{said}");

    let config = tools::kubectl(&["config", "view", "--raw", "--minify", "-o", "json"]);
    let config: Value = serde_json::from_str(&config).unwrap();
    let namespace = world.namespace("doctor").await;
    caller::account(&namespace, "stranger", &[]);
    let token = tools::kubectl(&["create", "token", "stranger", "-n", &namespace]);
    let mut stranger = config.clone();
    stranger["users"][0]["user"] = json!({ "token": token.trim() });
    let said = fails(&["demo"], Some(&stranger));
    assert!(
        said.starts_with("error: you may not look at it: ") && said.contains("hsm-operator-view"),
        "{said}"
    );
    stranger["users"][0]["user"] = json!({ "token": "nonsense" });
    let said = fails(&["demo"], Some(&stranger));
    assert!(said.starts_with("error: the cluster does not know you: "), "{said}");

    let mut nowhere = config;
    nowhere["clusters"][0]["cluster"]["server"] = json!("https://127.0.0.1:1");
    let said = fails(&["demo"], Some(&nowhere));
    assert!(said.starts_with("error: cannot reach the cluster of the kubeconfig: "), "{said}");
    let said = fails(&["demo"], Some(&json!({})));
    assert!(said.contains("set KUBECONFIG"), "{said}");
}
