//! Threads in this process with a queue before them: what a service without token-hosts would have.

use std::sync::Arc;

use bytes::Bytes;
use hsm_operator::model::KeyId;
use tokio::sync::oneshot;

use crate::raw::Raw;

type Job = (Bytes, oneshot::Sender<Vec<u8>>);

/// See the file.
pub struct Pool {
    jobs: flume::Sender<Job>,
}

impl Pool {
    /// Starts the threads; they never end.
    pub fn start(raw: &Raw, id: &KeyId, rsa: bool, threads: usize) -> Arc<Self> {
        let (jobs, inbox) = flume::bounded::<Job>(1024);
        for _ in 0..threads {
            let (signer, inbox) = (raw.signer(id.as_bytes(), rsa), inbox.clone());
            std::thread::spawn(move || {
                while let Ok((payload, answer)) = inbox.recv() {
                    let _ = answer.send(signer.sign(&payload));
                }
            });
        }
        Arc::new(Self { jobs })
    }

    /// A signature.
    pub async fn sign(&self, payload: Bytes) -> Vec<u8> {
        let (answer, signature) = oneshot::channel();
        self.jobs.try_send((payload, answer)).expect("the threads live, and there is room");
        signature.await.expect("a thread answers")
    }
}
