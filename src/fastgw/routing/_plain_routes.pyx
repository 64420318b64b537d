"""Routes from their canonical lines straight to table and records, for those that are plain.

Contract. What is added here is, byte for byte, what `compile` makes of the same row by way of `routes`. What
this module does not know at first sight (an escape, a field out of order, a header, a regex, a fault of any
kind) it leaves to those, row by row. It reads no JSON but the canonical form of `model.snapshot`: keys sorted,
no white space.

The one complication is that nothing may be made per route that a compile of 100,000 would notice: no row, no
list, no record. The exception is the id of the service, which is looked up in a dict.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.unicode cimport PyUnicode_DecodeASCII, PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.string cimport memcmp, strlen

from fastgw._router_build cimport PlainRoute, TableBuilder
from fastgw._router_conditions cimport TEXTS_LIMIT, Text, Texts
from fastgw._router_tries cimport Output

cdef enum:
    LEFT_OUT = -2                     # as in `compile`: the service is not served
    HTTP = 1                          # as in `image.Protocols`
    HTTPS = 2
    UUID_CHARS = 36
    DIGITS_LIMIT = 18                 # of a number that surely fits
    TEXT_LIMIT = 0xFFFF               # of a record's text

cdef struct Cursor:
    const uint8_t* at
    const uint8_t* end
    uint8_t separator                 # what stands before the next field: a brace, then commas
    bint is_ascii

cdef struct Row:
    PlainRoute plain
    int64_t created_at
    int64_t redirect
    Text id
    Text name                         # at NULL: null
    Text service                      # the same
    uint32_t protocols
    bint preserve_host
    bint strip_path


def add_plain_routes(
    TableBuilder table not None, list lines not None, Py_ssize_t at, uint32_t number, dict services not None,
    tail_of=None,
):
    cdef Output records = Output()
    cdef Output ends = Output()
    cdef bytes tail = b"\xC0\x90"     # no plugin is missing, and none runs
    cdef bytes line
    cdef str service_id
    cdef Row row
    cdef uint8_t key[16]
    cdef int64_t service
    cdef uint32_t end
    while at < len(lines):
        line = lines[at]
        if not read_line(<const uint8_t*>PyBytes_AS_STRING(line), len(line), &row):
            break
        if not unhex(&row.id, key):
            break
        service_id = None
        service = -1
        if row.service.at != NULL:
            service_id = PyUnicode_DecodeUTF8(<const char*>row.service.at, row.service.n, NULL)
            found = services.get(service_id)
            if found is None:
                break
            service = found
            if service == LEFT_OUT:
                at += 1
                continue
        if not table.add_plain(number, &row.plain, row.created_at, key, line):
            break
        if tail_of is not None:
            tail = tail_of(PyUnicode_DecodeASCII(<const char*>row.id.at, row.id.n, NULL), service_id)
        put_record(records, &row, service, tail)
        end = <uint32_t>records.size
        ends.put(<const uint8_t*>&end, sizeof(end))
        number += 1
        at += 1
    return (
        at, number, PyBytes_FromStringAndSize(<char*>records.data, records.size),
        PyBytes_FromStringAndSize(<char*>ends.data, ends.size),
    )


cdef bint read_line(const uint8_t* line, Py_ssize_t n, Row* row) except -1:
    """Whether a line is a plain route's; *row* then points into it."""
    cdef Cursor cursor
    cdef const uint8_t* id = line + 7
    if n < 7 + UUID_CHARS + 1 or memcmp(line, b"routes ", 7) or id[UUID_CHARS] != c' ':
        return False
    cursor = Cursor(id + UUID_CHARS + 1, line + n, c'{', True)
    if not read_row(&cursor, row) or row.id.n != UUID_CHARS or memcmp(row.id.at, id, UUID_CHARS):
        return False
    if not cursor.is_ascii:
        try:
            PyUnicode_DecodeUTF8(<const char*>line, n, NULL)
        except UnicodeDecodeError:
            return False
    return True


cdef bint read_row(Cursor* at, Row* row) noexcept nogil:
    cdef Text unused
    cdef Texts texts
    cdef int64_t number
    cdef bint flag
    row.plain.hosts.count = row.plain.paths.count = row.plain.methods.count = 0
    row.service.at = NULL
    texts.count = 0
    if not (name(at, b"created_at") and take_number(at, &row.created_at)):
        return False
    if name(at, b"destinations") and not take_null(at):
        return False
    if name(at, b"expression") and not take_null(at):
        return False
    if name(at, b"headers") and not take_null(at):
        return False
    if name(at, b"hosts") and not (take_null(at) or take_texts(at, &row.plain.hosts)):
        return False
    if not (name(at, b"https_redirect_status_code") and take_number(at, &row.redirect)):
        return False
    if not (name(at, b"id") and take_text(at, &row.id)):
        return False
    if name(at, b"methods") and not (take_null(at) or take_texts(at, &row.plain.methods)):
        return False
    if not (name(at, b"name") and take_text_or_null(at, &row.name)):
        return False
    if name(at, b"path_handling") and not take_text_or_null(at, &unused):
        return False
    if name(at, b"paths") and not (take_null(at) or take_texts(at, &row.plain.paths)):
        return False
    if not (name(at, b"preserve_host") and take_flag(at, &row.preserve_host)):
        return False
    if name(at, b"priority") and not (take_null(at) or take_number(at, &number)):
        return False
    if not (name(at, b"protocols") and take_texts(at, &texts) and read_protocols(&texts, &row.protocols)):
        return False
    if name(at, b"regex_priority") and not (take_null(at) or take_number(at, &number)):
        return False
    if name(at, b"request_buffering") and not take_flag(at, &flag):
        return False
    if name(at, b"response_buffering") and not take_flag(at, &flag):
        return False
    if name(at, b"service") and not (take_null(at) or take_reference(at, &row.service)):
        return False
    if name(at, b"snis") and not take_null(at):
        return False
    if name(at, b"sources") and not take_null(at):
        return False
    if not (name(at, b"strip_path") and take_flag(at, &row.strip_path)):
        return False
    if name(at, b"tags") and not (take_null(at) or take_texts(at, &texts)):
        return False
    if name(at, b"updated_at") and not take_number(at, &number):
        return False
    return at.end - at.at == 1 and at.at[0] == c'}' and is_record(row)


cdef bint is_record(const Row* row) noexcept nogil:
    """Whether `put_record` can write it: its texts are not too long, nor is a number odd."""
    return row.name.n <= TEXT_LIMIT and 0xFF < row.redirect <= 0xFFFF


cdef bint read_protocols(const Texts* texts, uint32_t* out) noexcept nogil:
    cdef Py_ssize_t i
    cdef const Text* text
    out[0] = 0
    for i in range(texts.count):
        text = &texts.at[i]
        if text.n == 4 and memcmp(text.at, b"http", 4) == 0:
            out[0] |= HTTP
        elif text.n == 5 and memcmp(text.at, b"https", 5) == 0:
            out[0] |= HTTPS
        else:
            return False
    return True


# Each of these takes what it is named after and moves on. Where one fails that is no literal, the line is given up.

cdef inline bint literal(Cursor* at, const char* text) noexcept nogil:
    cdef Py_ssize_t n = strlen(text)
    if at.end - at.at < n or memcmp(at.at, text, n):
        return False
    at.at += n
    return True


cdef inline bint name(Cursor* at, const char* text) noexcept nogil:
    """The name of the next field, and its colon."""
    cdef Py_ssize_t n = strlen(text)
    if (
        at.end - at.at < n + 4 or at.at[0] != at.separator or at.at[1] != c'"' or memcmp(at.at + 2, text, n)
        or at.at[n + 2] != c'"' or at.at[n + 3] != c':'
    ):
        return False
    at.at += n + 4
    at.separator = c','
    return True


cdef inline bint take_null(Cursor* at) noexcept nogil:
    return literal(at, b"null")


cdef inline bint take_flag(Cursor* at, bint* out) noexcept nogil:
    out[0] = literal(at, b"true")
    return out[0] or literal(at, b"false")


cdef bint take_number(Cursor* at, int64_t* out) noexcept nogil:
    """A whole number of at most 18 digits."""
    cdef bint is_negative = literal(at, b"-")
    cdef const uint8_t* begin = at.at
    out[0] = 0
    while at.at < at.end and c'0' <= at.at[0] <= c'9':
        if at.at - begin == DIGITS_LIMIT:
            return False
        out[0] = 10 * out[0] + (at.at[0] - c'0')
        at.at += 1
    if at.at == begin or (begin[0] == c'0' and at.at - begin > 1):
        return False
    if is_negative:
        out[0] = -out[0]
    # A fraction or an exponent would follow.
    return at.at < at.end and (at.at[0] == c',' or at.at[0] == c'}')


cdef bint take_text(Cursor* at, Text* out) noexcept nogil:
    """A string without escapes."""
    cdef const uint8_t* begin = at.at + 1
    cdef const uint8_t* end = begin
    if at.at == at.end or at.at[0] != c'"':
        return False
    while end < at.end and end[0] != c'"':
        if end[0] < 0x20 or end[0] == c'\\':
            return False
        if end[0] >= 0x80:
            at.is_ascii = False
        end += 1
    if end == at.end:
        return False
    out.at = begin
    out.n = end - begin
    at.at = end + 1
    return True


cdef bint take_text_or_null(Cursor* at, Text* out) noexcept nogil:
    out.at = NULL
    out.n = 0
    return take_null(at) or take_text(at, out)


cdef bint take_texts(Cursor* at, Texts* out) noexcept nogil:
    """A list of them, not too long."""
    out.count = 0
    if not literal(at, b"["):
        return False
    if literal(at, b"]"):
        return True
    while out.count < TEXTS_LIMIT:
        if not take_text(at, &out.at[out.count]):
            return False
        out.count += 1
        if literal(at, b"]"):
            return True
        if not literal(at, b","):
            return False
    return False


cdef bint take_reference(Cursor* at, Text* out) noexcept nogil:
    return literal(at, b'{"id":') and take_text(at, out) and literal(at, b"}")


cdef bint unhex(const Text* id, uint8_t* out) noexcept nogil:
    """The 16 bytes of a UUID; False if *id* is no UUID in Kong's form."""
    cdef Py_ssize_t i
    cdef Py_ssize_t digits = 0
    cdef uint8_t byte
    for i in range(UUID_CHARS):
        byte = id.at[i]
        if i == 8 or i == 13 or i == 18 or i == 23:
            if byte != c'-':
                return False
            continue
        if c'0' <= byte <= c'9':
            byte -= c'0'
        elif c'a' <= byte <= c'f':
            byte -= c'a' - 10
        else:
            return False
        out[digits >> 1] = byte if digits & 1 == 0 else out[digits >> 1] << 4 | byte
        digits += 1
    return True


# A `RouteRecord` in MessagePack, as msgspec writes it.

cdef int put_record(Output out, const Row* row, int64_t service, bytes tail) except -1:
    put_byte(out, 0x9A)               # an array of ten
    put_text(out, &row.id)
    put_text(out, &row.name)
    put_number(out, service)
    put_byte(out, 0xC2 + row.strip_path)
    put_byte(out, 0xC2 + row.preserve_host)
    put_number(out, row.protocols)
    put_number(out, row.redirect)
    put_byte(out, 0xC2)               # paths are joined by v1 in another flavor only
    out.put(<const uint8_t*>PyBytes_AS_STRING(tail), len(tail))
    return 0


cdef inline int put_byte(Output out, uint8_t byte) except -1:
    out.put(&byte, 1)
    return 0


cdef int put_big_endian(Output out, uint8_t kind, uint32_t value, int size) except -1:
    cdef Py_ssize_t begin = out.reserve(1 + size, 1)
    cdef uint8_t* at = out.data + begin
    at[0] = kind
    while size:
        at[size] = value & 0xFF
        value >>= 8
        size -= 1
    return 0


cdef int put_number(Output out, int64_t value) except -1:
    """From -1 to 2^32 - 1."""
    if value < 0x80:
        return put_byte(out, <uint8_t>value)
    if value <= 0xFF:
        return put_big_endian(out, 0xCC, <uint32_t>value, 1)
    if value <= 0xFFFF:
        return put_big_endian(out, 0xCD, <uint32_t>value, 2)
    return put_big_endian(out, 0xCE, <uint32_t>value, 4)


cdef int put_text(Output out, const Text* text) except -1:
    if text.at == NULL:
        return put_byte(out, 0xC0)
    if text.n < 32:
        put_byte(out, 0xA0 | <uint8_t>text.n)
    elif text.n <= 0xFF:
        put_big_endian(out, 0xD9, <uint32_t>text.n, 1)
    else:
        put_big_endian(out, 0xDA, <uint32_t>text.n, 2)
    out.put(text.at, text.n)
    return 0
