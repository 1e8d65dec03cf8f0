"""Atomic writing of files, and errors of full disks."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from detclip2.utils.errors import UserError

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


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
