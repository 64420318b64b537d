"""The regular expressions of one table (see `_router_regexes.pxd`).

Contract. `search` is called from a search without the GIL and takes it; nothing else of a search does.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint32_t

from fastgw._router cimport INSTRUCTION_ANCHORED, INSTRUCTION_LOWER, RegexRecord

from fastgw._regex import ANCHORED, UNANCHORED, compile_regex

cdef object _ANCHORED = ANCHORED
cdef object _UNANCHORED = UNANCHORED


def _match_nothing(anchor, text, start, end):
    return [(-1, -1)]


cdef class Regexes:
    @staticmethod
    cdef Regexes over(const uint8_t* block, uint32_t offset, uint32_t count):
        cdef Regexes made = Regexes.__new__(Regexes)
        made.block = block
        made.records = <const RegexRecord*>(block + offset)
        made.compiled = [None] * count
        return made

    cdef bint search(
        self, uint32_t regex, int flags, const uint8_t* text, Py_ssize_t n, uint32_t* end
    ) noexcept with gil:
        # What may fail is memory, which is then told as unraisable.
        end[0] = 0
        spans = self.spans(regex, flags, PyBytes_FromStringAndSize(<const char*>text, n))
        if spans[0][0] == 0:
            end[0] = spans[0][1]
        return spans[0][0] >= 0

    cdef list spans(self, uint32_t regex, int flags, bytes text):
        compiled = self.compiled[regex]
        if compiled is None:
            try:
                compiled = compile_regex(self.pattern(regex), is_bytes=bool(self.records[regex].is_bytes))
            except ValueError:
                # It compiled when the table was made, so its text is damaged: it matches nothing.
                compiled = (_match_nothing, {})
            self.compiled[regex] = compiled
        if flags & INSTRUCTION_LOWER:
            text = text.lower()
        return compiled[0](
            _ANCHORED if flags & INSTRUCTION_ANCHORED else _UNANCHORED, text, 0, len(text)
        )

    cdef dict groups(self, uint32_t regex, int flags, bytes text):
        cdef list spans = self.spans(regex, flags, text)
        if spans[0][0] < 0:
            return None
        groups = {number: text[start:end] for number, (start, end) in enumerate(spans) if start >= 0}
        names = self.compiled[regex][1]
        groups.update({name: groups[at] for name, at in names.items() if at in groups})
        return groups

    cdef bytes pattern(self, uint32_t regex):
        return PyBytes_FromStringAndSize(
            <const char*>self.block + self.records[regex].pattern_offset, self.records[regex].pattern_len
        )
