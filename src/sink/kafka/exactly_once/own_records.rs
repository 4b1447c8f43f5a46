//! Notices that the checkpoint topic was replaced: the offsets of our records rise as long as the topic is the same. The
//! broker may have created the other topic with its own settings.

/// The records of this process in the topic.
#[derive(Debug)]
pub(in crate::sink::kafka) struct OwnRecords {
    /// The offset of the last one.
    last_offset: i64,
    /// One got no higher offset than the one before it.
    are_elsewhere: bool,
}

impl OwnRecords {
    /// The start: nothing was written.
    pub(in crate::sink::kafka) fn new() -> Self {
        OwnRecords { last_offset: -1, are_elsewhere: false }
    }

    /// The next one has this offset. Another topic matters only if the first one has a position.
    pub(in crate::sink::kafka) fn delivered(&mut self, offset: i64, has_position: bool) {
        self.are_elsewhere |= has_position && offset <= self.last_offset;
        self.last_offset = offset;
    }

    /// Whether the topic was replaced.
    pub(in crate::sink::kafka) fn are_elsewhere(&self) -> bool {
        self.are_elsewhere
    }

    /// The process starts again, and finds out what the topic has now.
    pub(in crate::sink::kafka) fn renew(&mut self) {
        self.are_elsewhere = false;
    }
}
