//! What has come of a file, in its encrypted form, and what is to be done with what comes.

use std::{
    io::{Read, Seek, Write},
    path::Path,
};

use bytes::Bytes;
use tempfile::SpooledTempFile;
use zeroize::Zeroizing;

use super::{BATCH, FileError};
use crate::sealed_file::{Opener, SEGMENT, Sealer};

/// Work on a file, a batch at a time. It hashes, writes and waits for the disk, and so has no place on the event loop.
pub(super) trait Stage: Send + Sized + 'static {
    /// Takes the next bytes.
    fn take(&mut self, batch: &[u8]) -> Result<(), FileError>;
}

/// Collects bytes until they are worth the way to another thread.
pub(super) struct Batches<S> {
    /// Gone after a failure only.
    stage: Option<S>,
    batch: Zeroizing<Vec<u8>>,
}

impl<S: Stage> Batches<S> {
    pub fn new(stage: S) -> Self {
        Self { stage: Some(stage), batch: Zeroizing::new(Vec::with_capacity(BATCH)) }
    }

    pub async fn update(&mut self, mut bytes: &[u8]) -> Result<(), FileError> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(BATCH - self.batch.len()));
            self.batch.extend_from_slice(now);
            bytes = later;
            if self.batch.len() == BATCH {
                self.flush().await?;
            }
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), FileError> {
        let mut stage = self.stage.take().ok_or_else(stopped)?;
        let mut batch = std::mem::take(&mut self.batch);
        let done = tokio::task::spawn_blocking(move || {
            let done = stage.take(&batch);
            batch.clear();
            done.map(|()| (stage, batch))
        });
        let (stage, batch) = done.await.map_err(|_| stopped())??;
        (self.stage, self.batch) = (Some(stage), batch);
        Ok(())
    }

    pub async fn finish<T: Send + 'static>(
        mut self,
        finish: impl FnOnce(S) -> Result<T, FileError> + Send + 'static,
    ) -> Result<T, FileError> {
        self.flush().await?;
        let stage = self.stage.take().ok_or_else(stopped)?;
        tokio::task::spawn_blocking(move || finish(stage)).await.map_err(|_| stopped())?
    }
}

fn stopped() -> FileError {
    std::io::Error::other("the work on it ended early").into()
}

/// Bytes that wait: few in memory, more in a file without a name.
fn spool(directory: &Path) -> SpooledTempFile {
    tempfile::spooled_tempfile_in(BATCH, directory)
}

/// Encrypts.
pub(super) struct Sealing {
    spool: SpooledTempFile,
    sealer: Sealer,
    out: Vec<u8>,
    length: u64,
}

impl Sealing {
    pub fn new(directory: &Path, header: Vec<u8>, sealer: Sealer) -> Self {
        Self { spool: spool(directory), sealer, out: header, length: 0 }
    }

    fn write(&mut self) -> Result<(), FileError> {
        self.spool.write_all(&self.out)?;
        self.length += self.out.len() as u64;
        self.out.clear();
        Ok(())
    }

    pub fn finish(mut self) -> Result<Source, FileError> {
        let (sealer, mut out) = (self.sealer, std::mem::take(&mut self.out));
        sealer.finish(&mut out);
        self.spool.write_all(&out)?;
        self.spool.rewind()?;
        Ok(Source { spool: self.spool, length: self.length + out.len() as u64, opener: None })
    }
}

impl Stage for Sealing {
    fn take(&mut self, batch: &[u8]) -> Result<(), FileError> {
        self.sealer.update(batch, &mut self.out);
        self.write()
    }
}

/// Finds out whether a file is authentic, and keeps it as it came.
pub(super) struct Checking {
    spool: SpooledTempFile,
    opener: Opener,
    /// Looked at by nobody.
    plain: Zeroizing<Vec<u8>>,
    length: u64,
}

impl Checking {
    pub fn new(directory: &Path, opener: Opener) -> Self {
        let plain = Zeroizing::new(Vec::with_capacity(BATCH + SEGMENT));
        Self { spool: spool(directory), opener, plain, length: 0 }
    }

    /// What comes next is written over it, and it is erased at the end.
    fn forget(&mut self) {
        self.length += self.plain.len() as u64;
        self.plain.clear();
    }

    pub fn finish(mut self) -> Result<Checked, FileError> {
        self.opener.finish(&mut self.plain)?;
        self.length += self.plain.len() as u64;
        self.spool.rewind()?;
        Ok(Checked { spool: self.spool, length: self.length })
    }
}

impl Stage for Checking {
    fn take(&mut self, batch: &[u8]) -> Result<(), FileError> {
        self.spool.write_all(batch)?;
        self.opener.update(batch, &mut self.plain)?;
        self.forget();
        Ok(())
    }
}

/// A file that is authentic.
pub(super) struct Checked {
    spool: SpooledTempFile,
    length: u64,
}

impl Checked {
    /// Decrypts it once more, to be read.
    pub fn opened_by(self, opener: Opener) -> Source {
        Source { spool: self.spool, length: self.length, opener: Some(opener) }
    }
}

/// What a caller gets.
pub(super) struct Source {
    spool: SpooledTempFile,
    /// Bytes of what the caller gets.
    pub length: u64,
    /// Decrypts what is read.
    opener: Option<Opener>,
}

impl Source {
    /// The next bytes, of which there are some until the end. What was changed on the disk meanwhile is not handed out.
    pub fn next(&mut self) -> std::io::Result<Option<Bytes>> {
        let mut read = vec![0; BATCH];
        loop {
            let count = self.spool.read(&mut read)?;
            let Some(mut opener) = self.opener.take() else {
                read.truncate(count);
                return Ok((count > 0).then(|| read.into()));
            };
            let mut plain = Zeroizing::new(Vec::with_capacity(BATCH + SEGMENT));
            let opened = match count {
                0 => opener.finish(&mut plain),
                _ => opener.update(&read[..count], &mut plain).map(|()| self.opener = Some(opener)),
            };
            opened.map_err(std::io::Error::other)?;
            if !plain.is_empty() {
                return Ok(Some(Bytes::from_owner(plain)));
            }
            if self.opener.is_none() {
                return Ok(None);
            }
        }
    }
}
