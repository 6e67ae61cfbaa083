//! What another process makes while this one changes the same token is there all the same. SoftHSM overlooks it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use hsm_operator::{
    hsm::{
        Hsm, Supervisor,
        protocol::{Find, HsmError, KeyFacts, Kind, Reply, Request},
    },
    model::{
        KeyLabel, SignatureAlgorithm,
        data::{DataAttributes, DataName, DataValue},
    },
    public_key::PublicKey,
};

use crate::{
    common::{
        faults::Faults,
        token::{Module, Token},
    },
    destroy, find, generate, id, inventory,
    load::Load,
    on_both_tokens, p256, sign,
};

on_both_tokens! {
    a_key_made_meanwhile_is_found_by_its_id_and_by_its_label,
    a_key_made_meanwhile_signs,
    a_key_made_meanwhile_is_destroyed,
    a_data_object_made_meanwhile_is_there,
    what_is_nowhere_is_looked_for_once_more_after_each_change,
    making_keys_starts_nothing_over,
    callers_that_sign_do_not_notice,
}

/// Counts starts and does nothing else to them.
const STARTS: &str = "C_Finalize delay=0";
/// Holds up a key between the look before it is made and the making, which may take as long with RSA.
const LATER: &str = "C_GenerateKeyPair times=1 delay=700";
const ALGORITHM: SignatureAlgorithm = SignatureAlgorithm::Sha256WithEcdsa;

/// Starts follow each other slowly on a busy machine, and who asks too soon is told to ask again.
async fn ask(hsm: &Supervisor, request: Request) -> Result<Reply, HsmError> {
    let begun = Instant::now();
    loop {
        match hsm.call(request.clone()).await {
            Err(error) if error.kind == Kind::Busy && begun.elapsed() < Duration::from_secs(20) => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            answer => return answer,
        }
    }
}

async fn look(hsm: &Supervisor, what: Find) -> Vec<KeyFacts> {
    match ask(hsm, Request::Find(what)).await {
        Ok(Reply::Keys(found)) => found,
        other => panic!("{other:?}"),
    }
}

/// Two processes on one token.
struct Two {
    one: Arc<Supervisor>,
    other: Arc<Supervisor>,
    faults: Faults,
    overlooks: bool,
}

impl Two {
    async fn new(token: &Token) -> Self {
        let faults = Faults::new(token);
        let one = Supervisor::start(faults.config());
        // While one logs in, the other may see no token.
        one.ready().await.expect("the token opens");
        let other = token.supervisor().await;
        Self { one, other, faults, overlooks: token.module == Module::SoftHsm }
    }

    /// Has something made while the one process changes the token. Returns the number of the rule that counts its starts.
    async fn meanwhile(&self, make: impl Future<Output = ()>) -> usize {
        destroy(&self.one, "own").await;
        let numbers = self.faults.set(&[STARTS, LATER]);
        let one = Arc::clone(&self.one);
        let change = tokio::spawn(async move { generate(&one, p256("own")).await });
        let begun = Instant::now();
        while self.faults.fired(numbers[1]) == 0 && begun.elapsed() < Duration::from_secs(5) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        make.await;
        assert!(!change.is_finished(), "it was made too late");
        change.await.unwrap().unwrap();
        numbers[0]
    }

    /// The library was started over as often as is needed, and nothing is said to be wrong with the token.
    fn started_over(&self, counter: usize, times: u64) {
        assert_eq!(self.faults.fired(counter), if self.overlooks { times } else { 0 });
        assert_eq!(self.one.recovery(), None);
    }

    async fn make(&self, name: &str) {
        generate(&self.other, p256(name)).await.unwrap();
    }
}

async fn a_key_made_meanwhile_is_found_by_its_id_and_by_its_label(token: Token) {
    let two = Two::new(&token).await;
    for (name, what) in [("a", Find::Id(id("a"))), ("b", Find::Label(KeyLabel::new("b").unwrap()))] {
        let counter = two.meanwhile(two.make(name)).await;
        let found = look(&two.one, what).await;
        assert_eq!((found.len(), found[0].twins), (1, 1), "{name}");
        assert!(found[0].public_key.is_some(), "{name}");
        two.started_over(counter, 1);
    }
}

async fn a_key_made_meanwhile_signs(token: Token) {
    let two = Two::new(&token).await;
    let counter = two.meanwhile(two.make("k")).await;
    sign(&two.one, "k", ALGORITHM, b"x").await.unwrap();
    two.started_over(counter, 1);
}

async fn a_key_made_meanwhile_is_destroyed(token: Token) {
    let two = Two::new(&token).await;
    let counter = two.meanwhile(two.make("k")).await;
    destroy(&two.one, "k").await;
    two.started_over(counter, 1);
    let left = inventory(&two.other).await;
    assert!(left.iter().all(|entry| entry.id != id("k").as_bytes()), "{left:?}");
}

async fn a_data_object_made_meanwhile_is_there(token: Token) {
    let attributes = DataAttributes { private: true, modifiable: true, destroyable: true };
    let two = Two::new(&token).await;
    let put = async |hsm: &Supervisor, name: &str| {
        let name = DataName::new("shop", name).unwrap();
        let value = DataValue::new(b"value".to_vec()).unwrap();
        match ask(hsm, Request::PutData { name, value, attributes }).await.unwrap() {
            Reply::DataKept(kept) => kept.is_some(),
            other => panic!("{other:?}"),
        }
    };
    let name = |name: &str| DataName::new("shop", name).unwrap();
    let made = async |name: &str| assert!(put(&two.other, name).await);

    let counter = two.meanwhile(made("b")).await;
    let read = ask(&two.one, Request::GetData(name("b"))).await.unwrap();
    assert!(matches!(read, Reply::Data(Some(_))), "{read:?}");
    two.started_over(counter, 1);
    let counter = two.meanwhile(made("c")).await;
    let gone = ask(&two.one, Request::DestroyData(name("c"))).await.unwrap();
    assert!(matches!(gone, Reply::DataGone(true)), "{gone:?}");
    two.started_over(counter, 1);
}

async fn what_is_nowhere_is_looked_for_once_more_after_each_change(token: Token) {
    let two = Two::new(&token).await;
    let counter = two.faults.set(&[STARTS])[0];
    let looks = async || {
        assert_eq!(look(&two.one, Find::Id(id("nowhere"))).await, []);
        assert_eq!(sign(&two.one, "nowhere", ALGORITHM, b"x").await.unwrap_err().kind, Kind::KeyNotFound);
        destroy(&two.one, "nowhere").await;
    };
    looks().await;
    two.started_over(counter, 0);
    for times in [1, 2] {
        generate(&two.one, p256(&format!("k{times}"))).await.unwrap();
        looks().await;
        looks().await;
        two.started_over(counter, times);
    }
}

/// That a key is not there before it is made is as usual.
async fn making_keys_starts_nothing_over(token: Token) {
    let two = Two::new(&token).await;
    let counter = two.faults.set(&[STARTS])[0];
    for number in 0..5 {
        let template = p256(&format!("k{number}"));
        let known = find(&two.one, Find::Known(template.label.clone())).await;
        assert_eq!(known, Ok(vec![]));
        let made = two.one.call(Request::Claim(template)).await.unwrap();
        assert!(matches!(made, Reply::Key(_)), "{made:?}");
    }
    destroy(&two.one, "k0").await;
    two.started_over(counter, 0);
}

async fn callers_that_sign_do_not_notice(token: Token) {
    let two = Two::new(&token).await;
    let facts = generate(&two.one, p256("k")).await.unwrap();
    let public = PublicKey::from_spki(&facts.public_key.unwrap()).unwrap();
    let load = Load::start(&two.one, "k", &Arc::new(public));
    load.proven(Duration::from_secs(5)).await.expect("well before");
    let counter = two.faults.set(&[STARTS])[0];
    for number in 0..3 {
        generate(&two.one, p256(&format!("k{number}"))).await.unwrap();
        assert_eq!(look(&two.one, Find::Id(id("nowhere"))).await, []);
    }
    load.proven(Duration::from_secs(5)).await.expect("well after");
    let tally = load.stop().await;
    assert_eq!((tally.failures(), tally.wrong), (0, 0), "{:?}", tally.said);
    two.started_over(counter, 3);
    assert_eq!(two.one.counters().restarts, 0);
}
