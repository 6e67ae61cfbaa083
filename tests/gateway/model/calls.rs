//! Calls of whoever uses the gateway, right ones and wrong ones, at random.
//!
//! What they say depends on what is there, so that most of them make sense: they are numbers, and `Model` makes words of them.

use proptest::{
    collection::vec,
    prelude::{Just, Strategy, any, prop_oneof},
    sample::select,
};

/// Names that keys and data objects have, by number: few, so that they are taken, missing and taken again.
pub const NAMES: [&str; 8] = ["a", "B b \u{e9}", "c", "d@x", "e.f", "G-%2F", "attributes", "h"];
/// Passwords, by number. The first is none.
pub const WORDS: [&str; 3] = ["", "one", "zw\u{f6}lf \"2\""];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    App,
    /// May everything but use keys.
    Reader,
    /// May use and see them only.
    User,
    Nobody,
    /// May everything, in another namespace of the same partition.
    Neighbour,
    /// Sends a token that nobody knows, or none.
    Unknown,
    Silent,
}

impl Who {
    pub fn may(self, verb: &str) -> bool {
        match self {
            Self::App | Self::Neighbour => true,
            Self::Reader => verb != "use",
            Self::User => verb == "use" || verb == "get",
            Self::Nobody | Self::Unknown | Self::Silent => false,
        }
    }
}

/// How a body is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Twist {
    /// As it should be.
    Straight,
    /// With members that nobody knows.
    More,
    /// What is left out is null.
    Nulls,
    /// One member of another type: which, modulo.
    Wrong(u8),
    /// One of those that have to be there is not.
    Without(u8),
    /// One is null.
    Null(u8),
    /// The first member is there twice.
    Twice,
    /// The end is missing.
    Cut,
    /// A byte that is in no UTF-8.
    Bytes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Ec,
    Ed,
    Rsa,
    Aes,
    Mac,
}

impl Kind {
    pub const fn is_pair(self) -> bool {
        matches!(self, Self::Ec | Self::Ed | Self::Rsa)
    }

    /// Whether it is one of the uses of such keys.
    pub fn has(self, attribute: &str) -> bool {
        self.uses().contains(&attribute)
    }

    /// What such keys can do.
    pub const fn uses(self) -> &'static [&'static str] {
        match self {
            Self::Ec | Self::Ed | Self::Mac => &["sign"],
            Self::Rsa => &["sign", "decrypt", "unwrap"],
            Self::Aes => &["decrypt", "unwrap"],
        }
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::Ec => "EC",
            Self::Ed => "ED",
            Self::Rsa => "RSA",
            Self::Aes => "AES",
            Self::Mac => "HMACSHA256",
        }
    }
}

/// Attributes as they are asked for. Which uses make sense for the kind of key, `Model` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Has {
    /// All the uses that keys of the kind have, or none.
    pub uses: bool,
    pub extractable: Option<bool>,
    pub sensitive: Option<bool>,
    pub modifiable: Option<bool>,
    pub destroyable: Option<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Aes,
    PadEc,
    PadRsa,
    Oaep,
}

impl Method {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Aes => "AES_WRAP",
            Self::PadEc => "AES_WRAP_PAD_EC",
            Self::PadRsa => "AES_WRAP_PAD_RSA",
            Self::Oaep => "RSA_WRAP_OAEP",
        }
    }

    pub const fn by(self) -> Kind {
        if matches!(self, Self::Oaep) { Kind::Rsa } else { Kind::Aes }
    }

    pub const fn of(self) -> Kind {
        match self {
            Self::Aes | Self::Oaep => Kind::Aes,
            Self::PadEc => Kind::Ec,
            Self::PadRsa => Kind::Rsa,
        }
    }
}

/// What is asked for. `of` is what an earlier call gave: an even number something of the key that is named, if there is any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Create {
        label: u8,
        kind: Kind,
        has: Has,
        word: u8,
        policy: bool,
    },
    Import {
        label: u8,
        which: u8,
        has: Has,
        policy: bool,
    },
    List,
    Describe {
        label: u8,
        word: u8,
        old: bool,
    },
    Attest {
        label: u8,
        word: u8,
    },
    Address {
        label: u8,
        word: u8,
        old: bool,
    },
    Sign {
        label: u8,
        algorithm: u8,
        form: Option<&'static str>,
        word: u8,
    },
    Verify {
        label: u8,
        of: u8,
        flipped: bool,
    },
    Encrypt {
        label: u8,
        cipher: u8,
        word: u8,
    },
    Decrypt {
        label: u8,
        of: u8,
        flipped: bool,
        word: u8,
    },
    Mac {
        label: u8,
        word: u8,
    },
    VerifyMac {
        label: u8,
        of: u8,
        flipped: bool,
        word: u8,
    },
    Export {
        label: u8,
        word: u8,
        old: bool,
    },
    Wrap {
        by: u8,
        of: u8,
        method: u8,
        words: (u8, u8),
    },
    Unwrap {
        by: u8,
        label: u8,
        of: u8,
        flipped: bool,
        has: Has,
        word: u8,
    },
    Change {
        label: u8,
        old: u8,
        new: u8,
    },
    Delete {
        label: u8,
        word: u8,
        by_path: bool,
    },
    SelfSign {
        label: u8,
        word: u8,
        algorithm: u8,
    },
    Certificate {
        label: u8,
    },
    Uncertify {
        label: u8,
    },
    Keep {
        name: u8,
        value: u8,
        destroyable: Option<bool>,
    },
    Read {
        name: u8,
    },
    Forget {
        name: u8,
    },
    /// One of `Model::ODD`.
    Odd {
        which: u8,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    pub who: Who,
    pub twist: Twist,
    /// In which of its forms a password is written.
    pub form: u8,
    pub what: What,
}

fn who() -> impl Strategy<Value = Who> {
    prop_oneof![
        40 => Just(Who::App),
        5 => Just(Who::Neighbour),
        2 => Just(Who::Reader),
        2 => Just(Who::User),
        1 => Just(Who::Nobody),
        1 => select(&[Who::Unknown, Who::Silent][..]),
    ]
}

fn twist() -> impl Strategy<Value = Twist> {
    prop_oneof![
        40 => Just(Twist::Straight),
        4 => Just(Twist::More),
        4 => Just(Twist::Nulls),
        1 => any::<u8>().prop_map(Twist::Wrong),
        1 => any::<u8>().prop_map(Twist::Without),
        1 => any::<u8>().prop_map(Twist::Null),
        1 => select(&[Twist::Twice, Twist::Cut, Twist::Bytes][..]),
    ]
}

fn has() -> impl Strategy<Value = Has> {
    let mostly = |usual: bool| prop_oneof![4 => Just(Some(usual)), 1 => Just(Some(!usual)), 1 => Just(None)];
    let uses = prop_oneof![9 => Just(true), 1 => Just(false)];
    let extractable = prop_oneof![2 => Just(Some(true)), 1 => Just(Some(false)), 1 => Just(None)];
    let sensitive = any::<Option<bool>>();
    (uses, extractable, sensitive, mostly(true), mostly(true)).prop_map(
        |(uses, extractable, sensitive, modifiable, destroyable)| Has {
            uses,
            extractable,
            sensitive,
            modifiable,
            destroyable,
        },
    )
}

/// A number below 160 is a name that makes sense for the call, one below 224 of any key, and others are any name.
fn label() -> impl Strategy<Value = u8> {
    any::<u8>()
}

/// 0 is the right password of the key, whatever that is, and others are one of [`WORDS`].
fn word() -> impl Strategy<Value = u8> {
    prop_oneof![6 => Just(0), 1 => Just(1), 1 => Just(2), 1 => Just(3)]
}

/// A number below 128 is one of those that fit the key, and others are any.
fn fitting() -> impl Strategy<Value = u8> {
    prop_oneof![6 => 0..128_u8, 1 => 128..=255_u8]
}

fn seldom() -> impl Strategy<Value = bool> {
    prop_oneof![4 => Just(false), 1 => Just(true)]
}

fn makes() -> impl Strategy<Value = What> {
    // More of them have a password than not: what it guards is seen with one only.
    let first = select(&[1_u8, 2, 2, 3][..]);
    // RSA keys take a token a second; those that are imported do not.
    let kind = prop_oneof![
        5 => Just(Kind::Ec),
        3 => Just(Kind::Ed),
        1 => Just(Kind::Rsa),
        7 => Just(Kind::Aes),
        6 => Just(Kind::Mac),
    ];
    prop_oneof![
        4 => (label(), kind, has(), first, seldom())
            .prop_map(|(label, kind, has, word, policy)| What::Create { label, kind, has, word, policy }),
        3 => (label(), any::<u8>(), has(), seldom())
            .prop_map(|(label, which, has, policy)| What::Import { label, which, has, policy }),
        2 => (label(), label(), any::<u8>(), seldom(), has(), word())
            .prop_map(|(by, label, of, flipped, has, word)| What::Unwrap { by, label, of, flipped, has, word }),
    ]
}

fn uses() -> impl Strategy<Value = What> {
    let algorithm = fitting;
    let form = select(&[None, Some("DER"), Some("RAW")][..]);
    let (cipher, method) = (fitting, fitting);
    prop_oneof![
        4 => (label(), algorithm(), form, word())
            .prop_map(|(label, algorithm, form, word)| What::Sign { label, algorithm, form, word }),
        3 => (label(), any::<u8>(), seldom()).prop_map(|(label, of, flipped)| What::Verify { label, of, flipped }),
        3 => (label(), cipher(), word()).prop_map(|(label, cipher, word)| What::Encrypt { label, cipher, word }),
        3 => (label(), any::<u8>(), seldom(), word())
            .prop_map(|(label, of, flipped, word)| What::Decrypt { label, of, flipped, word }),
        2 => (label(), word()).prop_map(|(label, word)| What::Mac { label, word }),
        2 => (label(), any::<u8>(), seldom(), word())
            .prop_map(|(label, of, flipped, word)| What::VerifyMac { label, of, flipped, word }),
        3 => (label(), word(), seldom()).prop_map(|(label, word, old)| What::Export { label, word, old }),
        3 => (label(), label(), method(), word(), word())
            .prop_map(|(by, of, method, one, two)| What::Wrap { by, of, method, words: (one, two) }),
    ]
}

fn looks() -> impl Strategy<Value = What> {
    prop_oneof![
        1 => Just(What::List),
        4 => (label(), word(), seldom()).prop_map(|(label, word, old)| What::Describe { label, word, old }),
        1 => (label(), word()).prop_map(|(label, word)| What::Attest { label, word }),
        1 => (label(), word(), seldom()).prop_map(|(label, word, old)| What::Address { label, word, old }),
        2 => label().prop_map(|label| What::Certificate { label }),
        2 => label().prop_map(|name| What::Read { name }),
    ]
}

fn changes() -> impl Strategy<Value = What> {
    let algorithm = fitting;
    prop_oneof![
        4 => (label(), word(), word()).prop_map(|(label, old, new)| What::Change { label, old, new }),
        2 => (label(), word(), seldom()).prop_map(|(label, word, by_path)| What::Delete { label, word, by_path }),
        2 => (label(), word(), algorithm())
            .prop_map(|(label, word, algorithm)| What::SelfSign { label, word, algorithm }),
        1 => label().prop_map(|label| What::Uncertify { label }),
        3 => (label(), any::<u8>(), any::<Option<bool>>())
            .prop_map(|(name, value, destroyable)| What::Keep { name, value, destroyable }),
        2 => label().prop_map(|name| What::Forget { name }),
    ]
}

fn one() -> impl Strategy<Value = Call> {
    let odd = any::<u8>().prop_map(|which| What::Odd { which });
    let what = prop_oneof![4 => makes(), 12 => uses(), 3 => looks(), 6 => changes(), 1 => odd];
    (who(), twist(), any::<u8>(), what).prop_map(|(who, twist, form, what)| Call { who, twist, form, what })
}

/// A sequence of at most so many calls, of which the first make keys.
pub fn sequence(most: usize) -> impl Strategy<Value = Vec<Call>> {
    let who = prop_oneof![6 => Just(Who::App), 1 => Just(Who::Neighbour)];
    let first = (who, any::<u8>(), makes()).prop_map(|(who, form, what)| Call {
        who,
        twist: Twist::Straight,
        form,
        what,
    });
    let rest = vec(one(), most / 2..=most - FIRST);
    (vec(first, FIRST), rest).prop_map(|(first, rest)| [first, rest].concat())
}

/// How many calls make keys at first, or try to.
const FIRST: usize = 8;
