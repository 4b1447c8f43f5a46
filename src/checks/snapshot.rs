//! The configured snapshot.

use super::Verdict;

/// Whether the rows of the tables can be read.
#[derive(Clone, Copy, Debug)]
pub struct Readable<'a> {
    /// How many tables the snapshot reads.
    pub tables: usize,
    /// Why tables cannot be read.
    pub unreadable: &'a [String],
    /// Whether such a table ends the run, not only its own snapshot.
    pub ends_the_run: bool,
}

/// The snapshot with which the stream begins.
#[must_use]
pub fn snapshot(readable: &Readable<'_>) -> Verdict {
    let Readable { tables, unreadable, ends_the_run } = *readable;
    let Some(first) = unreadable.first() else {
        return Verdict::ok(format!("snapshot: the rows of {tables} tables can be read"));
    };
    let finding = format!("snapshot: {} of {tables} tables cannot be read: {first}", unreadable.len());
    let hint =
        "GRANT SELECT on the tables to the role, with BYPASSRLS or a policy for all rows if they have row security";
    match ends_the_run {
        true => Verdict::error(finding, hint),
        false => {
            Verdict::warning(finding, format!("{hint}; otherwise the snapshot of these tables ends with a warning"))
        }
    }
}

/// The stream does not start because of its snapshot.
#[must_use]
pub fn refused(why: &str, hint: Option<String>) -> Verdict {
    Verdict::error(format!("snapshot: {why}"), hint.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::Severity;

    #[test]
    fn a_table_that_cannot_be_read_is_an_error_if_it_ends_the_run() {
        let unreadable = ["permission denied for table t".to_owned()];
        for (unreadable, ends_the_run, severity) in [
            (&unreadable[..0], true, Severity::Ok),
            (&unreadable[..], true, Severity::Error),
            (&unreadable[..], false, Severity::Warning),
        ] {
            let verdict = snapshot(&Readable { tables: 2, unreadable, ends_the_run });
            assert_eq!((verdict.severity, verdict.hint.is_empty()), (severity, unreadable.is_empty()));
        }
    }
}
