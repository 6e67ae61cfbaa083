//! Encryption and decryption of files, after the caller's permission was checked.
//!
//! A file is encrypted outside of the token, with the public half of its key. To decrypt one, the token multiplies the
//! point of the file's header with the private key; the secret that comes of it is good for that one file.
//!
//! Files of any size take the same memory. What is encrypted waits on disk until the last byte has come, for two reasons:
//! of a file that was changed nobody sees a single byte, and a client that reads the answer only after it has sent
//! everything, as most do, is not waited for while it waits. What waits is always the encrypted form.

mod output;
mod spool;

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

pub use output::Output;

use self::spool::{Batches, Checking, Sealing};
use super::{
    directory::Usable,
    shares::{Share, Shares},
    sign::unexpected,
};
use crate::{
    hsm::{
        Hsm,
        protocol::{HsmError, Kind, Reply, Request},
    },
    model::secret::Plaintext,
    public_key::PublicKey,
    sealed_file::{Broken, Header, InvalidHeader, NotForFiles, Opener, Sealer, sealed_len},
};

/// Bytes of a file that are worked on at a time.
const BATCH: usize = 256 * 1024;
/// How long a file waits for others to be done.
const WAIT: Duration = Duration::from_secs(10);
/// How slow a client may be that sends a file or reads one, in bytes per second, in the long run.
pub const SLOWEST: u32 = 256 * 1024;
/// How long it may do nothing.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// What is allowed with files.
#[derive(Clone, Debug)]
pub struct Files {
    places: Arc<Semaphore>,
    shares: Arc<Shares>,
    directory: PathBuf,
    largest: u64,
}

/// Allows a file to be worked on.
#[derive(Debug)]
#[allow(dead_code, reason = "held")]
pub struct Place(OwnedSemaphorePermit, Share);

/// Why a file is not encrypted or decrypted.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// Files are not encrypted for such keys.
    #[error(transparent)]
    Key(#[from] NotForFiles),
    /// The token cannot do its part.
    #[error("{0}")]
    NotServed(String),
    /// Not an encrypted file, or one for another key.
    #[error(transparent)]
    Header(#[from] InvalidHeader),
    /// The file was changed.
    #[error(transparent)]
    Broken(#[from] Broken),
    /// Too many at a time.
    #[error("too many files are worked on at the moment")]
    Busy,
    /// The disk.
    #[error("the file cannot be put aside on disk: {0}")]
    Disk(#[from] std::io::Error),
    /// The token did not do it.
    #[error(transparent)]
    Hsm(#[from] HsmError),
}

impl Default for Files {
    fn default() -> Self {
        Self::new(256 * 1024 * 1024, 8, std::env::temp_dir())
    }
}

impl Files {
    /// Allows files of up to `largest` bytes, so many of them at a time, and lets them wait in `directory`.
    #[must_use]
    pub fn new(largest: u64, at_a_time: usize, directory: PathBuf) -> Self {
        // One namespace leaves the others half of it.
        let shares = Shares::new(usize::MAX, at_a_time.div_ceil(2));
        Self { places: Arc::new(Semaphore::new(at_a_time)), shares, directory, largest }
    }

    /// Bytes of the largest file.
    #[must_use]
    pub const fn largest(&self) -> u64 {
        self.largest
    }

    /// Bytes of the largest encrypted file, whatever its header.
    #[must_use]
    pub const fn largest_sealed(&self) -> u64 {
        crate::sealed_file::HEADER_MAX as u64 + sealed_len(self.largest)
    }

    /// Waits until a file of a namespace may be worked on.
    ///
    /// # Errors
    /// [`FileError::Busy`] after a while, or at once where the namespace has its share.
    pub async fn place(&self, namespace: &str) -> Result<Place, FileError> {
        let share = self.shares.take(namespace).ok_or(FileError::Busy)?;
        let place = tokio::time::timeout(WAIT, Arc::clone(&self.places).acquire_owned()).await;
        match place {
            Ok(Ok(permit)) => Ok(Place(permit, share)),
            _ => Err(FileError::Busy),
        }
    }
}

/// The public half of a key that files are encrypted for.
fn public(key: &Usable) -> Result<&PublicKey, FileError> {
    key.public.as_deref().ok_or_else(|| NotForFiles::Key(key.algorithm.to_string()).into())
}

/// Whether the token of a key can be asked for the secret of a file. `found` is what trying it showed.
///
/// # Errors
/// [`FileError::NotServed`].
pub fn served(hsm: Option<&dyn Hsm>, found: Option<bool>) -> Result<(), FileError> {
    let Some(token) = hsm.and_then(Hsm::token) else { return Ok(()) };
    let why = if !token.capabilities.agreement {
        "its list of mechanisms does not have CKM_ECDH1_DERIVE"
    } else if found == Some(false) {
        "it was tried and the secret of a key agreement was not to be had"
    } else {
        return Ok(());
    };
    Err(FileError::NotServed(format!(
        "files cannot be decrypted with keys of the token '{}': {why}",
        token.label
    )))
}

/// Encrypts one file.
pub struct Encryption(Batches<Sealing>);

impl Encryption {
    /// Begins a file for a key.
    ///
    /// # Errors
    /// Where the key is not for files.
    pub fn begin(files: &Files, key: &Usable) -> Result<Self, FileError> {
        let (header, sealer) = Sealer::to(public(key)?)?;
        Ok(Self(Batches::new(Sealing::new(&files.directory, header, sealer))))
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// [`FileError::Disk`].
    pub async fn update(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        self.0.update(bytes).await
    }

    /// The whole file was taken; hands out its encrypted form.
    ///
    /// # Errors
    /// [`FileError::Disk`].
    pub async fn finish(self, place: Place) -> Result<Output, FileError> {
        self.0.finish(Sealing::finish).await.map(|sealed| Output::new(sealed, place))
    }
}

/// Decrypts one file.
pub struct Decryption {
    batches: Batches<Checking>,
    /// To decrypt it a second time, when all of it was found to be authentic.
    header: Header,
    secret: Plaintext,
}

impl Decryption {
    /// Begins a file for whose header the token is asked.
    ///
    /// # Errors
    /// Where the header is not of a file for this key, and what the token answers.
    pub async fn begin(
        files: &Files,
        hsm: &dyn Hsm,
        key: &Usable,
        header: Header,
    ) -> Result<Self, FileError> {
        header.check(public(key)?)?;
        let request = Request::Agree { key: key.id.clone(), point: header.ephemeral.clone().into() };
        let secret = match hsm.call(request).await? {
            Reply::Agreed(secret) if secret.expose().len() == header.suite.secret_len() => secret,
            Reply::Agreed(_) => {
                return Err(HsmError::new(
                    Kind::Device,
                    "the token answered with a secret of another length",
                )
                .into());
            }
            other => return Err(unexpected(&other).into()),
        };
        let opener = Opener::new(&header, secret.expose());
        Ok(Self { batches: Batches::new(Checking::new(&files.directory, opener)), header, secret })
    }

    /// Takes the next bytes after the header.
    ///
    /// # Errors
    /// [`FileError::Broken`] as soon as it is certain, and [`FileError::Disk`].
    pub async fn update(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        self.batches.update(bytes).await
    }

    /// The whole file was taken and is authentic; hands it out.
    ///
    /// # Errors
    /// [`FileError::Broken`], [`FileError::Disk`].
    pub async fn finish(self, place: Place) -> Result<Output, FileError> {
        let again = Opener::new(&self.header, self.secret.expose());
        let checked = self.batches.finish(Checking::finish).await?;
        Ok(Output::new(checked.opened_by(again), place))
    }
}
