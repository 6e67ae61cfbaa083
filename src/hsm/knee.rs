//! How many sessions of a token are worth it: where signing gets no faster.

use serde::{Deserialize, Serialize};

pub use crate::api::sessions::{MOST, START};

/// What is gained by less than this is not worth a session.
const WORTH: f64 = 1.05;

/// How fast a token signs with more and more sessions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measured {
    /// At least one; with every key that the first has.
    pub levels: Vec<Level>,
    /// Why no more sessions were tried.
    pub end: End,
}

/// How fast it signs with so many sessions at the same time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Level {
    /// Sessions.
    pub sessions: u16,
    /// Kind of key, and signatures in a second.
    pub speeds: Vec<(String, u32)>,
}

/// Why no more sessions were tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// They bring nothing.
    Flat,
    /// There may not be more.
    Most,
    /// It had taken too long already.
    Slow,
    /// The token refused them: its words.
    Refused(String),
}

impl Measured {
    /// The fewest sessions that sign about as fast as any number that was tried. Where the token refused some, which others
    /// may need as well, no more than is usual.
    #[must_use]
    pub fn choice(&self) -> u16 {
        let scores = scores(&self.levels);
        let best = scores.iter().copied().fold(0.0, f64::max);
        let enough = self.levels.iter().zip(&scores).find(|(_, score)| **score * WORTH >= best);
        let chosen = enough.map_or(START, |(level, _)| level.sessions);
        match self.end {
            End::Refused(_) => chosen.min(START),
            End::Flat | End::Most | End::Slow => chosen,
        }
    }
}

/// Whether the last two of these levels bring nothing that the ones before did not.
#[must_use]
pub fn is_flat(levels: &[Level]) -> bool {
    let scores = scores(levels);
    let Some((before, last)) = scores.split_last_chunk::<2>() else { return false };
    let best = before.iter().copied().fold(0.0, f64::max);
    !before.is_empty() && last.iter().all(|score| *score <= best * WORTH)
}

/// How much faster each level is than the first: the geometric mean over the keys, so that none counts more than another.
fn scores(levels: &[Level]) -> Vec<f64> {
    let Some(first) = levels.first() else { return Vec::new() };
    let gain = |level: &Level| {
        let pairs = level.speeds.iter().zip(&first.speeds);
        let logs = pairs.map(|((_, now), (_, then))| (f64::from(*now) / f64::from((*then).max(1))).ln());
        (logs.sum::<f64>() / first.speeds.len().max(1) as f64).exp()
    };
    levels.iter().map(gain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Levels of 1, 2, 4 … sessions, with the speed of two keys.
    fn levels(speeds: &[(u32, u32)]) -> Vec<Level> {
        let level = |(at, (p256, rsa)): (usize, &(u32, u32))| Level {
            sessions: 1 << at,
            speeds: vec![("P-256".into(), *p256), ("RSA-2048".into(), *rsa)],
        };
        speeds.iter().enumerate().map(level).collect()
    }

    /// What is chosen after as many levels as it takes, and how many that are.
    fn climb(curve: &[(u32, u32)]) -> (u16, usize) {
        let all = levels(curve);
        let count = (1..=all.len()).find(|count| is_flat(&all[..*count])).unwrap_or(all.len());
        let measured = Measured { levels: all[..count].to_vec(), end: End::Flat };
        (measured.choice(), count)
    }

    #[test]
    fn the_knee_of_a_curve_is_found() {
        let both = |curve: &[u32]| curve.iter().map(|speed| (*speed, *speed)).collect::<Vec<_>>();
        for (curve, chosen, tried) in [
            // It serialises itself, or gets slower.
            (both(&[100, 101, 99, 100]), 1, 3),
            (both(&[100, 80, 60, 50]), 1, 3),
            // Two and eight at a time.
            (both(&[100, 198, 200, 199, 201]), 2, 4),
            (both(&[100, 200, 390, 760, 765, 770, 771]), 8, 6),
            // As far as the eye reaches.
            (both(&[100, 200, 400, 800, 1600, 3200, 6400]), 64, 7),
            // One dip is no knee.
            (both(&[100, 200, 180, 400, 405, 400]), 8, 6),
            // Slowly, but surely: each step is small, and two are worth it.
            (both(&[100, 104, 108, 112, 113, 113]), 4, 5),
            // A key that gains makes up for one that gains nothing.
            (vec![(100, 10), (100, 20), (100, 40), (100, 40), (100, 40)], 4, 5),
            // One that loses more than the other gains.
            (vec![(100, 10), (40, 20), (20, 20)], 1, 3),
            // Nothing at all.
            (both(&[0, 0, 0]), 1, 3),
            (both(&[100]), 1, 1),
        ] {
            assert_eq!(climb(&curve), (chosen, tried), "{curve:?}");
        }
    }

    #[test]
    fn a_token_that_refuses_sessions_is_not_asked_for_all_that_it_has() {
        let refused = |speeds: &[(u32, u32)]| {
            let end = End::Refused("CKR_SESSION_COUNT".into());
            Measured { levels: levels(speeds), end }.choice()
        };
        assert_eq!(refused(&[(1, 1), (2, 2), (4, 4), (8, 8)]), START);
        assert_eq!(refused(&[(1, 1), (2, 2), (2, 2)]), 2);
        let most = Measured { levels: levels(&[(1, 1), (2, 2), (4, 4), (8, 8)]), end: End::Most };
        assert_eq!(most.choice(), 8);
    }
}
