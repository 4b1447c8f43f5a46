//! Connects without blocking: tries one host of the conninfo after another, each with a time limit.
//!
//! libpq applies `connect_timeout` only in its blocking functions, and it moves to the next host, or to the next address of
//! a name, only after a refusal. An unreachable host that drops all packets would hide the hosts after it.
//!
//! Source: PostgreSQL documentation, "34.1 Database Connection Control Functions".

use std::ffi::CString;
use std::net::ToSocketAddrs as _;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use log::warn;
use mio::Interest;

use super::error::{Error, one_line, split_connect_message};
use super::ffi::{self, Handle, Polling};
use crate::limits::CONNECT_TIMEOUT;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `replication=database`: logical replication commands, and SQL through the simple protocol.
    Replication,
    /// SQL only.
    Ordinary,
    /// SQL, perhaps through a pooler that shares the session: no session settings.
    Pooled,
}

/// The readiness of the socket to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Readable.
    Read,
    /// Writable.
    Write,
}

impl Direction {
    /// The same as an interest of the poll.
    #[must_use]
    pub fn interest(self) -> Interest {
        match self {
            Direction::Read => Interest::READABLE,
            Direction::Write => Interest::WRITABLE,
        }
    }
}

/// Options for libpq unless the conninfo sets them: they detect a dead peer within about 30 s.
const SOCKET_DEFAULTS: [(&str, &str); 5] = [
    ("fallback_application_name", "walcat"),
    ("keepalives_idle", "15"),
    ("keepalives_interval", "5"),
    ("keepalives_count", "3"),
    ("tcp_user_timeout", "30000"),
];

/// libpq's default for an empty port.
const DEFAULT_PORT: &str = "5432";

/// The server of the conninfo that a connection has reached: its host, address and port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server(Vec<(&'static str, String)>);

impl Server {
    /// The server of an open connection.
    pub(super) fn of(handle: &Handle) -> Self {
        let (host, address) = (handle.host(), handle.host_address());
        let has_addresses = handle.options().iter().any(|(key, value)| key == "hostaddr" && !value.is_empty());
        if host.is_empty() || (has_addresses && address.is_empty()) {
            // This should not happen, and libpq rejects a list of addresses that does not match the hosts: use the conninfo.
            return Server(Vec::new());
        }
        let mut pinned = vec![("host", host), ("port", handle.port()), ("target_session_attrs", "any".to_owned())];
        if !address.is_empty() {
            pinned.push(("hostaddr", address));
        }
        Server(pinned)
    }
}

/// The host being tried.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    host: String,
    /// One of the host's addresses; empty for a Unix socket.
    address: String,
    port: String,
}

impl Target {
    fn of(handle: &Handle) -> Self {
        Target { host: handle.host(), address: handle.host_address(), port: handle.port() }
    }

    /// The other addresses of a host name. Resolving the name blocks, as it does in libpq.
    fn other_addresses(&self) -> Vec<String> {
        let port = self.port.parse().unwrap_or_default();
        let Ok(found) = (self.host.as_str(), port).to_socket_addrs() else { return Vec::new() };
        let mut others: Vec<String> = found.map(|address| address.ip().to_string()).collect();
        others.retain(|address| *address != self.address);
        others.dedup();
        others
    }
}

/// A connection in progress.
#[derive(Debug)]
pub(super) struct Connecting {
    parameters: Vec<(CString, CString)>,
    handle: Handle,
    direction: Direction,
    target: Target,
    /// The time limit for each address.
    timeout: Duration,
    deadline: Instant,
}

impl Connecting {
    /// Starts to connect; blocks only to resolve host names. Without a `dsn`, libpq's environment variables and files apply.
    /// With a `server`, only that server of the conninfo is tried.
    ///
    /// # Errors
    /// [`Error::Conninfo`] for invalid parameters, and [`Error::Connect`].
    pub fn start(dsn: Option<&str>, server: Option<&Server>, kind: Kind) -> Result<Self, Error> {
        let mut parameters = Vec::new();
        for (key, value) in SOCKET_DEFAULTS {
            parameters.push((text(key)?, text(value)?));
        }
        if let Some(dsn) = dsn {
            let dsn_text = text(dsn)?;
            check_scheme(dsn)?;
            if is_conninfo(dsn) {
                let options = ffi::parse_conninfo(&dsn_text).map_err(|_| conninfo_error(conninfo_complaint(dsn)))?;
                check_port(&options)?;
            }
            parameters.push((text("dbname")?, dsn_text));
        }
        for (key, value) in server.iter().flat_map(|server| &server.0) {
            parameters.push((text(key)?, text(value)?));
        }
        // For names in messages and for everything sent before the first SET; poolers keep this encoding.
        parameters.push((text("client_encoding")?, text("UTF8")?));
        if kind == Kind::Replication {
            parameters.push((text("replication")?, text("database")?));
        }
        let mut handle = start(&parameters)?;
        if kind != Kind::Replication && handle.options().iter().any(|(key, _)| key == "replication") {
            // The conninfo or a service file requests replication. libpq ignores an empty value, and some poolers
            // reject any value.
            parameters.push((text("replication")?, text("false")?));
            handle = start(&parameters)?;
        }
        if handle.is_bad() {
            // It failed before the first attempt: the parameters are invalid, or the host has no address.
            let is_refused = ffi::refuses_parameters(&parameters);
            return Err(if is_refused { conninfo_error(one_line(&handle.error_message())) } else { failed(&handle) });
        }
        let options = handle.options();
        check_root_certificate(&options)?;
        let timeout = timeout(&options);
        let (target, deadline) = (Target::of(&handle), Instant::now() + timeout);
        Ok(Connecting { parameters, handle, direction: Direction::Write, target, timeout, deadline })
    }

    /// Continues without blocking; returns whether the connection is open.
    ///
    /// # Errors
    /// [`Error::Connect`] when no host is left.
    pub fn poll(&mut self, now: Instant) -> Result<bool, Error> {
        // libpq treats the socket as connected when PQconnectPoll is called, so wait until it is.
        if self.direction == Direction::Write && !self.handle.is_writable() {
            return self.skip_host_if_late(now);
        }
        self.direction = match self.handle.connect_poll() {
            Polling::Reading => Direction::Read,
            Polling::Writing => Direction::Write,
            Polling::Done => return Ok(true),
            Polling::Failed => return Err(failed(&self.handle)),
        };
        let target = Target::of(&self.handle);
        if target != self.target {
            self.target = target;
            self.deadline = now + self.timeout;
        }
        self.skip_host_if_late(now)
    }

    /// The socket to wait for before the next [`Connecting::poll`].
    pub fn socket(&self) -> Option<(RawFd, Direction)> {
        Some((self.handle.socket()?, self.direction))
    }

    /// The open connection, whose sends do not block.
    ///
    /// # Errors
    /// [`Error::Lost`] if the connection broke meanwhile.
    pub fn into_handle(mut self) -> Result<Handle, Error> {
        if self.handle.set_nonblocking() {
            return Ok(self.handle);
        }
        Err(Error::Lost { message: "libpq cannot make the connection non-blocking".to_owned() })
    }

    /// Starts again without the host whose time limit has passed.
    fn skip_host_if_late(&mut self, now: Instant) -> Result<bool, Error> {
        if now < self.deadline {
            return Ok(false);
        }
        let Target { host, address, port } = &self.target;
        let message = format!("{host} ({address}), port {port}: no answer within {} s", self.timeout.as_secs());
        let Some(left) = without(&self.target, &self.handle.options(), || self.target.other_addresses()) else {
            return Err(Error::Connect { sqlstate: None, needs_password: false, message });
        };
        warn!(host = host.as_str(), address = address.as_str(), port = port.as_str(),
            timeout_s = self.timeout.as_secs(); "PostgreSQL does not answer; trying the next host");
        for (key, value) in left {
            self.parameters.push((text(&key)?, text(&value)?));
        }
        self.handle = start(&self.parameters)?;
        if self.handle.is_bad() {
            return Err(failed(&self.handle));
        }
        self.direction = Direction::Write;
        self.target = Target::of(&self.handle);
        self.deadline = now + self.timeout;
        Ok(false)
    }
}

fn start(parameters: &[(CString, CString)]) -> Result<Handle, Error> {
    let failed = |message: String| Error::Connect { sqlstate: None, needs_password: false, message };
    Handle::connect_start(parameters).map_err(|error| failed(error.to_string()))
}

fn failed(handle: &Handle) -> Error {
    let (sqlstate, message) = split_connect_message(&handle.error_message());
    Error::Connect { sqlstate, needs_password: handle.needs_password(), message }
}

fn text(text: &str) -> Result<CString, Error> {
    CString::new(text).map_err(|_| conninfo_error("it contains a NUL byte".to_owned()))
}

fn conninfo_error(message: String) -> Error {
    Error::Conninfo { message }
}

/// `connect_timeout` with psql's meaning, where less than 2 s counts as 2 s; otherwise [`CONNECT_TIMEOUT`].
fn timeout(options: &[(String, String)]) -> Duration {
    let given = options.iter().find(|(key, _)| key == "connect_timeout");
    match given.and_then(|(_, value)| value.trim().parse::<u64>().ok()) {
        None | Some(0) => CONNECT_TIMEOUT,
        Some(seconds) => Duration::from_secs(seconds.max(2)),
    }
}

/// The lists of hosts, addresses and ports without the address that was tried; none if no other is left. The other addresses
/// of a name replace it.
fn without(
    tried: &Target,
    options: &[(String, String)],
    other_addresses: impl FnOnce() -> Vec<String>,
) -> Option<Vec<(String, String)>> {
    let list = |wanted: &str| {
        let found = options.iter().find(|(key, _)| key == wanted);
        found.map(|(_, value)| value.split(',').map(|text| text.trim().to_owned()).collect()).unwrap_or_default()
    };
    let (hosts, addresses, ports): (Vec<String>, Vec<String>, Vec<String>) =
        (list("host"), list("hostaddr"), list("port"));
    let item = |list: &[String], place: usize| list.get(place).cloned().unwrap_or_default();
    let port_of = |place: usize| item(&ports, if ports.len() == 1 { 0 } else { place });
    let mut left: Vec<(String, String, String)> = (0..hosts.len().max(addresses.len()))
        .map(|place| (item(&hosts, place), item(&addresses, place), port_of(place)))
        .collect();
    let place = left.iter().position(|(host, address, port)| {
        let port = if port.is_empty() { DEFAULT_PORT } else { port };
        let is_host = if host.is_empty() { *address == tried.host } else { *host == tried.host };
        is_host && port == tried.port && (address.is_empty() || tried.address.is_empty() || *address == tried.address)
    })?;
    let (host, address, port) = left.remove(place);
    if address.is_empty() {
        let others = other_addresses().into_iter().map(|address| (host.clone(), address, port.clone()));
        left.splice(place..place, others);
    }
    if left.is_empty() {
        return None;
    }
    let join = |items: Vec<&str>| items.join(",");
    let mut lists = vec![("host".to_owned(), join(left.iter().map(|(host, ..)| host.as_str()).collect()))];
    if left.iter().any(|(_, address, _)| !address.is_empty()) {
        lists.push(("hostaddr".to_owned(), join(left.iter().map(|(_, address, _)| address.as_str()).collect())));
    }
    if !ports.is_empty() {
        lists.push(("port".to_owned(), join(left.iter().map(|(.., port)| port.as_str()).collect())));
    }
    Some(lists)
}

/// libpq checks a port only when it connects, and reports it like an unreachable server.
fn check_port(options: &[(String, String)]) -> Result<(), Error> {
    let Some((_, ports)) = options.iter().find(|(key, _)| key == "port") else { return Ok(()) };
    // A list has one port per host; an empty entry means the default.
    match ports.split(',').find(|port| !port.is_empty() && !port.trim().parse().is_ok_and(|port: u16| port > 0)) {
        Some(port) => Err(conninfo_error(format!("invalid port {port}: use a number from 1 to 65535"))),
        None => Ok(()),
    }
}

/// libpq takes a URI with an unknown scheme as a database name, and the server would repeat it with the password.
fn check_scheme(dsn: &str) -> Result<(), Error> {
    let begins_as_uri = ["postgres://", "postgresql://"].iter().any(|scheme| dsn.starts_with(scheme));
    if begins_as_uri {
        return Ok(());
    }
    if dsn.starts_with("jdbc:") {
        return Err(conninfo_error("\"jdbc:\" URLs are for Java: use postgresql://".to_owned()));
    }
    if let Some((scheme, _)) = dsn.split_once("://")
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'))
    {
        return Err(conninfo_error(format!("unknown scheme \"{scheme}://\": use postgresql:// or postgres://")));
    }
    if !dsn.contains('=') && dsn.contains(['@', ':', '/']) {
        let why =
            "it is neither a URI nor key=value pairs; write a database name with \"@\", \":\" or \"/\" as dbname=NAME";
        return Err(conninfo_error(why.to_owned()));
    }
    Ok(())
}

/// libpq reads the file only after a server has answered, and reports its absence as a failure of the server.
fn check_root_certificate(options: &[(String, String)]) -> Result<(), Error> {
    let value = |wanted: &str| {
        options.iter().find(|(key, value)| key == wanted && !value.is_empty()).map(|(_, value)| value.as_str())
    };
    let is_verified = matches!(value("sslmode"), Some("verify-ca" | "verify-full"));
    let is_remote = value("hostaddr").is_some()
        || value("host").is_some_and(|hosts| hosts.split(',').any(|host| !host.is_empty() && !host.starts_with('/')));
    if !is_verified || !is_remote || value("sslrootcert") == Some("system") {
        return Ok(());
    }
    let of_home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".postgresql/root.crt"));
    let Some(path) = value("sslrootcert").map(PathBuf::from).or_else(of_home) else { return Ok(()) };
    match std::fs::metadata(&path) {
        Err(error) => Err(conninfo_error(format!("sslrootcert: cannot read {}: {error}", path.display()))),
        Ok(_) => Ok(()),
    }
}

/// Whether libpq takes the text as a connection string; it takes any other text as a database name.
fn is_conninfo(dsn: &str) -> bool {
    dsn.contains('=') || dsn.starts_with("postgres://") || dsn.starts_with("postgresql://")
}

/// libpq's own message may quote a part of the conninfo with a password, so this message does not use it.
fn conninfo_complaint(dsn: &str) -> String {
    let form = if dsn.contains("://") { "a connection URI" } else { "a list of key=value pairs" };
    format!("libpq cannot parse it as {form} (the text is not shown because it may contain a password)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conninfo_that_libpq_refuses_is_not_quoted_in_the_error() {
        let error = Connecting::start(Some("host=localhost password=hunter2 bogus"), None, Kind::Ordinary).unwrap_err();
        assert!(matches!(error, Error::Conninfo { .. }), "{error}");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }

    #[test]
    fn a_uri_that_libpq_would_take_for_a_database_name_is_refused_and_not_shown() {
        for (dsn, why) in [
            ("postgre://bob:hunter2@host/x", "unknown scheme \"postgre://\": use postgresql:// or postgres://"),
            ("mysql://bob:hunter2@host/x?a=b", "unknown scheme \"mysql://\""),
            ("jdbc:postgresql://host/x?user=bob&password=hunter2", "\"jdbc:\" URLs are for Java"),
            ("bob:hunter2@host/x", "it is neither a URI nor key=value pairs"),
            ("hunter2 x://host", "it is neither a URI nor key=value pairs"),
        ] {
            let error = Connecting::start(Some(dsn), None, Kind::Ordinary).unwrap_err();
            assert!(matches!(error, Error::Conninfo { .. }), "{dsn}: {error}");
            let shown = format!("{error} {error:?} {:?}", error.hint());
            assert!(shown.contains(why) && !shown.contains("hunter2"), "{shown}");
        }
        for dsn in ["shop", "dbname=a@b", "host=/run/x dbname=a://b"] {
            assert!(check_scheme(dsn).is_ok(), "{dsn}");
        }
    }

    #[test]
    fn a_root_certificate_that_is_missing_is_found_before_a_server_is_asked() {
        let start = |dsn: &str| Connecting::start(Some(dsn), None, Kind::Ordinary).map(drop);
        let error = start("host=127.0.0.1 port=1 sslmode=verify-full sslrootcert=/nowhere.crt").unwrap_err();
        assert_eq!(
            error.to_string(),
            "invalid conninfo: sslrootcert: cannot read /nowhere.crt: No such file or directory (os error 2)"
        );
        for dsn in [
            "host=127.0.0.1 port=1 sslmode=require sslrootcert=/nowhere.crt",
            "host=127.0.0.1 port=1 sslmode=verify-full sslrootcert=Cargo.toml",
        ] {
            assert!(!matches!(start(dsn), Err(Error::Conninfo { .. })), "{dsn}");
        }
    }

    #[test]
    fn parameters_that_are_wrong_in_themselves_are_told_from_a_server_that_is_not_there() {
        for dsn in ["port=notaport", "host=a,b port=1,2,3", "sslmode=bogus host=localhost", "target_session_attrs=zz"] {
            let error = Connecting::start(Some(dsn), None, Kind::Ordinary).unwrap_err();
            assert!(matches!(error, Error::Conninfo { .. }), "{dsn}: {error}");
        }
        let handle = Connecting::start(Some("host=127.0.0.1 port=1"), None, Kind::Ordinary);
        assert!(handle.is_ok(), "an unreachable server shows only later");
    }

    #[test]
    fn a_host_that_does_not_answer_is_left_out_with_its_port_and_address() {
        let options = |list: &[(&str, &str)]| {
            list.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect::<Vec<_>>()
        };
        let target = |host: &str, address: &str, port: &str| Target {
            host: host.to_owned(),
            address: address.to_owned(),
            port: port.to_owned(),
        };
        let left =
            |list: &[(&str, &str)], host, port| without(&target(host, "10.0.0.9", port), &options(list), Vec::new);
        let three = [("host", "a,b,a"), ("port", "1,2,3"), ("user", "u")];
        assert_eq!(left(&three, "a", "3"), Some(options(&[("host", "a,b"), ("port", "1,2")])));
        assert_eq!(left(&three, "a", "2"), None, "not one of them");
        let one_port = [("host", "a,b"), ("port", "7")];
        assert_eq!(left(&one_port, "a", "7"), Some(options(&[("host", "b"), ("port", "7")])));
        assert_eq!(left(&[("host", "a"), ("port", "1")], "a", "1"), None, "no other host");
        let addresses = [("host", "a,"), ("hostaddr", "127.0.0.1,127.0.0.2"), ("port", ",")];
        let second = options(&[("host", "a"), ("hostaddr", "127.0.0.1"), ("port", "")]);
        let tried = target("127.0.0.2", "127.0.0.2", "5432");
        assert_eq!(without(&tried, &options(&addresses), Vec::new), Some(second));
    }

    #[test]
    fn a_name_whose_first_address_does_not_answer_gives_way_to_its_other_addresses() {
        let options = |list: &[(&str, &str)]| {
            list.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect::<Vec<_>>()
        };
        let mut target = Target { host: "db".into(), address: "10.0.0.1".into(), port: "7".into() };
        let others = || vec!["10.0.0.2".to_owned(), "fe80::3".to_owned()];
        let given = options(&[("host", "a,db,b"), ("port", "7")]);
        let first = without(&target, &given, others).expect("more addresses");
        let hosts = ("host", "a,db,db,b");
        assert_eq!(first, options(&[hosts, ("hostaddr", ",10.0.0.2,fe80::3,"), ("port", "7,7,7,7")]));
        // The next address is silent too: walcat does not resolve the name again.
        target.address = "fe80::3".into();
        let second = without(&target, &first, || panic!("resolved again"));
        assert_eq!(second, Some(options(&[("host", "a,db,b"), ("hostaddr", ",10.0.0.2,"), ("port", "7,7,7")])));
        let alone = options(&[("host", "db"), ("port", "7")]);
        target.address = "10.0.0.1".into();
        let left = options(&[("host", "db,db"), ("hostaddr", "10.0.0.2,fe80::3"), ("port", "7,7")]);
        assert_eq!(without(&target, &alone, others), Some(left));
    }
}
