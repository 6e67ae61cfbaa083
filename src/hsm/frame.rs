//! Frames on the socket pair, for both of its ends.

use postcard::ser_flavors::Size;
use serde::{Serialize, de::DeserializeOwned};
use zeroize::{Zeroize, Zeroizing};

use super::protocol::FRAME_MAX;

/// Bytes before the message: length and id.
const HEAD: usize = 12;
/// Most frames are not longer than this.
const USUAL: usize = 256;
/// How much is asked of the socket at a time.
pub const PIECE: usize = 64 * 1024;

/// Why the stream cannot be read any further.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// Longer than [`FRAME_MAX`], or too short for an id.
    #[error("a frame of {0} bytes")]
    Length(usize),
    /// Not a message of the expected type.
    #[error("a frame that does not parse")]
    Message,
}

/// Writes a message as a frame.
///
/// # Panics
/// Never: messages consist of what the format can write, and of less than 4 GiB.
pub fn encode(id: u64, message: &impl Serialize) -> Vec<u8> {
    written(Vec::with_capacity(USUAL), id, message)
}

/// The same of a message that carries a PIN. It is measured first: a frame that grew would leave a copy of what it was
/// behind, which nobody overwrites.
///
/// # Panics
/// As [`encode`].
pub fn encode_secret(id: u64, message: &impl Serialize) -> Zeroizing<Vec<u8>> {
    let length =
        postcard::serialize_with_flavor(message, Size::default()).expect("every message can be written");
    Zeroizing::new(written(Vec::with_capacity(HEAD + length), id, message))
}

fn written(mut frame: Vec<u8>, id: u64, message: &impl Serialize) -> Vec<u8> {
    frame.resize(HEAD, 0);
    frame = postcard::to_extend(message, frame).expect("every message can be written");
    let length = u32::try_from(frame.len() - 4).expect("messages are small");
    frame[..4].copy_from_slice(&length.to_le_bytes());
    frame[4..HEAD].copy_from_slice(&id.to_le_bytes());
    frame
}

/// Gives a frame another id.
pub fn renumber(frame: &mut [u8], id: u64) {
    frame[4..HEAD].copy_from_slice(&id.to_le_bytes());
}

/// What is in a frame but its length and its id; of an empty one, nothing.
pub fn message(frame: &[u8]) -> &[u8] {
    frame.get(HEAD..).unwrap_or_default()
}

/// Appends to bytes that wait to be written. Some frames carry keys: growing in place could leave a copy behind.
pub fn append(waiting: &mut Vec<u8>, frame: &[u8]) {
    if waiting.capacity() - waiting.len() < frame.len() {
        let mut larger = Vec::with_capacity((waiting.len() + frame.len()) * 2);
        larger.extend_from_slice(waiting);
        waiting.zeroize();
        *waiting = larger;
    }
    waiting.extend_from_slice(frame);
}

/// Collects pieces of the stream and takes frames out of them. What was taken out is overwritten: one frame
/// carries a PIN.
#[derive(Default)]
pub struct Frames {
    buffer: Vec<u8>,
    start: usize,
}

impl Frames {
    /// Appends a piece of the stream.
    pub fn push(&mut self, piece: &[u8]) {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        if self.buffer.capacity() - self.buffer.len() < piece.len() {
            // Growing in place could leave a copy of the old content behind.
            let mut larger = Vec::with_capacity((self.buffer.len() + piece.len()).max(PIECE) * 2);
            larger.extend_from_slice(&self.buffer);
            self.buffer.zeroize();
            self.buffer = larger;
        }
        self.buffer.extend_from_slice(piece);
    }

    /// Whether a whole frame is here, or one that makes no sense.
    pub fn has_whole(&self) -> bool {
        let rest = &self.buffer[self.start..];
        rest.split_first_chunk::<4>().is_some_and(|(length, after)| {
            let length = u32::from_le_bytes(*length) as usize;
            length > FRAME_MAX || after.len() >= length
        })
    }

    /// The next whole frame, if there is one.
    ///
    /// # Errors
    /// [`Broken`], after which nothing on the stream has a meaning.
    pub fn take<T: DeserializeOwned>(&mut self) -> Result<Option<(u64, T)>, Broken> {
        let rest = &mut self.buffer[self.start..];
        let Some((length, after)) = rest.split_first_chunk_mut::<4>() else { return Ok(None) };
        let length = u32::from_le_bytes(*length) as usize;
        if !(8..=FRAME_MAX).contains(&length) {
            return Err(Broken::Length(length));
        }
        let Some(frame) = after.get_mut(..length) else { return Ok(None) };
        let (id, message) = frame.split_first_chunk::<8>().expect("a length below 8 was refused");
        let id = u64::from_le_bytes(*id);
        let message = postcard::from_bytes(message).map_err(|_| Broken::Message);
        frame.zeroize();
        self.start += 4 + length;
        Ok(Some((id, message?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hsm::protocol::{Request, TokenSelector};
    use crate::{hsm::protocol::Open, model::secret::Pin};

    #[test]
    fn frames_survive_any_split_and_the_pin_does_not_stay_behind() {
        let open = Request::Open(Open {
            library: "/lib/x.so".into(),
            token: TokenSelector::Label("t".into()),
            pin: Pin::new("very-secret-pin"),
            init_args: None,
            workers: 4,
            vendor: Box::default(),
        });
        let stream = [encode(1, &open), encode(2, &Request::Ping)].concat();
        for size in [1, 5, 64, stream.len()] {
            let mut frames = Frames::default();
            let mut seen = Vec::new();
            for piece in stream.chunks(size) {
                frames.push(piece);
                while let Some((id, request)) = frames.take::<Request>().unwrap() {
                    seen.push((id, request.name()));
                }
            }
            assert_eq!(seen, [(1, "open"), (2, "ping")]);
            assert!(!frames.buffer.windows(11).any(|window| window == b"very-secret"));
        }
    }

    #[test]
    fn a_frame_with_a_pin_never_grows() {
        let open = Request::Open(Open {
            library: "/".repeat(1024),
            token: TokenSelector::Label("t".into()),
            pin: Pin::new("very-secret-pin"),
            init_args: Some("x".repeat(4096)),
            workers: 4,
            vendor: Box::default(),
        });
        let frame = encode_secret(1, &open);
        assert_eq!(*frame, encode(1, &open));
        // One that grew has room for as much again.
        assert_eq!(frame.capacity(), frame.len());
    }

    #[test]
    fn what_waits_is_written_in_its_order() {
        let mut waiting = Vec::new();
        for piece in [&b"one"[..], b"", b"two", &[b'x'; 100]] {
            append(&mut waiting, piece);
        }
        assert_eq!(waiting, [&b"onetwo"[..], &[b'x'; 100]].concat());
    }

    #[test]
    fn nonsense_is_refused_before_memory_is_taken_for_it() {
        let mut frames = Frames::default();
        frames.push(&u32::MAX.to_le_bytes());
        assert_eq!(frames.take::<Request>().unwrap_err(), Broken::Length(u32::MAX as usize));
        let mut frames = Frames::default();
        frames.push(&[9, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0xff]);
        assert_eq!(frames.take::<Request>().unwrap_err(), Broken::Message);
    }
}
