//! What went over the wire.

/// What a rank has sent, and how long its calls took. See [`Collective::traffic`](crate::Collective::traffic).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Traffic {
    /// Sums over ranks.
    pub sums: u64,
    /// Gatherings, broadcasts and barriers among them.
    pub gatherings: u64,
    /// Messages sent; as many were received.
    pub messages: u64,
    /// Bytes sent, those of headers (256 a message) included.
    pub bytes_sent: u64,
    /// Seconds from the begin of each call to its end, added up: the time of the messages and the wait for slower ranks.
    pub seconds: f64,
}
