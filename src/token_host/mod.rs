//! The child process that alone loads a PKCS#11 module.
//!
//! Its parent speaks to it over a socket pair ([`crate::hsm::protocol`]). It may crash, hang or leak; nothing of
//! it is worth keeping.

mod capability;
mod error;
mod mechanism;
mod object;
mod pool;
mod public;
mod raw;
mod token;

use std::{io::Read, sync::Arc};

use zeroize::Zeroizing;

use crate::hsm::{
    frame::{Broken, Frames, PIECE},
    protocol::{HsmError, Kind, Reply, Request},
};
use pool::{Out, Pool};
use token::Token;

/// Why the process cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Standard input is not a socket, or it broke.
    #[error("cannot use standard input as the socket to the parent")]
    Socket(#[from] std::io::Error),
    /// The parent speaks another language.
    #[error("cannot understand the parent")]
    Frame(#[from] Broken),
}

/// What became of [`Request::Open`].
enum State {
    Fresh,
    Open { token: Arc<Token>, pool: Pool },
    Refused(HsmError),
}

/// Serves the socket on standard input until its end, then ends the process.
///
/// # Errors
/// [`Error`], for what cannot be answered over the socket.
pub fn run() -> Result<std::convert::Infallible, Error> {
    raw::harden();
    let mut socket = raw::take_stdin()?;
    let out = Arc::new(Out::new(socket.try_clone()?));
    let mut frames = Frames::default();
    let mut piece = Zeroizing::new(vec![0; PIECE]);
    let mut state = State::Fresh;
    loop {
        let length = match socket.read(&mut piece) {
            Ok(0) => raw::exit(0),
            Ok(length) => length,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error.into()),
        };
        frames.push(&piece[..length]);
        if !matches!(state, State::Open { .. }) {
            use zeroize::Zeroize;
            piece[..length].zeroize();
        }
        while let Some((id, request)) = frames.take::<Request>()? {
            serve(&mut state, &out, id, request);
        }
    }
}

fn serve(state: &mut State, out: &Arc<Out>, id: u64, request: Request) {
    match (&*state, request) {
        (_, Request::Ping) => out.send(id, &Ok(Reply::Done)),
        (State::Fresh, Request::Open(open)) => {
            let workers = open.workers;
            let opened = Token::open(open).and_then(|token| {
                let token = Arc::new(token);
                let pool = Pool::start(&token, out, workers)
                    .map_err(|e| HsmError::new(Kind::Device, format!("cannot start threads: {e}")))?;
                Ok((token, pool))
            });
            match opened {
                Ok((token, pool)) => {
                    out.send(id, &Ok(Reply::Opened(Box::new(token.facts.clone()))));
                    *state = State::Open { token, pool };
                }
                Err(error) => {
                    out.send(id, &Err(error.clone()));
                    *state = State::Refused(error);
                }
            }
        }
        (State::Fresh, _) => {
            out.send(id, &Err(HsmError::new(Kind::Unavailable, "the token is not open yet")));
        }
        (State::Refused(error), _) => out.send(id, &Err(error.clone())),
        (State::Open { token, pool }, request) => {
            let refused = token.refused().map_or(Ok(()), Err);
            if let Err(error) = refused.and_then(|()| pool.submit(id, request)) {
                out.send(id, &Err(error));
            }
        }
    }
}
