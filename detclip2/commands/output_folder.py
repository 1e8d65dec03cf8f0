"""The new folder that a command writes to."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from detclip2.utils.errors import UserError


@contextlib.contextmanager
def new_folder(output: Path, resumable: bool = False) -> Iterator[None]:
    """Make the folder of the run; an error in the block removes what is in it.

    Args:
        output: the folder.
        resumable: whether the command has ``--resume``.

    Raises:
        UserError: the folder has files or cannot be written to.
    """
    new = [folder for folder in (output, *output.parents) if not folder.exists()]
    try:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output):
            pass
    except OSError as error:
        raise UserError(f"--output {output}: cannot be written to ({error.strerror})") from None
    if any(output.iterdir()):
        raise UserError(
            f"--output {output}: this folder has files; name a new one"
            + (", or add --resume to continue the run in it" if resumable else "")
        )
    try:
        yield
    except BaseException:  # also an interrupt: what is there cannot be continued
        for path in output.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        for folder in new:
            folder.rmdir()
        raise
