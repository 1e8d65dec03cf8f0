"""Videos without end: cameras and network streams, read one frame at a time with PyAV (FFmpeg)."""

import logging
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

import numpy as np

from detclip2.data.io.video import Clock, Frame, decoded, pixels
from detclip2.utils.errors import UserError

SCHEMES = ("rtsp", "rtsps", "rtmp", "srt", "udp", "tcp")
CAMERA = "camera:"
SECONDS_TO_OPEN = 15
SECONDS_TO_READ = 15
# A playlist or a session description names other addresses: of these protocols alone.
_PROTOCOLS = "rtsp,rtsps,rtmp,rtp,srt,udp,tcp,tls,http,https"
# FFmpeg's input device of a system, and the name of a camera's number there.
_DEVICES = {"linux": ("v4l2", "/dev/video{}"), "darwin": ("avfoundation", "{}")}
_WINDOWS = ("dshow", "video={}")


def is_live(source: Any) -> bool:
    """Whether something names a camera (``camera:0``) or a stream (``rtsp://...``)."""
    return isinstance(source, str) and source.lower().startswith(
        (CAMERA, *(f"{scheme}://" for scheme in SCHEMES))
    )


logger = logging.getLogger(__name__)


class LiveVideo:
    """The frames of a camera or a network stream, until it ends or Ctrl-C is pressed.

    Args:
        source: ``camera:0`` (on Windows ``camera:NAME``), ``rtsp://...`` or one of `SCHEMES`, or
            the ``http(s)://`` address of a video.
        max_frames: end after so many; None: no limit.

    Raises:
        UserError: while iterating, if it cannot be opened or has no video. One that breaks off, or
            pauses for `SECONDS_TO_READ`, ends there, with a warning.
    """

    count: int | None
    """Number of frames, if it is limited."""

    def __init__(self, source: str, max_frames: int | None = None) -> None:
        self.source = source
        self.count = max_frames
        self.rate = Fraction(25)
        """Frames a second on average, once the first frame is read."""

    @property
    def path(self) -> str:
        """The name in results; a password in it is not shown."""
        scheme, found, rest = self.source.partition("://")
        credentials, at, host = rest.partition("@")
        return f"{scheme}://{host}" if found and at and "/" not in credentials else self.source

    @property
    def name(self) -> str:
        """A name for files: letters, digits and few others."""
        allowed = "".join(c if c.isalnum() or c in "-." else "_" for c in self.path)
        return allowed.strip("_.")[:80] or "live"

    def __iter__(self) -> Iterator[np.ndarray]:
        return (frame.image for frame in self.frames())

    def frames(self) -> Iterator[Frame]:
        """The frames, upright, with their times in seconds after the first one."""
        clock = None
        try:
            with self._opened() as stream, _interrupt() as interrupted:
                self.rate = stream.average_rate or stream.guessed_rate or self.rate
                clock = Clock(self.rate)
                for packet in stream.container.demux(stream):
                    for frame in decoded(packet)[0]:
                        yield Frame(pixels(frame), clock.read(frame))
                        if interrupted.is_set() or clock.frames == self.count:
                            return
        except UserError as error:
            if clock is None or clock.frames == 0:
                raise
            logger.warning("%s; the %d frames before are kept", error, clock.frames)
        if clock is None or clock.frames == 0:
            raise UserError(f"{self.path}: there is no frame in this stream")

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        """The first video stream."""
        import av
        from av.error import FFmpegError

        where, form = self.source, None
        options = {"protocol_whitelist": _PROTOCOLS, "rtsp_transport": "tcp"}
        if where.lower().startswith(CAMERA):
            form, pattern = _DEVICES.get(sys.platform, _WINDOWS)
            where, options = pattern.format(where[len(CAMERA) :]), {}
        timeouts = SECONDS_TO_OPEN, SECONDS_TO_READ
        try:
            container = av.open(
                where, format=form, options=options, timeout=timeouts, metadata_errors="replace"
            )
        except (FFmpegError, OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"{self.path}: cannot be opened: {reason}") from None
        with container:
            if not container.streams.video:
                raise UserError(f"{self.path}: there is no video in this stream")
            stream = container.streams.video[0]
            try:
                yield stream
            except FFmpegError as error:
                raise UserError(f"{self.path}: the stream broke off: {error.strerror}") from None


@contextmanager
def _interrupt() -> Iterator[threading.Event]:
    """Set by the first Ctrl-C, so that what was written so far is closed; the second one ends."""
    pressed = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield pressed
        return

    def note(*_: Any) -> None:
        pressed.set()
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)
