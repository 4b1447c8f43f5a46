//! Masks the secrets in a conninfo and in Kafka properties.
//!
//! If it is unclear what is a password, everything is masked: too little output costs a look into the file, too much costs
//! the password.
//!
//! Source: PostgreSQL documentation, "34.1.1 Connection Strings"; fe-connect.c, `conninfo_parse` and
//! `conninfo_uri_parse_options`.

use super::secret::{MASK, is_reference};

/// A conninfo string or URI without its passwords.
#[must_use]
pub fn mask_dsn(dsn: &str) -> String {
    if is_reference(dsn) {
        return dsn.to_owned();
    }
    match ["postgresql://", "postgres://"].into_iter().find_map(|scheme| Some((scheme, dsn.strip_prefix(scheme)?))) {
        Some((scheme, rest)) => {
            mask_uri(rest).map_or_else(|| format!("{scheme}{MASK}"), |rest| format!("{scheme}{rest}"))
        }
        None => mask_conninfo(dsn).unwrap_or_else(|| MASK.to_owned()),
    }
}

/// The value of a librdkafka property as it may be shown.
#[must_use]
pub fn mask_property<'a>(name: &str, value: &'a str) -> &'a str {
    if is_reference(value) || !is_secret_property(name, value) { value } else { MASK }
}

/// Whether a property contains a secret, judged by its name. An unknown name that looks secret is masked too.
#[must_use]
pub fn is_secret_property(name: &str, value: &str) -> bool {
    if [".location", ".url", ".file"].iter().any(|suffix| name.ends_with(suffix)) {
        return value.contains('@');
    }
    let words = ["pass", "secret", "token", "pem", "key", "sasl.oauthbearer.config", "credential"];
    words.iter().any(|word| name.contains(word))
}

/// The parameters of libpq 18 that may be shown.
const SHOWN_PARAMETERS: &[&str] = &[
    "application_name",
    "channel_binding",
    "client_encoding",
    "connect_timeout",
    "dbname",
    "fallback_application_name",
    "gssdelegation",
    "gssencmode",
    "gsslib",
    "host",
    "hostaddr",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "krbsrvname",
    "load_balance_hosts",
    "max_protocol_version",
    "min_protocol_version",
    "oauth_client_id",
    "oauth_issuer",
    "oauth_scope",
    "options",
    "passfile",
    "port",
    "replication",
    "require_auth",
    "requirepeer",
    "requiressl",
    "service",
    "servicefile",
    "ssl",
    "ssl_max_protocol_version",
    "ssl_min_protocol_version",
    "sslcert",
    "sslcertmode",
    "sslcompression",
    "sslcrl",
    "sslcrldir",
    "sslkey",
    "sslkeylogfile",
    "sslmode",
    "sslnegotiation",
    "sslrootcert",
    "sslsni",
    "target_session_attrs",
    "tcp_user_timeout",
    "user",
];

/// Those whose value is a secret. Any other word is no parameter, so perhaps the second half of an unquoted password.
const MASKED_PARAMETERS: &[&str] =
    &["oauth_client_secret", "password", "scram_client_key", "scram_server_key", "sslpassword"];

/// The value of a parameter as it may be shown; `None` where `keyword` is no parameter of libpq.
fn mask_parameter<'a>(keyword: &str, value: &'a str) -> Option<&'a str> {
    if MASKED_PARAMETERS.contains(&keyword) {
        return Some(MASK);
    }
    SHOWN_PARAMETERS.contains(&keyword).then_some(value)
}

/// `user:password@host:port/dbname?parameter=value&...`; `None` where it is not clear what is the password.
fn mask_uri(rest: &str) -> Option<String> {
    let (head, query) = rest.split_once('?').map_or((rest, None), |(head, query)| (head, Some(query)));
    let authority = head.split_once('/').map_or(head, |(authority, _)| authority);
    let at_signs = rest.matches('@').count();
    if at_signs > 1 || at_signs != authority.matches('@').count() {
        return None;
    }
    let mut masked = match head.split_once('@') {
        None => head.to_owned(),
        Some((credentials, host)) => match credentials.split_once(':') {
            Some((user, _)) => format!("{user}:{MASK}@{host}"),
            None => head.to_owned(),
        },
    };
    for (index, parameter) in query.into_iter().flat_map(|query| query.split('&')).enumerate() {
        masked.push(if index == 0 { '?' } else { '&' });
        let (keyword, value) = parameter.split_once('=')?;
        masked.extend([keyword, "=", mask_parameter(keyword, value)?]);
    }
    Some(masked)
}

/// `keyword = value ...`, values in single quotes or with backslashes where they hold blanks; `None` where it is not
/// of this form.
fn mask_conninfo(dsn: &str) -> Option<String> {
    let mut masked = String::new();
    let mut rest = dsn.trim_start();
    while !rest.is_empty() {
        let (keyword, after) = rest.split_once('=')?;
        let keyword = keyword.trim_end();
        let after = after.trim_start();
        let (value, next) = after.split_at(value_length(after)?);
        if !masked.is_empty() {
            masked.push(' ');
        }
        masked.extend([keyword, "=", mask_parameter(keyword, value)?]);
        rest = next.trim_start();
    }
    Some(masked)
}

/// The length of the value that `text` begins with; `None` where its quote is not closed.
fn value_length(text: &str) -> Option<usize> {
    let quoted = text.starts_with('\'');
    let mut escaped = false;
    for (index, c) in text.char_indices().skip(usize::from(quoted)) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '\'' if quoted => return Some(index + 1),
            c if !quoted && c.is_whitespace() => return Some(index),
            _ => {}
        }
    }
    if quoted { None } else { Some(text.len()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dsn_is_shown_without_its_passwords() {
        for (dsn, shown) in [
            ("", ""),
            ("service=orders", "service=orders"),
            ("host=db password=hunter2 dbname=app", "host=db password=******** dbname=app"),
            ("password=hunter2", "password=********"),
            ("password = hunter2 user = 'a b'", "password=******** user='a b'"),
            (r"password='hunter2 \' hunter2' host=db", "password=******** host=db"),
            (r"password=hunter2\ hunter2 host=db", "password=******** host=db"),
            ("sslpassword=hunter2 passfile=/etc/pgpass", "sslpassword=******** passfile=/etc/pgpass"),
            ("oauth_client_secret=hunter2", "oauth_client_secret=********"),
            ("postgresql://app:hunter2@db:5432/app", "postgresql://app:********@db:5432/app"),
            ("postgres://app:hunter2@db", "postgres://app:********@db"),
            ("postgres://app:hunter:2@db", "postgres://app:********@db"),
            ("postgresql://app@db/app?sslmode=require", "postgresql://app@db/app?sslmode=require"),
            ("postgresql://db:5432,[::1]:5433/app", "postgresql://db:5432,[::1]:5433/app"),
            ("postgresql:///app?user=app&password=hunter2", "postgresql:///app?user=app&password=********"),
            ("file:/run/secrets/dsn", "file:/run/secrets/dsn"),
            ("env:DATABASE_URL", "env:DATABASE_URL"),
        ] {
            assert_eq!(mask_dsn(dsn), shown, "{dsn:?}");
        }
    }

    #[test]
    fn a_dsn_of_doubtful_grammar_is_not_shown_at_all() {
        for dsn in [
            "hunter2",
            "password=hunter2 hunter2",
            "password='hunter2",
            "password='hunter2'hunter2",
            "= hunter2",
            "password=not quoted=hunter2",
            "postgresql://db/app?pass%77ord=hunter2",
            "postgres://app:hunter@2@db/app",
            "postgres://app:hunter/2@db/app",
            "postgres://app:hunter?2@db/app",
            "postgres://db/app?password=hunter@2",
            "postgres://db/app?hunter2",
        ] {
            let shown = mask_dsn(dsn);
            assert!(!shown.contains("hunter") && shown.ends_with(MASK), "{dsn:?} is shown as {shown:?}");
        }
    }

    #[test]
    fn a_property_that_holds_a_secret_is_masked() {
        for name in [
            "sasl.password",
            "ssl.key.password",
            "ssl.keystore.password",
            "ssl.key.pem",
            "ssl.certificate.pem",
            "sasl.oauthbearer.client.secret",
            "sasl.oauthbearer.config",
            "sasl.oauthbearer.assertion.private.key.passphrase",
            "sasl.oauthbearer.assertion.private.key.pem",
            "some.future.token",
        ] {
            assert_eq!(mask_property(name, "hunter2"), MASK, "{name}");
            assert_eq!(mask_property(name, "env:PW"), "env:PW", "{name}");
        }
        for name in ["linger.ms", "sasl.username", "ssl.key.location", "ssl.keystore.location", "compression.type"] {
            assert_eq!(mask_property(name, "shown"), "shown", "{name}");
        }
        let endpoint = "sasl.oauthbearer.token.endpoint.url";
        assert_eq!(mask_property(endpoint, "https://idp/token"), "https://idp/token");
        assert_eq!(mask_property(endpoint, "https://a:hunter2@idp/token"), MASK);
    }
}
