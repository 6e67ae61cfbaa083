//! Keys that leave a token and come to it encrypted by another key.

use super::*;

/// First guess at the length of a wrapped key: RSA-8192 in PKCS #8 fits.
const WRAPPED_GUESS: usize = 8 * 1024;

impl Session {
    /// Encrypts a key by another one.
    pub fn wrap(&self, cipher: &Cipher<'_>, by: Object, key: Object) -> Result<Vec<u8>, Failure> {
        let into = |room: usize| {
            let mut out = vec![0; room];
            let mut length = out.len() as CK_ULONG;
            let (done, _) = cipher.with(|mechanism| {
                call!(
                    self.module,
                    C_WrapKey(self.handle, mechanism, by.0, key.0, out.as_mut_ptr(), &raw mut length)
                )
            });
            done?;
            match usize::try_from(length) {
                Ok(length) if length <= out.len() => out.truncate(length),
                _ => return Err(Failure { code: CKR_GENERAL_ERROR, function: "C_WrapKey" }),
            }
            Ok(out)
        };
        match into(WRAPPED_GUESS) {
            Err(failure) if failure.code == CKR_BUFFER_TOO_SMALL => into(8 * WRAPPED_GUESS),
            wrapped => wrapped,
        }
    }

    /// Decrypts a key by another one, and makes an object of it.
    pub fn unwrap(
        &self,
        cipher: &Cipher<'_>,
        by: Object,
        wrapped: &[u8],
        attributes: &[Attribute],
    ) -> Result<Object, Failure> {
        self.changes(&[attributes]);
        let mut template = template(attributes);
        let (start, count) = (template.as_mut_ptr(), template.len() as CK_ULONG);
        let (data, length) = (wrapped.as_ptr().cast_mut(), wrapped.len() as CK_ULONG);
        let mut handle: CK_OBJECT_HANDLE = 0;
        let (done, _) = cipher.with(|mechanism| {
            call!(
                self.module,
                C_UnwrapKey(self.handle, mechanism, by.0, data, length, start, count, &raw mut handle)
            )
        });
        done?;
        Ok(Object(handle))
    }
}
