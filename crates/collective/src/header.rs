//! What ranks tell each other before each message: which call they are in, and whether one has failed.

use std::fmt;

use crate::{Error, Result};

/// The bytes of a header.
pub(crate) const LEN: usize = 256;

/// The longest text of a failure, in bytes.
const TEXT: usize = LEN - 40;

/// The call that a rank is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) kind: Kind,
    /// How many calls came before it.
    pub(crate) number: u64,
    /// Elements of a sum, the same on all ranks; bytes that are gathered, which may differ.
    pub(crate) len: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Gather = 1,
    SumF32 = 2,
    SumF64 = 3,
    SumBf16 = 4,
    Failure = 5,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Gather, Self::SumF32, Self::SumF64, Self::SumBf16, Self::Failure]
            .into_iter()
            .find(|&kind| kind as u8 == byte)
    }
}

impl Call {
    /// Whether ranks in these two calls can go on together.
    fn fits(&self, other: &Self) -> bool {
        let lengths_fit = self.kind == Kind::Gather || self.len == other.len;
        self.kind == other.kind && self.number == other.number && lengths_fit
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, number, len } = self;
        match kind {
            Kind::Gather => write!(f, "call {number}, a gathering"),
            Kind::SumF32 => write!(f, "call {number}, a sum of {len} f32"),
            Kind::SumF64 => write!(f, "call {number}, a sum of {len} f64"),
            Kind::SumBf16 => write!(f, "call {number}, a sum of {len} f32 sent as bf16"),
            Kind::Failure => write!(f, "call {number}, a failure"),
        }
    }
}

/// A call, and the failure that its rank knows of.
#[derive(Clone, Debug)]
pub(crate) struct Header {
    pub(crate) call: Call,
    /// The rank that failed, and what it reported.
    pub(crate) failure: Option<(usize, String)>,
}

impl Header {
    pub(crate) fn to_bytes(&self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        bytes[0] = self.call.kind as u8;
        bytes[8..16].copy_from_slice(&self.call.number.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.call.len.to_le_bytes());
        if let Some((rank, text)) = &self.failure {
            let text = &text.as_bytes()[..text.floor_char_boundary(TEXT)];
            bytes[1] = 1;
            bytes[24..32].copy_from_slice(&(*rank as u64).to_le_bytes());
            bytes[32..40].copy_from_slice(&(text.len() as u64).to_le_bytes());
            bytes[40..40 + text.len()].copy_from_slice(text);
        }
        bytes
    }

    /// `None` for bytes that are no header.
    pub(crate) fn from_bytes(bytes: &[u8; LEN]) -> Option<Self> {
        let number = |at: usize| bytes[at..].first_chunk().map(|chunk| u64::from_le_bytes(*chunk));
        let call = Call { kind: Kind::from_byte(bytes[0])?, number: number(8)?, len: number(16)? };
        let failure = match bytes[1] {
            0 => None,
            _ => {
                let text = bytes[40..].get(..usize::try_from(number(32)?).ok()?)?;
                Some((number(24)? as usize, String::from_utf8_lossy(text).into_owned()))
            }
        };
        Some(Self { call, failure })
    }

    /// Whether this rank's call and the `partner`'s go together.
    pub(crate) fn check(&self, rank: usize, theirs: &Self, partner: usize) -> Result<()> {
        if self.call.fits(&theirs.call) {
            return Ok(());
        }
        // In the order of the ranks, so that both report the same.
        let mut sides = [(rank, self.call), (partner, theirs.call)];
        sides.sort_by_key(|&(rank, _)| rank);
        let [(rank, found), (other, expected)] = sides;
        Err(Error::Mismatch { rank, other, found: found.to_string(), expected: expected.to_string() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_comes_back() {
        let call = Call { kind: Kind::SumF64, number: 1 << 40, len: 77 };
        let failure = Some((3, "ä".repeat(300)));
        for failure in [None, failure] {
            let there = Header { call, failure };
            let back = Header::from_bytes(&there.to_bytes()).unwrap();
            assert_eq!(back.call, there.call);
            let texts =
                [back.failure, there.failure].map(|failure| failure.map(|(rank, text)| (rank, text.len())));
            assert_eq!(texts[0].map(|text| text.0), texts[1].map(|text| text.0));
            // Cut between two characters of two bytes.
            assert_eq!(texts[0].map(|text| text.1), texts[1].map(|_| TEXT));
        }
        assert!(Header::from_bytes(&[9; LEN]).is_none());
        let mut long = Header { call, failure: Some((0, "x".into())) }.to_bytes();
        long[32] = 255;
        assert!(Header::from_bytes(&long).is_none());
    }
}
