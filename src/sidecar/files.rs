//! The two mounted files: the pod's token and the gateways' CA.
//!
//! The kubelet replaces them by a symlink swap, which a watch for writes never sees, so both are read every few
//! seconds. They are small and in memory (tmpfs): reading them on the event loop costs less than a thread.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use hyper::header::HeaderValue;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use zeroize::Zeroizing;

/// The pod's token, ready to be sent.
#[derive(Debug)]
pub struct TokenFile {
    path: PathBuf,
    state: Mutex<TokenState>,
}

#[derive(Debug)]
struct TokenState {
    /// The last good one; it outlives a moment in which the file cannot be read.
    header: Option<HeaderValue>,
    /// Why the last reading failed.
    problem: Option<String>,
}

impl TokenFile {
    /// Reads the token for the first time; a failure is kept and told by [`TokenFile::header`].
    pub fn open(path: PathBuf) -> Self {
        let file = Self { path, state: Mutex::new(TokenState { header: None, problem: None }) };
        file.refresh();
        file
    }

    /// Reads the file again.
    pub fn refresh(&self) {
        let read = read_token(&self.path);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match read {
            Ok(header) => *state = TokenState { header: Some(header), problem: None },
            Err(problem) => {
                if state.problem.is_none() {
                    tracing::warn!(error = %problem, "the pod's token cannot be read");
                }
                state.problem = Some(problem);
            }
        }
    }

    /// `Bearer …`, from the last reading that worked.
    ///
    /// # Errors
    /// Why the file could not be read, if it never could.
    pub fn header(&self) -> Result<HeaderValue, String> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match (&state.header, &state.problem) {
            (Some(header), _) => Ok(header.clone()),
            (None, problem) => Err(problem.clone().unwrap_or_default()),
        }
    }

    /// Whether the last reading worked.
    pub fn is_readable(&self) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).problem.is_none()
    }
}

fn read_token(path: &Path) -> Result<HeaderValue, String> {
    let told = |why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
    let read = Zeroizing::new(std::fs::read(path).map_err(|error| told(&error))?);
    let token = read.trim_ascii();
    if token.is_empty() {
        return Err(told(&"the file is empty"));
    }
    let mut value = Zeroizing::new(Vec::with_capacity("Bearer ".len() + token.len()));
    value.extend_from_slice(b"Bearer ");
    value.extend_from_slice(token);
    // The header shares these bytes instead of copying them, so that the last user wipes them.
    let mut header = HeaderValue::from_maybe_shared(Bytes::from_owner(value))
        .map_err(|_| told(&"the content is no token: it has bytes that no header may carry"))?;
    header.set_sensitive(true);
    Ok(header)
}

/// The gateways' CA certificates.
#[derive(Debug)]
pub struct CaFile {
    path: PathBuf,
    seen: Option<Vec<u8>>,
    problem: Option<String>,
}

impl CaFile {
    /// A file that was not read yet.
    pub fn new(path: PathBuf) -> Self {
        Self { path, seen: None, problem: None }
    }

    /// The certificates, if the file holds others than at the last call. A file that is absent, empty or broken
    /// changes nothing: half-written trust must not cut the pod off.
    pub fn changed(&mut self) -> Option<RootCertStore> {
        match self.read() {
            Ok(found) => {
                self.problem = None;
                found
            }
            Err(problem) => {
                if self.problem.as_ref() != Some(&problem) {
                    tracing::warn!(error = %problem, "the gateways' CA cannot be read");
                }
                self.problem = Some(problem);
                None
            }
        }
    }

    /// Why the last reading failed.
    pub fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    fn read(&mut self) -> Result<Option<RootCertStore>, String> {
        let told = |why: &dyn std::fmt::Display| format!("{}: {why}", self.path.display());
        let content = std::fs::read(&self.path).map_err(|error| told(&error))?;
        if self.seen.as_ref() == Some(&content) {
            return Ok(None);
        }
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&content) {
            let certificate = certificate.map_err(|error| told(&error))?;
            roots.add(certificate).map_err(|error| told(&error))?;
        }
        if roots.is_empty() {
            return Err(told(&"there is no certificate in it"));
        }
        self.seen = Some(content);
        Ok(Some(roots))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_outlives_a_moment_without_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, "abc\n").unwrap();
        let token = TokenFile::open(path.clone());
        assert_eq!(token.header().unwrap(), "Bearer abc");

        std::fs::remove_file(&path).unwrap();
        token.refresh();
        assert_eq!(token.header().unwrap(), "Bearer abc");
        assert!(!token.is_readable());

        std::fs::write(&path, "def").unwrap();
        token.refresh();
        assert_eq!(token.header().unwrap(), "Bearer def");
        assert!(token.is_readable());
    }

    #[test]
    fn a_token_is_never_printed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, "very-secret").unwrap();
        let token = TokenFile::open(path);
        assert!(!format!("{token:?} {:?}", token.header()).contains("very-secret"));
    }

    #[test]
    fn an_absent_or_empty_token_says_which_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let token = TokenFile::open(path.clone());
        assert!(token.header().unwrap_err().contains("token: No such file"));
        std::fs::write(&path, " \n").unwrap();
        token.refresh();
        assert!(token.header().unwrap_err().ends_with("the file is empty"));
    }

    #[test]
    fn broken_trust_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.crt");
        let mut file = CaFile::new(path.clone());
        assert!(file.changed().is_none());
        assert!(file.problem().is_some());

        let key = rcgen::KeyPair::generate().unwrap();
        let ca = rcgen::CertificateParams::new(vec![]).unwrap().self_signed(&key).unwrap();
        std::fs::write(&path, ca.pem()).unwrap();
        assert_eq!(file.changed().map(|roots| roots.len()), Some(1));
        assert!(file.changed().is_none(), "unchanged content is no change");
        std::fs::write(&path, "").unwrap();
        assert!(file.changed().is_none());
        assert!(file.problem().unwrap().ends_with("there is no certificate in it"));
    }
}
