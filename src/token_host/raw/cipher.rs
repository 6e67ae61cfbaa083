//! Encryption and decryption in one go.

use super::*;

/// More than any cipher adds to its input: a block of padding and a tag, or the block of the largest RSA key.
const OVERHEAD: usize = 1024 + 64;

/// How to encrypt or decrypt: a mechanism with parameters of which some belong to the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cipher<'a> {
    /// `CKM_…`.
    pub kind: CK_MECHANISM_TYPE,
    /// Its parameters.
    pub parameter: CipherParameter<'a>,
}

/// Parameters of a cipher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CipherParameter<'a> {
    /// None.
    None,
    /// The first block itself.
    Iv(&'a [u8]),
    /// The first block, all of whose bits count.
    Counter([u8; 16]),
    /// Of GCM.
    Gcm {
        /// Initialization vector.
        iv: &'a [u8],
        /// Additional data.
        aad: &'a [u8],
        /// Bits of the tag.
        tag_bits: CK_ULONG,
    },
    /// Of ChaCha20, with a counter of 32 bits that starts at 0.
    ChaCha20(&'a [u8]),
    /// Of ChaCha20-Poly1305.
    Poly1305 {
        /// Nonce.
        nonce: &'a [u8],
        /// Additional data.
        aad: &'a [u8],
    },
    /// Of RSAES-OAEP, without a label.
    Oaep {
        /// `CKM_…` of the hash.
        hash: CK_MECHANISM_TYPE,
        /// `CKG_MGF1_…` of the hash.
        mgf: CK_RSA_PKCS_MGF_TYPE,
    },
}

impl Cipher<'_> {
    /// Uses it, until the end of the operation: some modules read the parameters late, and some put an initialization
    /// vector of their own in place of the given one, which is returned.
    pub(super) fn with<T>(&self, use_it: impl FnOnce(*mut CK_MECHANISM) -> T) -> (T, Vec<u8>) {
        let whole = |parameter: *mut c_void, length: usize| {
            let mut mechanism = CK_MECHANISM {
                mechanism: self.kind,
                pParameter: parameter,
                ulParameterLen: length as CK_ULONG,
            };
            use_it(&raw mut mechanism)
        };
        match self.parameter {
            CipherParameter::None => (whole(ptr::null_mut(), 0), Vec::new()),
            CipherParameter::Iv(iv) => {
                let mut iv = iv.to_vec();
                (whole(iv.as_mut_ptr().cast(), iv.len()), iv)
            }
            CipherParameter::Counter(cb) => {
                let mut parameter = CK_AES_CTR_PARAMS { ulCounterBits: 128, cb };
                let done = whole((&raw mut parameter).cast(), size_of::<CK_AES_CTR_PARAMS>());
                (done, cb.to_vec())
            }
            CipherParameter::Gcm { iv, aad, tag_bits } => {
                let mut iv = iv.to_vec();
                let mut parameter = CK_GCM_PARAMS {
                    pIv: iv.as_mut_ptr(),
                    ulIvLen: iv.len() as CK_ULONG,
                    ulIvBits: 8 * iv.len() as CK_ULONG,
                    pAAD: start(aad),
                    ulAADLen: aad.len() as CK_ULONG,
                    ulTagBits: tag_bits,
                };
                (whole((&raw mut parameter).cast(), size_of::<CK_GCM_PARAMS>()), iv)
            }
            CipherParameter::ChaCha20(nonce) => {
                let (mut nonce, mut counter) = (nonce.to_vec(), [0_u8; 4]);
                let mut parameter = CK_CHACHA20_PARAMS {
                    pBlockCounter: counter.as_mut_ptr(),
                    blockCounterBits: 32,
                    pNonce: nonce.as_mut_ptr(),
                    ulNonceBits: 8 * nonce.len() as CK_ULONG,
                };
                (whole((&raw mut parameter).cast(), size_of::<CK_CHACHA20_PARAMS>()), nonce)
            }
            CipherParameter::Poly1305 { nonce, aad } => {
                let mut nonce = nonce.to_vec();
                let mut parameter = CK_SALSA20_CHACHA20_POLY1305_PARAMS {
                    pNonce: nonce.as_mut_ptr(),
                    ulNonceLen: nonce.len() as CK_ULONG,
                    pAAD: start(aad),
                    ulAADLen: aad.len() as CK_ULONG,
                };
                let length = size_of::<CK_SALSA20_CHACHA20_POLY1305_PARAMS>();
                (whole((&raw mut parameter).cast(), length), nonce)
            }
            CipherParameter::Oaep { hash, mgf } => {
                let mut parameter = CK_RSA_PKCS_OAEP_PARAMS {
                    hashAlg: hash,
                    mgf,
                    source: CKZ_DATA_SPECIFIED,
                    pSourceData: ptr::null_mut(),
                    ulSourceDataLen: 0,
                };
                (whole((&raw mut parameter).cast(), size_of::<CK_RSA_PKCS_OAEP_PARAMS>()), Vec::new())
            }
        }
    }
}

/// Where bytes are that the module only reads; nothing where there are none, because modules look at the pointer, too.
fn start(bytes: &[u8]) -> *mut CK_BYTE {
    if bytes.is_empty() { ptr::null_mut() } else { bytes.as_ptr().cast_mut() }
}

impl Session {
    /// Encrypts. Returns the ciphertext and the initialization vector that was used.
    pub fn encrypt(
        &self,
        cipher: &Cipher<'_>,
        key: Object,
        data: &[u8],
    ) -> Result<(Vec<u8>, Vec<u8>), Failure> {
        let mut out = vec![0; data.len() + OVERHEAD];
        let mut length = out.len() as CK_ULONG;
        let (done, iv) = cipher.with(|mechanism| {
            call!(self.module, C_EncryptInit(self.handle, mechanism, key.0))?;
            let (data, data_length) = (data.as_ptr().cast_mut(), data.len() as CK_ULONG);
            call!(self.module, C_Encrypt(self.handle, data, data_length, out.as_mut_ptr(), &raw mut length))
        });
        done?;
        cut(&mut out, length, "C_Encrypt")?;
        Ok((out, iv))
    }

    /// Decrypts. Nothing that a failure tells beyond that there was one may reach whoever sent the data.
    pub fn decrypt(
        &self,
        cipher: &Cipher<'_>,
        key: Object,
        data: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, Failure> {
        let mut out = Zeroizing::new(vec![0; data.len() + OVERHEAD]);
        let mut length = out.len() as CK_ULONG;
        let (done, _) = cipher.with(|mechanism| {
            call!(self.module, C_DecryptInit(self.handle, mechanism, key.0))?;
            let (data, data_length) = (data.as_ptr().cast_mut(), data.len() as CK_ULONG);
            call!(self.module, C_Decrypt(self.handle, data, data_length, out.as_mut_ptr(), &raw mut length))
        });
        done?;
        cut(&mut out, length, "C_Decrypt")?;
        Ok(out)
    }
}

fn cut(out: &mut Vec<u8>, length: CK_ULONG, function: &'static str) -> Result<(), Failure> {
    match usize::try_from(length) {
        Ok(length) if length <= out.len() => {
            out.truncate(length);
            Ok(())
        }
        _ => Err(Failure { code: CKR_GENERAL_ERROR, function }),
    }
}
