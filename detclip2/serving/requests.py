"""What a request asks for: its parts, read within limits and checked."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request
from starlette.types import Message

from detclip2.data.text.caption_phrases import CaptionPhrases
from detclip2.data.text.clean import MAX_PHRASE_LENGTH
from detclip2.data.text.names import check_names, split_names
from detclip2.modeling.thresholds import MEANINGS, DetectionThresholds
from detclip2.serving.limits import Limits
from detclip2.serving.vocabularies import Entries
from detclip2.utils.errors import UserError, shown
from detclip2.utils.json_text import parse_json

VOCABULARY = ("names", "caption", "vocabulary")
FIELDS = ("image", *VOCABULARY, *MEANINGS)
TEXT_BYTES = 4 * 2**20  # of names, which are parsed between other requests
FILE_NAME = 200  # characters of it that come back


class RequestError(Exception):
    """A request that gets no detections.

    Args:
        status: of HTTP, 400 and above.
        sentence: what is wrong, and what to do.
    """

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


@dataclass(frozen=True)
class DetectionRequest:
    """The parts of ``POST /detect``."""

    image: UploadFile
    names: Entries | CaptionPhrases | None
    """What to detect; None: the vocabulary of `key`."""
    key: str | None
    """Of a vocabulary; None: `names`, else the server's own vocabulary."""
    thresholds: DetectionThresholds
    form: FormData

    @property
    def file_name(self) -> str:
        """The client's name of the image."""
        return (self.image.filename or "image")[:FILE_NAME]

    async def close(self) -> None:
        """Remove the uploaded file."""
        await self.form.close()


async def read_detection(request: Request, limits: Limits) -> DetectionRequest:
    """Receive ``POST /detect``.

    Raises:
        RequestError, UserError, starlette's HTTPException: it is too large, or wrong.
    """
    form = await limited(request, limits.body_bytes).form(
        max_files=1, max_fields=len(FIELDS), max_part_size=min(TEXT_BYTES, limits.body_bytes)
    )
    try:
        return _detection(form, limits)
    except BaseException:
        await form.close()
        raise


async def read_names(request: Request, limits: Limits) -> Entries:
    """Receive ``POST /vocabularies``.

    Raises:
        RequestError, UserError: it is too large, or wrong.
    """
    body = await limited(request, min(TEXT_BYTES, limits.body_bytes)).body()
    try:
        content = parse_json(body)
    except ValueError as error:
        raise UserError(f"the request is no json: {error}") from None
    if not isinstance(content, dict) or content.keys() != {"names"}:
        wanted = '{"names": ["bus", ["couch", "sofa"]]}, where a list has the names of one label'
        raise UserError(f"the request is {shown(content)}; expected {wanted}")
    return _checked(content["names"], limits)


def limited(request: Request, limit: int) -> Request:
    """The same request, whose body raises RequestError where it exceeds a limit in bytes."""
    received = 0
    too_large = RequestError(413, f"the request is too large; the limit is {limit:,} bytes")
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > limit:
        raise too_large

    async def receive() -> Message:
        nonlocal received
        message = await request.receive()
        received += len(message.get("body", b""))
        if received > limit:
            raise too_large
        return message

    return Request(request.scope, receive)


def _detection(form: FormData, limits: Limits) -> DetectionRequest:
    fields: dict[str, Any] = {}
    for name, value in form.multi_items():
        if name not in FIELDS:
            raise UserError(f"there is no field {name[:80]!r}; there are {', '.join(FIELDS)}")
        if name in fields:
            raise UserError(f"the field {name} is there twice")
        if (name == "image") != isinstance(value, UploadFile):
            kind = "a file" if name == "image" else "text"
            raise UserError(f"the field {name} must be {kind}: curl -F image=@street.jpg ...")
        fields[name] = value
    if "image" not in fields:
        raise UserError("there is no image: send a form with a file: curl -F image=@street.jpg ...")
    given = [name for name in VOCABULARY if name in fields]
    if len(given) > 1:
        raise UserError(f"the fields {' and '.join(given)} exclude each other: give one")
    return DetectionRequest(
        fields["image"], _names(fields, limits), fields.get("vocabulary"), _thresholds(fields), form
    )


def _names(fields: Mapping[str, Any], limits: Limits) -> Entries | CaptionPhrases | None:
    if "names" in fields:
        return _checked(split_names(fields["names"]), limits)
    if "caption" not in fields:
        return None
    if len(fields["caption"]) > MAX_PHRASE_LENGTH:
        raise RequestError(
            413, f"the caption is longer than {MAX_PHRASE_LENGTH:,} characters, the limit"
        )
    return CaptionPhrases.find(fields["caption"])


def _checked(names: Any, limits: Limits) -> Entries:
    entries = tuple(check_names(names))
    if (number := sum(map(len, entries))) > limits.names:
        raise RequestError(
            413,
            f"there are {number:,} names; the limit is {limits.names:,}. A larger vocabulary is "
            "given to the server when it starts, see `detclip2 serve --help`",
        )
    return entries


def _thresholds(fields: Mapping[str, str]) -> DetectionThresholds:
    values = {name: _value(name, fields[name]) for name in MEANINGS if name in fields}
    return DetectionThresholds(**values)


def _value(name: str, text: str) -> Any:
    """The value of a setting."""
    if name == "class_agnostic_nms":
        if text not in ("true", "false"):
            raise UserError(f"{name} is {text[:80]!r}; expected true or false")
        return text == "true"
    kind, wanted = (int, "a whole number") if name == "max_detections" else (float, "a number")
    try:
        return kind(text)
    except ValueError:
        raise UserError(f"{name} is {text[:80]!r}; expected {wanted}") from None
