//! The policy in the body of a request that makes a key, and as it is told of a key.

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::{
    gateway::error::{ApiError, Code},
    model::{
        KeyAlgorithm, KeyPolicy, RequestedAttributes,
        policy::{Group, KeyStatus, PolicyError, Rule, Token, is_name},
    },
};

/// The kinds of approvals.
const APPROVALS: [&str; 3] = ["public_key", "certificate", "onboarded_approver_certificate"];

/// Reads the policy for a new key; `None` for a key without one.
///
/// # Errors
/// 600 where it is none, 606 for a key that may leave its token, 611 where somebody would have to approve.
pub fn read(
    policy: Option<&Value>,
    label: &str,
    algorithm: KeyAlgorithm,
    attributes: &RequestedAttributes,
) -> Result<Option<KeyPolicy>, ApiError> {
    let Some(policy) = policy.filter(|policy| !policy.is_null()) else { return Ok(None) };
    if !algorithm.row().asymmetric {
        // As the contract has it: clients send one with every key.
        tracing::warn!(label, %algorithm, "the policy of a symmetric key is ignored");
        return Ok(None);
    }
    let policy = policy_of(policy)?;
    let checked = policy.check();
    if let Err(
        error @ (PolicyError::Seconds { .. } | PolicyError::Name { .. } | PolicyError::Tokens { .. }),
    ) = &checked
    {
        return Err(wrong(error.to_string()));
    }
    if attributes.extractable == Some(true) {
        let message = "a key with a policy is never extractable: leave one of both out";
        return Err(ApiError::new(Code::Attributes, message));
    }
    checked.map_err(|error| ApiError::new(Code::Unsupported, error.to_string()))?;
    Ok(Some(policy))
}

/// A policy as a key's attributes tell it: all members are there.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "PolicyJson")]
pub struct Told {
    rule_use: Option<ToldRule>,
    rule_block: Option<ToldRule>,
    rule_unblock: Option<ToldRule>,
    rule_modify: Option<ToldRule>,
    key_status: KeyStatus,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "RuleJson")]
struct ToldRule {
    tokens: Vec<ToldToken>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "TokenJson")]
struct ToldToken {
    name: String,
    /// In seconds.
    timelock: i64,
    /// In seconds.
    timeout: i64,
    groups: Option<Vec<Group>>,
}

impl Told {
    /// A policy, and whether its key is blocked now.
    pub fn of(policy: &KeyPolicy, blocked: bool) -> Self {
        let token = |token: &Token| {
            let Token { name, timelock, timeout, groups } = token.clone();
            ToldToken { name, timelock, timeout, groups }
        };
        let rule = |rule: &Option<Rule>| {
            rule.as_ref().map(|rule| ToldRule { tokens: rule.tokens.iter().map(token).collect() })
        };
        Self {
            rule_use: rule(&policy.rule_use),
            rule_block: rule(&policy.rule_block),
            rule_unblock: rule(&policy.rule_unblock),
            rule_modify: rule(&policy.rule_modify),
            key_status: KeyStatus { blocked },
        }
    }
}

fn wrong(message: impl Into<String>) -> ApiError {
    ApiError::new(Code::Validation, message)
}

fn policy_of(value: &Value) -> Result<KeyPolicy, ApiError> {
    let policy = object(value, "policy")?;
    let rule = |name: &str| match member(policy, name) {
        Some(value) => rule(value, &format!("policy.{name}")).map(Some),
        None => Ok(None),
    };
    let status = member(policy, "keyStatus").ok_or_else(|| wrong("policy.keyStatus is missing"))?;
    let status = object(status, "policy.keyStatus")?;
    let blocked = member(status, "blocked").and_then(Value::as_bool);
    let blocked = blocked.ok_or_else(|| wrong("policy.keyStatus.blocked: true or false expected"))?;
    Ok(KeyPolicy {
        rule_use: rule("ruleUse")?,
        rule_block: rule("ruleBlock")?,
        rule_unblock: rule("ruleUnblock")?,
        rule_modify: rule("ruleModify")?,
        key_status: KeyStatus { blocked },
    })
}

fn rule(value: &Value, place: &str) -> Result<Rule, ApiError> {
    let tokens = member(object(value, place)?, "tokens");
    let place = format!("{place}.tokens");
    let tokens = tokens.ok_or_else(|| wrong(format!("{place} is missing")))?;
    Ok(Rule { tokens: each(tokens, &place, token)? })
}

fn token(value: &Value, place: &str) -> Result<Token, ApiError> {
    let token = object(value, place)?;
    // A null is no time either.
    let seconds = |name: &str| {
        let seconds = member(token, name).and_then(Value::as_i64);
        seconds.ok_or_else(|| wrong(format!("{place}.{name}: seconds must represent full minutes")))
    };
    let groups = member(token, "groups");
    Ok(Token {
        name: text(token, "name", place)?,
        timelock: seconds("timelock")?,
        timeout: seconds("timeout")?,
        groups: groups.map(|groups| each(groups, &format!("{place}.groups"), group)).transpose()?,
    })
}

/// A group is read to the end, so that what is wrong with it is said first. Its approvals are not kept: no key is made with any.
fn group(value: &Value, place: &str) -> Result<Group, ApiError> {
    let group = object(value, place)?;
    let name = text(group, "name", place)?;
    if !is_name(&name) {
        return Err(wrong(format!("{place}.name: a name has 1 to 255 bytes, without control characters")));
    }
    let quorum =
        member(group, "quorum").and_then(Value::as_i64).and_then(|quorum| i32::try_from(quorum).ok());
    let quorum = quorum.filter(|quorum| *quorum >= 0);
    let quorum = quorum.ok_or_else(|| wrong(format!("{place}.quorum: a number from 0 on expected")))?;
    let approvals = member(group, "approvals");
    let approvals = approvals.ok_or_else(|| wrong(format!("{place}.approvals is missing")))?;
    each(approvals, &format!("{place}.approvals"), |value, place| {
        let approval = object(value, place)?;
        if !APPROVALS.contains(&text(approval, "type", place)?.as_str()) {
            return Err(wrong(format!("{place}.type: one of {} expected", APPROVALS.join(", "))));
        }
        for name in ["name", "value"] {
            if member(approval, name).is_some_and(|value| !value.is_string()) {
                return Err(wrong(format!("{place}.{name}: a text expected")));
            }
        }
        Ok(())
    })?;
    Ok(Group { name, quorum })
}

fn object<'a>(value: &'a Value, place: &str) -> Result<&'a Map<String, Value>, ApiError> {
    value.as_object().ok_or_else(|| wrong(format!("{place}: an object expected")))
}

/// A member; null is as missing.
fn member<'a>(object: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    object.get(name).filter(|value| !value.is_null())
}

fn text(object: &Map<String, Value>, name: &str, place: &str) -> Result<String, ApiError> {
    let text = member(object, name).and_then(Value::as_str);
    text.map(str::to_owned).ok_or_else(|| wrong(format!("{place}.{name}: a text expected")))
}

fn each<T>(
    value: &Value,
    place: &str,
    read: impl Fn(&Value, &str) -> Result<T, ApiError>,
) -> Result<Vec<T>, ApiError> {
    let all = value.as_array().ok_or_else(|| wrong(format!("{place}: an array expected")))?;
    all.iter().enumerate().map(|(at, one)| read(one, &format!("{place}[{at}]"))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(policy: &Value, attributes: &RequestedAttributes) -> Result<Option<KeyPolicy>, (Code, String)> {
        read(Some(policy), "k", KeyAlgorithm::Ec, attributes).map_err(|error| (error.code, error.message))
    }

    fn plain(policy: &Value) -> Result<Option<KeyPolicy>, (Code, String)> {
        of(policy, &RequestedAttributes::default())
    }

    /// What published clients send with every key.
    fn default_policy() -> Value {
        let rule = json!({"tokens": [{"name": "main", "timelock": 0, "timeout": 0, "groups": null}]});
        json!({"ruleUse": rule, "ruleBlock": rule, "ruleUnblock": rule, "ruleModify": rule, "keyStatus": {"blocked": false}})
    }

    fn with(place: &str, value: Value) -> Value {
        let mut policy = default_policy();
        let (parent, name) = place.rsplit_once('/').unwrap();
        match policy.pointer_mut(parent).unwrap() {
            Value::Object(object) => drop(object.insert(name.into(), value)),
            other => panic!("{other}"),
        }
        policy
    }

    #[test]
    fn what_asks_nobody_is_told_as_it_was_given() {
        for given in [
            default_policy(),
            with("/ruleUse", Value::Null),
            with("/ruleBlock", json!({"tokens": []})),
            with("/ruleUse/tokens", json!([{"name": "a b", "timelock": 0, "timeout": 120, "groups": []}])),
        ] {
            let read = plain(&given).unwrap().unwrap();
            assert_eq!(json!(Told::of(&read, false)), given);
            // And as it comes back from the API server.
            let stored: KeyPolicy = serde_json::from_value(serde_json::to_value(&read).unwrap()).unwrap();
            assert_eq!(json!(Told::of(&stored, false)), given);
        }
        let bare = plain(&json!({"keyStatus": {"blocked": false}, "unknown": 1})).unwrap().unwrap();
        let nulls = json!({"ruleUse": null, "ruleBlock": null, "ruleUnblock": null, "ruleModify": null,
            "keyStatus": {"blocked": true}});
        assert_eq!(json!(Told::of(&bare, true)), nulls);
    }

    #[test]
    fn none_is_none_and_a_secret_key_has_none_whatever_is_sent() {
        let attributes = RequestedAttributes::default();
        assert_eq!(plain(&Value::Null), Ok(None));
        assert_eq!(read(None, "k", KeyAlgorithm::Ec, &attributes), Ok(None));
        for policy in [default_policy(), json!(7), json!({"ruleUse": []})] {
            assert_eq!(read(Some(&policy), "k", KeyAlgorithm::Aes, &attributes), Ok(None));
        }
    }

    #[test]
    fn what_is_no_policy_is_refused_with_its_place() {
        let token = "/ruleUse/tokens/0";
        let group =
            |group: Value| json!({"tokens": [{"name": "t", "timelock": 0, "timeout": 0, "groups": [group]}]});
        let rows: Vec<(Value, &str)> = vec![
            (json!(7), "policy: an object"),
            (json!([]), "policy: an object"),
            (json!("secret"), "policy: an object"),
            (json!({}), "policy.keyStatus is missing"),
            (with("/keyStatus", json!(null)), "policy.keyStatus is missing"),
            (with("/keyStatus", json!([false])), "policy.keyStatus: an object"),
            (with("/keyStatus", json!({})), "policy.keyStatus.blocked: true or false"),
            (with("/keyStatus/blocked", json!("false")), "policy.keyStatus.blocked: true or false"),
            (with("/ruleUse", json!([])), "policy.ruleUse: an object"),
            (with("/ruleBlock", json!(true)), "policy.ruleBlock: an object"),
            (with("/ruleUnblock", json!({})), "policy.ruleUnblock.tokens is missing"),
            (with("/ruleUnblock/tokens", json!(null)), "policy.ruleUnblock.tokens is missing"),
            (with("/ruleModify/tokens", json!({})), "policy.ruleModify.tokens: an array"),
            (with("/ruleModify/tokens", json!([["main", 0, 0]])), "policy.ruleModify.tokens[0]: an object"),
            (
                with("/ruleUse/tokens", json!([{"timelock": 0, "timeout": 0}])),
                "policy.ruleUse.tokens[0].name",
            ),
            (with(&format!("{token}/name"), json!(7)), "policy.ruleUse.tokens[0].name: a text"),
            (with(&format!("{token}/name"), json!("")), "policy.ruleUse.tokens[0].name: a name"),
            (
                with(&format!("{token}/timelock"), json!(null)),
                "tokens[0].timelock: seconds must represent full",
            ),
            (
                with(&format!("{token}/timelock"), json!(90)),
                "tokens[0].timelock: seconds must represent full",
            ),
            (
                with(&format!("{token}/timelock"), json!(-60)),
                "tokens[0].timelock: seconds must represent full",
            ),
            (
                with(&format!("{token}/timeout"), json!("60")),
                "tokens[0].timeout: seconds must represent full",
            ),
            (
                with(&format!("{token}/timeout"), json!(60.5)),
                "tokens[0].timeout: seconds must represent full",
            ),
            (
                with(&format!("{token}/timeout"), json!(1e30)),
                "tokens[0].timeout: seconds must represent full",
            ),
            (with(&format!("{token}/groups"), json!({})), "tokens[0].groups: an array"),
            (with("/ruleUse", group(json!(1))), "groups[0]: an object"),
            (with("/ruleUse", group(json!({"quorum": 1, "approvals": []}))), "groups[0].name: a text"),
            (with("/ruleUse", group(json!({"name": "g", "approvals": []}))), "groups[0].quorum"),
            (
                with("/ruleUse", group(json!({"name": "g", "quorum": -1, "approvals": []}))),
                "groups[0].quorum",
            ),
            (with("/ruleUse", group(json!({"name": "g", "quorum": 1}))), "groups[0].approvals is missing"),
            (
                with("/ruleUse", group(json!({"name": "g", "quorum": 1, "approvals": [{"type": "secret"}]}))),
                "groups[0].approvals[0].type: one of public_key",
            ),
            (
                with(
                    "/ruleUse",
                    group(
                        json!({"name": "g", "quorum": 1, "approvals": [{"type": "certificate", "value": 7}]}),
                    ),
                ),
                "groups[0].approvals[0].value: a text",
            ),
        ];
        for (policy, says) in rows {
            let (code, message) = plain(&policy).unwrap_err();
            assert!(code == Code::Validation && message.contains(says), "{policy}: {code:?} {message}");
            assert!(!message.contains("secret"), "{message}");
        }
    }

    #[test]
    fn what_asks_somebody_is_said_not_to_be_served() {
        let approval = json!({"type": "public_key", "name": null, "value": "MFkw"});
        for groups in [
            json!([{"name": "g", "quorum": 1, "approvals": [approval]}]),
            json!([{"name": "g", "quorum": 0, "approvals": []}]),
        ] {
            let (code, message) = plain(&with("/ruleModify/tokens/0/groups", groups)).unwrap_err();
            assert_eq!(code, Code::Unsupported);
            let says = "approvals are not served yet: policy.ruleModify.tokens[0] has groups";
            assert!(message.ends_with(says), "{message}");
        }
        let (code, message) = plain(&with("/ruleUse/tokens/0/timelock", json!(60))).unwrap_err();
        assert!(code == Code::Unsupported && message.ends_with("has a timelock"), "{message}");
        let (code, message) = plain(&with("/keyStatus/blocked", json!(true))).unwrap_err();
        assert!(code == Code::Unsupported && message.contains("blocked from the beginning"), "{message}");
    }

    #[test]
    fn a_key_that_may_leave_its_token_has_no_policy() {
        let leaves = RequestedAttributes { extractable: Some(true), ..RequestedAttributes::default() };
        assert_eq!(of(&default_policy(), &leaves).unwrap_err().0, Code::Attributes);
        assert_eq!(of(&Value::Null, &leaves), Ok(None));
        // What is wrong with it is said first.
        assert_eq!(
            of(&with("/ruleUse/tokens/0/timeout", json!(1)), &leaves).unwrap_err().0,
            Code::Validation
        );
    }
}
