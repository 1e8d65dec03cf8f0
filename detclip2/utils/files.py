"""Atomic writing of files, their text as json, and errors of full disks."""

import errno
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from detclip2.utils.errors import UserError

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def json_bytes(content: Any, indent: int | None = None) -> bytes:
    r"""Json that every parser reads, in UTF-8.

    NaN and infinity, which json lacks, become null. A name that is not UTF-8 keeps Python's
    surrogates as escapes ("caf\udce9.png"): ``os.fsencode`` of the string that a parser returns
    is the name's bytes.

    Args:
        content: what json can hold.
        indent: spaces of a level; None: one line.
    """
    text = json.dumps(without_nan(content), ensure_ascii=False, allow_nan=False, indent=indent)
    return text.encode("utf-8", "backslashreplace")


def write_whole(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Write a file atomically: ``path`` holds either the old or the new file.

    Args:
        path: path of the file; its folder is made.
        write: writes to the open binary file.

    Raises:
        UserError: there is no space left; the old file stays.
    """
    with whole_file(path) as file:
        write(file)


def write_json(path: Path, content: Any, indent: int | None = 1) -> None:
    """Write `json_bytes` atomically.

    Args:
        path: path of the file; its folder is made.
        content: what json can hold.
        indent: spaces of a level; None: one line.

    Raises:
        UserError: there is no space left; the old file stays.
    """
    text = json_bytes(content, indent)
    write_whole(path, lambda file: file.write(text + b"\n"))


def without_nan(value: Any) -> Any:
    """The value with None for every float in it that is not finite."""
    if isinstance(value, Mapping):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """An open binary file that is moved to ``path`` when the block ends without an error.

    Args:
        path: path of the file; its folder is made.

    Raises:
        UserError: there is no space left; the old file stays.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
        _force_to_disk(path.parent)
    except (OSError, RuntimeError) as error:
        if reason := out_of_space(error):
            raise UserError(
                f"{path} could not be written: {reason}; earlier files are unchanged"
            ) from error
        raise
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def space_needed(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Report a full disk during a block that writes to a folder.

    Raises:
        UserError: there is no space left.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        if reason := out_of_space(error):
            raise UserError(
                f"{folder}: nothing more can be written ({reason}); existing checkpoints are "
                "whole: make room and continue with --resume"
            ) from error
        raise


def out_of_space(error: BaseException) -> str:
    """The system's message if an error comes from a full disk or quota; else empty."""
    cause: BaseException | None = error
    while cause is not None:  # torch.save raises a RuntimeError about positions
        if isinstance(cause, OSError) and cause.errno in NO_SPACE:
            return cause.strerror or "no space left"
        cause = cause.__cause__ or cause.__context__
    return ""


def _force_to_disk(folder: Path) -> None:
    """Flush a folder, so that names in it survive a power cut."""
    if os.name != "posix":
        return  # other systems cannot open folders
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
