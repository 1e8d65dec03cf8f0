"""Content of an address, within limits of size and time."""

import time
import urllib.error
import urllib.request
from typing import Any

from detclip2.utils.errors import UserError

SCHEMES = ("http", "https")
MAX_BYTES = 128 * 2**20
"""As the largest file of a tar."""
SECONDS_TO_ANSWER = 15
SECONDS_IN_ALL = 60
_CHUNK = 2**18


def is_url(text: Any) -> bool:
    """Whether something is an address that `fetch` reads: ``http://`` or ``https://``."""
    return isinstance(text, str) and text.lower().startswith(tuple(f"{s}://" for s in SCHEMES))


def fetch(url: str, max_bytes: int = MAX_BYTES, seconds: float = SECONDS_IN_ALL) -> bytes:
    """Read an address.

    Args:
        url: ``http://`` or ``https://``.
        max_bytes: most bytes of the content.
        seconds: most time for all of it. A server that does not answer, or pauses, for
            `SECONDS_TO_ANSWER` is given up earlier.

    Raises:
        UserError: it cannot be reached, answers with an error, or exceeds a limit.
    """
    deadline = time.monotonic() + seconds
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "detclip2"})  # noqa: S310
        with _OPENER.open(request, timeout=min(seconds, SECONDS_TO_ANSWER)) as answer:
            stated = answer.headers.get("Content-Length", "")
            if stated.isdigit() and int(stated) > max_bytes:
                raise UserError(_too_large(url, max_bytes))
            content = bytearray()
            while chunk := answer.read1(_CHUNK):
                content += chunk
                if len(content) > max_bytes:
                    raise UserError(_too_large(url, max_bytes))
                if time.monotonic() > deadline:
                    raise UserError(f"{url}: is not read to its end within {seconds:g} s")
            if stated.isdigit() and len(content) < int(stated):
                raise UserError(
                    f"{url}: the connection ended after {len(content):,} of {int(stated):,} bytes"
                )
    except urllib.error.HTTPError as error:
        raise UserError(f"{url}: the server answers {error.code} ({error.reason})") from None
    except TimeoutError:
        raise UserError(f"{url}: the server does not answer") from None
    except UserError:
        raise
    except (OSError, ValueError, urllib.error.URLError, EOFError) as error:
        reason = getattr(error, "reason", None) or error
        why = "the server does not answer" if isinstance(reason, TimeoutError) else str(reason)
        raise UserError(f"{url}: cannot be reached: {why}") from None
    except Exception as error:  # http.client has errors of its own for answers that are not HTTP
        raise UserError(f"{url}: the answer cannot be read: {error!r}") from None
    return bytes(content)


class _SameSchemes(urllib.request.HTTPRedirectHandler):
    """Follows redirects to `SCHEMES` alone: urllib's own would also follow one to ftp."""

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Any:
        if not is_url(newurl):
            raise UserError(f"{req.full_url}: leads to {newurl[:200]}, which is not read")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


# Neither files nor ftp: a list of images is data, and names addresses only.
_OPENER = urllib.request.build_opener(_SameSchemes())


def _too_large(url: str, max_bytes: int) -> str:
    return f"{url}: is larger than {max_bytes >> 20} MB"
