//! What a key consists of, on its way onto a token or off it. Nowhere else is it held.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::secret::Plaintext;

/// The part of a key that makes it a secret, in the numbers that PKCS#11 takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Material {
    /// A secret key: its bytes.
    Secret(Plaintext),
    /// An RSA key.
    Rsa(Box<RsaNumbers>),
    /// A key on a curve: the scalar, as long as the curve's order, big-endian; of Ed25519 and Ed448 the seed (RFC 8032).
    Scalar(Plaintext),
    /// A DSA key: the private number, big-endian. The group is that of the public half.
    Exponent(Plaintext),
}

/// An RSA key of two primes (RFC 8017, A.1.2): big-endian, without zeros on the left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the numbers have the names of the standard")]
pub struct RsaNumbers {
    pub modulus: Bytes,
    pub public_exponent: Bytes,
    pub private_exponent: Plaintext,
    pub prime1: Plaintext,
    pub prime2: Plaintext,
    pub exponent1: Plaintext,
    pub exponent2: Plaintext,
    pub coefficient: Plaintext,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn material_is_never_printed_and_survives_a_frame() {
        let secret = || Plaintext::from(b"s3cret".to_vec());
        let rsa = RsaNumbers {
            modulus: Bytes::from_static(b"n"),
            public_exponent: Bytes::from_static(b"e"),
            private_exponent: secret(),
            prime1: secret(),
            prime2: secret(),
            exponent1: secret(),
            exponent2: secret(),
            coefficient: secret(),
        };
        for material in [
            Material::Secret(secret()),
            Material::Scalar(secret()),
            Material::Exponent(secret()),
            Material::Rsa(Box::new(rsa)),
        ] {
            let printed = format!("{material:?}");
            let as_numbers = format!("{:?}", b"s3cret");
            assert!(!printed.contains("s3cret") && !printed.contains(&as_numbers), "{printed}");
            let bytes = postcard::to_allocvec(&material).unwrap();
            assert_eq!(postcard::from_bytes::<Material>(&bytes).unwrap(), material);
        }
    }
}
