//! The zip of an attestation, as `POST /v1/key/keyAttestation` answers it.

use super::chain;
use crate::model::{SignatureAlgorithm, signature::Scheme};
use crate::public_key::{ParseError, PublicKey};
use der::{Decode, Encode};
use std::io::{Cursor, Write};
use x509_cert::Certificate;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipWriter};

/// Longest file name without its extension; file systems end at 255 bytes.
const STEM_MAX: usize = 100;
const PUBLIC_KEY: &str = "PrimusHSM_Attestation_PublicKey.pem";
const CHAIN: &str = "PrimusHSM_Attestation.crt";
const README: &str = "README_attestation.md";

/// What goes into the zip.
#[derive(Clone, Copy, Debug)]
pub struct Bundle<'a> {
    /// Label of the attested key; file names derive from it.
    pub label: &'a str,
    /// The signed document.
    pub xml: &'a [u8],
    /// The signature over it.
    pub signature: &'a [u8],
    /// Certificates in DER, leaf first, root last.
    pub chain: &'a [Vec<u8>],
    /// Who signed.
    pub signer: Signer,
}

/// Who signed a document: its reader has to look for other things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signer {
    /// The operator, by [`SIGNATURE_ALGORITHM`](super::SIGNATURE_ALGORITHM).
    Operator,
    /// The HSM itself, in this way.
    Device(SignatureAlgorithm),
}

/// Why there is no zip.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// No leaf, or one that is no certificate.
    #[error("the chain does not begin with a certificate")]
    Leaf(#[from] der::Error),
    /// The leaf's key.
    #[error("the key of the attestation certificate is not usable")]
    Key(#[from] ParseError),
    /// Writing failed.
    #[error("the zip cannot be written")]
    Zip(#[from] zip::result::ZipError),
    /// Writing failed.
    #[error("the zip cannot be written")]
    Write(#[from] std::io::Error),
}

impl Bundle<'_> {
    fn readme(&self) -> String {
        let Signer::Device(algorithm) = self.signer else { return OPERATORS.to_owned() };
        let (scheme, options) = match algorithm.row().scheme {
            Scheme::RsaPss(_) => (
                "RSASSA-PSS with SHA-256 and a salt as long as the hash",
                " -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:digest",
            ),
            Scheme::RsaPkcs1 => ("RSA PKCS #1 v1.5 with SHA-256", ""),
            _ => ("ECDSA with SHA-256, in DER", ""),
        };
        let last = self.chain.len().to_string();
        DEVICES.replace("@SCHEME@", scheme).replace("@OPTIONS@", options).replace("@LAST@", &last)
    }

    /// Writes the zip. The same bundle always gives the same bytes.
    ///
    /// The public key is there under both names that the contract's documentation uses, always taken from
    /// the leaf, so that it cannot be another than the certified one. The root is the last certificate of
    /// the chain file; a reader must compare its fingerprint with one from elsewhere.
    ///
    /// # Errors
    /// When the chain does not begin with a certificate.
    pub fn to_zip(&self) -> Result<Vec<u8>, BundleError> {
        let pem = attestation_key(self.chain)?.pem();
        let certificates = chain::to_pem(self.chain);
        let stem = file_stem(self.label);
        let root = self.chain.last().map(|der| chain::fingerprint(der)).unwrap_or_default();
        let readme = self.readme().replace("@STEM@", &stem).replace("@ROOT@", &root);
        let mut files: Vec<(String, &[u8])> = vec![
            (format!("{stem}.xml"), self.xml),
            (format!("{stem}.sig"), self.signature),
            (format!("{stem}.pem"), pem.as_bytes()),
            (PUBLIC_KEY.to_owned(), pem.as_bytes()),
            (CHAIN.to_owned(), certificates.as_bytes()),
            (README.to_owned(), readme.as_bytes()),
        ];
        // A key may bear the name of the second file; its content is the same.
        files.dedup_by(|later, earlier| later.0 == earlier.0);
        let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .last_modified_time(DateTime::default())
            .unix_permissions(0o644);
        for (name, content) in files {
            zip.start_file(name, options)?;
            zip.write_all(content)?;
        }
        Ok(zip.finish()?.into_inner())
    }
}

/// The key of the first certificate of a chain.
///
/// # Errors
/// When there is none, or it cannot be read.
pub fn attestation_key(chain: &[Vec<u8>]) -> Result<PublicKey, BundleError> {
    let leaf = Certificate::from_der(chain.first().map_or(&[][..], Vec::as_slice))?;
    Ok(PublicKey::from_spki(&leaf.tbs_certificate().subject_public_key_info().to_der()?)?)
}

/// A file name that every system takes: letters, digits, `.`, `_` and `-` stay, all else becomes `_`.
#[must_use]
pub fn file_stem(label: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '_' };
    let stem: String = label.chars().take(STEM_MAX).map(safe).collect();
    match stem.strip_prefix(['.', '-']) {
        Some(rest) => format!("_{rest}"),
        None if stem.is_empty() => "key".to_owned(),
        None => stem,
    }
}

const OPERATORS: &str = include_str!("readme.md");
const DEVICES: &str = include_str!("readme_device.md");

#[cfg(test)]
mod tests {
    use super::file_stem;

    #[test]
    fn a_file_name_never_leaves_its_folder_nor_looks_like_an_option() {
        for (label, stem) in [
            ("signing-key_1.v2", "signing-key_1.v2"),
            ("../../etc/passwd", "_._.._etc_passwd"),
            ("-rf", "_rf"),
            ("Schlüssel für Anna", "Schl_ssel_f_r_Anna"),
            ("C:\\con", "C__con"),
            ("", "key"),
        ] {
            assert_eq!(file_stem(label), stem, "{label}");
        }
        assert_eq!(file_stem(&"x".repeat(255)).len(), 100);
    }
}
