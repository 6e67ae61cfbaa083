//! Camellia (RFC 3713) in the modes that PKCS#11 numbers, over another library's block cipher.

use camellia::{
    Camellia128, Camellia192, Camellia256,
    cipher::{Array, BlockCipherDecrypt, BlockCipherEncrypt, BlockSizeUser, KeyInit, consts::U16},
};

/// Bytes of a block.
pub const BLOCK: usize = 16;

/// How blocks go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Ecb,
    Cbc,
    /// With the padding of PKCS #7.
    CbcPad,
}

/// Why there is no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The key has no length that Camellia knows.
    Key,
    /// The input is not whole blocks.
    Length,
    /// The padding is none.
    Padding,
}

pub fn encrypt(mode: Mode, key: &[u8], iv: [u8; BLOCK], input: &[u8]) -> Result<Vec<u8>, Refused> {
    let mut data = input.to_vec();
    if mode == Mode::CbcPad {
        let missing = BLOCK - data.len() % BLOCK;
        data.resize(data.len() + missing, u8::try_from(missing).expect("at most a block"));
    }
    let (blocks, []) = data.as_chunks_mut::<BLOCK>() else { return Err(Refused::Length) };
    let mut before = iv;
    for block in blocks {
        if mode != Mode::Ecb {
            mix(block, before);
        }
        one(key, true, block)?;
        before = *block;
    }
    Ok(data)
}

pub fn decrypt(mode: Mode, key: &[u8], iv: [u8; BLOCK], input: &[u8]) -> Result<Vec<u8>, Refused> {
    let mut data = input.to_vec();
    let (blocks, []) = data.as_chunks_mut::<BLOCK>() else { return Err(Refused::Length) };
    let mut before = iv;
    for block in blocks {
        let sealed = *block;
        one(key, false, block)?;
        if mode != Mode::Ecb {
            mix(block, before);
        }
        before = sealed;
    }
    if mode == Mode::CbcPad {
        let last = *data.last().ok_or(Refused::Length)?;
        let rest = data.len().checked_sub(usize::from(last)).ok_or(Refused::Padding)?;
        if !(1..=BLOCK).contains(&usize::from(last)) || data[rest..].iter().any(|byte| *byte != last) {
            return Err(Refused::Padding);
        }
        data.truncate(rest);
    }
    Ok(data)
}

fn mix(block: &mut [u8; BLOCK], with: [u8; BLOCK]) {
    block.iter_mut().zip(with).for_each(|(byte, other)| *byte ^= other);
}

fn one(key: &[u8], forwards: bool, block: &mut [u8; BLOCK]) -> Result<(), Refused> {
    match key.len() {
        16 => with::<Camellia128>(key, forwards, block),
        24 => with::<Camellia192>(key, forwards, block),
        32 => with::<Camellia256>(key, forwards, block),
        _ => Err(Refused::Key),
    }
}

fn with<C>(key: &[u8], forwards: bool, block: &mut [u8; BLOCK]) -> Result<(), Refused>
where
    C: KeyInit + BlockCipherEncrypt + BlockCipherDecrypt + BlockSizeUser<BlockSize = U16>,
{
    let cipher = C::new_from_slice(key).map_err(|_| Refused::Key)?;
    let block: &mut Array<u8, U16> = block.into();
    if forwards {
        cipher.encrypt_block(block)
    } else {
        cipher.decrypt_block(block)
    }
    Ok(())
}
