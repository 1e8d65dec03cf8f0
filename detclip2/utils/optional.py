"""Packages that only some commands need."""

from collections.abc import Iterator
from contextlib import contextmanager

from detclip2.utils.errors import UserError


@contextmanager
def extra(name: str, user: str) -> Iterator[None]:
    """A block that imports packages of an extra.

    Args:
        name: of the extra in setup.cfg.
        user: what needs it, the subject of the message.

    Raises:
        UserError: a package is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "detclip2", "detectron2"):
            raise
        raise UserError(
            f"{user} needs the package {package!r}, which is not installed: "
            f"pip install 'detclip2[{name}]'"
        ) from None
