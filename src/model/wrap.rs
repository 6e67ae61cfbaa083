//! Wrap methods of the REST contract (its section 2.7), as one table.

use super::{KeyAlgorithm, vocabulary::vocabulary};

vocabulary! {
    /// How a key is encrypted by another one, by the name of the contract. The name also says what kind of key is wrapped.
    WrapMethod {
        AesWrap = "AES_WRAP",
        AesWrapDsa = "AES_WRAP_DSA",
        AesWrapEc = "AES_WRAP_EC",
        AesWrapEd = "AES_WRAP_ED",
        AesWrapRsa = "AES_WRAP_RSA",
        AesWrapBls = "AES_WRAP_BLS",
        AesWrapPad = "AES_WRAP_PAD",
        AesWrapPadDsa = "AES_WRAP_PAD_DSA",
        AesWrapPadEc = "AES_WRAP_PAD_EC",
        AesWrapPadEd = "AES_WRAP_PAD_ED",
        AesWrapPadRsa = "AES_WRAP_PAD_RSA",
        AesWrapPadBls = "AES_WRAP_PAD_BLS",
        RsaWrapPad = "RSA_WRAP_PAD",
        RsaWrapOaep = "RSA_WRAP_OAEP",
    }
}

/// What is done to the bytes of the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrapping {
    /// RFC 3394: only what is whole blocks of eight bytes, and two of them at least.
    Kw,
    /// RFC 5649: anything.
    Kwp,
    /// RSAES-PKCS1-v1_5.
    Pkcs1,
    /// RSAES-OAEP with SHA-1, a mask with SHA-1, and no label.
    Oaep,
}

/// One method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WrapRow {
    /// What is done.
    pub wrapping: Wrapping,
    /// Type of the key that wraps.
    pub by: KeyAlgorithm,
    /// Type of the key that is wrapped. A secret key is wrapped as its bytes, a private one as PKCS #8.
    pub of: KeyAlgorithm,
}

impl WrapMethod {
    /// What the name stands for.
    #[must_use]
    pub const fn row(self) -> WrapRow {
        use KeyAlgorithm as K;
        use Wrapping::{Kw, Kwp, Oaep, Pkcs1};
        const fn row(wrapping: Wrapping, by: KeyAlgorithm, of: KeyAlgorithm) -> WrapRow {
            WrapRow { wrapping, by, of }
        }
        match self {
            Self::AesWrap => row(Kw, K::Aes, K::Aes),
            Self::AesWrapDsa => row(Kw, K::Aes, K::Dsa),
            Self::AesWrapEc => row(Kw, K::Aes, K::Ec),
            Self::AesWrapEd => row(Kw, K::Aes, K::Ed),
            Self::AesWrapRsa => row(Kw, K::Aes, K::Rsa),
            Self::AesWrapBls => row(Kw, K::Aes, K::Bls),
            Self::AesWrapPad => row(Kwp, K::Aes, K::Aes),
            Self::AesWrapPadDsa => row(Kwp, K::Aes, K::Dsa),
            Self::AesWrapPadEc => row(Kwp, K::Aes, K::Ec),
            Self::AesWrapPadEd => row(Kwp, K::Aes, K::Ed),
            Self::AesWrapPadRsa => row(Kwp, K::Aes, K::Rsa),
            Self::AesWrapPadBls => row(Kwp, K::Aes, K::Bls),
            Self::RsaWrapPad => row(Pkcs1, K::Rsa, K::Aes),
            Self::RsaWrapOaep => row(Oaep, K::Rsa, K::Aes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_is_named_after_what_it_does() {
        for method in WrapMethod::ALL {
            let WrapRow { wrapping, by, of } = method.row();
            let name = method.name();
            assert!(name.starts_with(by.name()), "{name}");
            assert_eq!(name.contains("OAEP"), wrapping == Wrapping::Oaep, "{name}");
            assert_eq!(name.contains("PAD"), matches!(wrapping, Wrapping::Kwp | Wrapping::Pkcs1), "{name}");
            assert_eq!(of != KeyAlgorithm::Aes, name.ends_with(&format!("_{of}")), "{name}");
        }
    }
}
