"""Video files, read and written one frame at a time with PyAV (FFmpeg).

PyAV is imported with the first video: images and training do not need it.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from detclip2.utils.errors import UserError

_MPEG = (".mp4", ".m4v", ".mov", ".3gp", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts")
_SUFFIXES = (*_MPEG, ".mkv", ".webm", ".ogv", ".avi", ".wmv", ".flv")
_TICKS = 90_000  # per second: MPEG's clock, a multiple of common frame rates
# A decoder may hold back so many frames (H.264's limit): a damaged one need not come out last.
_REORDERED = 16


class Frame(NamedTuple):
    """A frame of a video."""

    image: np.ndarray
    """(H, W, 3) uint8 RGB, upright."""
    time: float
    """Seconds after the first frame."""


class Video:
    """The frames of a video file; each iteration reads the file again.

    One frame at a time is in memory, unless the caller keeps them. Frames are upright, as a player
    shows them.

    Args:
        path: a file in any format of FFmpeg.

    Raises:
        UserError: the file is missing, is not a video, or is cut off; while iterating, if it ends
            in the middle of a frame or cannot be decoded.
    """

    path: Path
    rate: Fraction
    """Frames a second, on average."""
    count: int | None
    """Number of frames in the file's header, which may be wrong; None if it is not given."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if not os.path.isfile(self.path):
            raise UserError(f"{self.path}: this video does not exist.")
        with self._opened() as stream:
            self.rate = stream.average_rate or stream.guessed_rate or Fraction(25)
            self.count = stream.frames or None
        if _matroska_is_cut(self.path):
            raise UserError(f"{self.path}: this video is cut off: its end is missing.")

    def __iter__(self) -> Iterator[np.ndarray]:
        return (frame.image for frame in self.frames())

    def frames(self) -> Iterator[Frame]:
        """The frames with their times."""
        done, packet_number, damaged = 0, 0, -_REORDERED
        start = 0.0
        with self._opened() as stream:
            for packet_number, packet in enumerate(stream.container.demux(stream)):
                frames, is_whole = _decoded(packet)
                if not is_whole:
                    damaged = packet_number
                for frame in frames:
                    time = float(done / self.rate) if frame.pts is None else frame.time
                    start = time if done == 0 else start
                    done += 1
                    yield Frame(_pixels(frame), time - start)
        # Damage before that is a fault that players tolerate.
        if packet_number - damaged < _REORDERED:
            raise UserError(
                f"{self.path}: this video ends in the middle of a frame, after about {done}."
            )
        if done == 0:
            raise UserError(f"{self.path}: there is no frame in this video.")

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        """The file's first video stream."""
        import av
        from av.error import FFmpegError

        try:
            # Absolute, so that FFmpeg does not take the name for a URL.
            container = av.open(str(self.path.absolute()))
        except (FFmpegError, OSError) as error:
            raise UserError(
                f"{self.path}: this is not a video, or its index is damaged or cut off: "
                f"{error.strerror}."
            ) from None
        with container:
            if not container.streams.video:
                raise UserError(
                    f"{self.path}: there are no frames in this video, or its index is cut off."
                )
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            try:
                yield stream
            except FFmpegError as error:
                raise UserError(
                    f"{self.path}: this video cannot be decoded to its end: {error.strerror}."
                ) from None


def is_video(source: Any) -> bool:
    """Whether something is the path of a video, by its suffix."""
    is_path = isinstance(source, str | os.PathLike)
    return is_path and os.fspath(source).lower().endswith(_SUFFIXES)


def write_video(file: IO[bytes], frames: Iterable[Frame], rate: Fraction) -> None:
    """Write an MP4 (H.264) without sound, which all players and browsers show.

    Args:
        file: open for writing, seekable.
        frames: one or more frames of one size, with their times. Odd sizes get one more row or
            column, because H.264 needs even ones.
        rate: frames per second, on average.
    """
    import av

    shown = -1
    with av.open(file, "w", format="mp4") as container:
        stream: Any = container.add_stream("libx264", rate=rate)
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, _TICKS)
        for image, time in frames:
            height, width = image.shape[:2]
            image = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            if shown < 0:
                stream.height, stream.width = image.shape[:2]
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            shown = max(shown + 1, round(time * _TICKS))  # encoders refuse equal times
            frame.pts, frame.time_base = shown, Fraction(1, _TICKS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _decoded(packet: Any) -> tuple[list[Any], bool]:
    """The frames of a packet, and whether all are undamaged."""
    from av.error import InvalidDataError

    try:
        frames = packet.decode()
    except InvalidDataError:  # a decoder with one thread raises; others mark the frame
        return [], False
    return frames, not (packet.is_corrupt or any(frame.is_corrupt for frame in frames))


def _pixels(frame: Any) -> np.ndarray:
    image = frame.to_ndarray(format="rgb24")
    # Phones held upright store frames turned by 90 degrees, with the rotation as metadata.
    turns, remainder = divmod(frame.rotation, 90)
    return image if remainder or turns % 4 == 0 else np.ascontiguousarray(np.rot90(image, turns))


def _matroska_is_cut(path: Path) -> bool:
    """Whether a Matroska or WebM file is shorter than its header says, which FFmpeg ignores."""
    with path.open("rb") as file:
        end = 0
        for element in (b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"):  # EBML's header, the segment
            file.seek(end)
            if file.read(4) != element:
                return False
            # EBML's integers (RFC 8794, sec. 4): leading zeros give the number of further bytes.
            first = file.read(1)
            bits = 7 * (9 - first[0].bit_length())
            size = int.from_bytes(first + file.read(bits // 7 - 1), "big") % 2**bits
            if size == 2**bits - 1:  # unknown size, as of a live stream
                return False
            end = file.tell() + size
        return end > path.stat().st_size
