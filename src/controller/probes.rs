//! What trying the tokens found out: once for each token as it presents itself.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use crate::{
    hsm::{
        Hsm,
        probe::{Findings, Probe, Quirk},
        protocol::{HsmError, Kind, Reply, Request, TokenFacts},
    },
    service::sign::unexpected,
};

/// How long one probe may take: below the time after which a token-host is taken for hung.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a token-host is left alone after one died.
const PAUSE: Duration = Duration::from_secs(1);
/// Why a probe is not made again on the same token.
const CRASHED: &str = "the module crashed";
const HUNG: &str = "no answer in time";
/// What follows from not knowing.
const MEANS: &str = "what the token says of itself is believed";

/// Findings by partition, and the token that they are about.
#[derive(Default)]
pub struct Probes(Mutex<HashMap<String, Entry>>);

struct Entry {
    about: Arc<TokenFacts>,
    findings: Arc<Findings>,
}

impl Probes {
    /// What was found out about this token.
    pub fn of(&self, partition: &str, token: &TokenFacts) -> Option<Arc<Findings>> {
        let all = self.0.lock().expect("no panic while it is held");
        all.get(partition).filter(|entry| *entry.about == *token).map(|entry| Arc::clone(&entry.findings))
    }

    /// Tries everything but what is `spared`. `None` where the token is not there to be tried.
    pub async fn learn(
        &self,
        partition: &str,
        token: &Arc<TokenFacts>,
        hsm: &dyn Hsm,
        spared: &[Quirk],
    ) -> Option<Arc<Findings>> {
        let mut findings = Findings::default();
        for probe in Probe::ALL {
            if let Some(before) = spared.iter().find(|quirk| quirk.name == probe.name()) {
                findings.quirks.push(before.clone());
                continue;
            }
            match try_one(hsm, probe).await {
                Ok(found) => findings.absorb(found),
                Err(error) => {
                    if is_away(error.kind) {
                        return None;
                    }
                    let why = words(&error).split(": ").next().unwrap_or_default();
                    tracing::warn!(partition, probe = probe.name(), error = error.message, "a probe failed");
                    findings.quirks.push(Quirk::not_probed(probe.name(), why, MEANS));
                }
            }
        }
        let findings = Arc::new(findings);
        let entry = Entry { about: Arc::clone(token), findings: Arc::clone(&findings) };
        self.0.lock().expect("no panic while it is held").insert(partition.to_owned(), entry);
        Some(findings)
    }

    /// The partition is gone.
    pub fn forget(&self, partition: &str) {
        self.0.lock().expect("no panic while it is held").remove(partition);
    }
}

/// Whether a finding says that its probe shall not be made again: whoever leads next does not bring the module down again.
pub fn spares(quirk: &Quirk) -> bool {
    [CRASHED, HUNG].iter().any(|why| quirk.value == Quirk::not_probed("", why, "").value)
}

/// Whether an error says nothing of the probe, because there was no token to be tried.
const fn is_away(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Unavailable
            | Kind::Busy
            | Kind::Lost
            | Kind::LibraryNotLoaded
            | Kind::TokenNotFound
            | Kind::TokenNotInitialized
            | Kind::PinRejected
            | Kind::PinLocked
            | Kind::PinFinalTry
    )
}

/// Why a probe failed.
pub fn words(error: &HsmError) -> &str {
    match error.kind {
        Kind::Crashed => CRASHED,
        Kind::Timeout => HUNG,
        _ => &error.message,
    }
}

/// Makes a probe, once more if the token-host died of it, or of something else in that moment. What it shared the
/// process with has been repeated by then, and is not hit twice.
pub async fn try_one(hsm: &dyn Hsm, probe: Probe) -> Result<Findings, HsmError> {
    match ask(hsm, probe).await {
        Err(error) if error.kind == Kind::Crashed => {
            tokio::time::sleep(PAUSE).await;
            ask(hsm, probe).await
        }
        outcome => outcome,
    }
}

async fn ask(hsm: &dyn Hsm, probe: Probe) -> Result<Findings, HsmError> {
    match tokio::time::timeout(PATIENCE, hsm.call(Request::Probe(probe))).await {
        Ok(Ok(Reply::Findings(findings))) => Ok(*findings),
        Ok(Ok(other)) => Err(unexpected(&other)),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(HsmError::new(Kind::Timeout, HUNG)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hsm::fake::{Fake, Fault};

    fn value(findings: &Findings, probe: Probe) -> &str {
        &findings.quirks.iter().find(|quirk| quirk.name == probe.name()).unwrap().value
    }

    #[tokio::test]
    async fn a_probe_that_a_module_does_not_survive_is_never_made_again() {
        let (fake, probes) = (Fake::default(), Probes::default());
        let token = fake.token().unwrap();
        fake.inject("probe", Fault::refuse(Kind::Crashed));
        fake.inject("probe", Fault::refuse(Kind::Crashed));
        let findings = probes.learn("p", &token, &fake, &[]).await.unwrap();
        assert_eq!(value(&findings, Probe::ALL[0]), "not probed: the module crashed");
        assert_eq!(value(&findings, Probe::ALL[1]), "tried");
        assert_eq!(fake.count("probe"), Probe::ALL.len() + 1);
        assert_eq!(probes.of("p", &token), Some(Arc::clone(&findings)));
        // Another controller, which knows the first one's findings.
        let spared: Vec<_> = findings.quirks.iter().filter(|quirk| spares(quirk)).cloned().collect();
        let again = Probes::default().learn("p", &token, &fake, &spared).await.unwrap();
        assert_eq!(again, findings);
        assert_eq!(fake.count("probe"), 2 * Probe::ALL.len());
    }

    #[tokio::test]
    async fn a_token_host_that_died_of_something_else_is_not_held_against_a_probe() {
        let (fake, probes) = (Fake::default(), Probes::default());
        fake.inject("probe", Fault::refuse(Kind::Crashed));
        let findings = probes.learn("p", &fake.token().unwrap(), &fake, &[]).await.unwrap();
        assert_eq!(value(&findings, Probe::ALL[0]), "tried");
        assert!(!findings.quirks.iter().any(spares));
    }

    #[tokio::test]
    async fn a_token_that_is_not_there_is_tried_later_and_another_one_anew() {
        let (fake, probes) = (Fake::default(), Probes::default());
        let token = fake.token().unwrap();
        fake.inject("probe", Fault::refuse(Kind::Unavailable));
        assert_eq!(probes.learn("p", &token, &fake, &[]).await, None);
        assert_eq!(probes.of("p", &token), None);
        probes.learn("p", &token, &fake, &[]).await.unwrap();
        assert!(probes.of("p", &token).is_some());
        let newer = TokenFacts { firmware: "2.0".into(), ..(*token).clone() };
        assert_eq!(probes.of("p", &newer), None);
    }
}
