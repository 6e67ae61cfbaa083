//! Trees of keys: calls and attributes that are the vendor's own.

use super::*;

/// The vendor's derivation of a key pair, which is in no function list: a symbol of the library.
pub(super) type DeriveKeyPair = unsafe extern "C" fn(
    CK_SESSION_HANDLE,
    *mut CK_MECHANISM,
    CK_OBJECT_HANDLE,
    *mut CK_ATTRIBUTE,
    CK_ULONG,
    *mut CK_ATTRIBUTE,
    CK_ULONG,
    *mut CK_OBJECT_HANDLE,
    *mut CK_OBJECT_HANDLE,
) -> CK_RV;

/// The name of that symbol.
pub(super) const DERIVE_KEY_PAIR: &[u8] = b"C_DeriveKeyPair\0";

/// Numbers of a token that has trees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    /// `CKM_…` that derives along a path.
    pub derive: CK_MECHANISM_TYPE,
    /// `CKA_…` of the chain code.
    pub chain_code: CK_ATTRIBUTE_TYPE,
    /// Key types of the vendor's own, and those of the standard that they are otherwise like.
    pub key_types: Vec<(CK_KEY_TYPE, CK_KEY_TYPE)>,
}

/// `CK_SLIP10_CHILD_DERIVE_PARAMS`: a whole path.
#[repr(C)]
struct Path {
    indexes: *const CK_ULONG,
    count: CK_ULONG,
}

impl Module {
    /// Whether the library has the vendor's derivation of a pair.
    pub const fn derives_pairs(&self) -> bool {
        self.derive_key_pair.is_some()
    }

    /// From now on keys of trees are told of as what they are. Once, before there are sessions.
    pub fn has_trees(&self, tree: Tree) {
        // A second time it is the same.
        drop(self.tree.set(tree));
    }
}

impl Session {
    /// Numbers of trees, where the token has them.
    pub fn tree(&self) -> Option<&Tree> {
        self.module.tree.get()
    }

    /// The chain code of a key; `None` where it is in no tree.
    pub fn chain_code(&self, object: Object) -> Result<Option<Vec<u8>>, Failure> {
        let Some(tree) = self.tree() else { return Ok(None) };
        let [chain_code] = self.attributes(object, [tree.chain_code])?;
        Ok(chain_code.filter(|bytes| !bytes.is_empty()))
    }

    /// The standard's word for a key type.
    pub(super) fn plain(&self, mut value: Vec<u8>) -> Vec<u8> {
        let own = self.tree().map(|tree| tree.key_types.as_slice()).unwrap_or_default();
        if let Some((_, plain)) = own.iter().find(|(own, _)| value == own.to_ne_bytes()) {
            value = plain.to_ne_bytes().to_vec();
        }
        value
    }

    /// Makes the master of a tree from a seed, which is the parameter of the mechanism; the result is its public and its
    /// private half.
    pub fn pair_of_seed(
        &self,
        kind: CK_MECHANISM_TYPE,
        seed: &[u8],
        public: &[Attribute],
        private: &[Attribute],
    ) -> Result<(Object, Object), Failure> {
        self.changes(&[public, private]);
        let (mut public, mut private) = (template(public), template(private));
        let (mut public_handle, mut private_handle): (CK_OBJECT_HANDLE, CK_OBJECT_HANDLE) = (0, 0);
        let (publics, privates) = (public.len() as CK_ULONG, private.len() as CK_ULONG);
        let mut mechanism = CK_MECHANISM {
            mechanism: kind,
            pParameter: seed.as_ptr().cast_mut().cast(),
            ulParameterLen: seed.len() as CK_ULONG,
        };
        call!(
            inside::Call::to_make_a_key(kind),
            self.module,
            C_GenerateKeyPair(
                self.handle,
                &raw mut mechanism,
                public.as_mut_ptr(),
                publics,
                private.as_mut_ptr(),
                privates,
                &raw mut public_handle,
                &raw mut private_handle,
            )
        )?;
        Ok((Object(public_handle), Object(private_handle)))
    }

    /// Derives a key pair along a path; the result is its public and its private half.
    pub fn derive_pair(
        &self,
        base: Object,
        path: &[u32],
        public: &[Attribute],
        private: &[Attribute],
    ) -> Result<(Object, Object), Failure> {
        const FUNCTION: &str = "C_DeriveKeyPair";
        self.changes(&[public, private]);
        let failed = |code| Failure { code, function: FUNCTION };
        let unknown = || failed(CKR_FUNCTION_NOT_SUPPORTED);
        let derive = self.module.derive_key_pair.ok_or_else(unknown)?;
        let kind = self.tree().ok_or_else(unknown)?.derive;
        let indexes: Vec<CK_ULONG> = path.iter().map(|index| CK_ULONG::from(*index)).collect();
        let mut path = Path { indexes: indexes.as_ptr(), count: indexes.len() as CK_ULONG };
        let mut mechanism = CK_MECHANISM {
            mechanism: kind,
            pParameter: (&raw mut path).cast(),
            ulParameterLen: size_of::<Path>() as CK_ULONG,
        };
        let (mut public, mut private) = (template(public), template(private));
        let (mut public_handle, mut private_handle): (CK_OBJECT_HANDLE, CK_OBJECT_HANDLE) = (0, 0);
        let _inside = inside::Call::begin();
        // SAFETY: the type is the one that the vendor's samples give to this symbol; every argument is a value or points
        // to memory that lives until the call returns and is as long as the length beside it says.
        let code = unsafe {
            derive(
                self.handle,
                &raw mut mechanism,
                base.0,
                public.as_mut_ptr(),
                public.len() as CK_ULONG,
                private.as_mut_ptr(),
                private.len() as CK_ULONG,
                &raw mut public_handle,
                &raw mut private_handle,
            )
        };
        match code {
            CKR_OK => Ok((Object(public_handle), Object(private_handle))),
            code => Err(failed(code)),
        }
    }
}
