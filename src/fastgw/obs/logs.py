"""The error log: one line per event, in the shape that Kong's (nginx's) users know.

    2026/11/23 05:39:00 [notice] dp supervisor: message

This is the one place that imports a logging library: picologging where it has wheels, else the standard
library; their interfaces agree. Each line is one `write(2)` to a descriptor opened for appending, so that
all processes of a node may share a file without mixing lines. Control characters in a message are escaped:
what a client sent cannot forge a line. Records of libraries that use the standard library's loggers
(asyncio, uvicorn) join the same output, from warning on.
"""

from __future__ import annotations

import functools
import logging
import os
import time
from typing import TYPE_CHECKING, Any, Final, Protocol

from fastgw.errors import SettingsError

if TYPE_CHECKING:
    import logging as backend
else:
    try:
        import picologging as backend
    except ImportError:
        backend = logging

# Kong's names for levels, with a number for each on the libraries' scale.
LEVELS: Final = {
    "debug": 10,
    "info": 20,
    "notice": 25,
    "warn": 30,
    "error": 40,
    "crit": 50,
    "alert": 60,
    "emerg": 70,
}
NOTICE: Final = LEVELS["notice"]
_NAMES: Final = {number: name for name, number in LEVELS.items()}


class _Method(Protocol):
    def __call__(self, msg: str, *args: object) -> None: ...


def _drop(msg: str, *args: object) -> None:
    """Stand in for the methods below the threshold."""


class Logger:
    """A logger of the library with `notice`, Kong's level above info.

    A method is the library's own, or nothing at all when its level is below the threshold. The library's
    threshold is not used, since picologging loses warnings once it is set to a level that is not Python's;
    nor is its class inherited from, which it does not allow.
    """

    __slots__ = ("_target", "critical", "debug", "error", "exception", "info", "notice", "warning")

    debug: _Method
    info: _Method
    notice: _Method
    warning: _Method
    error: _Method
    exception: _Method
    critical: _Method

    def __init__(self, name: str) -> None:
        self._target = backend.getLogger(f"fastgw.{name}")
        self._target.propagate = False
        self._target.setLevel(LEVELS["debug"])
        self._target.addHandler(_handler)
        self.set_threshold(_threshold)

    def set_threshold(self, number: int) -> None:
        """Drop what is below *number*; a method that a caller has taken off before stays as it was."""
        target = self._target
        self.debug = target.debug if number <= LEVELS["debug"] else _drop
        self.info = target.info if number <= LEVELS["info"] else _drop
        self.notice = functools.partial(target.log, NOTICE) if number <= NOTICE else _drop
        self.warning = target.warning if number <= LEVELS["warn"] else _drop
        self.error = target.error if number <= LEVELS["error"] else _drop
        self.exception = target.exception if number <= LEVELS["error"] else _drop
        self.critical = target.critical if number <= LEVELS["crit"] else _drop


class _Output:
    """Where lines go and what stands before each message; one per process."""

    def __init__(self) -> None:
        self.process = "fastgw"
        self.path: str | None = None
        self.fd = 2
        self.lost_total = 0
        self._second = -1
        self._stamp = ""

    def direct(self, destination: str | None) -> None:
        """Point at *destination*; the former file, if any, is closed."""
        old_fd = self.fd
        if destination is None or destination == "/dev/stderr":
            self.path, self.fd = None, 2
        elif destination == "/dev/stdout":
            self.path, self.fd = None, 1
        else:
            self.path, self.fd = destination, _open_for_append(destination)
        if old_fd > 2:
            os.close(old_fd)

    def write(self, created_s: float, level: int, name: str, text: str) -> None:
        second = int(created_s)
        if second != self._second:
            self._second = second
            self._stamp = time.strftime("%Y/%m/%d %H:%M:%S", time.localtime(second))
        level_name = _NAMES.get(level) or _nearest_level(level)
        who = self.process if not name or self.process.endswith(name) else f"{self.process} {name}"
        line = f"{self._stamp} [{level_name}] {who}: {text}\n"
        try:
            os.write(self.fd, line.encode("utf-8", "backslashreplace"))
        except OSError:
            self.lost_total += 1  # a full disk or a closed pipe must not stop the process that logs


def _nearest_level(level: int) -> str:
    return max(((number, name) for number, name in _NAMES.items() if number <= level), default=(10, "debug"))[
        1
    ]


def _open_for_append(path: str) -> int:
    try:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise SettingsError(f"cannot open the log {path}: {(error.strerror or str(error)).lower()}") from None


_output: Final = _Output()
_loggers: Final[dict[str, Logger]] = {}
_threshold = LEVELS["notice"]


class _Handler(backend.Handler):
    """Turns a record into one line, and a traceback into the lines after it."""

    _formatter: Final = logging.Formatter()

    def emit(self, record: Any) -> None:
        text = _one_line(record.getMessage())
        if record.exc_info:
            text = f"{text}\n{self._formatter.formatException(record.exc_info)}"
        _output.write(record.created, record.levelno, record.name.removeprefix("fastgw."), text)


class _LibraryHandler(logging.Handler):
    """The same for records of the standard library's loggers."""

    def emit(self, record: logging.LogRecord) -> None:
        text = _one_line(record.getMessage())
        if record.exc_info and record.exc_info[0] is not None:
            text = f"{text}\n{_Handler._formatter.formatException(record.exc_info)}"
        _output.write(record.created, record.levelno, record.name, text)


def _one_line(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


_handler: Final = _Handler()
_library_handler: Final = _LibraryHandler()


def get_logger(name: str) -> Logger:
    """Get the logger of a module; of a dotted name (`__name__`) the last part stands in the lines."""
    logger = _loggers.get(name)
    if logger is None:
        logger = _loggers[name] = Logger(name.rpartition(".")[2])
    return logger


def setup(level: str, destination: str | None, *, process: str) -> None:
    """Direct the log of this process; may be called again.

    Args:
        level: one of Kong's level names; what is below it is dropped.
        destination: a path, /dev/stdout or /dev/stderr; None is stderr.
        process: what stands before each message, such as "dp supervisor".

    Raises:
        SettingsError: the file cannot be opened; the log stays where it was.
    """
    threshold = LEVELS[level]
    _output.direct(destination)
    _output.process = process
    _set_threshold(threshold)


def level() -> str:
    """Name the level below which lines are dropped."""
    return _NAMES[_threshold]


def set_level(level: str) -> None:
    """Drop what is below *level*, one of Kong's names, from now on."""
    _set_threshold(LEVELS[level])


def _set_threshold(threshold: int) -> None:
    global _threshold
    _threshold = threshold
    for logger in _loggers.values():
        logger.set_threshold(_threshold)
    root = logging.getLogger()
    if _library_handler not in root.handlers:
        root.addHandler(_library_handler)
    _library_handler.setLevel(max(_threshold, LEVELS["warn"]))


def reopen() -> None:
    """Open the file anew under its name, after it was moved away; on failure the old one stays in use."""
    if _output.path is None:
        return
    try:
        fd = _open_for_append(_output.path)
    except SettingsError as error:
        get_logger("logs").error("%s", error)
        return
    try:
        os.dup2(fd, _output.fd, inheritable=False)
    finally:
        os.close(fd)
