//! How many sessions of a token sign at the same time: a number, or what measuring it finds.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::HsmPartition;

/// Sessions where nothing is said, and where nothing is known yet.
pub const START: u16 = 4;
/// Most sessions.
pub const MOST: u16 = 64;
const AUTO: &str = "auto";

/// How many sessions sign at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "Option<IntOrString>", into = "IntOrString")]
pub enum Sessions {
    /// So many.
    Count(u16),
    /// As many as measuring finds to be worth it.
    Auto,
}

impl Default for Sessions {
    fn default() -> Self {
        Self::Count(START)
    }
}

impl TryFrom<Option<IntOrString>> for Sessions {
    type Error = String;

    /// The API server lets nothing pass for something that has a default.
    fn try_from(given: Option<IntOrString>) -> Result<Self, String> {
        let Some(given) = given else { return Ok(Self::default()) };
        match &given {
            IntOrString::Int(count) => u16::try_from(*count).ok().map(Self::Count),
            IntOrString::String(word) => (word == AUTO).then_some(Self::Auto),
        }
        .ok_or_else(|| format!("sessions is a number from 1 to {MOST}, or {AUTO}, and not {given:?}"))
    }
}

impl From<Sessions> for IntOrString {
    fn from(sessions: Sessions) -> Self {
        match sessions {
            Sessions::Count(count) => Self::Int(count.into()),
            Sessions::Auto => Self::String(AUTO.into()),
        }
    }
}

impl JsonSchema for Sessions {
    fn schema_name() -> Cow<'static, str> {
        "Sessions".into()
    }

    fn inline_schema() -> bool {
        true
    }

    /// The bounds are for numbers and the pattern is for texts: each is ignored by the other.
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "x-kubernetes-int-or-string": true, "minimum": 1, "maximum": MOST, "pattern": format!("^{AUTO}$"),
        })
    }
}

/// What is known of how many sessions are worth it, where `sessions` is `auto`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SessionsStatus {
    /// Sessions that sign at the same time in each token-host.
    pub chosen: i32,
    /// Pending: not measured yet. Measured. NotMeasured: it failed.
    pub reason: String,
    /// A sentence that says why so many.
    pub message: String,
    /// When that was found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// The token, as it presents itself and is configured, that this is about. Another one is measured anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured_for: Option<String>,
    /// What was measured, in the order of measuring.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub measured: Vec<SessionsMeasured>,
}

/// How fast a token signs with so many sessions at the same time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SessionsMeasured {
    /// Sessions.
    pub sessions: i32,
    /// How fast, by key.
    pub speeds: Vec<SignaturesPerSecond>,
}

/// How fast a token signs with a key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SignaturesPerSecond {
    /// Kind of key.
    pub key: String,
    /// Signatures in a second, of all sessions together.
    pub per_second: i32,
}

impl HsmPartition {
    /// How many sessions sign at the same time in each token-host, as far as it is known.
    #[must_use]
    pub fn sessions(&self) -> u16 {
        let chosen = || self.status.as_ref()?.sessions.as_ref().map(|sessions| sessions.chosen);
        match self.spec.sessions {
            Sessions::Count(count) => count,
            Sessions::Auto => chosen().and_then(|chosen| u16::try_from(chosen).ok()).unwrap_or(START),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn sessions_are_a_number_or_auto_and_nothing_else() {
        let read = |value| serde_json::from_value::<Sessions>(value);
        assert_eq!(read(json!(8)).unwrap(), Sessions::Count(8));
        assert_eq!(read(json!("auto")).unwrap(), Sessions::Auto);
        for wrong in [json!("8"), json!("Auto"), json!(-1), json!(1.5), json!(true)] {
            assert!(read(wrong.clone()).is_err(), "{wrong}");
        }
        assert_eq!(read(json!(null)).unwrap(), Sessions::default());
        assert_eq!(json!([Sessions::Count(8), Sessions::Auto]), json!([8, "auto"]));
    }

    #[test]
    fn auto_starts_like_the_default_and_follows_what_was_chosen() {
        let partition = |sessions, status| {
            let spec = json!({
                "pkcs11": {"library": "/x", "tokenLabel": "t", "pinSecretRef": {"name": "s"}},
                "allowedNamespaces": {}, "sessions": sessions,
            });
            let mut partition = HsmPartition::new("p", serde_json::from_value(spec).unwrap());
            partition.status = serde_json::from_value(status).unwrap();
            partition.sessions()
        };
        let chosen = json!({"sessions": {"chosen": 16, "reason": "Measured", "message": ""}});
        assert_eq!(partition(json!("auto"), json!(null)), START);
        assert_eq!(partition(json!("auto"), json!({})), START);
        assert_eq!(partition(json!("auto"), chosen.clone()), 16);
        assert_eq!(partition(json!(2), chosen), 2);
    }
}
