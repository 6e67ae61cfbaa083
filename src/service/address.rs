//! Addresses of keys: computed from what is public, wherever they are told.

use crate::{
    api::key::{Address, HsmKeySpec},
    model::address::NoAddress,
    public_key::PublicKey,
};

/// The address that a key was made with; `None` where it was made without.
///
/// # Errors
/// Where the key is none that has such an address.
pub fn of(spec: &HsmKeySpec, public: &PublicKey) -> Result<Option<Address>, NoAddress> {
    let Some(wanted) = spec.address_format else { return Ok(None) };
    let value = hex::encode_upper(public.address(wanted.format)?);
    Ok(Some(Address { format: wanted.format, value }))
}
