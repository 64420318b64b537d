from libc.stdint cimport uint8_t

# What is wrong with a block of *size* bytes, as the end of a sentence; NULL: nothing.
cdef const char* fault_in(const uint8_t* block, Py_ssize_t size) noexcept nogil
