"""What a server accepts."""

import math
from dataclasses import dataclass, fields

from detclip2.utils.errors import UserError


@dataclass(frozen=True)
class Limits:
    """The limits of a server; they bound its memory and the time of an answer.

    Raises:
        UserError: one is not a finite number above 0.
    """

    body_bytes: int = 32 * 2**20
    """Of a request."""
    pixels: int = 50_000_000
    """Of an image, checked before it is decoded."""
    names: int = 2_000
    """In a request, synonyms included."""
    cached_names: int = 20_000
    """In all vocabularies that are kept encoded, 1 to 4 KB each; the last used ones stay."""
    seconds: float = 60
    """To receive a request, and again to answer it."""
    waiting: int = 64
    """Requests that were received and not answered yet."""
    connections: int = 256
    """Open connections."""
    batch_size: int = 8
    """Images that are detected at once."""

    def __post_init__(self) -> None:
        for field in fields(self):
            if not 0 < (value := getattr(self, field.name)) < math.inf:
                raise UserError(f"{field.name} is {value}; expected a number above 0")
