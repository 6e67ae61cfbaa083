//! The policy of a key: who has to approve that it is used, blocked, unblocked or given another policy.
//!
//! A rule is fulfilled by any one of its tokens, and a token by all of its groups. So a rule that is missing, one without
//! tokens, and one with a token without groups ask nobody.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Tokens of a rule at most.
pub const TOKENS_MAX: usize = 32;
/// Bytes of a name at most.
pub const NAME_MAX: usize = 255;
/// The longest time in seconds: ten years.
pub const SECONDS_MAX: i64 = 10 * 366 * 24 * 3600;

/// The policy of a key, as `policy` of `POST /v1/key`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeyPolicy {
    /// Who approves that the key signs, decrypts or unwraps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule_use: Option<Rule>,
    /// Who approves that the key is blocked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule_block: Option<Rule>,
    /// Who approves that the key is unblocked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule_unblock: Option<Rule>,
    /// Who approves another policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule_modify: Option<Rule>,
    /// The key's state when it is made.
    pub key_status: KeyStatus,
}

/// The state of a key with a policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeyStatus {
    /// Uses are refused. Keys are not made so yet.
    pub blocked: bool,
}

/// What a rule asks for: one of the tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    /// Any of these fulfils the rule. None: it asks nobody.
    #[schemars(length(max = 32))]
    pub tokens: Vec<Token>,
}

/// One way to fulfil a rule: all of the groups.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Token {
    /// Its name.
    #[schemars(length(min = 1, max = 255))]
    pub name: String,
    /// Seconds that pass between request and approvals at least, whole minutes. Other values than 0 are not served yet.
    #[serde(default)]
    #[schemars(range(min = 0, max = 316224000))]
    pub timelock: i64,
    /// Seconds that pass between them at most, whole minutes. 0: any time.
    #[serde(default)]
    #[schemars(range(min = 0, max = 316224000))]
    pub timeout: i64,
    /// Who approves. Groups are not served yet, so the list has to be missing or empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 0))]
    pub groups: Option<Vec<Group>>,
}

/// Some of a group approve.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Group {
    /// Its name.
    #[schemars(length(min = 1, max = 255))]
    pub name: String,
    /// How many have to approve.
    #[schemars(range(min = 0, max = 1000))]
    pub quorum: i32,
}

/// Why a key cannot have a policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// A time that is none.
    #[error("{place}: seconds must represent full minutes, from 0 to {SECONDS_MAX}")]
    Seconds {
        /// Which one.
        place: String,
    },
    /// A name that is none.
    #[error("{place}: a name has 1 to {NAME_MAX} bytes, without control characters")]
    Name {
        /// Which one.
        place: String,
    },
    /// Too many of something.
    #[error("{place}: a rule has at most {TOKENS_MAX} tokens")]
    Tokens {
        /// Where.
        place: String,
    },
    /// Somebody would have to approve.
    #[error("policies that ask for approvals are not served yet: {place} {what}")]
    Approvals {
        /// Which token.
        place: String,
        /// What it asks for.
        what: &'static str,
    },
    /// Nobody could unblock it.
    #[error(
        "keys that are blocked from the beginning are not served yet: nobody could unblock them. Set policy.keyStatus.blocked to false"
    )]
    Blocked,
}

impl KeyPolicy {
    /// The rules by their names in JSON and in attestations.
    #[must_use]
    pub const fn rules(&self) -> [(&'static str, &'static str, Option<&Rule>); 4] {
        [
            ("ruleUse", "rule_use", self.rule_use.as_ref()),
            ("ruleBlock", "rule_block", self.rule_block.as_ref()),
            ("ruleUnblock", "rule_unblock", self.rule_unblock.as_ref()),
            ("ruleModify", "rule_modify", self.rule_modify.as_ref()),
        ]
    }

    /// Checks that a key can have the policy and that it asks nobody: only such are served, because none is taken that would
    /// not be enforced.
    ///
    /// # Errors
    /// [`PolicyError`]: what is wrong with it goes before what is not served.
    pub fn check(&self) -> Result<(), PolicyError> {
        let tokens = || {
            self.rules().into_iter().flat_map(|(rule, _, of)| {
                let tokens = of.map(|of| of.tokens.as_slice()).unwrap_or_default();
                tokens.iter().enumerate().map(move |(at, one)| (format!("policy.{rule}.tokens[{at}]"), one))
            })
        };
        for (rule, _, of) in self.rules() {
            if of.is_some_and(|of| of.tokens.len() > TOKENS_MAX) {
                return Err(PolicyError::Tokens { place: format!("policy.{rule}.tokens") });
            }
        }
        for (place, token) in tokens() {
            if !is_name(&token.name) {
                return Err(PolicyError::Name { place: place + ".name" });
            }
            for (what, seconds) in [("timelock", token.timelock), ("timeout", token.timeout)] {
                if seconds % 60 != 0 || !(0..=SECONDS_MAX).contains(&seconds) {
                    return Err(PolicyError::Seconds { place: format!("{place}.{what}") });
                }
            }
        }
        for (place, token) in tokens() {
            if token.groups.as_ref().is_some_and(|groups| !groups.is_empty()) {
                return Err(PolicyError::Approvals { place, what: "has groups" });
            }
            // A time to wait for, before which nothing may be done: as good as somebody to be asked.
            if token.timelock != 0 {
                return Err(PolicyError::Approvals { place, what: "has a timelock" });
            }
        }
        if self.key_status.blocked {
            return Err(PolicyError::Blocked);
        }
        Ok(())
    }
}

/// Whether a text can be the name of a token or group: an attestation has to carry it.
#[must_use]
pub fn is_name(text: &str) -> bool {
    (1..=NAME_MAX).contains(&text.len()) && text.chars().all(super::name::is_carried)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(change: impl FnOnce(&mut Token)) -> Token {
        let mut token = Token { name: "main".into(), ..Token::default() };
        change(&mut token);
        token
    }

    fn policy(tokens: Vec<Token>) -> KeyPolicy {
        KeyPolicy { rule_modify: Some(Rule { tokens }), ..KeyPolicy::default() }
    }

    #[test]
    fn what_asks_nobody_is_served() {
        for policy in [
            KeyPolicy::default(),
            policy(vec![]),
            policy(vec![token(|_| {})]),
            policy(vec![token(|token| token.groups = Some(vec![]))]),
            policy(vec![token(|token| token.timeout = 600), token(|token| token.name = "Büro 2".into())]),
        ] {
            assert_eq!(policy.check(), Ok(()), "{policy:?}");
        }
    }

    #[test]
    fn what_asks_somebody_or_makes_wait_is_not() {
        let group = Group { name: "g".into(), quorum: 0 };
        let asks = |change: fn(&mut Token)| policy(vec![token(|_| {}), token(change)]).check();
        let place = "policy.ruleModify.tokens[1]".to_owned();
        let wait = asks(|token| token.timelock = 60);
        assert_eq!(wait, Err(PolicyError::Approvals { place: place.clone(), what: "has a timelock" }));
        // A group of which nobody has to approve is a group.
        let groups = policy(vec![token(|_| {}), token(|token| token.groups = Some(vec![group]))]);
        assert_eq!(groups.check(), Err(PolicyError::Approvals { place, what: "has groups" }));
        let blocked = KeyPolicy { key_status: KeyStatus { blocked: true }, ..KeyPolicy::default() };
        assert_eq!(blocked.check(), Err(PolicyError::Blocked));
    }

    #[test]
    fn times_are_whole_minutes() {
        for seconds in [-60, -1, 1, 59, 61, SECONDS_MAX + 60, i64::MAX, i64::MIN] {
            for wrong in [token(|token| token.timelock = seconds), token(|token| token.timeout = seconds)] {
                let error = policy(vec![wrong]).check().unwrap_err();
                assert!(error.to_string().contains("seconds must represent full minutes"), "{error}");
            }
        }
        for name in ["", "a\nb", &"a".repeat(256)] {
            let error = policy(vec![token(|token| token.name = name.into())]).check().unwrap_err();
            assert!(matches!(error, PolicyError::Name { .. }), "{name}");
        }
        let many = policy(vec![token(|_| {}); TOKENS_MAX + 1]).check();
        assert_eq!(many, Err(PolicyError::Tokens { place: "policy.ruleModify.tokens".into() }));
    }
}
