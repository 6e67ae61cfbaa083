//! What comes out of the sockets of a token-host.

use tokio::net::UnixStream;
use zeroize::{Zeroize, Zeroizing};

use super::{
    frame::{Frames, PIECE},
    link::Pipe,
    protocol::{HsmError, Reply},
};

/// The id of a request and what came of it.
pub(super) type Answer = (u64, Result<Reply, HsmError>);

/// A socket of a token-host ended, or makes no sense any more.
pub(super) struct Gone;

/// What comes out of one socket of a token-host.
pub(super) struct Answers<'a> {
    socket: &'a UnixStream,
    frames: Frames,
    piece: Zeroizing<Vec<u8>>,
}

impl<'a> Answers<'a> {
    pub fn of(pipe: &'a Pipe) -> Self {
        Self { socket: &pipe.socket, frames: Frames::default(), piece: Zeroizing::new(vec![0; PIECE]) }
    }

    /// Waits for at least one answer. Whoever stops waiting loses none.
    pub async fn next(&mut self) -> Result<Vec<Answer>, Gone> {
        loop {
            self.socket.readable().await.map_err(|_| Gone)?;
            match self.socket.try_read(&mut self.piece) {
                Ok(0) => return Err(Gone),
                Ok(length) => self.push(length),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
                Err(_) => return Err(Gone),
            }
            let answers = self.taken()?;
            if !answers.is_empty() {
                return Ok(answers);
            }
        }
    }

    /// What is there already and makes sense. The socket itself is asked: that a process ended may be known before the
    /// runtime has heard of its last words, on a busy machine by far.
    pub fn rest(&mut self) -> Vec<Answer> {
        while let Ok(length @ 1..) = rustix::io::read(self.socket, &mut self.piece[..]) {
            self.push(length);
        }
        let mut answers = Vec::new();
        while let Ok(Some(answer)) = self.frames.take() {
            answers.push(answer);
        }
        answers
    }

    /// Some answers carry a key.
    fn push(&mut self, length: usize) {
        self.frames.push(&self.piece[..length]);
        self.piece[..length].zeroize();
    }

    fn taken(&mut self) -> Result<Vec<Answer>, Gone> {
        let mut answers = Vec::new();
        loop {
            match self.frames.take() {
                Ok(Some(answer)) => answers.push(answer),
                Ok(None) => return Ok(answers),
                Err(error) => {
                    tracing::error!(error = error.to_string(), "the token-host talks nonsense");
                    return Err(Gone);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hsm::frame;

    #[tokio::test]
    async fn last_words_are_heard_that_the_runtime_has_not_heard_of() {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let pipe = Pipe::new(UnixStream::from_std(ours).unwrap());
        let mut answers = Answers::of(&pipe);
        std::io::Write::write_all(&mut &theirs, &frame::encode(7, &Ok::<_, HsmError>(Reply::Done))).unwrap();
        // Nothing was awaited since.
        assert_eq!(answers.rest().iter().map(|(id, _)| *id).collect::<Vec<_>>(), [7]);
        assert!(answers.rest().is_empty());
    }
}
