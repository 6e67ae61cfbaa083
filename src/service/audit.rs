//! The audit record: one line for every use of a key, allowed or refused (target `audit`).

use sha2::{Digest, Sha256};

/// A use of a key, about to be decided.
#[derive(Clone, Copy, Debug)]
pub struct Use<'a> {
    /// Who uses it: a user name.
    pub caller: &'a str,
    /// Namespace of the key.
    pub namespace: &'a str,
    /// Label of the key.
    pub key: &'a str,
    /// What is done.
    pub operation: &'static str,
    /// With which algorithm, in the contract's word.
    pub algorithm: Option<&'static str>,
    /// What for.
    pub about: About<'a>,
    /// Request that asked.
    pub request_id: &'a str,
}

/// What tells a use apart; only its SHA-256 is recorded.
#[derive(Clone, Copy, Debug)]
pub enum About<'a> {
    /// The payload.
    Payload(&'a [u8]),
    /// The ciphertext that is to be decrypted.
    Ciphertext(&'a [u8]),
    /// Nothing: a plaintext that is to be encrypted could be guessed from its digest.
    Nothing,
}

impl Use<'_> {
    /// Records the decision; `refused` says why it was refused.
    pub fn record(&self, refused: Option<&str>) {
        let digest = |bytes: &[u8]| hex::encode(Sha256::digest(bytes));
        let (payload, ciphertext) = match self.about {
            About::Payload(bytes) => (Some(digest(bytes)), None),
            About::Ciphertext(bytes) => (None, Some(digest(bytes))),
            About::Nothing => (None, None),
        };
        tracing::info!(
            target: crate::telemetry::logs::AUDIT,
            caller = self.caller,
            namespace = self.namespace,
            key = self.key,
            operation = self.operation,
            algorithm = self.algorithm,
            payload_sha256 = payload,
            ciphertext_sha256 = ciphertext,
            decision = if refused.is_some() { "refused" } else { "allowed" },
            reason = refused,
            request_id = self.request_id,
            "key use"
        );
    }
}

/// A use of a data object, about to be decided. Nothing of its value is recorded: a digest of a short secret tells it.
#[derive(Clone, Copy, Debug)]
pub struct DataUse<'a> {
    /// Who uses it: a user name.
    pub caller: &'a str,
    /// Its namespace.
    pub namespace: &'a str,
    /// Its name.
    pub data_object: &'a str,
    /// The verb: `create`, `get` or `delete`.
    pub operation: &'static str,
    /// Request that asked.
    pub request_id: &'a str,
}

impl DataUse<'_> {
    /// Records the decision; `refused` says why it was refused.
    pub fn record(&self, refused: Option<&str>) {
        tracing::info!(
            target: crate::telemetry::logs::AUDIT,
            caller = self.caller,
            namespace = self.namespace,
            data_object = self.data_object,
            operation = self.operation,
            decision = if refused.is_some() { "refused" } else { "allowed" },
            reason = refused,
            request_id = self.request_id,
            "data object use"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, LazyLock, Mutex};

    use tracing::{Dispatch, subscriber::NoSubscriber};

    use super::*;

    /// While there is only one subscriber, whichever thread first comes to a place that logs decides for all whether it is
    /// of interest, and the threads of other tests have none. With a second one, all are asked.
    static SECOND: LazyLock<Dispatch> = LazyLock::new(|| Dispatch::new(NoSubscriber::new()));

    /// What is written meanwhile.
    fn said(act: impl FnOnce()) -> String {
        #[derive(Clone, Default)]
        struct Page(Arc<Mutex<Vec<u8>>>);
        impl std::io::Write for Page {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.lock().expect("no panic while it is held").extend_from_slice(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        LazyLock::force(&SECOND);
        let page = Page::default();
        let writer = page.clone();
        let subscriber = tracing_subscriber::fmt().json().with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(subscriber, act);
        let bytes = page.0.lock().expect("no panic while it is held").clone();
        String::from_utf8(bytes).expect("text")
    }

    #[test]
    fn a_digest_says_what_it_is_of_and_of_a_plaintext_there_is_none() {
        let record = Use {
            caller: "app",
            namespace: "shop",
            key: "k",
            operation: "x",
            algorithm: None,
            about: About::Payload(b"abc"),
            request_id: "1",
        };
        let digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let with = |about| said(|| Use { algorithm: Some("AES_GCM"), about, ..record }.record(Some("no")));
        assert!(said(|| record.record(None)).contains(&format!("\"payload_sha256\":\"{digest}\"")));
        let sealed = with(About::Ciphertext(b"abc"));
        assert!(sealed.contains(&format!("\"ciphertext_sha256\":\"{digest}\"")), "{sealed}");
        assert!(sealed.contains("\"algorithm\":\"AES_GCM\"") && sealed.contains("\"decision\":\"refused\""));
        assert!(!sealed.contains("payload_sha256"), "{sealed}");
        let nothing = with(About::Nothing);
        assert!(nothing.contains("\"key\":\"k\"") && !nothing.contains("sha256"), "{nothing}");
    }
}
