//! Several tokens with the same keys: the primary, which does everything, and replicas, which only sign.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use futures::{StreamExt, stream::FuturesUnordered};
use moka::sync::Cache;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use super::{
    Hsm, Source,
    canary::Canary,
    health::Standing,
    label_of,
    member::{Following, Hosted, Member, OnChange},
    protocol::{HsmError, Kind, Lane, Reply, Request, TokenFacts},
};
use crate::model::KeyId;

/// Name of the partition's own token among others.
pub const PRIMARY: &str = "primary";
/// For so long what is held against a token for one key is held against it.
const LASTS: Duration = Duration::from_secs(30);

/// Tokens with the same keys. Signatures and random bytes come from whichever has least to do, and from another one if
/// that one fails: there is no harm in making them twice. What changes a token, and what it says of its keys, is the
/// primary's alone: a replica may be behind, and its "found nothing" must not make a second key.
pub struct Replicas {
    set: ArcSwap<Set>,
    /// How long a signature may take.
    limit: Duration,
    canary: watch::Sender<Option<Canary>>,
    flaws: Cache<(Source, KeyId), Flaw>,
    on_change: OnChange,
    on_failover: Box<dyn Fn() + Send + Sync>,
}

/// Who is there.
#[derive(Default)]
struct Set {
    primary: Option<Arc<Member>>,
    replicas: Vec<Arc<Member>>,
    /// The number of the next one.
    next: u32,
}

impl Set {
    fn all(&self) -> impl Iterator<Item = &Arc<Member>> {
        self.primary.iter().chain(&self.replicas)
    }
}

/// What is held against a member for one key alone, which no canary shows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flaw {
    /// A replica does not have it yet, or not to sign so: it is not asked.
    Lacks,
    /// A signature with it was wrong: others are asked first.
    Wrong,
}

/// How willingly a member is given a call; the first of these before the others.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Well,
    /// Its token-host is just being replaced, which takes a moment.
    Restarting,
    Slow,
    Out,
    /// It says what the keys are, so that it may always try.
    Primary,
    /// It was wrong with this key a while ago. Its signatures with it are all checked.
    Wrong,
    /// It was wrong about this very payload.
    Again,
}

/// A signature that is being looked for.
struct Search {
    key: Option<KeyId>,
    but: Vec<Source>,
    tried: Vec<Source>,
    /// What is told if nobody signs: what the primary said, or else the last replica.
    said: Option<HsmError>,
    /// Somebody failed, or kept us waiting.
    failed: bool,
}

/// The last attempt at a signature.
struct Latest {
    member: Arc<Member>,
    begun: Instant,
    /// Answers of the member when it was last looked at.
    answers: u64,
}

impl Latest {
    fn of(member: &Arc<Member>) -> Self {
        Self { member: Arc::clone(member), begun: Instant::now(), answers: member.answers() }
    }

    /// Whether somebody else had better try, too: because the member answers nobody, or because this call takes so
    /// long. A token that answers others is only slow, and more work is the last thing that it needs.
    fn is_late(&mut self, patience: Duration) -> bool {
        let answers = self.member.answers();
        if std::mem::replace(&mut self.answers, answers) == answers {
            self.member.slow();
            return true;
        }
        self.begun.elapsed() >= patience
    }
}

impl Replicas {
    /// Nobody yet. `limit` is how long a signature may take.
    #[must_use]
    pub fn new(limit: Duration, on_change: OnChange, on_failover: Box<dyn Fn() + Send + Sync>) -> Self {
        Self {
            set: ArcSwap::default(),
            limit,
            canary: watch::Sender::new(None),
            flaws: Cache::builder().max_capacity(10_000).time_to_live(LASTS).build(),
            on_change,
            on_failover,
        }
    }

    /// From now on these. Those that were there before keep their health. Not for two callers at a time.
    pub fn update(&self, primary: Option<Arc<dyn Hosted>>, replicas: Vec<(String, Arc<dyn Hosted>)>) {
        let old = self.set.load_full();
        let mut next = old.next;
        let alone = replicas.is_empty();
        let same =
            |one: &Member, hsm: &Arc<dyn Hosted>| std::ptr::addr_eq(Arc::as_ptr(one.hsm()), Arc::as_ptr(hsm));
        let mut number = || {
            next += 1;
            Source(next)
        };
        let primary = primary.map(|hsm| {
            let known =
                old.primary.as_ref().filter(|one| same(one, &hsm) && old.replicas.is_empty() == alone);
            known.cloned().unwrap_or_else(|| {
                Arc::new(if alone {
                    Member::alone(number(), PRIMARY, hsm)
                } else {
                    Member::followed(number(), PRIMARY, hsm, true, self.following())
                })
            })
        });
        let replicas = replicas.into_iter().map(|(name, hsm)| {
            let known = old.replicas.iter().find(|one| one.name() == name && same(one, &hsm));
            known
                .cloned()
                .unwrap_or_else(|| Arc::new(Member::followed(number(), &name, hsm, false, self.following())))
        });
        let replicas = replicas.collect();
        self.set.store(Arc::new(Set { primary, replicas, next }));
    }

    fn following(&self) -> Following {
        Following {
            canary: self.canary.subscribe(),
            limit: self.limit / 2,
            on_change: Arc::clone(&self.on_change),
        }
    }

    /// What shows that a token has the keys. Until it is known, no replica signs.
    pub fn set_canary(&self, canary: Option<Canary>) {
        self.canary.send_if_modified(|old| {
            let differs = *old != canary;
            *old = canary;
            differs
        });
    }

    /// The primary and the replicas, in their order.
    #[must_use]
    pub fn members(&self) -> (Option<Arc<Member>>, Vec<Arc<Member>>) {
        let set = self.set.load();
        (set.primary.clone(), set.replicas.clone())
    }

    /// Carries out a request; of several tokens not by one of `but`, if another can.
    async fn carry_out(&self, request: Request, but: &[Source]) -> Result<(Reply, Source), HsmError> {
        let primary = {
            let set = self.set.load();
            if !set.replicas.is_empty() && request.is_stateful() {
                return Err(copies());
            }
            // The certificates that go with an attestation are the primary's.
            let of_primary = matches!(request, Request::Attest { .. });
            let by_any = !set.replicas.is_empty() && request.lane() == Lane::Sign && !of_primary;
            if by_any { None } else { Some(set.primary.clone().ok_or_else(closed)?) }
        };
        match primary {
            Some(primary) => Ok((primary.hsm().call(request).await?, primary.source())),
            // Apart, so that the other way has nothing to carry.
            None => Box::pin(self.sign(request, but)).await,
        }
    }

    async fn sign(&self, request: Request, but: &[Source]) -> Result<(Reply, Source), HsmError> {
        let set = self.set.load_full();
        let deadline = Instant::now() + self.limit;
        let key = match &request {
            Request::Sign { key, .. } | Request::SignInContext { key, .. } => Some(key.clone()),
            // What a replica derives from a master says nothing of the master there.
            _ => None,
        };
        let mut search = Search { key, but: but.to_vec(), tried: Vec::new(), said: None, failed: false };
        let attempt = |member: Arc<Member>, again: bool| {
            let request = request.clone();
            async move {
                let outcome = if again {
                    member.attempt_again(request, deadline).await
                } else {
                    member.attempt(request, deadline).await
                };
                (member, again, outcome)
            }
        };
        let mut attempts = FuturesUnordered::new();
        let mut next = self.best(&set, &search).cloned();
        let mut latest: Option<Latest> = None;
        loop {
            if let Some(member) = next.take() {
                search.tried.push(member.source());
                latest = Some(Latest::of(&member));
                attempts.push(attempt(member, false));
            }
            tokio::select! {
                Some((member, again, outcome)) = attempts.next() => {
                    match outcome {
                        Ok(reply) => {
                            if search.failed && search.tried.first() != Some(&member.source()) {
                                (self.on_failover)();
                            }
                            return Ok((reply, member.source()));
                        }
                        Err(error) if error.kind == Kind::Poisonous && !again => {
                            // Nobody else gets it before it is known whose fault it is.
                            latest = None;
                            attempts.push(attempt(member, true));
                            continue;
                        }
                        Err(error) if self.is_final(&set, &member, &error, &mut search) => return Err(error),
                        Err(_) => {}
                    }
                    // Whoever gets it when the time is over works for nobody.
                    let in_time = Instant::now() < deadline;
                    next = self.best(&set, &search).filter(|_| in_time).cloned();
                    if next.is_none() && attempts.is_empty() {
                        return Err(search.said.unwrap_or_else(nobody));
                    }
                }
                () = sleep(self.limit / 8), if latest.is_some() => {
                    // A token-host may take longer than this to be there again; nobody else gets what it died of.
                    let suspect = |latest: &Latest| latest.member.hsm().suspects(&request);
                    if latest.as_mut().is_some_and(|latest| latest.is_late(self.limit / 2) && !suspect(latest)) {
                        search.failed = true;
                        let well = |one: &&Arc<Member>| self.rank(&set, one, &search) == Some(Rank::Well);
                        next = self.best(&set, &search).filter(well).cloned();
                    }
                }
                else => return Err(search.said.unwrap_or_else(nobody)),
            }
        }
    }

    /// Whether an error is the answer. If not, another member may do better.
    fn is_final(&self, set: &Set, member: &Arc<Member>, error: &HsmError, search: &mut Search) -> bool {
        let primary = is_primary(set, member);
        let mut said = error.clone();
        match error.kind {
            // What one library does not stand, the next one does not either.
            Kind::Invalid | Kind::Poisonous => return true,
            Kind::KeyNotFound | Kind::Ambiguous | Kind::Unsupported | Kind::Forbidden => {
                if primary {
                    return true;
                }
                if let Some(key) = &search.key {
                    self.flaws.insert((member.source(), key.clone()), Flaw::Lacks);
                }
                let message = format!(
                    "replica {} cannot sign with the key ({error}), and the primary is not reached",
                    member.name()
                );
                said = HsmError::new(Kind::Unavailable, message);
            }
            Kind::Busy => {}
            _ => search.failed = true,
        }
        if primary || search.said.is_none() {
            search.said = Some(said);
        }
        false
    }

    /// Who signs next.
    fn best<'a>(&self, set: &'a Set, search: &Search) -> Option<&'a Arc<Member>> {
        let left = set.all().filter(|one| !search.tried.contains(&one.source()));
        let able = left.filter_map(|one| Some((self.rank(set, one, search)?, one.in_flight(), one)));
        able.min_by_key(|(rank, in_flight, _)| (*rank, *in_flight)).map(|(_, _, one)| one)
    }

    fn rank(&self, set: &Set, member: &Arc<Member>, search: &Search) -> Option<Rank> {
        let primary = is_primary(set, member);
        let flaw = search.key.as_ref().and_then(|key| self.flaws.get(&(member.source(), key.clone())));
        if flaw == Some(Flaw::Lacks) {
            return None;
        }
        let rank = match member.standing() {
            Standing::In if member.hsm().running() => Rank::Well,
            Standing::In => Rank::Restarting,
            Standing::Slow => Rank::Slow,
            Standing::Out if member.hsm().running() => Rank::Out,
            Standing::Out | Standing::Barred if primary => Rank::Primary,
            Standing::Out | Standing::Barred => return None,
        };
        Some(match flaw {
            _ if search.but.contains(&member.source()) => Rank::Again,
            Some(_) => Rank::Wrong,
            None => rank,
        })
    }
}

#[async_trait]
impl Hsm for Replicas {
    async fn call(&self, request: Request) -> Result<Reply, HsmError> {
        Ok(self.carry_out(request, &[]).await?.0)
    }

    async fn call_but(&self, request: Request, but: &[Source]) -> Result<(Reply, Source), HsmError> {
        self.carry_out(request, but).await
    }

    fn wrong(&self, source: Source, key: &KeyId) -> String {
        let set = self.set.load();
        let member = set.all().find(|one| one.source() == source);
        match member {
            // One that is alone has nobody to take its place.
            Some(member) if !set.replicas.is_empty() => {
                self.flaws.insert((source, key.clone()), Flaw::Wrong);
                member.wrong();
                member.name().to_owned()
            }
            _ => label_of(self),
        }
    }

    /// The primary as it presented itself, or a replica if the primary never did.
    fn token(&self) -> Option<Arc<TokenFacts>> {
        self.set.load().all().find_map(|one| one.hsm().token())
    }
}

fn is_primary(set: &Set, member: &Arc<Member>) -> bool {
    set.primary.as_ref().is_some_and(|primary| Arc::ptr_eq(primary, member))
}

fn closed() -> HsmError {
    let message = "the partition's own token is not opened; the partition's conditions say why";
    HsmError::new(Kind::Unavailable, message)
}

fn copies() -> HsmError {
    let message = "the partition has replicas: each would sign with the same parts of a copy of an LMS or XMSS key, and whoever has two such signatures can forge others. These keys are for partitions without replicas";
    HsmError::new(Kind::Unsupported, message)
}

fn nobody() -> HsmError {
    HsmError::new(Kind::Unavailable, "no token of the partition can sign; its condition Signable says why")
}

#[cfg(test)]
mod tests;
