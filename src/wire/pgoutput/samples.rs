//! One message of each type as hexadecimal text, for the unit tests and for `tests/mutation.rs`.

/// Whether a sample is in a stream block, and whether under `streaming 'parallel'`: (in_stream, parallel).
pub type Flags = (bool, bool);

/// Outside a stream block.
const OUT: Flags = (false, false);
/// In a stream block.
const IN: Flags = (true, false);
/// Under `streaming 'parallel'`.
const PARALLEL: Flags = (false, true);

/// Parses hexadecimal digits, in which `#` starts a comment.
pub fn bytes(hex: &str) -> Vec<u8> {
    let digits: String = hex.lines().filter_map(|line| line.split('#').next()).collect();
    let digits: Vec<char> = digits.chars().filter(|digit| !digit.is_whitespace()).collect();
    let byte = |pair: &[char]| u8::from_str_radix(&pair.iter().collect::<String>(), 16).expect("hexadecimal digits");
    digits.chunks(2).map(byte).collect()
}

/// Every sample: its name, its context, its bytes.
pub const ALL: &[(&str, Flags, &str)] = &[
    ("begin", OUT, BEGIN),
    ("commit", OUT, COMMIT),
    ("origin", OUT, ORIGIN),
    ("relation", OUT, RELATION),
    ("relation in a stream", IN, RELATION_IN_STREAM),
    ("type", OUT, TYPE),
    ("type in a stream", IN, TYPE_IN_STREAM),
    ("insert", OUT, INSERT),
    ("insert in a stream", IN, INSERT_IN_STREAM),
    ("insert of no columns", OUT, INSERT_OF_NO_COLUMNS),
    ("update", OUT, UPDATE),
    ("update of a key", OUT, UPDATE_OF_KEY),
    ("update in a stream, full", IN, UPDATE_IN_STREAM),
    ("delete", OUT, DELETE),
    ("delete in a stream, full", IN, DELETE_IN_STREAM),
    ("truncate", OUT, TRUNCATE),
    ("truncate in a stream", IN, TRUNCATE_IN_STREAM),
    ("logical message", OUT, LOGICAL),
    ("logical message in a stream", IN, LOGICAL_IN_STREAM),
    ("stream start", OUT, STREAM_START),
    ("stream stop", IN, STREAM_STOP),
    ("stream commit", OUT, STREAM_COMMIT),
    ("stream abort", OUT, STREAM_ABORT),
    ("stream abort, parallel", PARALLEL, STREAM_ABORT_PARALLEL),
    ("begin prepare", OUT, BEGIN_PREPARE),
    ("prepare", OUT, PREPARE),
    ("commit prepared", OUT, COMMIT_PREPARED),
    ("rollback prepared", OUT, ROLLBACK_PREPARED),
    ("stream prepare", OUT, STREAM_PREPARE),
];

pub const BEGIN: &str = "
    42                      # 'B'
    00000000 016b3748       # final LSN 0/16B3748
    00000000 000f4240       # commit time, 1 s after 2000-01-01
    000002ef                # xid 751";

pub const COMMIT: &str = "
    43                      # 'C'
    00                      # flags
    00000000 016b3748       # commit LSN 0/16B3748
    00000000 016b3778       # end LSN 0/16B3778
    00000000 000f4240       # commit time";

pub const ORIGIN: &str = "
    4f                      # 'O'
    00000016 b374d848       # commit LSN on the origin 16/B374D848
    6e6f6465 00             # name 'node'";

pub const RELATION: &str = "
    52                      # 'R'
    00004001                # OID 16385
    7075626c 696300         # namespace 'public'
    7400                    # name 't'
    64                      # replica identity default
    0002                    # two columns
    01                      # flags: part of the key
    696400                  # name 'id'
    00000017                # type 23, int4
    ffffffff                # no modifier
    00                      # flags
    c3a400                  # name 'ä'
    00000413                # type 1043, varchar
    0000000e                # modifier 14, varchar(10)";

pub const RELATION_IN_STREAM: &str = "
    52                      # 'R'
    000002ef                # xid 751
    00004002                # OID 16386
    00                      # namespace pg_catalog
    7500                    # name 'u'
    66                      # replica identity full
    0000                    # no columns";

pub const TYPE: &str = "
    59                      # 'Y'
    00004003                # OID 16387
    7300                    # namespace 's'
    6d6f6f64 00             # name 'mood'";

pub const TYPE_IN_STREAM: &str = "
    59                      # 'Y'
    000002ef                # xid 751
    00004003                # OID 16387
    00                      # namespace pg_catalog
    6d6f6f64 00             # name 'mood'";

pub const INSERT: &str = "
    49                      # 'I'
    00004001                # relation 16385
    4e                      # 'N', the new tuple
    0005                    # five columns
    74 00000002 3432        # text '42'
    6e                      # null
    75                      # unchanged TOAST
    62 00000003 00ff01      # binary
    74 00000000             # empty text";

pub const INSERT_IN_STREAM: &str = "
    49                      # 'I'
    000002ef                # xid 751
    00004001                # relation 16385
    4e                      # 'N', the new tuple
    0001                    # one column
    74 00000001 31          # text '1'";

pub const INSERT_OF_NO_COLUMNS: &str = "
    49                      # 'I'
    00004001                # relation 16385
    4e                      # 'N', the new tuple
    0000                    # no columns";

pub const UPDATE: &str = "
    55                      # 'U'
    00004001                # relation 16385
    4e                      # 'N', the new tuple
    0001                    # one column
    74 00000001 31          # text '1'";

pub const UPDATE_OF_KEY: &str = "
    55                      # 'U'
    00004001                # relation 16385
    4b                      # 'K', the old key
    0002                    # two columns
    74 00000001 31          # text '1'
    6e                      # null: not part of the key
    4e                      # 'N', the new tuple
    0002                    # two columns
    74 00000001 32          # text '2'
    75                      # unchanged TOAST";

pub const UPDATE_IN_STREAM: &str = "
    55                      # 'U'
    000002ef                # xid 751
    00004001                # relation 16385
    4f                      # 'O', the old row
    0001                    # one column
    74 00000001 31          # text '1'
    4e                      # 'N', the new tuple
    0001                    # one column
    6e                      # null";

pub const DELETE: &str = "
    44                      # 'D'
    00004001                # relation 16385
    4b                      # 'K', the old key
    0002                    # two columns
    74 00000001 31          # text '1'
    6e                      # null: not part of the key";

pub const DELETE_IN_STREAM: &str = "
    44                      # 'D'
    000002ef                # xid 751
    00004001                # relation 16385
    4f                      # 'O', the old row
    0001                    # one column
    74 00000001 31          # text '1'";

pub const TRUNCATE: &str = "
    54                      # 'T'
    00000002                # two relations
    03                      # CASCADE and RESTART IDENTITY
    00004001                # relation 16385
    00004002                # relation 16386";

pub const TRUNCATE_IN_STREAM: &str = "
    54                      # 'T'
    000002ef                # xid 751
    00000001                # one relation
    00                      # no options
    00004001                # relation 16385";

pub const LOGICAL: &str = "
    4d                      # 'M'
    00                      # flags: not transactional
    00000000 016b3748       # LSN 0/16B3748
    6100                    # prefix 'a'
    00000002 00ff           # content";

pub const LOGICAL_IN_STREAM: &str = "
    4d                      # 'M'
    000002ef                # xid 751
    01                      # flags: transactional
    00000000 016b3748       # LSN 0/16B3748
    00                      # prefix ''
    00000000                # no content";

pub const STREAM_START: &str = "
    53                      # 'S'
    000002ef                # xid 751
    01                      # first segment";

pub const STREAM_STOP: &str = "
    45                      # 'E'";

pub const STREAM_COMMIT: &str = "
    63                      # 'c'
    000002ef                # xid 751
    00                      # flags
    00000000 016b3748       # commit LSN 0/16B3748
    00000000 016b3778       # end LSN 0/16B3778
    00000000 000f4240       # commit time";

pub const STREAM_ABORT: &str = "
    41                      # 'A'
    000002ef                # xid 751
    000002f0                # subtransaction's xid 752";

pub const STREAM_ABORT_PARALLEL: &str = "
    41                      # 'A'
    000002ef                # xid 751
    000002f0                # subtransaction's xid 752
    00000000 016b3748       # abort LSN 0/16B3748
    00000000 000f4240       # abort time";

pub const BEGIN_PREPARE: &str = "
    62                      # 'b'
    00000000 016b3748       # prepare LSN 0/16B3748
    00000000 016b3778       # end LSN 0/16B3778
    00000000 000f4240       # prepare time
    000002ef                # xid 751
    677800                  # gid 'gx'";

pub const PREPARE: &str = "
    50                      # 'P'
    00                      # flags
    00000000 016b3748       # prepare LSN 0/16B3748
    00000000 016b3778       # end LSN 0/16B3778
    00000000 000f4240       # prepare time
    000002ef                # xid 751
    677800                  # gid 'gx'";

pub const COMMIT_PREPARED: &str = "
    4b                      # 'K'
    00                      # flags
    00000000 016b3748       # commit LSN 0/16B3748
    00000000 016b3778       # end LSN 0/16B3778
    00000000 000f4240       # commit time
    000002ef                # xid 751
    677800                  # gid 'gx'";

pub const ROLLBACK_PREPARED: &str = "
    72                      # 'r'
    00                      # flags
    00000000 016b3748       # end LSN of the prepared transaction 0/16B3748
    00000000 016b3778       # end LSN of the rollback 0/16B3778
    00000000 000f4240       # prepare time
    00000000 001e8480       # rollback time, 2 s after 2000-01-01
    000002ef                # xid 751
    677800                  # gid 'gx'";

pub const STREAM_PREPARE: &str = "
    70                      # 'p'
    00                      # flags
    00000000 016b3748       # prepare LSN 0/16B3748
    00000000 016b3778       # end LSN 0/16B3778
    00000000 000f4240       # prepare time
    000002ef                # xid 751
    677800                  # gid 'gx'";
