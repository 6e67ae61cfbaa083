//! That the module of the derivation tests computes what the public specifications say.

use hsm_operator::{model::SignatureAlgorithm, public_key::PublicKey};

use crate::common::vendor::{SEED, curve::Curve, lms, schnorr, tree::Node, xmss};

const H: u32 = 1 << 31;

/// A path, and chain code, private and public key at its end.
pub type Row = (&'static [u32], &'static str, &'static str, &'static str);

/// Test vector 1 of BIP-32, and of SLIP-10 for secp256k1.
pub const SECP256K1: [Row; 6] = [
    (
        &[],
        "873dff81c02f525623fd1fe5167eac3a55a049de3d314bb42ee227ffed37d508",
        "e8f32e723decf4051aefac8e2c93c9c5b214313817cdb01a1494b917c8436b35",
        "0339a36013301597daef41fbe593a02cc513d0b55527ec2df1050e2e8ff49c85c2",
    ),
    (
        &[H],
        "47fdacbd0f1097043b78c63c20c34ef4ed9a111d980047ad16282c7ae6236141",
        "edb2e14f9ee77d26dd93b4ecede8d16ed408ce149b6cd80b0715a2d911a0afea",
        "035a784662a4a20a65bf6aab9ae98a6c068a81c52e4b032c0fb5400c706cfccc56",
    ),
    (
        &[H, 1],
        "2a7857631386ba23dacac34180dd1983734e444fdbf774041578e9b6adb37c19",
        "3c6cb8d0f6a264c91ea8b5030fadaa8e538b020f0a387421a12de9319dc93368",
        "03501e454bf00751f24b1b489aa925215d66af2234e3891c3b21a52bedb3cd711c",
    ),
    (
        &[H, 1, 2 + H],
        "04466b9cc8e161e966409ca52986c584f07e9dc81f735db683c3ff6ec7b1503f",
        "cbce0d719ecf7431d88e6a89fa1483e02e35092af60c042b1df2ff59fa424dca",
        "0357bfe1e341d01c69fe5654309956cbea516822fba8a601743a012a7896ee8dc2",
    ),
    (
        &[H, 1, 2 + H, 2],
        "cfb71883f01676f587d023cc53a35bc7f88f724b1f8c2892ac1275ac822a3edd",
        "0f479245fb19a38a1954c5c7c0ebab2f9bdfd96a17563ef28a6a4b1a2a764ef4",
        "02e8445082a72f29b75ca48748a914df60622a609cacfce8ed0e35804560741d29",
    ),
    (
        &[H, 1, 2 + H, 2, 1_000_000_000],
        "c783e67b921d2beb8f6b389cc646d7263b4145701dadd2161548a8b078e65e9e",
        "471b76e389e528d6de6d816857e012c5455051cad6660850e58372a6c3e6e7c8",
        "022a471424da5e657499d1ff51cb43c47481a03b1e77f951fe64cec9f5a48f7011",
    ),
];

/// Test vector 1 of SLIP-10 for P-256.
pub const P256: [Row; 4] = [
    (
        &[],
        "beeb672fe4621673f722f38529c07392fecaa61015c80c34f29ce8b41b3cb6ea",
        "612091aaa12e22dd2abef664f8a01a82cae99ad7441b7ef8110424915c268bc2",
        "0266874dc6ade47b3ecd096745ca09bcd29638dd52c2c12117b11ed3e458cfa9e8",
    ),
    (
        &[H],
        "3460cea53e6a6bb5fb391eeef3237ffd8724bf0a40e94943c98b83825342ee11",
        "6939694369114c67917a182c59ddb8cafc3004e63ca5d3b84403ba8613debc0c",
        "0384610f5ecffe8fda089363a41f56a5c7ffc1d81b59a612d0d649b2d22355590c",
    ),
    (
        &[H, 1],
        "4187afff1aafa8445010097fb99d23aee9f599450c7bd140b6826ac22ba21d0c",
        "284e9d38d07d21e4e281b645089a94f4cf5a5a81369acf151a1c3a57f18b2129",
        "03526c63f8d0b4bbbf9c80df553fe66742df4676b241dabefdef67733e070f6844",
    ),
    (
        &[H, 1, 2 + H],
        "98c7514f562e64e74170cc3cf304ee1ce54d6b6da4f880f313e8204c2a185318",
        "694596e8a54f252c960eb771a3c41e7e32496d03b954aeb90f61635b8e092aa7",
        "0359cf160040778a4b14c5f4d7b76e327ccc8c4a6086dd9451b7482b5a4972dda0",
    ),
];

/// Test vector 1 of SLIP-10 for Ed25519.
pub const ED25519: [Row; 4] = [
    (
        &[],
        "90046a93de5380a72b5e45010748567d5ea02bbf6522f979e05c0d8d8ca9fffb",
        "2b4be7f19ee27bbf30c667b642d5f4aa69fd169872f8fc3059c08ebae2eb19e7",
        "00a4b2856bfec510abab89753fac1ac0e1112364e7d250545963f135f2a33188ed",
    ),
    (
        &[H],
        "8b59aa11380b624e81507a27fedda59fea6d0b779a778918a2fd3590e16e9c69",
        "68e0fe46dfb67e368c75379acec591dad19df3cde26e63b93a8e704f1dade7a3",
        "008c8a13df77a28f3445213a0f432fde644acaa215fc72dcdf300d5efaa85d350c",
    ),
    (
        &[H, 1 + H],
        "a320425f77d1b5c2505a6b1b27382b37368ee640e3557c315416801243552f14",
        "b1d0bad404bf35da785a64ca1ac54b2617211d2777696fbffaf208f746ae84f2",
        "001932a5270f335bed617d5b935c80aedb1a35bd9fc1e31acafd5372c30f5c1187",
    ),
    (
        &[H, 1 + H, 2 + H],
        "2e69929e00b5ab250f49c3fb1c12f252de4fed2c1db88387094a0f8c4c9ccd6c",
        "92a5b23c0b8a99e37d07df3fb9966917f5d06e02ddbd909c7e184371463e9fc9",
        "00ae98736566d30ed0e9d2f4486a64bc95740d89c7db33f52121f8ea8f76ff0fc1",
    ),
];

#[test]
fn the_vectors_of_bip32_and_slip10() {
    let seed = hex::decode(SEED).unwrap();
    let all: [(Curve, &[Row]); 3] =
        [(Curve::Secp256k1, &SECP256K1), (Curve::P256, &P256), (Curve::Ed25519, &ED25519)];
    for (curve, rows) in all {
        let master = Node::master(curve, &seed);
        for (path, chain, private, public) in rows {
            let node = master.at(path).unwrap();
            assert_eq!(hex::encode(node.chain), *chain, "{curve:?} {path:?}");
            assert_eq!(hex::encode(node.private), *private, "{curve:?} {path:?}");
            assert_eq!(hex::encode(curve.compressed(&node.private)), *public, "{curve:?} {path:?}");
        }
    }
}

/// Test vectors of SLIP-10 for a step whose first try gives no key, and for a seed that gives none.
#[test]
fn what_gives_no_key_is_hashed_again() {
    let master = Node::master(Curve::P256, &hex::decode(SEED).unwrap());
    let node = master.at(&[28578 + H]).unwrap();
    assert_eq!(hex::encode(node.chain), "e94c8ebe30c2250a14713212f6449b20f3329105ea15b652ca5bdfc68f6c65c2");
    assert_eq!(hex::encode(node.private), "06f0db126f023755d0b8d86d4591718a5210dd8d024e3e14b6159d63f53aa669");
    let node = node.child(33941).unwrap();
    assert_eq!(hex::encode(node.chain), "9e87fe95031f14736774cd82f25fd885065cb7c358c1edf813c72af535e83071");
    assert_eq!(hex::encode(node.private), "092154eed4af83e078ff9b84322015aefe5769e31270f62c3f66c33888335f3a");
    let seed = hex::decode("a7305bc8df8d0951f0cb224c0e95d7707cbdf2c6ce7e8d481fec69c7ff5e9446").unwrap();
    let node = Node::master(Curve::P256, &seed);
    assert_eq!(hex::encode(node.private), "3b8c18469a4634517d6d0b65448f8e6c62091b45540a1743c5846be55d47d88f");
    assert_eq!(hex::encode(node.chain), "7762f9729fed06121fd13f326884c82f59aa95c57ac492ce8c9654e60efd130c");
}

#[test]
fn ed25519_has_hardened_steps_alone() {
    let master = Node::master(Curve::Ed25519, &[7; 32]);
    assert_eq!(master.child(0), None);
    assert_eq!(master.at(&[H, 5]), None);
    assert!(master.child(H).is_some());
}

/// Test vectors 0 to 3 of BIP-340.
#[test]
fn the_vectors_of_bip340() {
    let rows = [
        (
            "0000000000000000000000000000000000000000000000000000000000000003",
            "0000000000000000000000000000000000000000000000000000000000000000",
            "0000000000000000000000000000000000000000000000000000000000000000",
            "e907831f80848d1069a5371b402410364bdf1c5f8307b0084c55f1ce2dca8215\
             25f66a4a85ea8b71e482a74f382d2ce5ebeee8fdb2172f477df4900d310536c0",
        ),
        (
            "b7e151628aed2a6abf7158809cf4f3c762e7160f38b4da56a784d9045190cfef",
            "0000000000000000000000000000000000000000000000000000000000000001",
            "243f6a8885a308d313198a2e03707344a4093822299f31d0082efa98ec4e6c89",
            "6896bd60eeae296db48a229ff71dfe071bde413e6d43f917dc8dcf8c78de3341\
             8906d11ac976abccb20b091292bff4ea897efcb639ea871cfa95f6de339e4b0a",
        ),
        (
            "c90fdaa22168c234c4c6628b80dc1cd129024e088a67cc74020bbea63b14e5c9",
            "c87aa53824b4d7ae2eb035a2b5bbbccc080e76cdc6d1692c4b0b62d798e6d906",
            "7e2d58d8b3bcdf1abadec7829054f90dda9805aab56c77333024b9d0a508b75c",
            "5831aaeed7b44bb74e5eab94ba9d4294c49bcf2a60728d8b4c200f50dd313c1b\
             ab745879a5ad954a72c45a91c3a51d3c7adea98d82f8481e0e1e03674a6f3fb7",
        ),
        (
            "0b432b2677937381aef05bb02a66ecd012773062cf3fa2549e44f58ed2401710",
            "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
            "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
            "7eb0509757e246f19449885651611cb965ecc1a187dd51b64fda1edc9637d5ec\
             97582b9cb13db3933705b32ba982af5af25fd78881ebb32771fc5922efc66ea3",
        ),
    ];
    let number = |hex: &str| -> [u8; 32] { hex::decode(hex).unwrap().try_into().unwrap() };
    for (private, aux, message, signature) in rows {
        let made = schnorr::sign(&number(private), &number(aux), None, &number(message)).unwrap();
        assert_eq!(hex::encode(made), signature);
    }
}

/// The lower tree of test case 2 of RFC 8554: its key is what the upper one signs, and its signature of the message with
/// part 4 and the same randomizer is the same.
#[test]
fn a_vector_of_rfc8554() {
    let case =
        include_str!("../vectors/rfc8554.txt").lines().skip(4).map(|line| line.split_once(' ').unwrap().1);
    let case: Vec<_> = case.map(|hex| hex::decode(hex).unwrap()).collect();
    let [_, message, signature] = case.as_slice() else { panic!() };
    let number = |hex: &str| hex::decode(hex).unwrap();
    let key = lms::Key {
        id: number("215f83b7ccb9acbcd08db97b0d04dc2b").try_into().unwrap(),
        seed: number("a1c4696e2608035a886100d05cd99945eb3370731884a8235e2fb3d4d71f2547").try_into().unwrap(),
        tree: 5,
        one_time: 4,
    };
    // Numbers and a signature of the upper tree, of ten levels with chains of four bits, are before it.
    let lower = &signature[4 + 4 + 4 + 32 + 67 * 32 + 4 + 10 * 32..];
    let (public, signature) = lower.split_at(56);
    assert_eq!(hex::encode(&key.public()[4..]), hex::encode(public));
    let randomizer = signature[8..40].try_into().unwrap();
    assert_eq!(hex::encode(&key.sign(4, &randomizer, message)[4..]), hex::encode(signature));
}

/// The first parts of a tree are left of everything above them. These are on the right side of some nodes, and of all.
#[test]
fn signatures_of_xmss_with_parts_from_all_over_the_tree_are_right() {
    let key = xmss::Key { secret: [1; 32], public: [2; 32] };
    let nodes = key.nodes();
    let head = hex::decode("3053300a06082b06010505070622034500").unwrap();
    let public = PublicKey::from_spki(&[head, key.public(&nodes)].concat()).unwrap();
    for leaf in [0x2a5, 0x15a, xmss::LEAVES - 1] {
        let mut signature = key.sign(&nodes, leaf, &[3; 32], b"message");
        let fits = |signature: &[u8]| public.verify(SignatureAlgorithm::XmssSha2, b"message", signature);
        assert_eq!(fits(&signature), Ok(true), "{leaf:#x}");
        // Of another part.
        signature[3] ^= 2;
        assert_eq!(fits(&signature), Ok(false), "{leaf:#x}");
    }
}
