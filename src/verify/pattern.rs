//! Patterns of tables: `SCHEMA.TABLE` with the globs `*` and `?`, which do not cross the dot. A part with a dot is quoted as
//! in SQL.

use globset::{GlobBuilder, GlobMatcher};

/// A pattern of tables.
#[derive(Clone, Debug)]
pub struct Pattern {
    text: String,
    schema: GlobMatcher,
    table: GlobMatcher,
}

/// A text is not a pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid pattern {text:?}: use SCHEMA.TABLE; * and ? match parts of a name, and a name with a dot is quoted")]
pub struct NotAPattern {
    text: String,
}

impl Pattern {
    /// Parses a pattern.
    ///
    /// # Errors
    /// [`NotAPattern`].
    pub fn parse(text: &str) -> Result<Self, NotAPattern> {
        let wrong = || NotAPattern { text: text.to_owned() };
        let (schema, rest) = part(text).ok_or_else(wrong)?;
        let (table, rest) = rest.strip_prefix('.').and_then(part).ok_or_else(wrong)?;
        let matcher = |name: &str| glob(name).ok_or_else(wrong);
        if !rest.is_empty() {
            return Err(wrong());
        }
        Ok(Pattern { text: text.to_owned(), schema: matcher(&schema)?, table: matcher(&table)? })
    }

    /// Whether a table has a name of this pattern.
    #[must_use]
    pub fn matches(&self, schema: &str, table: &str) -> bool {
        self.schema.is_match(schema) && self.table.is_match(table)
    }

    /// The pattern as it was written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }
}

/// The first part of a pattern without its quotes, and the rest.
fn part(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let (name, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
        return (!name.is_empty() && !name.contains('"')).then(|| (name.to_owned(), rest));
    };
    let mut name = String::new();
    let mut rest = quoted;
    loop {
        let (piece, after) = rest.split_once('"')?;
        name.push_str(piece);
        match after.strip_prefix('"') {
            Some(more) => {
                name.push('"');
                rest = more;
            }
            None => return (!name.is_empty()).then_some((name, after)),
        }
    }
}

/// globset knows more globs than `*` and `?`; they stand for themselves here.
fn glob(name: &str) -> Option<GlobMatcher> {
    let mut escaped = String::new();
    for character in name.chars() {
        match character {
            '[' | '{' | '}' => escaped.extend(['[', character, ']']),
            // Two in a row cross directories.
            '*' if escaped.ends_with('*') => {}
            _ => escaped.push(character),
        }
    }
    let glob = GlobBuilder::new(&escaped).literal_separator(false).backslash_escape(false).build().ok()?;
    Some(glob.compile_matcher())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_names_tables_with_globs_that_do_not_cross_the_dot() {
        for (pattern, schema, table, expected) in [
            ("public.t", "public", "t", true),
            ("public.t", "public", "T", false),
            ("public.t*", "public", "t_1", true),
            ("public.t?", "public", "t_1", false),
            ("*.t", "other", "t", true),
            ("*.*", "a.b", "c", true),
            ("pub*", "public", "t", false),
            ("p*t", "public", "t", false),
            ("\"a.b\".c", "a.b", "c", true),
            ("\"a\"\"b\".\"c d\"", "a\"b", "c d", true),
            ("public.a[b]", "public", "a[b]", true),
            ("public.a[b]", "public", "ab", false),
            ("public.{a,b}", "public", "a", false),
            ("public.a\\*", "public", "a\\x", true),
            ("public.*", "public", "a/b", true),
        ] {
            let found = Pattern::parse(pattern).map(|pattern| pattern.matches(schema, table));
            assert_eq!(found.unwrap_or(false), expected, "{pattern} {schema} {table}");
        }
    }

    #[test]
    fn a_text_without_two_parts_is_no_pattern() {
        for text in ["", "t", "a.", ".b", "a.b.c", "\"a.b", "a\"b.c", "\"\".c", "\"a\"b.c"] {
            assert!(Pattern::parse(text).is_err(), "{text}");
        }
    }
}
