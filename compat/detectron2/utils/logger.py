"""Logging to the terminal and to a file, and rate-limited logging."""

import atexit
import functools
import logging
import os
import sys
import time
from collections import Counter

from tabulate import tabulate
from termcolor import colored

from detectron2.utils.file_io import PathManager

__all__ = [
    "create_small_table",
    "log_every_n_seconds",
    "log_first_n",
    "setup_logger",
]

_DATE_FORMAT = "%m/%d %H:%M:%S"
_REMOTE_BUFFER_BYTES = 1024 * 1024

_times_called: Counter = Counter()
_last_logged: dict = {}


class _ColorFormatter(logging.Formatter):
    """Abbreviates the root logger's name, and marks warnings and errors in red."""

    def __init__(self, fmt, datefmt, root_name, abbrev_name):
        super().__init__(fmt, datefmt)
        self._long = root_name + "."
        self._short = abbrev_name + "." if abbrev_name else ""

    def formatMessage(self, record):
        record.name = record.name.replace(self._long, self._short)
        line = super().formatMessage(record)
        if record.levelno >= logging.ERROR:
            return colored("ERROR", "red", attrs=["blink", "underline"]) + " " + line
        if record.levelno >= logging.WARNING:
            return colored("WARNING", "red", attrs=["blink"]) + " " + line
        return line


@functools.lru_cache  # a repeated call must not add handlers twice
def setup_logger(
    output=None,
    distributed_rank=0,
    *,
    color=True,
    name="detectron2",
    abbrev_name=None,
    enable_propagation: bool = False,
    configure_stdout: bool = True,
):
    """Send everything of the logger `name` to stdout (rank 0) and to a file (all ranks).

    Args:
        output: a .txt or .log file, or a folder, where the file is log.txt; None for no file.
            Ranks above 0 append `.rank<N>` to it.
        distributed_rank: this process's rank.
        color: colours on stdout.
        name: root name of the logger.
        abbrev_name: stands for `name` on stdout; "d2" for "detectron2" by default.
        enable_propagation: whether the parent logger gets the records too.
        configure_stdout: whether to write to stdout.

    Returns:
        The logger.
    """
    logger = logging.getLogger(name)
    logger.setLevel(logging.DEBUG)
    logger.propagate = enable_propagation
    plain = logging.Formatter(
        "[%(asctime)s] %(name)s %(levelname)s: %(message)s", datefmt=_DATE_FORMAT
    )

    if configure_stdout and distributed_rank == 0:
        if abbrev_name is None:
            abbrev_name = "d2" if name == "detectron2" else name
        header = colored("[%(asctime)s %(name)s]: ", "green")
        colorful = _ColorFormatter(header + "%(message)s", _DATE_FORMAT, name, str(abbrev_name))
        _add_handler(logger, sys.stdout, colorful if color else plain)

    if output is not None:
        path = output if output.endswith((".txt", ".log")) else os.path.join(output, "log.txt")
        if distributed_rank > 0:
            path += f".rank{distributed_rank}"
        PathManager.mkdirs(os.path.dirname(path))
        _add_handler(logger, _open_log(path), plain)
    return logger


def _add_handler(logger, stream, formatter) -> None:
    handler = logging.StreamHandler(stream)
    handler.setLevel(logging.DEBUG)
    handler.setFormatter(formatter)
    logger.addHandler(handler)


@functools.cache  # loggers that share a file share its stream
def _open_log(path):
    stream = PathManager.open(path, "a", buffering=_REMOTE_BUFFER_BYTES if "://" in path else -1)
    atexit.register(stream.close)
    return stream


def _caller():
    """(module name, place) of the code that called one of the functions below."""
    frame = sys._getframe(2)
    while frame.f_code.co_filename == __file__:
        frame = frame.f_back
    module = frame.f_globals["__name__"]
    place = (frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)
    return "detectron2" if module == "__main__" else module, place


def log_first_n(lvl, msg, n=1, *, name=None, key="caller"):
    """Log only the first `n` calls with the same key.

    Args:
        lvl: logging level.
        msg: the message.
        n: how many calls are logged.
        name: of the logger; the caller's module by default.
        key: how calls are compared: "caller", "message", or a tuple of both.
    """
    keys = (key,) if isinstance(key, str) else key
    assert len(keys) > 0, "key is empty"
    module, place = _caller()
    same = (*(place if "caller" in keys else ()), *((msg,) if "message" in keys else ()))
    _times_called[same] += 1
    if _times_called[same] <= n:
        logging.getLogger(name or module).log(lvl, msg)


def log_every_n_seconds(lvl, msg, n=1, *, name=None):
    """Log a call from the same place unless one was logged less than `n` seconds ago."""
    module, place = _caller()
    now = time.time()
    if place not in _last_logged or now - _last_logged[place] >= n:
        _last_logged[place] = now
        logging.getLogger(name or module).log(lvl, msg)


def create_small_table(small_dict) -> str:
    """A table of one row, with the keys of the dict as its header."""
    return tabulate(
        [list(small_dict.values())],
        headers=list(small_dict),
        tablefmt="pipe",
        floatfmt=".3f",
        stralign="center",
        numalign="center",
    )
