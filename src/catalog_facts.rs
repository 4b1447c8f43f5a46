//! What the catalog says today about a relation that the stream has announced: facts only, gathered in `pg/catalog`,
//! kept in recordings, judged in `relations`.

use serde::{Deserialize, Serialize};

/// The catalog's answer for one Relation message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogAnswer {
    /// The relation's OID that was asked for.
    pub relation: u32,
    /// The table as it is today; none when it is gone.
    pub table: Option<TableFacts>,
    /// Every type among the Relation's columns that is not built in (OID 16384 and above) and that the catalog still
    /// knows, with the types these lead to (base type of a domain, element of an array), each once; and as a domain each
    /// type that it knows no more, but of which the stream has named a base type that it knows.
    pub types: Vec<TypeFacts>,
}

/// A table as the catalog has it today.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableFacts {
    /// Schema name.
    pub namespace: String,
    /// Table name.
    pub name: String,
    /// `pg_class.relreplident`: d, n, f or i.
    pub replica_identity: char,
    /// Columns of the replica identity's index in index order: for DEFAULT the primary key, for INDEX that index.
    /// Empty for NOTHING and FULL and for DEFAULT without a primary key.
    pub identity_columns: Vec<String>,
    /// Columns of the primary key in index order; empty without one.
    pub primary_key: Vec<String>,
    /// All columns in the table's order. Recordings of before walcat knew this have none.
    #[serde(default)]
    pub columns: Vec<String>,
    /// Which of the two keys' columns a Relation message may lack though the table had them: generated ones, and those that
    /// a publication's column list leaves out.
    #[serde(default)]
    pub unpublished: Vec<String>,
    /// `pg_class.relispartition`.
    pub is_partition: bool,
}

/// A type that is not built in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TypeFacts {
    /// `pg_type.oid`.
    pub oid: u32,
    /// `pg_type.typname`.
    pub name: String,
    /// `pg_type.typtype`: b base, c composite, d domain, e enum, m multirange, p pseudo, r range.
    pub kind: char,
    /// The base type of a domain (`typbasetype`), else 0.
    pub base_type: u32,
    /// The element type of a true array (`typcategory` A: `typelem`), else 0.
    pub element_type: u32,
    /// `typdelim` of the element as the array's text uses it, usually a comma.
    pub delimiter: char,
}
