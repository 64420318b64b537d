"""Answers as HTTP/1.x bytes: heads written, bodies framed, the gateway's own answers (see `_respond.pxd`).

Source: RFC 9112 §6, §7; RFC 9110 §6.4, §15; proxying reference §2.3, §2.4.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from posix.uio cimport iovec

from fastgw.dp._body cimport BODY_CHUNKED, BODY_LENGTH, BODY_NONE, BODY_UNTIL_CLOSE
from fastgw.dp._core cimport REQUEST_ID_SIZE, ProxyCore, span_of
from fastgw.dp._fields cimport Span
from fastgw.dp._head cimport ResponseHead
from fastgw.dp._metrics cimport count_refused
from fastgw.dp._rewrite cimport ResponseOut, write_interim_head, write_response_head
from fastgw.dp._wheel cimport monotonic_us

from fastgw.dp.answers import REFUSALS, render
from fastgw.obs.accesslog import Entry

cdef enum:
    LOGGED_BYTES = 1024       # of the first line of what is no request

cdef extern from "stdio.h" nogil:
    int snprintf(char* out, size_t size, const char* format, ...)


cdef class Responder(ClientSide):
    cdef int write_head(
        self, const uint8_t* head, ResponseHead* response, const uint8_t* body, Py_ssize_t size, bint is_last
    ) except -1:
        """Send the answer's head, and what of the body came with it, in one system call."""
        cdef ProxyCore core = self.core
        cdef Exchange exchange = self.exchange
        cdef ResponseOut out
        cdef iovec parts[4]
        cdef Py_ssize_t head_size
        out.chunked = False
        out.content_length = -1
        if exchange.is_head_request or response.status == 204 or response.status == 304:
            self.out_kind = BODY_NONE
            if response.status != 204:
                out.content_length = response.framing.content_length
        elif response.status == 205 or exchange.asks_by_head:
            # No content, whatever the upstream sends (RFC 9110 §15.3.6); or there is none, since it was asked
            # by HEAD, and the client was not told to expect that.
            self.out_kind = BODY_NONE
            out.content_length = 0
        elif response.status == 101:
            self.out_kind = BODY_UNTIL_CLOSE
            self.closes = True
        elif response.framing.content_length >= 0:
            self.out_kind = BODY_LENGTH
            out.content_length = response.framing.content_length
        elif exchange.is_http_10:
            # HTTP/1.0 knows no chunks: the end of the connection ends the body.
            self.out_kind = BODY_UNTIL_CLOSE
            self.closes = True
        else:
            self.out_kind = BODY_CHUNKED
            out.chunked = True
        if core.is_draining or core.is_full:
            self.closes = True
        elif exchange.wants_continue and not exchange.request_body.is_complete:
            # A client that was not told to send its body may or may not send it (RFC 9110 §10.1.1).
            self.closes = True
        out.websocket = response.status == 101
        out.trailers = out.chunked and exchange.accepts_trailers
        out.via_token = span_of(core.via_11 if response.framing.minor else core.via_10)
        if not core.with_via:
            out.via_token.size = 0
        out.request_id.data = exchange.request_id
        out.request_id.size = REQUEST_ID_SIZE if core.with_request_id else 0
        out.date = core.date_line()
        out.more = span_of(exchange.debug_fields)
        out.latencies = core.with_latencies
        out.upstream_status = core.with_upstream_status
        out.proxy_ms = (exchange.sent_us - exchange.started_us) // 1000
        out.upstream_ms = (exchange.answered_us - exchange.sent_us) // 1000
        out.keep_alive = not self.closes
        head_size = write_response_head(core.out, head, response, &out)
        parts[0].iov_base = core.out
        parts[0].iov_len = head_size
        exchange.head_bytes_out = head_size
        return self._send_body(parts, 1, body, size, is_last)

    cdef int write_body(self, const uint8_t* body, Py_ssize_t size, bint is_last) except -1:
        cdef iovec parts[4]
        return self._send_body(parts, 0, body, size, is_last)

    cdef int _send_body(
        self, iovec* parts, int count, const uint8_t* body, Py_ssize_t size, bint is_last
    ) except -1:
        """Frame *size* body bytes behind the *count* parts that are already there, and send it all."""
        cdef char size_line[24]
        cdef bytes end
        cdef Py_ssize_t total = 0
        cdef int place
        if self.out_kind == BODY_NONE:
            size = 0
        elif self.out_kind == BODY_CHUNKED:
            if size:
                parts[count].iov_base = size_line
                parts[count].iov_len = snprintf(size_line, sizeof(size_line), b"%zx\r\n", size)
                count += 1
        if size:
            parts[count].iov_base = <void*>body
            parts[count].iov_len = size
            count += 1
        if is_last and self.exchange.trailers is not None and self.out_kind == BODY_CHUNKED:
            end = (b"\r\n0\r\n" if size else b"0\r\n") + self.exchange.trailers + b"\r\n"
            parts[count].iov_base = <void*><char*>end
            parts[count].iov_len = len(end)
            count += 1
        elif self.out_kind == BODY_CHUNKED and (size or is_last):
            # The CRLF behind the data and, at the end, the last chunk: one literal serves both.
            parts[count].iov_base = <void*><char*>(
                b"\r\n0\r\n\r\n" if size and is_last else b"\r\n" if size else b"0\r\n\r\n")
            parts[count].iov_len = 7 if size and is_last else 2 if size else 5
            count += 1
        if count == 0:
            return 0
        for place in range(count):
            total += parts[place].iov_len
        self.exchange.bytes_out += total
        self.send_vector(parts, count)
        return 0

    cdef int write_interim(self, const uint8_t* head, ResponseHead* response) except -1:
        cdef Py_ssize_t size = write_interim_head(self.core.out, head, response)
        self.exchange.bytes_out += size
        self.send(self.core.out, size)
        return 0

    cdef int write_continue(self) except -1:
        self.exchange.bytes_out += 25
        self.send(<const uint8_t*>b"HTTP/1.1 100 Continue\r\n\r\n", 25)
        return 0

    cdef int answer(self, int status, str message, bint is_error_page) except -1:
        """Send an answer that the gateway makes; a request that is not whole closes the connection."""
        cdef Exchange exchange = self.exchange
        if not exchange.request_body.is_complete:
            self.closes = True
        return self.send_answer(status, message, is_error_page)

    cdef int refuse_request(
        self, int status, const uint8_t* data, Py_ssize_t size, str message=None
    ) except -1:
        cdef ProxyCore core = self.core
        cdef Span peer = self.peer_text()
        cdef Py_ssize_t line_size = 0
        core.totals.requests_total += 1
        count_refused(core.totals, status)
        self.send_answer(status, REFUSALS[status] if message is None else message, True)
        if core.access_log is None:
            return 0
        while line_size < size and line_size < LOGGED_BYTES and data[line_size] not in (c'\r', c'\n'):
            line_size += 1
        core.access_log.write(Entry(
            PyBytes_FromStringAndSize(<const char*>peer.data, peer.size),
            PyBytes_FromStringAndSize(<const char*>data, line_size) if line_size else b"-",
            status, size, self.own_size, self.own_head_size, self.own_id, scheme=self.scheme()))
        return 0

    cdef int send_answer(self, int status, str message, bint is_error_page) except -1:
        cdef Exchange exchange = self.exchange
        cdef ProxyCore core = self.core
        cdef uint8_t fresh_id[REQUEST_ID_SIZE]
        cdef bytes data
        accept = None
        content = None
        fields = b""
        is_head = False
        upstream_ms = proxy_ms = None
        response_ms = 0
        if exchange is None:
            core.write_request_id(fresh_id)
            request_id = PyBytes_FromStringAndSize(<const char*>fresh_id, REQUEST_ID_SIZE)
        else:
            request_id = PyBytes_FromStringAndSize(<const char*>exchange.request_id, REQUEST_ID_SIZE)
            is_head = exchange.is_head_request
            fields = exchange.answer_fields + exchange.debug_fields
            if exchange.own is not None:
                fields += exchange.own.headers.to_bytes()
                if exchange.own.is_message:
                    message = exchange.own.body.decode()
                else:
                    content = exchange.own.body
            if exchange.accept_size >= 0:
                accept = PyBytes_FromStringAndSize(<const char*>exchange.accept, exchange.accept_size)
            response_ms = (monotonic_us() - exchange.started_us) // 1000
            if exchange.tries:
                # The request got as far as an upstream: Kong shows the proxy's latencies then.
                proxy_ms = response_ms
                if exchange.sent_us:
                    proxy_ms = (exchange.sent_us - exchange.started_us) // 1000
                upstream_ms = response_ms - proxy_ms
        data = render(
            status, message, request_id, accept, is_error_page=is_error_page, is_head=is_head,
            closes=self.closes, headers=core.options.headers, response_ms=response_ms, proxy_ms=proxy_ms,
            upstream_ms=upstream_ms, fields=fields, content=content)
        if exchange is not None:
            if exchange.hooks is not None:
                data = exchange.hooks.own_answer(exchange, data)
            exchange.bytes_out += len(data)
            exchange.head_bytes_out = data.index(b"\r\n\r\n") + 4
        else:
            self.own_id = request_id
            self.own_size = len(data)
            self.own_head_size = data.index(b"\r\n\r\n") + 4
        self.send(<const uint8_t*><char*>data, len(data))
        return 0
