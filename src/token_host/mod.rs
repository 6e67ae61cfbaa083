//! The child process that alone loads a PKCS#11 module.
//!
//! Its parent speaks to it over two socket pairs ([`crate::hsm::protocol`]). It may crash, hang or leak; nothing of
//! it is worth keeping.

mod agreement;
mod attest;
mod capability;
mod cipher;
mod context;
mod data;
mod dsa;
mod error;
mod export;
mod import;
mod index;
mod inside;
mod intake;
mod inventory;
mod ladder;
mod lone;
mod mechanism;
mod mechanism_names;
mod object;
mod overlooked;
mod parameter_set;
mod pool;
mod probe;
mod public;
mod quirk;
mod raw;
mod removal;
mod secret;
mod seed;
mod socket;
mod stateful;
mod token;
mod tree;
mod wrapping;

use std::{os::unix::net::UnixStream, sync::Arc, time::Instant};

use crate::hsm::{
    frame::{self, Broken},
    protocol::{HsmError, Kind, LAST_WORDS, Reply, Request},
};
use pool::Pool;
use socket::{Inbox, Out};
use token::Token;

pub use error::page as errors_page;

/// Why the process cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Standard input or output is not a socket, or it broke.
    #[error("cannot use standard input and output as the sockets to the parent")]
    Socket(#[from] std::io::Error),
    /// The system does not tell when the parent dies.
    #[error("cannot be sure to end with the parent")]
    Orphan(#[from] rustix::io::Errno),
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

/// Serves the sockets on standard input and output until their end, then ends the process.
///
/// # Errors
/// [`Error`], for what cannot be answered over the socket.
pub fn run() -> Result<std::convert::Infallible, Error> {
    // Its parent may be killed, too.
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    crate::harden::harden();
    let [main, sign] = raw::take_sockets()?;
    end_with_last_words(&main);
    let out = Arc::new(Out::new(main.try_clone()?));
    let mut inbox = Inbox::new(main);
    let mut sign = Some(sign);
    let mut state = State::Fresh;
    loop {
        match inbox.next()? {
            Some((id, request)) => serve(&mut state, &mut sign, &out, id, request),
            None => raw::exit(0),
        }
    }
}

/// Has the parent told which request brings the process down, so that it is not held against those that merely share the
/// process with it.
fn end_with_last_words(main: &UnixStream) {
    raw::on_crash_tell(main, &frame::encode(LAST_WORDS, &Ok::<_, HsmError>(Reply::Crashed([0; 8]))));
    // A thread less would not be noticed, a process less is.
    std::panic::set_hook(Box::new(|panic| {
        raw::say_last_words();
        tracing::error!(%panic, "the token-host made a mistake and ends");
        raw::exit(pool::EXIT_RESTART);
    }));
}

fn serve(state: &mut State, sign: &mut Option<UnixStream>, out: &Arc<Out>, id: u64, request: Request) {
    let (asked, request) = match request {
        Request::Since(asked, request) => (asked.instant(), *request),
        request => (Instant::now(), request),
    };
    match (&*state, request) {
        (state, Request::Ping) => {
            if let State::Open { pool, .. } = state {
                pool.flush();
            }
            out.send(id, &Ok(Reply::Alive { making: inside::is_making(), longest: inside::longest() }));
        }
        (State::Fresh, Request::Open(open)) => {
            let workers = open.workers;
            let notes = Arc::clone(out);
            let took = move |rung, cause: &str| {
                notes.send(LAST_WORDS, &Ok(Reply::Recovery { rung, cause: cause.to_owned() }));
            };
            let opened = Token::open(open, took).and_then(|token| {
                let token = Arc::new(token);
                let sign = sign.take().expect("a token is opened once");
                let pool = Pool::start(&token, sign, out, workers).map_err(no_threads)?;
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
        (State::Open { token, pool }, Request::Workers(count)) => {
            let resized = pool.resize(token, count).map_err(no_threads);
            if let Err(error) = &resized {
                tracing::error!(error = error.message, "fewer threads sign than are wanted");
            }
            out.send(id, &resized.map(|()| Reply::Done));
        }
        (State::Fresh, _) => {
            out.send(id, &Err(HsmError::new(Kind::Unavailable, "the token is not open yet")));
        }
        (State::Refused(error), _) => out.send(id, &Err(error.clone())),
        (State::Open { token, pool }, request) => {
            let refused = token.refused().map_or(Ok(()), Err);
            if let Err(error) = refused.and_then(|()| pool.submit(id, request, asked)) {
                out.send(id, &Err(error));
            }
        }
    }
}

fn no_threads(error: std::io::Error) -> HsmError {
    HsmError::new(Kind::Device, format!("cannot start threads: {error}"))
}

#[cfg(test)]
mod tests {
    use std::{
        io::Read,
        os::fd::{AsFd, OwnedFd},
        process::{Command, Stdio},
    };

    use super::*;

    fn mistake() {
        raw::working_on(8);
        panic!("as told");
    }

    /// Says to this program, started once more, that it is the token-host.
    const CHILD: &str = "HSM_TEST_PANICS";

    #[test]
    fn a_mistake_of_ours_names_its_request_and_ends_the_process() {
        if std::env::var_os(CHILD).is_some() {
            let main: OwnedFd = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
            let main = UnixStream::from(main);
            end_with_last_words(&main);
            raw::working_on(7);
            drop(std::thread::spawn(mistake).join());
            unreachable!("the thread alone ended");
        }
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["token_host::tests::a_mistake_of_ours_names_its_request_and_ends_the_process", "--exact"])
            .env(CHILD, "")
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert_eq!(status.code(), Some(pool::EXIT_RESTART));
        let (mut said, mut frames) = (Vec::new(), frame::Frames::default());
        ours.read_to_end(&mut said).unwrap();
        frames.push(&said);
        let (id, reply) = frames.take::<Result<Reply, HsmError>>().unwrap().expect("last words");
        assert!(id == LAST_WORDS && matches!(reply, Ok(Reply::Crashed(id)) if id == 8_u64.to_le_bytes()));
    }
}
