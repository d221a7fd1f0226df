//! Bytes on their way to one client, of which the socket takes as many as it likes.
//!
//! It knows no socket. The invariant: what is sent takes no more room than what isn't, or than
//! `SENT_BYTES_MAX`, however slow the client is and though the output never runs empty.

/// How many sent bytes are kept at most before they are dropped.
const SENT_BYTES_MAX: usize = 64 * 1024;

/// See the module's text.
#[derive(Default)]
pub(super) struct Output {
    bytes: Vec<u8>,
    sent: usize,
}

impl Output {
    /// Where more is put behind. What was there before isn't to be touched.
    pub(super) fn bytes_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// How long the bytes are when `unsent` of them wait.
    pub(super) fn length_with(&self, unsent: usize) -> usize {
        self.sent + unsent
    }

    pub(super) fn unsent(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    pub(super) fn is_empty(&self) -> bool {
        self.unsent().is_empty()
    }

    /// The first of the unsent bytes are sent.
    pub(super) fn note_sent(&mut self, count: usize) {
        self.sent += count;
        let unsent = self.bytes.len() - self.sent;
        if unsent == 0 {
            self.bytes.clear();
            self.sent = 0;
        } else if self.sent >= SENT_BYTES_MAX.max(unsent) {
            // Fewer are moved than were sent since the last time: so each byte is moved once or so.
            self.bytes.drain(..self.sent);
            self.sent = 0;
            self.bytes.shrink_to(4 * unsent);
        }
    }

    /// Gives back what a busy moment has taken.
    pub(super) fn shrink(&mut self) {
        const KEPT: usize = 512;
        if self.bytes.is_empty() && self.bytes.capacity() > KEPT {
            self.bytes = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_is_merely_slow_costs_what_it_has_not_taken() {
        const WAITING: usize = 256 * 1024;
        let mut output = Output::default();
        let (mut written, mut taken) = (0_u64, 0_u64);
        while taken < 64 << 20 {
            while output.unsent().len() < WAITING {
                output.bytes_mut().extend(written.to_be_bytes());
                written += 1;
            }
            // It never takes the last of it.
            for piece in output.unsent()[..4096].chunks(8) {
                assert_eq!(piece, (taken / 8).to_be_bytes());
                taken += 8;
            }
            output.note_sent(4096);
            assert!(output.bytes.capacity() <= 8 * WAITING);
        }
    }

    #[test]
    fn room_for_one_large_reply_is_given_back_before_all_is_sent() {
        let mut output = Output::default();
        output.bytes_mut().resize(32 << 20, 7);
        while output.unsent().len() > 100_000 {
            output.note_sent(50_000);
        }
        assert!(output.bytes.capacity() < 1 << 20);
        output.note_sent(output.unsent().len());
        output.shrink();
        assert_eq!((output.is_empty(), output.bytes.capacity()), (true, 0));
    }
}
