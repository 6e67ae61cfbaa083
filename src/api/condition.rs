//! Conditions as the Kubernetes API conventions and kstatus want them.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// The object is as its spec asks.
pub const READY: &str = "Ready";
/// A person must act; absent otherwise.
pub const STALLED: &str = "Stalled";
/// The token answers.
pub const REACHABLE: &str = "Reachable";
/// At least one token of the partition signs.
pub const SIGNABLE: &str = "Signable";
/// Keys can be made on the partition.
pub const CREATABLE: &str = "Creatable";
/// Somebody attests the keys of the partition.
pub const ATTESTING: &str = "Attesting";
/// The key is on the token.
pub const GENERATED: &str = "Generated";
/// The key's Secret is written.
pub const PUBLISHED: &str = "Published";
/// The key has its attestation.
pub const ATTESTED: &str = "Attested";
/// The key has the certificate that its spec asks for; absent where it asks for none.
pub const CERTIFIED: &str = "Certified";

/// Longest message that is written; the rest is cut, because status is not a log.
const MESSAGE_MAX: usize = 900;

/// A condition about to be reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// `type`.
    pub kind: &'static str,
    /// `True`, `False` or, for `None`, `Unknown`.
    pub status: Option<bool>,
    /// A word in CamelCase.
    pub reason: &'static str,
    /// A sentence that says what to do.
    pub message: String,
}

impl Report {
    /// A condition to report.
    #[must_use]
    pub fn new(
        kind: &'static str,
        status: Option<bool>,
        reason: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self { kind, status, reason, message: message.into() }
    }
}

/// The conditions after a report: those reported replace their like, `Stalled` goes when it is not reported,
/// others stay. `lastTransitionTime` moves only when a status flips.
#[must_use]
pub fn apply(
    old: &[Condition],
    reports: &[Report],
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    let mut all: Vec<Condition> = old
        .iter()
        .filter(|condition| {
            condition.type_ != STALLED && reports.iter().all(|report| report.kind != condition.type_)
        })
        .cloned()
        .collect();
    for report in reports {
        let status = report.status.map_or("Unknown", |is| if is { "True" } else { "False" });
        let before = old.iter().find(|condition| condition.type_ == report.kind);
        let since = match before {
            Some(before) if before.status == status => before.last_transition_time.clone(),
            _ => Time(now),
        };
        let mut message = report.message.clone();
        if message.len() > MESSAGE_MAX {
            let cut = (0..=MESSAGE_MAX).rev().find(|at| message.is_char_boundary(*at)).unwrap_or(0);
            message.truncate(cut);
            message.push('…');
        }
        all.push(Condition {
            type_: report.kind.into(),
            status: status.into(),
            reason: report.reason.into(),
            message,
            observed_generation: generation,
            last_transition_time: since,
        });
    }
    all.sort_by(|a, b| a.type_.cmp(&b.type_));
    all
}

/// The condition of a type.
#[must_use]
pub fn find<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == kind)
}

/// Whether the condition of a type is True.
#[must_use]
pub fn is_true(conditions: &[Condition], kind: &str) -> bool {
    find(conditions, kind).is_some_and(|condition| condition.status == "True")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_transition_time_moves_only_when_the_status_flips() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let ready = |status, reason| [Report::new(READY, Some(status), reason, "")];
        let first = apply(&[], &ready(false, "A"), Some(1), at(1));
        let second = apply(&first, &ready(false, "B"), Some(2), at(2));
        assert_eq!(second[0].last_transition_time, Time(at(1)));
        assert_eq!((second[0].reason.as_str(), second[0].observed_generation), ("B", Some(2)));
        assert_eq!(apply(&second, &ready(true, "C"), Some(2), at(3))[0].last_transition_time, Time(at(3)));
    }

    #[test]
    fn stalled_goes_when_it_is_not_reported() {
        let now = Timestamp::from_second(1).unwrap();
        let stalled = apply(&[], &[Report::new(STALLED, Some(true), "PinRejected", "")], None, now);
        assert_eq!(apply(&stalled, &[Report::new(READY, Some(true), "Ready", "")], None, now).len(), 1);
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let report = Report::new(READY, None, "X", "ä".repeat(2000));
        let cut = apply(&[], &[report], None, Timestamp::from_second(1).unwrap());
        assert!(cut[0].message.len() <= MESSAGE_MAX + 3);
    }
}
