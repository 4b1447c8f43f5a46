//! Patterns of tables: `SCHEMA.TABLE` with the globs `*` and `?`, or a regular expression between slashes.
//!
//! A glob does not cross the dot. Case matters. A part with a dot in it is quoted as in SQL, and a quoted part has no
//! globs. A regular expression is compared with the whole of `SCHEMA.TABLE`.

use globset::{GlobBuilder, GlobMatcher};
use regex::Regex;

/// A pattern of tables.
#[derive(Clone, Debug)]
pub struct Pattern {
    /// As it was written.
    text: String,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Parts { schema: GlobMatcher, table: GlobMatcher },
    Expression(Regex),
}

/// Why a text is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Mistake {
    /// Not two parts.
    #[error("write SCHEMA.TABLE, as in shop.* or public.orders, and quote a part that has a dot: \"a.b\".c")]
    Parts,
    /// A regular expression that is not valid.
    #[error("the regular expression is not valid")]
    Expression,
}

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// [`Mistake`].
    pub fn parse(text: &str) -> Result<Self, Mistake> {
        let kind = match text.strip_prefix('/').and_then(|rest| rest.strip_suffix('/')) {
            Some(expression) => {
                let whole = Regex::new(&format!("^(?:{expression})$"));
                Kind::Expression(whole.map_err(|_| Mistake::Expression)?)
            }
            None => {
                let (schema, rest) = part(text)?;
                let (table, rest) = part(rest.strip_prefix('.').ok_or(Mistake::Parts)?)?;
                if !rest.is_empty() {
                    return Err(Mistake::Parts);
                }
                Kind::Parts { schema, table }
            }
        };
        Ok(Pattern { text: text.to_owned(), kind })
    }

    /// The pattern as it was written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether the table fits.
    #[must_use]
    pub fn matches(&self, schema: &str, table: &str) -> bool {
        match &self.kind {
            Kind::Parts { schema: schemas, table: tables } => schemas.is_match(schema) && tables.is_match(table),
            Kind::Expression(expression) => expression.is_match(&format!("{schema}.{table}")),
        }
    }
}

/// Reads one part; returns it and the rest of the text.
fn part(text: &str) -> Result<(GlobMatcher, &str), Mistake> {
    let (glob, rest) = match text.strip_prefix('"') {
        Some(quoted) => {
            let (mut name, mut rest) = (String::new(), quoted);
            loop {
                let (before, after) = rest.split_once('"').ok_or(Mistake::Parts)?;
                name.push_str(before);
                match after.strip_prefix('"') {
                    Some(after) => {
                        name.push('"');
                        rest = after;
                    }
                    None => break (globset::escape(&name), after),
                }
            }
        }
        None => {
            let length = text.find('.').unwrap_or(text.len());
            let (name, rest) = text.split_at(length);
            // Of the globs of the library only these two are globs here.
            let is_glob = |c: char| matches!(c, '*' | '?');
            let pieces = name.split_inclusive(is_glob).map(|piece| match piece.strip_suffix(is_glob) {
                Some(plain) => format!("{}{}", globset::escape(plain), &piece[plain.len()..]),
                None => globset::escape(piece),
            });
            (pieces.collect(), rest)
        }
    };
    if text.len() == rest.len() {
        return Err(Mistake::Parts);
    }
    // A slash is a character like any other.
    let glob = GlobBuilder::new(&glob).literal_separator(false).backslash_escape(false).build();
    Ok((glob.map_err(|_| Mistake::Parts)?.compile_matcher(), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_fits_a_schema_and_a_table() {
        for (pattern, schema, table, expected) in [
            ("public.orders", "public", "orders", true),
            ("public.orders", "public", "Orders", false),
            ("public.orders", "public", "orders2", false),
            ("*.orders", "shop", "orders", true),
            ("shop.*", "shop", "a.b", true),
            ("shop.*", "shop.a", "b", false),
            ("sh?p.order?", "shop", "orders", true),
            ("sh?p.order?", "shop", "order", false),
            ("*.*", "a", "b/c", true),
            ("s.[ab]{c,d}!", "s", "[ab]{c,d}!", true),
            ("s.a\\b", "s", "a\\b", true),
            ("\"a.b\".\"c*\"", "a.b", "c*", true),
            ("\"a.b\".\"c*\"", "a.b", "cd", false),
            ("s.\"say \"\"hi\"\"\"", "s", "say \"hi\"", true),
            ("/shop\\.(orders|items)_[0-9]+/", "shop", "orders_7", true),
            ("/shop\\.orders/", "shop", "orders_7", false),
            ("/a|b/", "a", "b", false),
        ] {
            let found = Pattern::parse(pattern).unwrap_or_else(|why| panic!("{pattern}: {why}"));
            assert_eq!(found.matches(schema, table), expected, "{pattern} {schema} {table}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for text in ["", "orders", ".", "a.", ".b", "a.b.c", "\"a.b", "\"a\"b.c", "//x"] {
            assert_eq!(Pattern::parse(text).err(), Some(Mistake::Parts), "{text}");
        }
        assert_eq!(Pattern::parse("/(/").err(), Some(Mistake::Expression));
    }
}
