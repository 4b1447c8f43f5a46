//! Finds records that are too large for any request to a broker. A broker answers a request over
//! `socket.request.max.bytes` by closing the connection. That looks like a network failure, and librdkafka sends the
//! request again forever.
//!
//! The compressed size counts. A record that may be too large is therefore compressed here once, with the libraries
//! that librdkafka uses (its own lz4 included). Only records that are certainly too large are rejected here; the broker
//! decides about the rest.

#![allow(unsafe_code, reason = "calls the compressors")]

use std::ffi::{c_int, c_uint, c_ulong, c_ulonglong, c_void};
use std::ptr;

use crate::sink::kafka::client::ffi::{Native, property};

/// A record up to this size is never too large: a broker that accepts batches of the usual size accepts such a request.
pub const LARGE_RECORD_BYTES: usize = 1024 * 1024;

/// Kafka's default for `socket.request.max.bytes`, for brokers that do not report theirs.
pub const REQUEST_BYTES_MAX_DEFAULT: u64 = 100 * 1024 * 1024;

/// The minimum size of a request in addition to key and value, without compression: the header of the batch (61 bytes)
/// and the header of the request.
const OVERHEAD_BYTES: u64 = 90;

/// The limits of the brokers, as far as they report them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// `socket.request.max.bytes`.
    pub request_bytes_max: Option<u64>,
    /// `max.message.bytes` of the topic, the limit for a batch as it is sent. A large record is sent alone.
    pub message_bytes_max: Option<u64>,
}

impl Limits {
    /// Whether a batch of at least this size is certainly rejected.
    #[must_use]
    pub fn are_exceeded_by(self, bytes: u64) -> bool {
        [self.request_bytes_max, self.message_bytes_max].into_iter().flatten().any(|limit| bytes > limit)
    }
}

/// librdkafka's `compression.codec`, with its level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// No compression.
    None,
    /// gzip, with zlib's level.
    Gzip(c_int),
    /// Snappy, without levels.
    Snappy,
    /// lz4 in frames.
    Lz4(c_int),
    /// Zstandard.
    Zstd(c_int),
}

impl Codec {
    /// The codec of a producer.
    #[must_use]
    pub fn of(client: Native) -> Self {
        let level = property(client, c"compression.level").and_then(|text| text.parse().ok()).unwrap_or(-1);
        let level = |default: c_int, most: c_int| if level == -1 { default } else { c_int::min(level, most) };
        match property(client, c"compression.codec").as_deref() {
            Some("gzip") => Codec::Gzip(level(-1, 9)),
            Some("snappy") => Codec::Snappy,
            Some("lz4") => Codec::Lz4(level(0, 12)),
            Some("zstd") => Codec::Zstd(level(3, 22)),
            _ => Codec::None,
        }
    }

    /// The minimum size of a record with this key and value in a request. Takes as long as compressing the value.
    #[must_use]
    pub fn least_bytes(self, key: Option<&[u8]>, value: Option<&[u8]>) -> u64 {
        let value = value.unwrap_or_default();
        let plain = (key.map_or(0, <[u8]>::len) + value.len()) as u64;
        // The key and the frame around it are compressed with the value, and the buffers are filled differently.
        let nearly = |bytes: u64| bytes - bytes / 128;
        let compressed = match self {
            Codec::None => None,
            Codec::Gzip(level) => deflate(value, level).map(nearly),
            Codec::Lz4(level) => lz4(value, level).map(nearly),
            Codec::Zstd(level) => zstd(value, level).map(nearly),
            // lz4 belongs to the same family; Snappy never compresses better by this factor.
            Codec::Snappy => lz4(value, 0).map(|bytes| bytes / 4 * 3),
        };
        // A record that compression would enlarge is sent uncompressed.
        compressed.unwrap_or(plain + OVERHEAD_BYTES).min(plain + OVERHEAD_BYTES)
    }
}

/// LZ4F_frameInfo_t of lz4frame.h.
#[repr(C)]
#[derive(Default)]
struct Lz4FrameInfo {
    block_size: c_uint,
    block_mode: c_uint,
    content_checksum: c_uint,
    frame_type: c_uint,
    content_size: c_ulonglong,
    dictionary: c_uint,
    block_checksum: c_uint,
}

/// LZ4F_preferences_t of lz4frame.h.
#[repr(C)]
#[derive(Default)]
struct Lz4Preferences {
    frame: Lz4FrameInfo,
    level: c_int,
    auto_flush: c_uint,
    favor_decompression: c_uint,
    reserved: [c_uint; 3],
}

/// LZ4F_blockIndependent, which librdkafka uses.
const LZ4_BLOCK_INDEPENDENT: c_uint = 1;

/// `Z_OK` of zlib.h.
const Z_OK: c_int = 0;

// These libraries are linked with librdkafka, which needs all of them.
unsafe extern "C" {
    fn LZ4F_compressFrameBound(size: usize, preferences: *const Lz4Preferences) -> usize;
    fn LZ4F_compressFrame(
        to: *mut c_void,
        capacity: usize,
        from: *const c_void,
        size: usize,
        preferences: *const Lz4Preferences,
    ) -> usize;
    fn LZ4F_isError(code: usize) -> c_uint;
    fn ZSTD_compressBound(size: usize) -> usize;
    fn ZSTD_compress(to: *mut c_void, capacity: usize, from: *const c_void, size: usize, level: c_int) -> usize;
    fn ZSTD_isError(code: usize) -> c_uint;
    fn compressBound(size: c_ulong) -> c_ulong;
    fn compress2(to: *mut u8, capacity: *mut c_ulong, from: *const u8, size: c_ulong, level: c_int) -> c_int;
}

fn lz4(value: &[u8], level: c_int) -> Option<u64> {
    let frame = Lz4FrameInfo { block_mode: LZ4_BLOCK_INDEPENDENT, ..Lz4FrameInfo::default() };
    let preferences = Lz4Preferences { frame, level, ..Lz4Preferences::default() };
    // SAFETY: computes with a size and preferences that are live.
    let mut to = Vec::<u8>::with_capacity(unsafe { LZ4F_compressFrameBound(value.len(), &raw const preferences) });
    // SAFETY: both buffers are as long as is said, the preferences are live, and nothing is kept.
    let size = unsafe {
        LZ4F_compressFrame(
            to.as_mut_ptr().cast(),
            to.capacity(),
            value.as_ptr().cast(),
            value.len(),
            ptr::from_ref(&preferences),
        )
    };
    // SAFETY: judges a number.
    let is_error = unsafe { LZ4F_isError(size) } != 0;
    (!is_error).then_some(size as u64)
}

fn zstd(value: &[u8], level: c_int) -> Option<u64> {
    // SAFETY: computes with a number.
    let mut to = Vec::<u8>::with_capacity(unsafe { ZSTD_compressBound(value.len()) });
    // SAFETY: both buffers are as long as is said, and nothing is kept.
    let size =
        unsafe { ZSTD_compress(to.as_mut_ptr().cast(), to.capacity(), value.as_ptr().cast(), value.len(), level) };
    // SAFETY: judges a number.
    let is_error = unsafe { ZSTD_isError(size) } != 0;
    (!is_error).then_some(size as u64)
}

fn deflate(value: &[u8], level: c_int) -> Option<u64> {
    let length = c_ulong::try_from(value.len()).ok()?;
    // SAFETY: computes with a number.
    let mut size = unsafe { compressBound(length) };
    let mut to = Vec::<u8>::with_capacity(usize::try_from(size).ok()?);
    // SAFETY: both buffers are as long as is said, `size` is valid for the call, and nothing is kept.
    let code = unsafe { compress2(to.as_mut_ptr(), &raw mut size, value.as_ptr(), length, level) };
    (code == Z_OK).then_some(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hexadecimal digits without a pattern: a codec that only finds repetitions cannot compress them.
    fn digits(count: usize) -> Vec<u8> {
        let mut random = fastrand::Rng::with_seed(7);
        (0..count).map(|_| random.choice(b"0123456789abcdef".iter().copied()).unwrap()).collect()
    }

    #[test]
    fn a_record_counts_by_what_its_codec_makes_of_it() {
        let count = 2_000_000;
        let (random, plain) = (digits(count), vec![b'a'; count]);
        for (codec, most, least) in [
            (Codec::None, 1.0, 1.0),
            (Codec::Gzip(-1), 0.6, 0.5),
            (Codec::Lz4(0), 1.0, 0.9),
            (Codec::Zstd(3), 0.6, 0.5),
            (Codec::Snappy, 0.8, 0.65),
        ] {
            let share = |value: &[u8]| codec.least_bytes(None, Some(value)) as f64 / count as f64;
            assert!(share(&random) <= most + 0.001 && share(&random) >= least, "{codec:?}: {}", share(&random));
            if codec != Codec::None {
                assert!(share(&plain) < 0.1, "{codec:?}: {}", share(&plain));
            }
        }
        assert_eq!(Codec::None.least_bytes(Some(b"key"), Some(b"value")), 8 + OVERHEAD_BYTES);
        assert_eq!(Codec::None.least_bytes(None, None), OVERHEAD_BYTES);
    }

    #[test]
    fn a_limit_that_is_not_known_refuses_nothing() {
        let limits = |request_bytes_max, message_bytes_max| Limits { request_bytes_max, message_bytes_max };
        assert!(!limits(None, None).are_exceeded_by(u64::MAX));
        assert!(!limits(Some(10), Some(20)).are_exceeded_by(10));
        assert!(limits(Some(10), Some(20)).are_exceeded_by(11));
        assert!(limits(Some(20), Some(10)).are_exceeded_by(11));
        assert!(limits(None, Some(10)).are_exceeded_by(11));
    }
}
