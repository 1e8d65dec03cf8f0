"""Files that are never half written."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from detclip2.utils.errors import UserError

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_whole(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Write a file so that at ``path`` there is always a whole one: the old or the new.

    Args:
        path: where it goes; its folder is made.
        write: called with the open binary file.
    """
    with whole_file(path) as file:
        write(file)


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """An open binary file that takes its place at ``path`` when the block ends without an error.

    Args:
        path: where it goes; its folder is made.

    Raises:
        UserError: there is no space left; what was at ``path`` is as it was.
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
                f"{path} could not be written: {reason}; earlier files are as they were"
            ) from error
        raise
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def space_needed(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Around what writes to a folder for a long time.

    Raises:
        UserError: there is no space left.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        if reason := out_of_space(error):
            raise UserError(
                f"{folder}: nothing more can be written ({reason}); checkpoints that are there are "
                "whole: make room and go on with --resume"
            ) from error
        raise


def out_of_space(error: BaseException) -> str:
    """The system's words if an error is, or comes from, a full disk or quota; else empty."""
    cause: BaseException | None = error
    while cause is not None:  # torch.save turns it into a RuntimeError about positions
        if isinstance(cause, OSError) and cause.errno in NO_SPACE:
            return cause.strerror or "no space left"
        cause = cause.__cause__ or cause.__context__
    return ""


def _force_to_disk(folder: Path) -> None:
    """A name in a folder survives a power cut only when the folder itself was written."""
    if os.name != "posix":
        return  # elsewhere folders cannot be opened
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
