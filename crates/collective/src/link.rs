//! What carries bytes between two ranks.

use crate::Result;

/// Messages between ranks; what a transport has to offer.
pub(crate) trait Link {
    fn rank(&self) -> usize;

    fn world(&self) -> usize;

    /// Sends `send` to `partner` and fills `receive` with what it sends, both at once. The two ranks agree on lengths.
    fn exchange(&mut self, partner: usize, send: &[u8], receive: &mut [u8]) -> Result<()>;
}
