//! The items of the library that the tests in `tests/` and the benchmarks use. No other item is public, so the compiler finds
//! dead code.

pub mod catalog_facts {
    pub use crate::catalog_facts::{CatalogAnswer, TableFacts};
}
pub mod change {
    pub use crate::change::{Change, Marker, OldRow, Operation, Position, RelationIndex, Row, Ticket, Transaction};
}
pub mod cli {
    pub use crate::cli::command;
}
pub mod clock {
    pub use crate::clock::PgTimestamp;
}
pub mod config {
    pub use crate::config::{Key, Kind};
}
pub mod dump {
    pub use crate::dump::Line;
}
pub mod exit_code {
    pub use crate::exit_code::ExitCode;
}
pub mod feedback {
    pub use crate::feedback::{Confirming, Timing};
}
pub mod lsn {
    pub use crate::lsn::Lsn;
}
pub mod position {
    pub use crate::position::{Disagreement, Facts, Identity, Known, Start, Stored, Switch, Vouched};
}
pub mod pump {
    pub mod store {
        pub use crate::pump::store::{Store, Urgency};
    }
}
pub mod record {
    pub use crate::record::{Encoder, Settings, UNAVAILABLE_VALUE};
}
pub mod recording {
    pub use crate::recording::{Entry, Header, Reader};
}
pub mod relations {
    pub use crate::relations::{Column, Relation, Relations};
}
pub mod session {
    pub use crate::session::{EnvelopeClock, Goal, Item, Options, Sealed, Session, Step, Truncations};
}
pub mod sink {
    pub mod kafka {
        pub use crate::sink::kafka::Error;
        pub mod client {
            pub mod transaction_calls {
                pub use crate::sink::kafka::client::transaction_calls::{CallError, failure};
            }
        }
        pub mod exactly_once {
            pub mod checkpoint {
                pub use crate::sink::kafka::exactly_once::checkpoint::{
                    CHECKPOINT_KEY, Instance, START_KEY, Start, render_checkpoint, render_start,
                };
            }
            pub mod history {
                pub use crate::sink::kafka::exactly_once::history::History;
            }
            pub mod ledger {
                pub use crate::sink::kafka::exactly_once::ledger::{Bounds, Ledger, Task, Traffic};
            }
        }
    }
}
pub mod snapshot {
    pub use crate::snapshot::job::Job;
    pub use crate::snapshot::key;
    pub use crate::snapshot::progress::{Progress, RequestAt, TableProgress};
    pub use crate::snapshot::tracking::Verdict;
    pub use crate::snapshot::{Touched, View};
}
pub mod source {
    pub use crate::source::Error;
    pub mod open {
        pub use crate::source::open::check_stored;
    }
}
pub mod state_file {
    pub use crate::state_file::StateFile;
}
pub mod wire {
    pub mod pgoutput {
        pub use crate::wire::pgoutput::{Cell, Context, Message, OldTuple, ReplicaIdentity, Tuple, decode};
    }
    pub mod replication {
        pub use crate::wire::replication::{Frame, StatusUpdate, decode};
    }
}
