"""The layer that takes a PROXY header off a connection, and what an accepted connection begins with."""

from fastgw.dp._core cimport Layer, Listener


cdef class ProxyHeaderLayer(Layer):
    cdef:
        Listener listener
        bytes held                # of a header that has not come whole


# None for plain bytes.
cdef Layer first_layer(Listener listener)
