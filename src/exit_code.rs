//! The exit codes, in one table. Supervisors, cron jobs and scripts may rely on them.
//!
//! The numbers from 64 are those of `sysexits.h`, if it has one that fits. The manual page prints [`ExitCode::TABLE`].

/// The result of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// Everything requested is delivered and confirmed; also when the reader closed the pipe, after `--help`, and after a
    /// dump.
    Done = 0,
    /// The command line is invalid.
    Usage = 2,
    /// Kafka permanently rejects a record, a value is invalid in its encoding, or a recording is truncated.
    Data = 65,
    /// An input file does not exist or cannot be read.
    NoInput = 66,
    /// The server or the broker is unreachable, or the slot is held, for longer than the settings allow.
    Unavailable = 69,
    /// A defect in walcat or in one of its libraries.
    Defect = 70,
    /// The operating system refused a file or a descriptor.
    Os = 71,
    /// A signal stopped walcat before everything it had read was acknowledged; nothing is lost.
    TryAgain = 75,
    /// The server sent something that the protocol does not allow.
    Protocol = 76,
    /// Authentication failed or a privilege is missing.
    Permission = 77,
    /// The set-up is wrong: configuration file, conninfo, database, publication, slot, server settings.
    Setup = 78,
    /// Another instance has taken over; do not restart.
    Fenced = 79,
}

impl ExitCode {
    /// Every code with its sentence in the manual, in order.
    pub const TABLE: [(ExitCode, &'static str); 12] = [
        (
            ExitCode::Done,
            "success: everything requested was delivered, and the server processed the last status update; also when \
             the reader closed the pipe, after --help, and after a dump",
        ),
        (
            ExitCode::Usage,
            "usage: an unknown command or flag, an invalid value, a missing required setting, endpos before startpos, or \
             slot drop without a terminal or --force",
        ),
        (
            ExitCode::Data,
            "data: a record that Kafka permanently rejects, a value that is invalid in its encoding or that the server \
             cannot print, a recording that is truncated or invalid, or a topic that verify finds to differ from its table",
        ),
        (ExitCode::NoInput, "input: an input file that does not exist or cannot be read"),
        (
            ExitCode::Unavailable,
            "unavailable: the server or the broker is unreachable, or another process holds the slot, for longer than the \
             settings allow; also if the stream is behind what verify compares",
        ),
        (
            ExitCode::Defect,
            "internal: a defect in walcat or in one of its libraries, including SIGABRT; the message says what to report",
        ),
        (ExitCode::Os, "system: walcat cannot create or write a file, or has no file descriptors left"),
        (
            ExitCode::TryAgain,
            "interrupted: a signal stopped walcat before everything it had read was acknowledged; start it again, nothing \
             is lost",
        ),
        (ExitCode::Protocol, "protocol: the server sent something that the protocol does not allow"),
        (
            ExitCode::Permission,
            "permission: authentication failed, or the role does not have REPLICATION or another privilege",
        ),
        (
            ExitCode::Setup,
            "set-up: the configuration file, a conninfo that libpq rejects, a missing database, publication, slot or topic, \
             a slot with another plugin, wal_level, a server that is too old, a lost slot or a gap; also an error that \
             check or slot status reports",
        ),
        (
            ExitCode::Fenced,
            "fenced: another instance has taken over; a restart would fence that instance in turn, so list this code in \
             RestartPreventExitStatus=",
        ),
    ];

    /// The exit code of the process.
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
