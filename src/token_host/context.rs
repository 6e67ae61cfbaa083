//! Signatures of ML-DSA and SLH-DSA in a context.

use cryptoki_sys::{CKR_ARGUMENTS_BAD, CKR_MECHANISM_PARAM_INVALID};

use super::{cipher::with_key, mechanism, raw::Session, token::Token};
use crate::{
    hsm::protocol::{HsmError, Kind, Reply},
    model::{KeyId, SignatureAlgorithm},
};

/// See [`crate::hsm::protocol::Request::SignInContext`].
pub fn sign(
    token: &Token,
    session: &Session,
    key: &KeyId,
    (algorithm, context, payload): (SignatureAlgorithm, &[u8], &[u8]),
) -> Result<Reply, HsmError> {
    if !algorithm.takes_context() {
        return Err(HsmError::new(Kind::Invalid, format!("signatures of {algorithm} have no context")));
    }
    with_key(token, session, key, |chosen| {
        let (mechanism, data) = mechanism::plan(algorithm, chosen.shape, &token.mechanisms, payload)?;
        let signed = session.sign_in_context(mechanism.kind, context, chosen.object, &data);
        signed.map(|signature| Reply::Signature(signature.into())).map_err(|failure| match failure.code {
            // What is wrong with the arguments can only be what is not there otherwise.
            CKR_MECHANISM_PARAM_INVALID | CKR_ARGUMENTS_BAD if failure.function == "C_SignInit" => HsmError {
                kind: Kind::Unsupported,
                message: format!(
                    "the token signs by {algorithm} without a context only: {}",
                    HsmError::from(failure).message
                ),
                code: Some(failure.code),
            },
            _ => failure.into(),
        })
    })
}
