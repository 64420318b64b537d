"""Exchanges on their way through plugins (see `_phases.pxd`); the plugins' side is `dp/plugins/`.

A request that plugins may change is kept as the bytes that came. After `rewrite` and after `access` it is read
anew, from these bytes or from what the plugins made of it, by the same judge as a head from a socket: no plugin
can make a message that a client could not have sent. The same holds for answers.

While a plugin waits, the exchange is in EX_CONNECTING, as with a connection that is being opened: what the
client sends is held, and its end cancels the task.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize

import time
from inspect import iscoroutine

from fastgw.dp._admit cimport find_route, forward
from fastgw.dp._body cimport BODY_NONE
from fastgw.dp._core cimport REQUEST_ID_SIZE
from fastgw.dp._head cimport (
    MAX_FIELDS, MAX_HOST, HeadLimits, check_request, check_response, parse_request_head, parse_response_head,
    read_request_host
)
from fastgw.dp._rewrite cimport drop_nominated

from fastgw.dp.answers import BODILESS
from fastgw.dp.plugins.chain import (
    BODY_LIMIT, PluginFailed, run_body_filters, run_header_filters, run_logs, run_response
)
from fastgw.dp.plugins.messages import Request, Response, Target

cdef RequestHead request_head      # scratch: one head is judged at a time
cdef ResponseHead response_head
cdef uint8_t[MAX_HOST] host_text


cdef class Phases(PhaseRunner):
    def __init__(self, ProxyCore core):
        self.core = core

    cdef bint rewrite(
        self, Exchange exchange, object chain, const uint8_t* data, RequestHead* request, Span host,
        Py_ssize_t host_port_at, int listener_port
    ) except -1:
        cdef PluginHooks hooks = self._hooks(exchange, data, request, listener_port)
        hooks.chain = chain
        # For what never finds a route: those for everything run all the same (Kong's way).
        hooks.collected = chain.everyone
        if not chain.rewrites:
            return find_route(exchange, data, request, host, host_port_at, listener_port)
        try:
            found = chain.rewrite(hooks.request)
        except PluginFailed as failed:
            hooks._fail(failed)
            return False
        return hooks._take(found, False)

    cdef bint access(
        self, Exchange exchange, object chain, const uint8_t* data, RequestHead* request, Span host,
        Py_ssize_t host_port_at, int listener_port, Py_ssize_t path_size
    ) except -1:
        cdef PluginHooks hooks = <PluginHooks>exchange.hooks
        if hooks is None:
            hooks = self._hooks(exchange, data, request, listener_port)
        hooks.chain = chain
        hooks.collected = chain.everyone
        hooks.is_routed = True
        hooks.path_size = path_size
        hooks.request.route = Target(exchange.route.id, exchange.route.name)
        if exchange.route.service is not None:
            hooks.request.service = Target(exchange.route.service.id, exchange.route.service.own_name)
        # Behind a rewrite that waited, a part of the body or all of it may have come.
        if exchange.request_body.is_complete and exchange.held_body is None:
            return hooks._run_access()
        if not chain.reads_body or exchange.wants_websocket:
            hooks.request.take_body(None)
            return hooks._run_access()
        hooks.wants_body = True
        if exchange.wants_continue:
            # Nobody else will ask for the body.
            exchange.wants_continue = False
            exchange.client.write_continue()
        return True

    cdef PluginHooks _hooks(
        self, Exchange exchange, const uint8_t* data, RequestHead* request, int listener_port
    ):
        cdef PluginHooks hooks = PluginHooks()
        cdef Span peer = exchange.client.peer_text()
        hooks.core = self.core
        hooks.exchange = exchange
        hooks.listener_port = listener_port
        if request.framing.nominated_count:
            # They go before plugins come: Connection must not name what a plugin adds.
            hooks.head = drop_nominated(
                data, request.size, request.fields, request.field_count, &request.framing)
        else:
            hooks.head = PyBytes_FromStringAndSize(<const char*>data, request.size)
        client = exchange.client_address
        if client is None:
            client = PyBytes_FromStringAndSize(<const char*>peer.data, peer.size)
        hooks.request = Request(
            hooks.head,
            authority=PyBytes_FromStringAndSize(
                <const char*>request.authority.data, request.authority.size).decode("ascii"),
            path=PyBytes_FromStringAndSize(<const char*>request.path.data, request.path.size).decode("ascii"),
            query=PyBytes_FromStringAndSize(
                <const char*>request.query.data, request.query.size).decode("ascii"),
            id=PyBytes_FromStringAndSize(<const char*>exchange.request_id, REQUEST_ID_SIZE).decode("ascii"),
            scheme=exchange.client.scheme().decode("ascii"),
            port=listener_port,
            client_ip=client.decode("latin-1"),
            started_at=time.time(),
            drops_underscores=self.core.head_limits.drops_underscores,
        )
        exchange.hooks = hooks
        return hooks


cdef class PluginHooks(Hooks):
    # --- the way in

    cdef bint _take(self, object found, bint is_access) except -1:
        """Go on with what a phase has said: nothing, an answer, or that it waits."""
        if found is None:
            return self._go_on(is_access)
        if iscoroutine(found):
            self._wait(found, is_access)
            return True
        self.exchange.answer_with(found)
        return False

    cdef int _wait(self, object coroutine, bint is_access) except -1:
        self.exchange.connecting = self.core.loop.create_task(self._finish(coroutine, bool(is_access)))
        return 0

    async def _finish(self, coroutine, bint is_access):
        cdef Exchange exchange
        try:
            try:
                found = await coroutine
            except PluginFailed as failed:
                if self.exchange is not None:
                    self.exchange.connecting = None
                    self._fail(failed)
                return
            exchange = self.exchange
            if exchange is None:
                return  # it has ended meanwhile
            exchange.connecting = None
            if found is not None:
                exchange.answer_with(found)
            elif self._go_on(is_access):
                if self.wants_body:
                    # What came while rewrite waited is held, and the client is not read.
                    exchange.request_bytes(NULL, 0)
                else:
                    exchange.go_on()
        except Exception:
            self.core.log.exception("going on behind plugins failed")
            if self.exchange is not None:
                self.exchange.client.abort()

    cdef bint _go_on(self, bint is_access) except -1:
        """Read the request as it is by now, and take it to its next station."""
        cdef Exchange exchange = self.exchange
        cdef Span host
        cdef Py_ssize_t port_at = 0
        cdef bytes data = self.head
        cdef bytes body
        if self.request.is_changed:
            data = self.head = self.request.to_bytes()
        if not self._parse(&request_head, data, &host, &port_at):
            self.core.log.error("request %s: what plugins made of it is no valid request", self.request.id)
            exchange.refuse(500, "An unexpected error occurred", True)
            return False
        exchange.is_replayable = request_head.is_idempotent and exchange.request_body.kind == BODY_NONE \
            and not self.request.is_body_changed
        exchange.asks_by_head = request_head.is_head
        exchange.wants_websocket = request_head.wants_websocket and not self.request.is_body_changed
        if not is_access:
            return find_route(exchange, data, &request_head, host, port_at, self.listener_port)
        if self.request.is_body_changed:
            body = self.request.body
            exchange.held_body = bytearray(body)
            exchange.is_request_chunked = request_head.framing.chunked = False
            request_head.framing.content_length = len(body)
        if self.request.upstream_path is not None:
            exchange.upstream_path = self.request.upstream_path.encode("ascii")
        if self.request.upstream_host is not None:
            exchange.upstream_host = self.request.upstream_host.encode("ascii")
        return forward(exchange, data, &request_head, host, port_at, self.path_size)

    cdef bint _parse(self, RequestHead* request, bytes data, Span* host, Py_ssize_t* port_at) except -1:
        cdef const uint8_t* head = <const uint8_t*><char*>data
        cdef HeadLimits limits
        limits.fields = MAX_FIELDS
        limits.field_bytes = self.core.head_bytes_limit
        limits.drops_underscores = self.core.head_limits.drops_underscores
        return (
            len(data) <= 2 * self.core.head_bytes_limit
            and parse_request_head(head, len(data), &limits, request) == 0
            and check_request(head, request)
            and read_request_host(head, request, host_text, host, port_at) == 0)

    cdef bint _run_access(self) except -1:
        try:
            found = self.chain.access(self.request, self._collect)
        except PluginFailed as failed:
            self._fail(failed)
            return False
        return self._take(found, True)

    def _collect(self, collected):
        self.collected = collected

    cdef int body_came(self, Exchange exchange) except -1:
        """More of the body that plugins want to see is held; go on once it is whole, or too long."""
        cdef bytearray held = exchange.held_body
        cdef Py_ssize_t size = 0 if held is None else len(held)
        if not exchange.request_body.is_complete and size <= <Py_ssize_t>BODY_LIMIT:
            return exchange.client.resume_reading()
        self.wants_body = False
        if exchange.request_body.is_complete and size <= <Py_ssize_t>BODY_LIMIT:
            self.request.take_body(b"" if held is None else bytes(held))
        else:
            self.request.take_body(None)
        if not exchange.request_body.is_complete:
            exchange.client.pause_reading()
        if self._run_access() and self.exchange is not None:
            exchange.go_on()
        return 0

    cdef int _fail(self, object failed) except -1:
        """Say whose fault it is, in the log only; nothing of an answer has gone out."""
        self._tell(failed)
        self.is_broken = True
        return self.exchange.refuse(500, "An unexpected error occurred", True)

    def _tell(self, failed):
        cause = failed.__cause__
        self.core.log.error(
            "request %s: %s: %s: %s", self.request.id, failed, type(cause).__name__, cause,
            exc_info=(type(cause), cause, cause.__traceback__))

    # --- the way out

    cdef int response_head(
        self, Exchange exchange, const uint8_t* head, ResponseHead* response, const uint8_t* body,
        Py_ssize_t size, bint is_last
    ) except -1:
        cdef bytes data
        if response.framing.nominated_count:
            data = drop_nominated(
                head, response.size, response.fields, response.field_count, &response.framing)
        else:
            data = PyBytes_FromStringAndSize(<const char*>head, response.size)
        self.response = Response(data, response.status, "service")
        if self.collected.responses and response.status != 101:
            self.is_gathering = True
            self.is_pending = True
            self.answer_head = data
            self.gathered = bytearray()
            return self.response_bytes(exchange, body, size, is_last)
        try:
            run_header_filters(self.collected.header_filters, self.request, self.response)
        except PluginFailed as failed:
            return self._fail(failed)
        return self._send_changed(head, response, body, size, is_last)

    cdef int _send_changed(
        self, const uint8_t* head, ResponseHead* response, const uint8_t* body, Py_ssize_t size, bint is_last
    ) except -1:
        """Send the head as it is by now, and *body* through the filters."""
        cdef Exchange exchange = self.exchange
        cdef bytes data, filtered
        cdef int status = response.status
        # *response* may be the scratch that the head is read into again.
        cdef int64_t content_length = response.framing.content_length
        cdef bint chunked = response.framing.chunked
        if self.response.is_changed:
            data = self.response.to_bytes()
            head = <const uint8_t*><char*>data
            if (
                len(data) > 2 * self.core.head_bytes_limit
                or parse_response_head(head, len(data), &response_head) != 0
                or not check_response(head, len(data))
            ):
                self.core.log.error("request %s: what plugins made of its answer is none", self.request.id)
                self.is_broken = True
                return exchange.refuse(500, "An unexpected error occurred", True)
            response_head.framing.content_length = content_length
            response_head.framing.chunked = chunked
            response = &response_head
        if not self.collected.body_filters or self.is_gathering or status == 101:
            return exchange.begin_answer(head, response, body, size, is_last)
        # Nobody knows how long it will be.
        response.framing.content_length = -1
        try:
            filtered = run_body_filters(
                self.collected.body_filters, self.request, self.response,
                PyBytes_FromStringAndSize(<const char*>body, size), bool(is_last))
        except PluginFailed as failed:
            return self._fail(failed)
        return exchange.begin_answer(
            head, response, <const uint8_t*><char*>filtered, len(filtered), is_last)

    cdef int response_bytes(
        self, Exchange exchange, const uint8_t* body, Py_ssize_t size, bint is_last
    ) except -1:
        cdef bytes filtered
        if self.is_gathering:
            if len(self.gathered) + size > <Py_ssize_t>BODY_LIMIT:
                self.core.log.error(
                    "request %s: its answer is longer than the %d bytes that plugins may see at once",
                    self.request.id, BODY_LIMIT)
                self.is_broken = True
                self.is_pending = False
                return exchange.refuse(
                    502, "An invalid response was received from the upstream server", True)
            self.gathered += PyBytes_FromStringAndSize(<const char*>body, size)
            return self._run_responses() if is_last else 0
        if not self.collected.body_filters:
            return exchange.client.write_body(body, size, is_last)
        try:
            filtered = run_body_filters(
                self.collected.body_filters, self.request, self.response,
                PyBytes_FromStringAndSize(<const char*>body, size), bool(is_last))
        except PluginFailed as failed:
            self._tell(failed)
            exchange.cut_answer()
            return 0
        return exchange.client.write_body(<const uint8_t*><char*>filtered, len(filtered), is_last)

    cdef int _run_responses(self) except -1:
        self.response.take_body(bytes(self.gathered))
        self.gathered = None
        try:
            waiting = run_response(self.collected.responses, self.request, self.response)
        except PluginFailed as failed:
            self.is_pending = False
            return self._fail(failed)
        if waiting is None:
            # The upstream connection's own last word ends the exchange.
            self.is_pending = False
            return self._send_gathered()
        self.exchange.connecting = self.core.loop.create_task(self._finish_response(waiting))
        return 0

    async def _finish_response(self, waiting):
        cdef Exchange exchange
        try:
            try:
                await waiting
            except PluginFailed as failed:
                if self.exchange is not None:
                    self.exchange.connecting = None
                    self._fail(failed)
                return
            exchange = self.exchange
            if exchange is None:
                return
            exchange.connecting = None
            self.is_pending = False
            self._send_gathered()
            if self.exchange is not None and exchange.upstream is None:
                exchange.end()
        except Exception:
            self.core.log.exception("going on behind plugins failed")
            if self.exchange is not None:
                self.exchange.client.abort()

    cdef int _send_gathered(self) except -1:
        """Send head and body of the answer that was gathered, as plugins have left them."""
        cdef bytes head = self.answer_head
        cdef bytes body
        try:
            # Plugins that do not see the answer whole have their filters.
            run_header_filters(self.collected.header_filters, self.request, self.response)
            body = run_body_filters(
                self.collected.body_filters, self.request, self.response, self.response.body, True)
        except PluginFailed as failed:
            return self._fail(failed)
        parse_response_head(<const uint8_t*><char*>head, len(head), &response_head)
        if not self.exchange.is_head_request:
            response_head.framing.content_length = len(body)
        return self._send_changed(
            <const uint8_t*><char*>head, &response_head, <const uint8_t*><char*>body, len(body), True)

    cdef bytes own_answer(self, Exchange exchange, bytes data):
        """The gateway's own answer passes the filters as well (Kong's way); *data* is ours, and valid."""
        cdef Py_ssize_t end = data.index(b"\r\n\r\n") + 4
        self.response = Response(data[:end], exchange.status, "error" if exchange.own is None else "exit")
        if self.is_broken:
            return data
        body = data[end:]
        try:
            run_header_filters(self.collected.header_filters, self.request, self.response)
            if body:
                body = run_body_filters(self.collected.body_filters, self.request, self.response, body, True)
        except PluginFailed as failed:
            # The answer was made without them; it goes out as it was.
            self._tell(failed)
            return data
        exchange.status = self.response.status
        if exchange.status in BODILESS:
            body = b""
        if not self.response.is_changed and len(body) == len(data) - end:
            return data[:end] + body
        return self.response.to_own_bytes(None if exchange.is_head_request else len(body)) + body

    cdef int ended(
        self, Exchange exchange, int64_t gateway_ms, int64_t upstream_ms, int64_t request_ms
    ) except -1:
        if self.collected is not None and self.collected.logs:
            response = self.response
            if response is None:
                # The client has gone before any answer.
                response = Response(b"HTTP/1.1 499 \r\n\r\n", exchange.status, "error")
            response.bytes_sent = exchange.bytes_out
            response.gateway_ms = gateway_ms
            response.upstream_ms = None if upstream_ms < 0 else upstream_ms
            response.request_ms = request_ms
            self.core.loop.call_soon(self._log, self.collected.logs, response)
        self.exchange = None
        return 0

    def _log(self, plugins, response):
        for waiting in run_logs(plugins, self.request, response, self._tell):
            task = self.core.loop.create_task(waiting)
            TASKS.add(task)
            task.add_done_callback(TASKS.discard)


# The loop itself holds its tasks weakly.
cdef set TASKS = set()
