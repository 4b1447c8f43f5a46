//! Calls of librdkafka that rust-rdkafka does not offer: producing records with a cached topic handle, and waking a
//! single poll through librdkafka's queues.
//!
//! Source: librdkafka's `rdkafka.h`. Handles belong to a producer and are destroyed before it: [`Native`] is a borrowed
//! pointer, and its owners (`Link`, `Inquiry`) declare handles and queues before the producer and the wake-up after it.
//! All calls come from one thread, except those of `transaction_thread`, which shares the producer: librdkafka is
//! thread-safe.

#![allow(unsafe_code, reason = "calls librdkafka")]

use std::ffi::{CStr, CString, c_char, c_void};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::ptr::{self, NonNull};

use rdkafka::bindings as rd;
use rdkafka::error::{IsError, RDKafkaErrorCode};

use crate::sink::kafka::flight::RecordNumber;

/// RD_KAFKA_PARTITION_UA, which the bindings omit: the partitioner chooses the partition.
const PARTITION_UNASSIGNED: i32 = -1;

/// A borrowed native client of a producer; valid as long as the producer lives.
#[derive(Clone, Copy, Debug)]
pub struct Native(NonNull<rd::rd_kafka_t>);

impl Native {
    /// Wraps the pointer from `Client::native_ptr`; `None` if it is null.
    #[must_use]
    pub fn new(client: *mut rd::rd_kafka_t) -> Option<Self> {
        NonNull::new(client).map(Native)
    }

    pub(in crate::sink::kafka) fn raw(self) -> *mut rd::rd_kafka_t {
        self.0.as_ptr()
    }
}

/// The names of librdkafka's global properties, without aliases.
#[must_use]
pub fn property_names() -> Vec<String> {
    let mut count = 0;
    // SAFETY: takes nothing; the configuration is ours until it is destroyed below.
    let config = unsafe { rd::rd_kafka_conf_new() };
    // SAFETY: the configuration is live, and `count` is valid for the call.
    let dump = unsafe { rd::rd_kafka_conf_dump(config, &raw mut count) };
    // SAFETY: "an array of name, value pairs ... the number of elements in the array is returned in `*cntp`"; librdkafka
    // has properties, so it is not empty.
    let pairs = unsafe { std::slice::from_raw_parts(dump, count) };
    let names = pairs.iter().step_by(2).map(|name| text(*name)).collect();
    // SAFETY: the array that the dump returned is freed once, by its own function.
    unsafe { rd::rd_kafka_conf_dump_free(dump, count) };
    // SAFETY: the one owner destroys it, once.
    unsafe { rd::rd_kafka_conf_destroy(config) };
    names
}

/// The value of a property in a client.
#[must_use]
pub fn property(client: Native, name: &CStr) -> Option<String> {
    let mut value = [0_u8; 64];
    let mut size = value.len();
    // SAFETY: the client lives as Native states, and so does its configuration.
    let config = unsafe { rd::rd_kafka_conf(client.raw()) };
    // SAFETY: the configuration is live; the name is null-terminated, the buffer as long as is said, and the text in it is
    // null-terminated.
    let result =
        unsafe { rd::rd_kafka_conf_get(config, name.as_ptr(), value.as_mut_ptr().cast::<c_char>(), &raw mut size) };
    let is_known = result == rd::rd_kafka_conf_res_t::RD_KAFKA_CONF_OK;
    let text = CStr::from_bytes_until_nul(&value).ok().filter(|_| is_known)?;
    Some(text.to_string_lossy().into_owned())
}

/// librdkafka's version, such as 2.12.1.
#[must_use]
pub fn library_version() -> String {
    // SAFETY: returns a constant string of the library.
    text(unsafe { rd::rd_kafka_version_str() })
}

/// A header of a record.
#[derive(Clone, Copy, Debug)]
pub struct RecordHeader<'a> {
    /// Its name.
    pub name: &'static str,
    /// Its value.
    pub value: &'a [u8],
}

/// A topic handle: records need no look-up of the topic by name.
#[derive(Debug)]
pub struct Topic {
    handle: NonNull<rd::rd_kafka_topic_t>,
    client: Native,
}

impl Topic {
    /// Creates a handle with the producer's default topic configuration.
    ///
    /// # Errors
    /// librdkafka's code if it rejects the name.
    pub fn new(client: Native, name: &str) -> Result<Self, RDKafkaErrorCode> {
        let name = CString::new(name).map_err(|_| RDKafkaErrorCode::InvalidTopic)?;
        // SAFETY: the client lives as Native states, the name is copied, and null stands for the default configuration.
        let handle = unsafe { rd::rd_kafka_topic_new(client.raw(), name.as_ptr(), ptr::null_mut()) };
        NonNull::new(handle).map(|handle| Topic { handle, client }).ok_or_else(last_error)
    }

    /// The topic's name.
    #[must_use]
    pub fn name(&self) -> &str {
        // SAFETY: the handle is live; librdkafka's copy of the name lives as long.
        let name = unsafe { rd::rd_kafka_topic_name(self.handle.as_ptr()) };
        // SAFETY: "Returns the topic name", a string that ends with a NUL byte; the handle outlives this borrow.
        let name = unsafe { CStr::from_ptr(name) };
        name.to_str().expect("the name was a string when the handle was created")
    }

    /// Queues a record. librdkafka copies key and value. The delivery report returns the number.
    ///
    /// # Errors
    /// `QueueFull` if the record can be offered again later; any other code rejects it.
    pub fn produce(
        &self,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        header: Option<RecordHeader<'_>>,
        number: RecordNumber,
    ) -> Result<(), RDKafkaErrorCode> {
        match header {
            None => self.produce_plain(PARTITION_UNASSIGNED, key, value, number),
            Some(header) => self.produce_with_header(key, value, header, number),
        }
    }

    /// Does the same for the first partition, regardless of the key.
    ///
    /// # Errors
    /// Those of [`Topic::produce`].
    pub fn produce_first(&self, key: &[u8], value: &[u8], number: RecordNumber) -> Result<(), RDKafkaErrorCode> {
        self.produce_plain(0, Some(key), Some(value), number)
    }

    fn produce_plain(
        &self,
        partition: i32,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        number: RecordNumber,
    ) -> Result<(), RDKafkaErrorCode> {
        let (key, key_size) = parts(key);
        let (value, value_size) = parts(value);
        // SAFETY: the handle is live; with RD_KAFKA_MSG_F_COPY "the payload data will be copied" and so is the key,
        // which both are valid for the call; the opaque is a number, never dereferenced.
        let result = unsafe {
            rd::rd_kafka_produce(
                self.handle.as_ptr(),
                partition,
                rd::RD_KAFKA_MSG_F_COPY,
                value.cast_mut(),
                value_size,
                key,
                key_size,
                opaque(number),
            )
        };
        if result == 0 { Ok(()) } else { Err(last_error()) }
    }

    fn produce_with_header(
        &self,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        header: RecordHeader<'_>,
        number: RecordNumber,
    ) -> Result<(), RDKafkaErrorCode> {
        use rd::rd_kafka_vtype_t as Type;
        type Value = rd::rd_kafka_vu_s__bindgen_ty_1;
        type Memory = rd::rd_kafka_vu_s__bindgen_ty_1__bindgen_ty_1;
        type Headers = rd::rd_kafka_vu_s__bindgen_ty_1__bindgen_ty_2;

        let name = CString::new(header.name).map_err(|_| RDKafkaErrorCode::InvalidArgument)?;
        let memory = |(start, size): (*const c_void, usize)| Value { mem: Memory { ptr: start.cast_mut(), size } };
        let size = isize::try_from(header.value.len()).map_err(|_| RDKafkaErrorCode::InvalidArgument)?;
        let argument = |vtype, u| rd::rd_kafka_vu_t { vtype, u };
        let arguments = [
            argument(Type::RD_KAFKA_VTYPE_RKT, Value { rkt: self.handle.as_ptr() }),
            argument(Type::RD_KAFKA_VTYPE_MSGFLAGS, Value { i: rd::RD_KAFKA_MSG_F_COPY }),
            argument(Type::RD_KAFKA_VTYPE_KEY, memory(parts(key))),
            argument(Type::RD_KAFKA_VTYPE_VALUE, memory(parts(value))),
            argument(
                Type::RD_KAFKA_VTYPE_HEADER,
                Value { header: Headers { name: name.as_ptr(), val: header.value.as_ptr().cast(), size } },
            ),
            argument(Type::RD_KAFKA_VTYPE_OPAQUE, Value { ptr: opaque(number) }),
        ];
        // SAFETY: the array holds as many arguments as are counted, each of the union's member that its type names;
        // with RD_KAFKA_MSG_F_COPY key and value are copied, and "the header name and value are copied" always.
        let error = unsafe { rd::rd_kafka_produceva(self.client.raw(), arguments.as_ptr(), arguments.len()) };
        if error.is_null() {
            return Ok(());
        }
        // SAFETY: the error is not null and belongs to us until it is destroyed below.
        let code = unsafe { rd::rd_kafka_error_code(error) };
        // SAFETY: destroyed once, and not used afterwards.
        unsafe { rd::rd_kafka_error_destroy(error) };
        Err(code.into())
    }
}

impl Drop for Topic {
    fn drop(&mut self) {
        // SAFETY: the one owner gives up its reference, once, before the producer goes (see Native).
        unsafe { rd::rd_kafka_topic_destroy(self.handle.as_ptr()) };
    }
}

/// A queue of librdkafka, with our own reference.
#[derive(Debug)]
pub struct Queue(NonNull<rd::rd_kafka_queue_t>);

impl Queue {
    /// The producer's main queue: delivery reports, errors and log lines, served by `BaseProducer::poll`.
    #[must_use]
    pub fn main(client: Native) -> Option<Self> {
        // SAFETY: the client lives as Native states; the reference is given up in Drop.
        NonNull::new(unsafe { rd::rd_kafka_queue_get_main(client.raw()) }).map(Queue)
    }

    /// A separate queue for the answers to admin requests.
    #[must_use]
    pub fn own(client: Native) -> Option<Self> {
        // SAFETY: the client lives as Native states; the queue is destroyed in Drop.
        NonNull::new(unsafe { rd::rd_kafka_queue_new(client.raw()) }).map(Queue)
    }

    /// The number of events in the queue.
    #[must_use]
    pub fn length(&self) -> usize {
        // SAFETY: the queue is live until Drop.
        unsafe { rd::rd_kafka_queue_length(self.0.as_ptr()) }
    }

    /// Makes librdkafka write to `wake` whenever the queue becomes non-empty.
    pub fn wake_by(&self, wake: &Wake) {
        const ONE: u64 = 1;
        let payload = ptr::from_ref(&ONE).cast();
        // SAFETY: the queue is live; "the payload is copied"; the descriptor does not block and outlives the queue,
        // since its owners (`Link`, `Inquiry`) declare the Wake after it.
        unsafe {
            rd::rd_kafka_queue_io_event_enable(self.0.as_ptr(), wake.descriptor(), payload, size_of::<u64>());
        }
    }

    pub(in crate::sink::kafka) fn raw(&self) -> *mut rd::rd_kafka_queue_t {
        self.0.as_ptr()
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: stops librdkafka's threads from writing to a descriptor that is about to be closed.
        unsafe { rd::rd_kafka_queue_io_event_enable(self.0.as_ptr(), -1, ptr::null(), 0) };
        // SAFETY: the one owner gives up its reference, once.
        unsafe { rd::rd_kafka_queue_destroy(self.0.as_ptr()) };
    }
}

/// An eventfd that librdkafka writes to and the poll waits on.
#[derive(Debug)]
pub struct Wake(File);

impl Wake {
    /// Creates a non-blocking descriptor.
    ///
    /// # Errors
    /// If no descriptor is available.
    pub fn new() -> io::Result<Self> {
        // SAFETY: takes two numbers; the result is checked.
        let descriptor = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just opened and nobody else owns it.
        Ok(Wake(unsafe { File::from_raw_fd(descriptor) }))
    }

    /// The descriptor to poll.
    #[must_use]
    pub fn descriptor(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// A duplicate for another thread to wake the poll with.
    ///
    /// # Errors
    /// If no descriptor is available.
    pub fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Wake)
    }

    /// Wakes the poll.
    pub fn wake(&self) {
        // If the counter is full (EAGAIN), the poll is already awake.
        let _ = (&self.0).write(&1_u64.to_ne_bytes());
    }

    /// Resets all wake-ups so far. Call it before the queues are served; otherwise a wake-up in between is lost.
    pub fn reset(&mut self) {
        // If there is nothing to read (EAGAIN), the counter is already zero.
        let _ = self.0.read(&mut [0; size_of::<u64>()]);
    }
}

/// The fatal error of an idempotent producer, if any: its code and librdkafka's message.
#[must_use]
pub fn fatal_error(client: Native) -> Option<(RDKafkaErrorCode, String)> {
    let mut reason = [0_u8; 512];
    // SAFETY: the client lives as Native states; the buffer is as long as is said, and the text is null-terminated.
    let code = unsafe { rd::rd_kafka_fatal_error(client.raw(), reason.as_mut_ptr().cast::<c_char>(), reason.len()) };
    let reason =
        CStr::from_bytes_until_nul(&reason).map(|text| text.to_string_lossy().into_owned()).unwrap_or_default();
    code.is_error().then(|| (code.into(), reason))
}

/// Copies a C string; returns an empty string for null.
pub(in crate::sink::kafka) fn text(start: *const c_char) -> String {
    if start.is_null() {
        return String::new();
    }
    // SAFETY: the callers pass a null-terminated string of librdkafka's that is valid for the call.
    unsafe { CStr::from_ptr(start) }.to_string_lossy().into_owned()
}

fn parts(bytes: Option<&[u8]>) -> (*const c_void, usize) {
    bytes.map_or((ptr::null(), 0), |bytes| (bytes.as_ptr().cast(), bytes.len()))
}

fn opaque(number: RecordNumber) -> *mut c_void {
    ptr::without_provenance_mut(number.0)
}

fn last_error() -> RDKafkaErrorCode {
    // SAFETY: takes nothing; the value belongs to this thread.
    unsafe { rd::rd_kafka_last_error() }.into()
}
