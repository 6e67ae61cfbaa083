//! Key agreement: a secret that a private key has in common with somebody's point.

use super::*;

impl Session {
    /// `C_DeriveKey` with `CKM_ECDH1_DERIVE` and no derivation function of its own. Returns the secret as an object.
    pub fn agree(&self, key: Object, point: &[u8], secret: &[Attribute]) -> Result<Object, Failure> {
        let mut parameter = CK_ECDH1_DERIVE_PARAMS {
            kdf: CKD_NULL,
            ulSharedDataLen: 0,
            pSharedData: ptr::null_mut(),
            ulPublicDataLen: point.len() as CK_ULONG,
            pPublicData: point.as_ptr().cast_mut(),
        };
        let mut mechanism = CK_MECHANISM {
            mechanism: CKM_ECDH1_DERIVE,
            pParameter: (&raw mut parameter).cast(),
            ulParameterLen: size_of::<CK_ECDH1_DERIVE_PARAMS>() as CK_ULONG,
        };
        let mut secret = template(secret);
        let (start, length) = (secret.as_mut_ptr(), secret.len() as CK_ULONG);
        let mut handle: CK_OBJECT_HANDLE = 0;
        call!(
            self.module,
            C_DeriveKey(self.handle, &raw mut mechanism, key.0, start, length, &raw mut handle)
        )?;
        Ok(Object(handle))
    }
}
