//! The one file that calls libpq: owners for its memory, and its calls with their contracts.
//!
//! Source: PostgreSQL documentation, chapter 34, "libpq". Only [`Handle::connect_start`] can block, to resolve a host name.
//! A handle is used on the thread that created it: the types are neither Send nor Sync.

#![allow(unsafe_code, reason = "calls libpq")]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ops::Deref;
use std::os::fd::RawFd;
use std::ptr::{self, NonNull};

use pq_sys as pq;

/// A connection, closed when it is dropped.
#[derive(Debug)]
pub struct Handle(NonNull<pq::PGconn>);

/// What [`Handle::connect_poll`] waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Polling {
    /// The socket must become readable.
    Reading,
    /// The socket must become writable.
    Writing,
    /// Connected.
    Done,
    /// The connection failed: see [`Handle::error_message`].
    Failed,
}

/// What [`Handle::copy_data`] found.
#[derive(Debug)]
pub enum CopyPoll {
    /// One CopyData message.
    Data(CopyData),
    /// No complete message has arrived yet.
    Pending,
    /// The server has ended the copy; its result follows.
    End,
    /// The connection failed: see [`Handle::error_message`].
    Failed,
}

/// The connection failed; [`Handle::error_message`] says why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Broken;

/// libpq could not allocate memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("libpq is out of memory")]
pub struct OutOfMemory;

/// The version of the linked libpq, as PQlibVersion numbers it (150018 is 15.18).
#[must_use]
pub fn library_version() -> i32 {
    // SAFETY: takes nothing and returns a constant of the library.
    unsafe { pq::PQlibVersion() }
}

/// Checks a connection string's syntax and returns its options that have a value.
///
/// # Errors
/// libpq's own message, without a final newline. It may quote a part of the string: the caller masks passwords.
pub fn parse_conninfo(conninfo: &CStr) -> Result<Vec<(String, String)>, String> {
    let mut message: *mut c_char = ptr::null_mut();
    // SAFETY: both pointers are valid for the call; "errmsg ... is to be freed with PQfreemem", which is done below.
    let options = unsafe { pq::PQconninfoParse(conninfo.as_ptr(), &raw mut message) };
    if options.is_null() {
        let text = owned_text(message);
        // SAFETY: PQfreemem accepts what PQconninfoParse stored there, or null.
        unsafe { pq::PQfreemem(message.cast()) };
        return Err(text);
    }
    Ok(take_options(options))
}

/// Returns the options of an array that have a value, and frees the array.
fn take_options(options: *mut pq::PQconninfoOption) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut option = options;
    loop {
        // SAFETY: "an array of PQconninfoOption structures ... ended by an entry having a null keyword pointer"; the
        // loop ends there, and the array lives until PQconninfoFree below.
        let entry = unsafe { &*option };
        if entry.keyword.is_null() {
            break;
        }
        if !entry.val.is_null() {
            found.push((owned_text(entry.keyword), owned_text(entry.val)));
        }
        // SAFETY: the entry was not the last one, so the next one is inside the array.
        option = unsafe { option.add(1) };
    }
    // SAFETY: frees the array that libpq made for the caller, once, and nothing borrowed from it is left.
    unsafe { pq::PQconninfoFree(options) };
    found
}

/// Whether libpq rejects the parameters themselves, such as a port that is not a number (PQpingParams:
/// PQPING_NO_ATTEMPT). Only for parameters of a connection that has just failed: with others it would wait for a server.
#[must_use]
pub fn refuses_parameters(parameters: &[(CString, CString)]) -> bool {
    let (keywords, values) = parameter_arrays(parameters);
    // SAFETY: two null-terminated arrays of the same length, of C strings that outlive the call.
    unsafe { pq::PQpingParams(keywords.as_ptr(), values.as_ptr(), 1) == pq::PGPing::PQPING_NO_ATTEMPT }
}

/// The arrays of keywords and values for libpq, each ended by a null pointer. They borrow from the parameters.
fn parameter_arrays(parameters: &[(CString, CString)]) -> (Vec<*const c_char>, Vec<*const c_char>) {
    let end = std::iter::once(ptr::null());
    let keywords = parameters.iter().map(|(key, _)| key.as_ptr()).chain(end.clone()).collect();
    let values = parameters.iter().map(|(_, value)| value.as_ptr()).chain(end).collect();
    (keywords, values)
}

impl Handle {
    /// Starts to connect without blocking (PQconnectStartParams with expand_dbname). Resolving a host name may block.
    ///
    /// # Errors
    /// [`OutOfMemory`]; [`Handle::connect_poll`] reports every other failure.
    pub fn connect_start(parameters: &[(CString, CString)]) -> Result<Self, OutOfMemory> {
        let (keywords, values) = parameter_arrays(parameters);
        // SAFETY: two null-terminated arrays of the same length, of C strings that outlive the call; libpq copies them.
        let handle = unsafe { pq::PQconnectStartParams(keywords.as_ptr(), values.as_ptr(), 1) };
        let handle = Handle(NonNull::new(handle).ok_or(OutOfMemory)?);
        // SAFETY: the handle is open. With PQERRORS_VERBOSE a failure to connect also names its SQLSTATE, although there
        // is no PGresult then.
        unsafe { pq::PQsetErrorVerbosity(handle.raw(), pq::PGVerbosity::PQERRORS_VERBOSE) };
        // SAFETY: the handle is open; the callback takes no state and does not unwind.
        unsafe { pq::PQsetNoticeProcessor(handle.raw(), Some(forget_notice), ptr::null_mut()) };
        Ok(handle)
    }

    /// Continues to connect without blocking (PQconnectPoll).
    pub fn connect_poll(&mut self) -> Polling {
        // SAFETY: the handle is open and used on this thread only.
        match unsafe { pq::PQconnectPoll(self.raw()) } {
            pq::PostgresPollingStatusType::PGRES_POLLING_OK => Polling::Done,
            pq::PostgresPollingStatusType::PGRES_POLLING_READING => Polling::Reading,
            pq::PostgresPollingStatusType::PGRES_POLLING_WRITING
            | pq::PostgresPollingStatusType::PGRES_POLLING_ACTIVE => Polling::Writing,
            pq::PostgresPollingStatusType::PGRES_POLLING_FAILED => Polling::Failed,
        }
    }

    /// The socket; none without one. It may change until the connection is open (PQsocket).
    #[must_use]
    pub fn socket(&self) -> Option<RawFd> {
        // SAFETY: the handle is open.
        let socket = unsafe { pq::PQsocket(self.raw()) };
        (socket >= 0).then_some(socket)
    }

    /// Whether the socket can be written without blocking. While connecting, this means: connected, or failed.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        let Some(socket) = self.socket() else { return true };
        let mut descriptor = libc::pollfd { fd: socket, events: libc::POLLOUT, revents: 0 };
        // SAFETY: one valid pollfd; a time-out of 0 does not wait.
        unsafe { libc::poll(&raw mut descriptor, 1, 0) != 0 }
    }

    /// The host being tried or connected (PQhost).
    #[must_use]
    pub fn host(&self) -> String {
        // SAFETY: the handle is open; the string is copied at once.
        owned_text(unsafe { pq::PQhost(self.raw()) })
    }

    /// The address of the host being tried or connected (PQhostaddr); empty before there is one, and for a Unix socket.
    #[must_use]
    pub fn host_address(&self) -> String {
        // SAFETY: the handle is open; the string is copied at once.
        owned_text(unsafe { pq::PQhostaddr(self.raw()) })
    }

    /// Its port (PQport).
    #[must_use]
    pub fn port(&self) -> String {
        // SAFETY: the handle is open; the string is copied at once.
        owned_text(unsafe { pq::PQport(self.raw()) })
    }

    /// The options in use, including those from libpq's environment variables and files (PQconninfo). Contains the password.
    #[must_use]
    pub fn options(&self) -> Vec<(String, String)> {
        // SAFETY: the handle is open.
        let options = unsafe { pq::PQconninfo(self.raw()) };
        if options.is_null() { Vec::new() } else { take_options(options) }
    }

    /// Whether the connection failed because a required password was missing (PQconnectionNeedsPassword).
    #[must_use]
    pub fn needs_password(&self) -> bool {
        // SAFETY: the handle is open.
        unsafe { pq::PQconnectionNeedsPassword(self.raw()) != 0 }
    }

    /// The newest error, in libpq's words.
    #[must_use]
    pub fn error_message(&self) -> String {
        // SAFETY: the handle is open; "the result string ... is part of the connection", copied before the next call.
        owned_text(unsafe { pq::PQerrorMessage(self.raw()) })
    }

    /// The server's version, such as 150018 (PQserverVersion); 0 without a connection.
    #[must_use]
    pub fn server_version(&self) -> i32 {
        // SAFETY: the handle is open.
        unsafe { pq::PQserverVersion(self.raw()) }
    }

    /// The name of the database (PQdb).
    #[must_use]
    pub fn database(&self) -> String {
        // SAFETY: the handle is open; the string is copied at once.
        owned_text(unsafe { pq::PQdb(self.raw()) })
    }

    /// The pid of the server process of the connection (PQbackendPID); 0 without a connection.
    #[must_use]
    pub fn backend_pid(&self) -> i32 {
        // SAFETY: the handle is open.
        unsafe { pq::PQbackendPID(self.raw()) }
    }

    /// Whether the connection is known to be broken (PQstatus).
    #[must_use]
    pub fn is_bad(&self) -> bool {
        // SAFETY: the handle is open.
        unsafe { pq::PQstatus(self.raw()) == pq::ConnStatusType::CONNECTION_BAD }
    }

    /// Makes sends non-blocking (PQsetnonblocking). Returns whether that worked.
    #[must_use]
    pub fn set_nonblocking(&mut self) -> bool {
        // SAFETY: the handle is open.
        unsafe { pq::PQsetnonblocking(self.raw(), 1) == 0 }
    }

    /// Sends a command without waiting for its result (PQsendQuery). Returns whether that worked.
    pub fn send_query(&mut self, command: &CStr) -> bool {
        // SAFETY: the handle is open; libpq copies the command into its own buffer.
        unsafe { pq::PQsendQuery(self.raw(), command.as_ptr()) == 1 }
    }

    /// Sends a query with text parameters (PQsendQueryParams). A replication connection does not support it, because it
    /// accepts only the simple protocol.
    pub fn send_query_params(&mut self, command: &CStr, parameters: &[&CStr]) -> bool {
        let values: Vec<*const c_char> = parameters.iter().map(|value| value.as_ptr()).collect();
        let count = c_int::try_from(values.len()).unwrap_or(c_int::MAX);
        // SAFETY: the array holds `count` C strings that outlive the call; null for types, lengths and formats means
        // "infer", "text" and "text".
        unsafe {
            pq::PQsendQueryParams(
                self.raw(),
                command.as_ptr(),
                count,
                ptr::null(),
                values.as_ptr(),
                ptr::null(),
                ptr::null(),
                0,
            ) == 1
        }
    }

    /// Sends a query without parameters and requests its values in binary format (PQsendQueryParams).
    pub fn send_query_params_binary(&mut self, command: &CStr) -> bool {
        // SAFETY: the handle is open; the command outlives the call; there are no parameters, so null arrays are allowed.
        unsafe {
            pq::PQsendQueryParams(
                self.raw(),
                command.as_ptr(),
                0,
                ptr::null(),
                ptr::null(),
                ptr::null(),
                ptr::null(),
                1,
            ) == 1
        }
    }

    /// Requests the rows of the query just sent one by one (PQsetSingleRowMode).
    pub fn single_rows(&mut self) -> bool {
        // SAFETY: the handle is open.
        unsafe { pq::PQsetSingleRowMode(self.raw()) == 1 }
    }

    /// Cancels the running command (PQcancel). This opens another connection to the server and blocks meanwhile.
    pub fn cancel(&mut self) {
        // SAFETY: the handle is open; the returned object is ours until it is freed below.
        let cancel = unsafe { pq::PQgetCancel(self.raw()) };
        if cancel.is_null() {
            return;
        }
        let mut reason = [0_u8; 256];
        // SAFETY: the object is live, and the buffer has the stated length. A failed request changes nothing.
        unsafe { pq::PQcancel(cancel, reason.as_mut_ptr().cast(), 256) };
        // SAFETY: freed once.
        unsafe { pq::PQfreeCancel(cancel) };
    }

    /// Whether the socket has data to read, by poll(2) without waiting. The end of the connection counts as data.
    #[must_use]
    pub fn is_readable(&self) -> bool {
        let Some(socket) = self.socket() else { return false };
        let mut descriptor = libc::pollfd { fd: socket, events: libc::POLLIN, revents: 0 };
        // SAFETY: one valid pollfd; a time-out of 0 does not wait.
        unsafe { libc::poll(&raw mut descriptor, 1, 0) > 0 }
    }

    /// Reads what the socket has (PQconsumeInput). Returns whether the connection still works.
    pub fn consume_input(&mut self) -> bool {
        // SAFETY: the handle is open.
        unsafe { pq::PQconsumeInput(self.raw()) == 1 }
    }

    /// Whether [`Handle::result`] would wait (PQisBusy).
    #[must_use]
    pub fn is_busy(&self) -> bool {
        // SAFETY: the handle is open.
        unsafe { pq::PQisBusy(self.raw()) == 1 }
    }

    /// The next result of the command; none after the last (PQgetResult). Only call this while not busy.
    pub fn result(&mut self) -> Option<QueryResult> {
        // SAFETY: the handle is open; the result belongs to the caller, who frees it by PQclear in Drop.
        NonNull::new(unsafe { pq::PQgetResult(self.raw()) }).map(QueryResult)
    }

    /// Sends queued data as far as the socket accepts it (PQflush): false if something is left to send.
    ///
    /// # Errors
    /// When the connection failed: see [`Handle::error_message`].
    pub fn flush(&mut self) -> Result<bool, Broken> {
        // SAFETY: the handle is open.
        match unsafe { pq::PQflush(self.raw()) } {
            0 => Ok(true),
            1 => Ok(false),
            _ => Err(Broken),
        }
    }

    /// Queues one CopyData message (PQputCopyData): false if the buffers are full.
    ///
    /// # Errors
    /// When the connection failed: see [`Handle::error_message`].
    pub fn put_copy_data(&mut self, data: &[u8]) -> Result<bool, Broken> {
        let length = c_int::try_from(data.len()).map_err(|_| Broken)?;
        // SAFETY: the handle is open, the buffer holds `length` bytes for the call, and libpq copies them.
        match unsafe { pq::PQputCopyData(self.raw(), data.as_ptr().cast(), length) } {
            1 => Ok(true),
            0 => Ok(false),
            _ => Err(Broken),
        }
    }

    /// Queues CopyDone (PQputCopyEnd): false if the buffers are full.
    ///
    /// # Errors
    /// When the connection failed: see [`Handle::error_message`].
    pub fn put_copy_end(&mut self) -> Result<bool, Broken> {
        // SAFETY: the handle is open; a null message means success.
        match unsafe { pq::PQputCopyEnd(self.raw(), ptr::null()) } {
            1 => Ok(true),
            0 => Ok(false),
            _ => Err(Broken),
        }
    }

    /// The next CopyData message, without waiting (PQgetCopyData with async).
    pub fn copy_data(&mut self) -> CopyPoll {
        let mut buffer: *mut c_char = ptr::null_mut();
        // SAFETY: the handle is open and `buffer` is valid; "*buffer is set to point to allocated memory" when the
        // result is positive, to be freed by PQfreemem, which CopyData's Drop does.
        let length = unsafe { pq::PQgetCopyData(self.raw(), &raw mut buffer, 1) };
        match (usize::try_from(length), NonNull::new(buffer)) {
            (Ok(0), _) => CopyPoll::Pending,
            (Ok(length), Some(start)) => CopyPoll::Data(CopyData { start: start.cast(), length }),
            _ if length == -1 => CopyPoll::End,
            _ => CopyPoll::Failed,
        }
    }

    fn raw(&self) -> *mut pq::PGconn {
        self.0.as_ptr()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: the only owner closes it, once.
        unsafe { pq::PQfinish(self.raw()) };
    }
}

/// The bytes of one CopyData message, in libpq's memory.
#[derive(Debug)]
pub struct CopyData {
    start: NonNull<u8>,
    length: usize,
}

impl Deref for CopyData {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: PQgetCopyData returned `length` bytes there; they live until Drop, and nobody writes to them.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }
}

impl Drop for CopyData {
    fn drop(&mut self) {
        // SAFETY: "When the data is no longer needed it should be freed by PQfreemem"; the only owner does it, once.
        unsafe { pq::PQfreemem(self.start.as_ptr().cast::<c_void>()) };
    }
}

/// The outcome of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It succeeded without rows.
    Command,
    /// It succeeded with rows.
    Rows,
    /// Replication has started (PGRES_COPY_BOTH).
    CopyBoth,
    /// Rows of COPY TO STDOUT follow (PGRES_COPY_OUT).
    CopyOut,
    /// It failed: see [`QueryResult::error`].
    Failed,
}

/// A result, freed when it is dropped.
#[derive(Debug)]
pub struct QueryResult(NonNull<pq::PGresult>);

/// The fields of an ErrorResponse.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ErrorFields {
    /// Five characters; empty for an error of libpq itself.
    pub sqlstate: String,
    /// The primary message.
    pub message: String,
    /// The detail, if any.
    pub detail: Option<String>,
    /// The context of the error on the server.
    pub context: Option<String>,
}

impl QueryResult {
    /// The outcome of the command (PQresultStatus).
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        // SAFETY: the result is live until Drop.
        match unsafe { pq::PQresultStatus(self.0.as_ptr()) } {
            pq::ExecStatusType::PGRES_COMMAND_OK | pq::ExecStatusType::PGRES_EMPTY_QUERY => Outcome::Command,
            pq::ExecStatusType::PGRES_TUPLES_OK | pq::ExecStatusType::PGRES_SINGLE_TUPLE => Outcome::Rows,
            pq::ExecStatusType::PGRES_COPY_BOTH => Outcome::CopyBoth,
            pq::ExecStatusType::PGRES_COPY_OUT => Outcome::CopyOut,
            _ => Outcome::Failed,
        }
    }

    /// Whether it is the end of a COPY (PQcmdStatus).
    #[must_use]
    pub fn is_copy(&self) -> bool {
        // SAFETY: the result is live until Drop.
        let tag = unsafe { pq::PQcmdStatus(self.0.as_ptr()) };
        if tag.is_null() {
            return false;
        }
        // SAFETY: the command tag is a C string inside the result, which lives until Drop.
        unsafe { CStr::from_ptr(tag) }.to_bytes().starts_with(b"COPY ")
    }

    /// The number of rows (PQntuples).
    #[must_use]
    pub fn row_count(&self) -> usize {
        // SAFETY: the result is live until Drop.
        usize::try_from(unsafe { pq::PQntuples(self.0.as_ptr()) }).expect("libpq counts rows from 0")
    }

    /// The text of a value; none for NULL, for a cell outside the result, and for text that is not UTF-8.
    #[must_use]
    pub fn value(&self, row: usize, column: usize) -> Option<&str> {
        let (row, column) = (c_int::try_from(row).ok()?, c_int::try_from(column).ok()?);
        // SAFETY: the result is live until Drop.
        let column_count = unsafe { pq::PQnfields(self.0.as_ptr()) };
        // SAFETY: the same.
        let row_count = unsafe { pq::PQntuples(self.0.as_ptr()) };
        if row >= row_count || column >= column_count {
            return None;
        }
        // SAFETY: the result is live and the cell is inside it, as was checked above.
        if unsafe { pq::PQgetisnull(self.0.as_ptr(), row, column) } != 0 {
            return None;
        }
        // SAFETY: the same.
        let text = unsafe { pq::PQgetvalue(self.0.as_ptr(), row, column) };
        // SAFETY: "the returned pointer points to storage that is part of the PGresult structure", which the borrow of
        // self keeps alive, and a text value is null-terminated.
        unsafe { CStr::from_ptr(text) }.to_str().ok()
    }

    /// The bytes of a value in binary format; none for NULL and for a cell outside the result.
    #[must_use]
    pub fn bytes(&self, row: usize, column: usize) -> Option<&[u8]> {
        let (row, column) = (c_int::try_from(row).ok()?, c_int::try_from(column).ok()?);
        // SAFETY: the result is live until Drop.
        let column_count = unsafe { pq::PQnfields(self.0.as_ptr()) };
        // SAFETY: the same.
        let row_count = unsafe { pq::PQntuples(self.0.as_ptr()) };
        if row >= row_count || column >= column_count {
            return None;
        }
        // SAFETY: the result is live and the cell is inside it, as was checked above.
        if unsafe { pq::PQgetisnull(self.0.as_ptr(), row, column) } != 0 {
            return None;
        }
        // SAFETY: the same.
        let length = usize::try_from(unsafe { pq::PQgetlength(self.0.as_ptr(), row, column) }).ok()?;
        // SAFETY: the same; the value belongs to the result, which the borrow of self keeps alive.
        let start = unsafe { pq::PQgetvalue(self.0.as_ptr(), row, column) };
        // SAFETY: "the actual length of a field value in bytes" is what PQgetlength returned.
        Some(unsafe { std::slice::from_raw_parts(start.cast::<u8>(), length) })
    }

    /// The fields of the error (PQresultErrorField).
    #[must_use]
    pub fn error(&self) -> ErrorFields {
        ErrorFields {
            sqlstate: self.error_field(b'C').unwrap_or_default(),
            message: self.error_field(b'M').unwrap_or_else(|| {
                // SAFETY: the result is live until Drop; the string is copied at once.
                owned_text(unsafe { pq::PQresultErrorMessage(self.0.as_ptr()) })
            }),
            detail: self.error_field(b'D'),
            context: self.error_field(b'W'),
        }
    }

    fn error_field(&self, code: u8) -> Option<String> {
        // SAFETY: the result is live until Drop; null when the field is absent; the string is copied at once.
        let field = unsafe { pq::PQresultErrorField(self.0.as_ptr(), c_int::from(code)) };
        (!field.is_null()).then(|| owned_text(field))
    }
}

impl Drop for QueryResult {
    fn drop(&mut self) {
        // SAFETY: the only owner frees it, once.
        unsafe { pq::PQclear(self.0.as_ptr()) };
    }
}

/// Drops notices: libpq's default prints them to stderr, which would break the log's format.
unsafe extern "C" fn forget_notice(_: *mut c_void, _: *const c_char) {}

/// Copies a C string; empty for null, and without final newlines.
fn owned_text(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: the callers pass one of libpq's C strings that is valid for the call.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_string_lossy().trim_end().to_owned()
}
