//! The exit codes, one table: what a supervisor, a cron job and a script may rely on.
//!
//! The numbers from 64 on are those of `sysexits.h` where it has one that fits. The man page prints [`ExitCode::TABLE`].

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// All that was asked is delivered and confirmed; also a closed pipe, `--help` and a dump.
    Done = 0,
    /// The command line.
    Usage = 2,
    /// Data that Kafka refuses for good, that is not valid in its encoding, or a recording that is cut.
    Data = 65,
    /// An input file that is missing or cannot be read.
    NoInput = 66,
    /// The server or the broker cannot be reached, or the slot is held, past the budget that applies.
    Unavailable = 69,
    /// A defect of walcat, or of a library in it that aborts.
    Defect = 70,
    /// The operating system refused a file or a descriptor.
    Os = 71,
    /// Stopped with something read and not acknowledged; nothing is lost, start it again.
    TryAgain = 75,
    /// The server sent what the protocol does not allow.
    Protocol = 76,
    /// Authentication failed or a privilege is missing.
    Permission = 77,
    /// The set-up: configuration file, conninfo, database, publication, slot, server settings.
    Setup = 78,
    /// Another instance has taken over; do not start again.
    Fenced = 79,
}

impl ExitCode {
    /// Every code with the sentence that the manual prints for it, in order.
    pub const TABLE: [(ExitCode, &'static str); 12] = [
        (
            ExitCode::Done,
            "done: all that was asked is delivered, and the server has processed the last status update; also a closed \
             pipe, --help, a dump",
        ),
        (
            ExitCode::Usage,
            "the command line: an unknown command or flag, a value that does not parse, a required setting given \
             nowhere, endpos before startpos, slot drop without a terminal or --force",
        ),
        (
            ExitCode::Data,
            "data: a record that Kafka refuses for good, a value that is not valid in its encoding or that \
             the server cannot print, a recording that \
             is cut or is not one",
        ),
        (ExitCode::NoInput, "an input file that is missing or cannot be read"),
        (
            ExitCode::Unavailable,
            "unavailable: server or broker not reachable, lost, or the slot held by another process, past the budget \
             that applies",
        ),
        (
            ExitCode::Defect,
            "a defect of walcat or of a library in it, SIGABRT included: the message says what to send us",
        ),
        (ExitCode::Os, "the operating system: cannot create or write a file, out of descriptors"),
        (
            ExitCode::TryAgain,
            "stopped by a signal with something read and not acknowledged: start it again, nothing is lost",
        ),
        (ExitCode::Protocol, "protocol: the server sent what the protocol does not allow"),
        (ExitCode::Permission, "permission: authentication failed, or the role lacks REPLICATION or another privilege"),
        (
            ExitCode::Setup,
            "set-up: the configuration file, a conninfo that libpq refuses, a missing database, publication, slot or \
             topic, another plugin, wal_level, a server that is too old, a lost slot, a gap; check and slot status with errors",
        ),
        (
            ExitCode::Fenced,
            "fenced: another instance has taken over; starting again would fence it in turn (use it in \
             RestartPreventExitStatus=)",
        ),
    ];

    /// The number that the process ends with.
    #[must_use]
    pub fn code(self) -> u8 {
        self as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_that_scripts_rely_on() {
        let numbers: Vec<u8> = ExitCode::TABLE.iter().map(|(code, _)| code.code()).collect();
        assert_eq!(numbers, [0, 2, 65, 66, 69, 70, 71, 75, 76, 77, 78, 79]);
    }
}
