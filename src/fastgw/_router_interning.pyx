"""Texts by number, and host patterns (see `_router_interning.pxd`).

The one complication is size: 100,000 routes come with as many hosts, and a Python object for each of them, its
key, its pattern and its conditions would cost more than all the rest of a compile.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcmp, memcpy

from fastgw._router_hosts cimport hash_key


cdef void* grown(void* data, Py_ssize_t used, Py_ssize_t* room, Py_ssize_t unit) except NULL:
    cdef void* moved = data
    if used == room[0]:
        moved = realloc(data, max(2 * used, 64) * unit)
        if moved == NULL:
            raise MemoryError
        room[0] = max(2 * used, 64)
    return moved


cdef uint32_t hash_text(const uint8_t* text, Py_ssize_t n) noexcept nogil:
    cdef uint64_t state = 0xCBF29CE484222325ULL ^ <uint64_t>n
    cdef uint64_t word
    while n >= 8:
        memcpy(&word, text, 8)
        state = (state ^ word) * 0x9E3779B97F4A7C15ULL
        state ^= state >> 29
        text += 8
        n -= 8
    word = 0
    memcpy(&word, text, n)
    state = (state ^ word) * 0x9E3779B97F4A7C15ULL
    return <uint32_t>(state >> 32)


cdef class Interner:
    def __dealloc__(self):
        free(self.data)
        free(self.texts)
        free(self.slots)

    cdef uint32_t number(self, uint32_t tag, const uint8_t* text, Py_ssize_t n, uint32_t hash) except? 0xFFFFFFFF:
        cdef Interned* found
        cdef uint32_t place
        cdef Py_ssize_t room
        cdef void* data
        if 2 * self.count >= <Py_ssize_t>self.slot_count:
            self.grow()
        place = hash & (self.slot_count - 1)
        while self.slots[place]:
            found = &self.texts[self.slots[place] - 1]
            if (
                found.hash == hash and found.tag == tag and <Py_ssize_t>found.len == n
                and memcmp(self.data + found.offset, text, n) == 0
            ):
                return self.slots[place] - 1
            place = (place + 1) & (self.slot_count - 1)
        if self.size + n > self.data_room:
            room = max(2 * self.data_room, self.size + n, 4096)
            data = realloc(self.data, room)
            if data == NULL:
                raise MemoryError
            self.data = <uint8_t*>data
            self.data_room = room
        self.texts = <Interned*>grown(self.texts, self.count, &self.room, sizeof(Interned))
        self.texts[self.count] = Interned(self.size, <uint32_t>n, hash, tag, 0)
        memcpy(self.data + self.size, text, n)
        self.size += n
        self.count += 1
        self.slots[place] = <uint32_t>self.count
        return <uint32_t>(self.count - 1)

    cdef int grow(self) except -1:
        """Give it twice the slots."""
        cdef uint32_t count = max(2 * self.slot_count, <uint32_t>64)
        cdef uint32_t* slots = <uint32_t*>calloc(count, sizeof(uint32_t))
        cdef uint32_t place
        cdef Py_ssize_t i
        if slots == NULL:
            raise MemoryError
        for i in range(self.count):
            place = self.texts[i].hash & (count - 1)
            while slots[place]:
                place = (place + 1) & (count - 1)
            slots[place] = <uint32_t>i + 1
        free(self.slots)
        self.slots = slots
        self.slot_count = count
        return 0


cdef class Patterns:
    def __cinit__(self):
        self.keys = Interner()
        self.others = Interner()
        self.patterns = <Pattern*>grown(NULL, 0, &self.room, sizeof(Pattern))
        self.patterns[0] = Pattern(0, -1, 0, 0)
        self.count = 1

    def __dealloc__(self):
        free(self.patterns)

    cdef uint32_t number(self, int kind, const uint8_t* key, Py_ssize_t n, int port) except 0:
        cdef uint32_t text = self.keys.number(kind, key, n, hash_key(kind, key, n))
        cdef uint32_t* number = &self.keys.texts[text].value
        cdef uint32_t first = number[0]
        cdef uint32_t[2] pair
        cdef uint32_t other
        if first:
            if self.patterns[first].port == port:
                return first
            # A host may have as many as there are ports.
            pair[0], pair[1] = text, <uint32_t>port
            other = self.others.number(
                0, <const uint8_t*>pair, sizeof(pair), hash_text(<const uint8_t*>pair, sizeof(pair))
            )
            number = &self.others.texts[other].value
            if number[0]:
                return number[0]
        self.patterns = <Pattern*>grown(self.patterns, self.count, &self.room, sizeof(Pattern))
        number[0] = <uint32_t>self.count
        self.patterns[self.count] = Pattern(text, port, 0, 0)
        if first:
            self.patterns[self.count].other = self.patterns[first].other
            self.patterns[first].other = number[0]
        self.count += 1
        return number[0]
