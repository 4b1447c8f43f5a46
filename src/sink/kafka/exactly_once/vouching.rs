//! The timeline of a checkpoint: a standby can be promoted, so each checkpoint of what it sends waits for an answer that was
//! requested after its last change was taken.

/// Whether the timeline must be requested before a checkpoint is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Vouching {
    /// The timeline does not change during the stream.
    Never,
    /// The timeline can change; no checkpoint waits for it now.
    Later,
    /// A checkpoint waits for the timeline, and no more changes are taken.
    Wanted,
    /// The timeline is known for the checkpoint that waited.
    Answered,
}

impl Vouching {
    /// For a server whose timeline may change, or not.
    pub(super) fn of(may_change: bool) -> Self {
        if may_change { Vouching::Later } else { Vouching::Never }
    }

    /// Takes an answer; returns whether a checkpoint waited for it.
    pub(super) fn answer(&mut self) -> bool {
        let is_wanted = *self == Vouching::Wanted;
        if is_wanted {
            *self = Vouching::Answered;
        }
        is_wanted
    }

    /// Whether a checkpoint can be written now; if not, it waits from now on.
    pub(super) fn knows_timeline(&mut self) -> bool {
        match self {
            Vouching::Never => true,
            Vouching::Answered => {
                *self = Vouching::Later;
                true
            }
            Vouching::Later | Vouching::Wanted => {
                *self = Vouching::Wanted;
                false
            }
        }
    }

    /// Whether a checkpoint waits, so that no more changes are taken.
    pub(super) fn holds_changes(self) -> bool {
        matches!(self, Vouching::Wanted | Vouching::Answered)
    }
}
