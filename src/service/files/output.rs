//! Hands a file out, no faster than it is taken, and not to somebody who does not take it.

use std::{
    io::{Error, ErrorKind},
    time::Duration,
};

use bytes::Bytes;
use futures::{Stream, stream};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};

use super::{PATIENCE, Place, SLOWEST, spool::Source};

/// Pieces that wait to be taken.
const AHEAD: usize = 1;

/// A file, encrypted or decrypted, for the caller.
pub struct Output {
    source: Source,
    place: Place,
}

impl Output {
    pub(super) const fn new(source: Source, place: Place) -> Self {
        Self { source, place }
    }

    /// Bytes of it.
    #[must_use]
    pub const fn length(&self) -> u64 {
        self.source.length
    }

    /// The bytes. Where it ends early its last item is an error, so that nobody takes it for whole.
    pub fn into_stream(self) -> impl Stream<Item = Result<Bytes, Error>> + Send + 'static {
        let length = self.length();
        let (sender, receiver) = mpsc::channel(AHEAD);
        tokio::spawn(feed(self, sender, PATIENCE));
        stream::unfold(Some((receiver, length)), |state| async move {
            let (mut receiver, left) = state?;
            let next = match receiver.recv().await {
                Some(next) => next,
                None if left == 0 => return None,
                None => Err(Error::new(ErrorKind::TimedOut, "the answer was taken too slowly")),
            };
            let left = next.as_ref().ok().map(|bytes| left.saturating_sub(bytes.len() as u64));
            Some((next, left.map(|left| (receiver, left))))
        })
    }
}

/// Reads ahead, on a thread that may wait for the disk. Ends with the file, with whoever takes it, or after too long a time.
async fn feed(output: Output, sender: mpsc::Sender<Result<Bytes, Error>>, patience: Duration) {
    let Output { mut source, place: _place } = output;
    let mut until = Instant::now() + patience;
    loop {
        let read = tokio::task::spawn_blocking(move || {
            let next = source.next();
            (source, next)
        });
        let next = match read.await {
            Ok((back, next)) => {
                source = back;
                next.transpose()
            }
            Err(_) => return,
        };
        let Some(next) = next else { return };
        let length = next.as_ref().map_or(0, Bytes::len);
        let failed = next.is_err();
        match timeout_at(until, sender.send(next)).await {
            Ok(Ok(())) if !failed => {
                until = (until + time_for(length)).min(Instant::now() + patience);
            }
            _ => return,
        }
    }
}

/// The time that bytes may take.
pub(super) fn time_for(bytes: usize) -> Duration {
    Duration::from_secs_f64(bytes as f64 / f64::from(SLOWEST))
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;

    use super::{
        super::{Files, spool::Batches, spool::Checking, spool::Sealing},
        *,
    };
    use crate::{
        public_key::PublicKey,
        sealed_file::{Header, Opener, Sealer},
    };
    use aws_lc_rs::{
        agreement::{self, UnparsedPublicKey},
        encoding::{AsDer, PublicKeyX509Der},
    };

    const LENGTH: usize = 3 * super::super::BATCH + 5;

    async fn encrypted(files: &Files, public: &PublicKey) -> Output {
        let (header, sealer) = Sealer::to(public).unwrap();
        let mut batches = Batches::new(Sealing::new(&files.directory, header, sealer));
        batches.update(&vec![7; LENGTH]).await.unwrap();
        Output::new(batches.finish(Sealing::finish).await.unwrap(), files.place("shop").await.unwrap())
    }

    fn pair() -> (agreement::PrivateKey, PublicKey) {
        let private = agreement::PrivateKey::generate(&agreement::ECDH_P384).unwrap();
        let spki: PublicKeyX509Der<'_> = private.compute_public_key().unwrap().as_der().unwrap();
        let public = PublicKey::from_spki(spki.as_ref()).unwrap();
        (private, public)
    }

    #[tokio::test]
    async fn a_file_goes_to_disk_encrypted_and_comes_back_whole() {
        let (directory, (private, public)) = (tempfile::tempdir().unwrap(), pair());
        let files = Files::new(1 << 20, 1, directory.path().into());
        let output = encrypted(&files, &public).await;
        let length = output.length();
        let sealed: Vec<u8> =
            output.into_stream().map(|bytes| bytes.unwrap().to_vec()).collect::<Vec<_>>().await.concat();
        assert_eq!(sealed.len() as u64, length);
        let (header, at) = Header::read(&sealed).unwrap().unwrap();
        let peer = UnparsedPublicKey::new(&agreement::ECDH_P384, &header.ephemeral);
        let secret = agreement::agree(&private, peer, (), |secret| Ok(secret.to_vec())).unwrap();
        let check = async |sealed: &[u8]| {
            let mut batches = Batches::new(Checking::new(&files.directory, Opener::new(&header, &secret)));
            batches.update(sealed).await?;
            batches.finish(Checking::finish).await
        };
        let checked = check(&sealed[at..]).await.unwrap();
        let source = checked.opened_by(Opener::new(&header, &secret));
        // The place of the first file was given back.
        let output = Output::new(source, files.place("shop").await.unwrap());
        assert_eq!(output.length(), LENGTH as u64);
        let opened: Vec<_> = output.into_stream().map(|bytes| bytes.unwrap().to_vec()).collect().await;
        assert_eq!(opened.concat(), vec![7; LENGTH]);
        let Err(error) = check(&sealed[at..sealed.len() - 1]).await else { panic!("it is cut off") };
        assert!(error.to_string().contains("cut off"), "{error}");
        // Decrypted with another secret than it was checked with, which is what a change on disk looks like.
        let source = check(&sealed[at..]).await.unwrap().opened_by(Opener::new(&header, &[0; 48]));
        let output = Output::new(source, files.place("shop").await.unwrap());
        let read: Vec<_> = output.into_stream().take(5).collect().await;
        assert!(read[0].is_err(), "{read:?}");
        // Nothing is left behind.
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_loses_the_place() {
        let (directory, (_, public)) = (tempfile::tempdir().unwrap(), pair());
        let files = Files::new(1 << 20, 1, directory.path().into());
        let mut stream = Box::pin(encrypted(&files, &public).await.into_stream());
        assert!(files.places.try_acquire().is_err());
        assert!(stream.next().await.unwrap().is_ok());
        let place = files.places.acquire().await;
        assert!(place.is_ok());
        let rest: Vec<_> = stream.collect().await;
        assert!(rest.last().unwrap().is_err());
    }
}
