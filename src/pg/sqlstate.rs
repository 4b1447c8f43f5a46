//! The SQLSTATEs that walcat handles, with their names in PostgreSQL, and the class of failure of each.
//!
//! Source: PostgreSQL documentation, appendix A, "PostgreSQL Error Codes".

use super::error::Class;

pub const PROTOCOL_VIOLATION: &str = "08P01";
pub const FEATURE_NOT_SUPPORTED: &str = "0A000";
pub const CHARACTER_NOT_IN_REPERTOIRE: &str = "22021";
pub const INVALID_PARAMETER_VALUE: &str = "22023";
pub const UNTRANSLATABLE_CHARACTER: &str = "22P05";
pub const INVALID_AUTHORIZATION_SPECIFICATION: &str = "28000";
pub const INVALID_PASSWORD: &str = "28P01";
pub const INVALID_CATALOG_NAME: &str = "3D000";
pub const INSUFFICIENT_PRIVILEGE: &str = "42501";
pub const INVALID_NAME: &str = "42602";
pub const NAME_TOO_LONG: &str = "42622";
pub const UNDEFINED_OBJECT: &str = "42704";
pub const UNDEFINED_TABLE: &str = "42P01";
pub const UNDEFINED_COLUMN: &str = "42703";
pub const DUPLICATE_OBJECT: &str = "42710";
pub const TOO_MANY_CONNECTIONS: &str = "53300";
pub const CONFIGURATION_LIMIT_EXCEEDED: &str = "53400";
pub const PROGRAM_LIMIT_EXCEEDED: &str = "54000";
pub const OBJECT_NOT_IN_PREREQUISITE_STATE: &str = "55000";
pub const OBJECT_IN_USE: &str = "55006";
pub const LOCK_NOT_AVAILABLE: &str = "55P03";
pub const INTERNAL_ERROR: &str = "XX000";

/// The class of a failure with this SQLSTATE. An unknown SQLSTATE counts as passing: the server has run out of a
/// resource, or shuts down.
pub(super) fn class_of(sqlstate: &str) -> Class {
    match sqlstate {
        INSUFFICIENT_PRIVILEGE => Class::Permission,
        OBJECT_IN_USE => Class::Transient,
        INVALID_CATALOG_NAME
        | UNDEFINED_OBJECT
        | DUPLICATE_OBJECT
        | OBJECT_NOT_IN_PREREQUISITE_STATE
        | CONFIGURATION_LIMIT_EXCEEDED
        | FEATURE_NOT_SUPPORTED
        | INVALID_PARAMETER_VALUE
        | INVALID_NAME
        | NAME_TOO_LONG => Class::Setup,
        PROTOCOL_VIOLATION => Class::Protocol,
        CHARACTER_NOT_IN_REPERTOIRE | UNTRANSLATABLE_CHARACTER => Class::Data,
        _ if sqlstate.starts_with("28") => Class::Permission,
        _ if sqlstate.starts_with("42") || sqlstate.starts_with("3F") => Class::Setup,
        _ => Class::Transient,
    }
}

/// Whether a value that exceeds the server's own limits fails with this SQLSTATE, among other causes.
pub(super) fn is_of_change(sqlstate: &str) -> bool {
    matches!(sqlstate, INTERNAL_ERROR | PROGRAM_LIMIT_EXCEEDED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sqlstate_has_its_class() {
        for (sqlstate, class) in [
            (INVALID_PASSWORD, Class::Permission),
            (INVALID_AUTHORIZATION_SPECIFICATION, Class::Permission),
            (INSUFFICIENT_PRIVILEGE, Class::Permission),
            (INVALID_CATALOG_NAME, Class::Setup),
            (UNDEFINED_OBJECT, Class::Setup),
            (OBJECT_NOT_IN_PREREQUISITE_STATE, Class::Setup),
            (OBJECT_IN_USE, Class::Transient),
            (TOO_MANY_CONNECTIONS, Class::Transient),
            ("57P03", Class::Transient),
            ("57P01", Class::Transient),
            (PROTOCOL_VIOLATION, Class::Protocol),
            (UNTRANSLATABLE_CHARACTER, Class::Data),
        ] {
            assert_eq!(class_of(sqlstate), class, "{sqlstate}");
        }
    }
}
