//! Attestation by the HSM itself: a call that is the vendor's own.

use super::*;

/// The vendor's attestation of a key, which is in no function list: a symbol of the library.
pub(super) type AttestKey = unsafe extern "C" fn(
    CK_SESSION_HANDLE,
    *mut CK_MECHANISM,
    CK_OBJECT_HANDLE,
    CK_OBJECT_HANDLE,
    *mut CK_BYTE,
    *mut CK_ULONG,
    *mut CK_BYTE,
    *mut CK_ULONG,
) -> CK_RV;

/// The name of that symbol.
pub(super) const ATTEST_KEY: &[u8] = b"C_RKSAttestKey\0";
const FUNCTION: &str = "C_RKSAttestKey";

/// Room for the document at first. One without a policy has 2 KiB.
const DOCUMENT: usize = 64 * 1024;
/// No document is believed to be larger.
const DOCUMENT_MAX: usize = 4 * 1024 * 1024;

/// A document and the signature over it, as the module wrote them.
pub struct Document {
    /// The exact bytes that are signed.
    pub xml: Vec<u8>,
    /// The signature.
    pub signature: Vec<u8>,
}

impl Module {
    /// Whether the library has the vendor's attestation.
    pub const fn attests_keys(&self) -> bool {
        self.attest_key.is_some()
    }
}

impl Session {
    /// Has the HSM describe a key and sign that. There is no question for the size first: each call makes a document of
    /// its own, with its own time.
    pub fn attest(&self, mechanism: &Mechanism, by: Object, key: Object) -> Result<Document, Failure> {
        let mut room = DOCUMENT;
        loop {
            match self.attest_into(mechanism, by, key, room) {
                Err(failure) if failure.code == CKR_BUFFER_TOO_SMALL && room < DOCUMENT_MAX => room *= 2,
                outcome => return outcome,
            }
        }
    }

    fn attest_into(
        &self,
        mechanism: &Mechanism,
        by: Object,
        key: Object,
        room: usize,
    ) -> Result<Document, Failure> {
        let failed = |code| Failure { code, function: FUNCTION };
        let attest = self.module.attest_key.ok_or_else(|| failed(CKR_FUNCTION_NOT_SUPPORTED))?;
        // The code does not say which of the two was too small.
        let (mut xml, mut signature) = (vec![0_u8; room], vec![0_u8; SIGNATURE_MAX.max(room / 8)]);
        let (mut xml_length, mut signature_length) = (xml.len() as CK_ULONG, signature.len() as CK_ULONG);
        let code = mechanism.with(|mechanism| {
            let _inside = inside::Call::begin();
            // SAFETY: the type is the one that the vendor's samples give to this symbol; every argument is a value or
            // points to memory that lives until the call returns and is as long as the length beside it says.
            unsafe {
                attest(
                    self.handle,
                    mechanism,
                    by.0,
                    key.0,
                    xml.as_mut_ptr(),
                    &raw mut xml_length,
                    signature.as_mut_ptr(),
                    &raw mut signature_length,
                )
            }
        });
        if code != CKR_OK {
            return Err(failed(code));
        }
        let fits = |length: CK_ULONG, buffer: &[u8]| {
            usize::try_from(length).ok().filter(|length| *length <= buffer.len())
        };
        let (Some(xml_length), Some(signature_length)) =
            (fits(xml_length, &xml), fits(signature_length, &signature))
        else {
            return Err(failed(CKR_GENERAL_ERROR));
        };
        xml.truncate(xml_length);
        signature.truncate(signature_length);
        Ok(Document { xml, signature })
    }
}
