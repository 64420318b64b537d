"""Bodies: a length is a counter, chunks are decoded strictly and framed anew by the sender.

A decoder sees bytes once and owns none; it hands out spans of the caller's buffer.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

cdef enum BodyKind:
    BODY_NONE
    BODY_LENGTH
    BODY_CHUNKED
    BODY_UNTIL_CLOSE

cdef enum ChunkState:
    CS_SIZE                   # hex digits
    CS_EXTENSION              # from ";" to the line's end: counted, dropped
    CS_SIZE_LF
    CS_DATA
    CS_DATA_CR
    CS_DATA_LF
    CS_TRAILER_START          # first byte of a trailer line, or of the line that ends the body
    CS_TRAILER_NAME
    CS_TRAILER
    CS_TRAILER_LF
    CS_END_LF

cdef struct Body:
    BodyKind kind
    bint is_complete
    int64_t remaining         # BODY_LENGTH: bytes still to come
    uint64_t delivered        # body bytes handed out so far
    # BODY_CHUNKED only:
    ChunkState state
    uint64_t chunk_remaining
    int size_digits
    uint32_t extension_bytes  # dropped, and not yet paid for by body bytes
    uint32_t trailer_bytes
    # The trailer section, or the part of it that the last call to take_joined met, in that call's data:
    const uint8_t* trailer_data
    Py_ssize_t trailer_size

cdef enum:
    MAX_CHUNK_SIZE_DIGITS = 16
    MAX_EXTENSION = 16384     # a cap against tiny chunks with long extensions
    MAX_TRAILER = 16384

cdef void begin_body(Body* body, BodyKind kind, int64_t length) noexcept nogil

# Take as much of data as belongs to the body. Sets *start, *size to the next span of body bytes (size 0:
# none in what was taken) and returns the number of bytes taken, or -1 when the chunking is malformed.
# Call again with the rest until it takes nothing or the body is complete.
cdef Py_ssize_t take_body(
    Body* body, const uint8_t* data, Py_ssize_t size, const uint8_t** start, Py_ssize_t* span) noexcept nogil

# Join all body bytes of data at the front of `data` itself: the chunks of one read become one span.
# Returns the bytes taken or -1; *joined is the span's size.
cdef Py_ssize_t take_joined(Body* body, uint8_t* data, Py_ssize_t size, Py_ssize_t* joined) noexcept nogil
