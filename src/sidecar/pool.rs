//! The gateways known now, their open connections, and which of them gets the next request.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::Instant;

use super::connect::Sender;

/// Unused connections kept per gateway.
const MAX_IDLE: usize = 64;
/// How long the connection's own task may take to notice that an answer is complete.
const SETTLE: Duration = Duration::from_secs(1);

/// All gateways.
#[derive(Debug)]
pub struct Pool {
    idle_timeout: Duration,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    peers: Vec<Peer>,
    /// Connections of an earlier epoch are not used again: they were made with a CA that may no longer count.
    epoch: u64,
    turn: usize,
}

#[derive(Debug)]
struct Peer {
    address: SocketAddr,
    outstanding: Arc<AtomicUsize>,
    idle: Vec<(Sender, Instant)>,
    avoid_until: Option<Instant>,
}

/// A gateway's slot for one request; counts as outstanding until dropped.
#[derive(Debug)]
pub struct Lease {
    pool: Arc<Pool>,
    address: SocketAddr,
    epoch: u64,
    outstanding: Arc<AtomicUsize>,
}

impl Lease {
    /// The gateway's address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// An open connection that was used a moment ago, if there is one.
    pub fn idle(&self) -> Option<Sender> {
        let mut inner = self.pool.lock();
        let oldest = Instant::now() - self.pool.idle_timeout;
        let peer = inner.peers.iter_mut().find(|peer| peer.address == self.address)?;
        while let Some((sender, since)) = peer.idle.pop() {
            if since >= oldest && sender.is_ready() {
                return Some(sender);
            }
        }
        None
    }

    /// Prefers other gateways for a while, and lets go of this one's unused connections.
    pub fn avoid(&self, how_long: Duration) {
        let mut inner = self.pool.lock();
        if let Some(peer) = inner.peers.iter_mut().find(|peer| peer.address == self.address) {
            peer.avoid_until = Some(Instant::now() + how_long);
            peer.idle.clear();
        }
    }

    /// Takes a connection back for the next request.
    pub fn keep(&self, sender: Sender) {
        let mut inner = self.pool.lock();
        let current = inner.epoch == self.epoch;
        let peer = inner.peers.iter_mut().find(|peer| peer.address == self.address);
        if let Some(peer) = peer.filter(|peer| current && peer.idle.len() < MAX_IDLE) {
            peer.idle.push((sender, Instant::now()));
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.outstanding.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pool {
    /// Knows no gateway yet.
    pub fn new(idle_timeout: Duration) -> Arc<Self> {
        Arc::new(Self { idle_timeout, inner: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over what a lookup found. Gateways that are gone get no further request.
    pub fn set_addresses(&self, mut addresses: Vec<SocketAddr>) {
        addresses.sort_unstable();
        addresses.dedup();
        let mut inner = self.lock();
        inner.peers.retain(|peer| addresses.contains(&peer.address));
        for address in addresses {
            if !inner.peers.iter().any(|peer| peer.address == address) {
                let outstanding = Arc::default();
                inner.peers.push(Peer { address, outstanding, idle: Vec::new(), avoid_until: None });
            }
        }
    }

    /// Chooses among the gateways that are not in `tried`: no trouble lately, then fewest outstanding, then turns.
    pub fn lease(self: &Arc<Self>, tried: &[SocketAddr]) -> Option<Lease> {
        let now = Instant::now();
        let mut inner = self.lock();
        inner.turn = inner.turn.wrapping_add(1);
        let (turn, epoch, count) = (inner.turn, inner.epoch, inner.peers.len());
        let chosen = inner
            .peers
            .iter()
            .enumerate()
            .filter(|(_, peer)| !tried.contains(&peer.address))
            .min_by_key(|(index, peer)| {
                let avoided = peer.avoid_until.is_some_and(|until| until > now);
                (avoided, peer.outstanding.load(Ordering::Relaxed), (index + turn) % count)
            })
            .map(|(_, peer)| (peer.address, peer.outstanding.clone()));
        let (address, outstanding) = chosen?;
        outstanding.fetch_add(1, Ordering::Relaxed);
        Some(Lease { pool: self.clone(), address, epoch, outstanding })
    }

    /// Ends all connections as soon as they are unused.
    pub fn renew(&self) {
        let mut inner = self.lock();
        inner.epoch += 1;
        for peer in &mut inner.peers {
            peer.idle.clear();
        }
    }

    /// Closes connections that were unused for too long.
    pub fn sweep(&self) {
        let oldest = Instant::now() - self.idle_timeout;
        for peer in &mut self.lock().peers {
            peer.idle.retain(|(sender, since)| *since >= oldest && !sender.is_closed());
        }
    }

    /// How many gateways are known.
    pub fn known(&self) -> usize {
        self.lock().peers.len()
    }
}

/// A gateway's answer on its way to the application. Gives the connection back when it is complete.
#[derive(Debug)]
pub struct Relayed {
    body: Incoming,
    connection: Option<(Lease, Option<Sender>)>,
}

impl Relayed {
    /// `sender` is `None` where the connection must not be used again.
    pub fn new(body: Incoming, lease: Lease, sender: Option<Sender>) -> Self {
        let mut relayed = Self { body, connection: Some((lease, sender)) };
        if relayed.body.is_end_stream() {
            relayed.give_back();
        }
        relayed
    }

    fn give_back(&mut self) {
        let Some((lease, Some(mut sender))) = self.connection.take() else { return };
        if sender.is_ready() {
            return lease.keep(sender);
        }
        tokio::spawn(async move {
            if let Ok(Ok(())) = tokio::time::timeout(SETTLE, sender.ready()).await {
                lease.keep(sender);
            }
        });
    }
}

impl Body for Relayed {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        let complete = match &polled {
            Poll::Ready(None) => true,
            Poll::Ready(Some(Ok(_))) => self.body.is_end_stream(),
            Poll::Ready(Some(Err(_))) | Poll::Pending => false,
        };
        if complete {
            self.give_back();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 8443))
    }

    fn pool() -> Arc<Pool> {
        let pool = Pool::new(Duration::from_secs(3));
        pool.set_addresses(vec![address(1), address(2), address(3)]);
        pool
    }

    #[test]
    fn the_gateway_with_the_fewest_requests_is_next() {
        let pool = pool();
        let held: Vec<Lease> = (0..6).map(|_| pool.lease(&[]).unwrap()).collect();
        let mut counts = [0; 3];
        for lease in &held {
            let SocketAddr::V4(v4) = lease.address() else { unreachable!() };
            counts[usize::from(v4.ip().octets()[3]) - 1] += 1;
        }
        assert_eq!(counts, [2, 2, 2]);
    }

    #[test]
    fn a_gateway_in_trouble_is_the_last_resort() {
        let pool = pool();
        let bad = pool.lease(&[]).unwrap();
        bad.avoid(Duration::from_secs(10));
        for _ in 0..20 {
            assert_ne!(pool.lease(&[]).unwrap().address(), bad.address());
        }
        pool.set_addresses(vec![bad.address()]);
        assert_eq!(pool.lease(&[]).unwrap().address(), bad.address());
    }

    #[test]
    fn nobody_is_asked_twice_for_one_request() {
        let pool = pool();
        let mut tried = Vec::new();
        while let Some(lease) = pool.lease(&tried) {
            assert!(!tried.contains(&lease.address()));
            tried.push(lease.address());
        }
        assert_eq!(tried.len(), 3);
    }
}
