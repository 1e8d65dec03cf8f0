"""Video files, read and written one frame at a time with PyAV (FFmpeg).

PyAV is imported with the first video: images and training do not need it.
"""

import itertools
import os
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from detclip2.utils.errors import UserError

_MPEG_4 = (".mp4", ".m4v", ".mov", ".qt", ".3gp", ".3g2", ".f4v")
_MPEG_2 = (".mpg", ".mpeg", ".mpe", ".m1v", ".m2v", ".vob", ".ts", ".mts", ".m2ts")
_BARE = (".h264", ".264", ".h265", ".265", ".hevc")
_OTHERS = (".mkv", ".webm", ".ogv", ".ogm", ".avi", ".divx", ".wmv", ".asf", ".flv")
_SUFFIXES = (*_MPEG_4, *_MPEG_2, *_BARE, *_OTHERS)
# The demuxers of these suffixes: others are playlists, which read other files and addresses.
_OPTIONS = {
    "format_whitelist": "mov,matroska,avi,mpeg,mpegts,mpegvideo,asf,flv,live_flv,ogg,h264,hevc,m4v",
    "protocol_whitelist": "file",
}
_TICKS = 90_000  # per second: MPEG's clock, a multiple of common frame rates
# A decoder may hold back so many frames (H.264's limit): a damaged one need not come out last.
_REORDERED = 16


class Frame(NamedTuple):
    """A frame of a video."""

    image: np.ndarray
    """(H, W, 3) uint8 RGB, upright. The size may change within a video."""
    time: float
    """Seconds after the first frame; never less than that of the frame before."""


class Video:
    """The frames of a video file; each iteration reads the file again.

    One frame at a time is in memory, unless the caller keeps them. Frames are upright, as a player
    shows them.

    Args:
        path: an MP4, Matroska, MPEG, AVI, WMV, FLV or Ogg file, whatever its suffix; no playlist.

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
        """The frames with their times.

        A clock that falls back, as where files were joined, continues one frame after the last one;
        so do frames without a time.
        """
        clock = Clock(self.rate)
        end = _End()
        with self._opened() as stream:
            for packet in stream.container.demux(stream):
                frames, is_whole = decoded(packet)
                end.note(packet, frames, is_whole)
                for frame in frames:
                    yield Frame(pixels(frame), clock.read(frame))
        if problem := end.problem():
            raise UserError(f"{self.path}: {problem}; there are about {clock.frames} frames.")
        if clock.frames == 0:
            raise UserError(f"{self.path}: there is no frame in this video.")

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        """The file's first video stream."""
        import av
        from av.error import FFmpegError

        try:
            # Absolute, so that FFmpeg does not take the name for a URL. Titles may have any bytes.
            container = av.open(
                str(self.path.absolute()), options=dict(_OPTIONS), metadata_errors="replace"
            )
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
            # Where frames are decoded side by side, FFmpeg may lose the mark of a damaged last one.
            stream.thread_type = "SLICE"
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
        frames: one or more frames, with their times. The video has the size of the first one, with
            one more row or column where it is odd, because H.264 needs even sizes. Frames of other
            sizes are scaled to fit into it, with black bars.
        rate: frames per second, on average.
    """
    import av

    shown = -1
    with av.open(file, "w", format="mp4") as container:
        stream: Any = container.add_stream("libx264", rate=rate)
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, _TICKS)
        for image, time in frames:
            if shown < 0:
                size = image.shape[:2]
                stream.height, stream.width = (side + side % 2 for side in size)
            image = _fitted(image, *size)
            image = np.pad(image, ((0, size[0] % 2), (0, size[1] % 2), (0, 0)), mode="edge")
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            shown = max(shown + 1, round(time * _TICKS))  # encoders refuse equal times
            frame.pts, frame.time_base = shown, Fraction(1, _TICKS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _fitted(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """The image scaled to fit into a size, in the middle, with black around it."""
    if image.shape[:2] == (height, width):
        return image
    black = (0, 0, 0)
    return np.asarray(ImageOps.pad(Image.fromarray(image), (width, height), color=black))


class Clock:
    """The times of frames, in seconds after the first one."""

    def __init__(self, rate: Fraction) -> None:
        self.frames = 0
        self._step, self._time, self._shift = float(1 / rate), 0.0, 0.0

    def read(self, frame: Any) -> float:
        """The time of the next frame."""
        shown = None if frame.pts is None else frame.time
        if self.frames == 0:
            self._shift = -(shown or 0.0)
        elif shown is None:
            self._time += self._step
        else:
            if shown + self._shift < self._time:
                self._shift = self._time + self._step - shown
            self._time = shown + self._shift
        self.frames += 1
        return self._time


class _End:
    """Whether a video ends in a damaged frame.

    Earlier damage is a fault that players tolerate. A decoder returns a frame, or the report of its
    damage, up to `_REORDERED` packets late; so damage in the last ones counts, unless the frame of
    the very last packet has come out whole, as where a short file was joined to another.
    """

    def __init__(self) -> None:
        self._number, self._damaged, self._in_a_row = 0, -_REORDERED, 0
        self._last, self._last_is_whole = None, True
        self._whole: deque[int] = deque(maxlen=2 * _REORDERED)  # pts of frames

    def note(self, packet: Any, frames: list[Any], is_whole: bool) -> None:
        """Note a packet and what the decoder has returned for it."""
        if packet.size:  # the packet that ends the stream is empty
            self._last, self._last_is_whole = packet.pts, not packet.is_corrupt
            while packet.pts in self._whole:  # a frame of the file that this one was joined to
                self._whole.remove(packet.pts)
        if not is_whole:
            self._damaged = self._number
        if frames or not is_whole:
            self._in_a_row = 0 if is_whole else self._in_a_row + 1
        whole = (frame.pts for frame in frames if not frame.is_corrupt and frame.pts is not None)
        self._whole.extend(whole)
        self._number += 1

    def problem(self) -> str:
        """What is wrong with the end, after all packets; "" if it is whole."""
        last_came_out = self._last_is_whole and self._last in self._whole
        if self._number - 1 - self._damaged >= _REORDERED or last_came_out:
            return ""
        # A cut damages the last packet, and perhaps the report of it that ends the stream.
        if self._in_a_row > 2:
            return (
                "the last frames of this video cannot be decoded (was it joined of files with "
                "different settings? Convert it as a whole first)"
            )
        return "this video ends in the middle of a frame: it is cut off, or its end is damaged"


def decoded(packet: Any) -> tuple[list[Any], bool]:
    """The frames of a packet, and whether all are undamaged."""
    from av.error import InvalidDataError

    try:
        frames = packet.decode()
    except InvalidDataError:  # a decoder with one thread raises; others mark the frame
        return [], False
    return frames, not (packet.is_corrupt or any(frame.is_corrupt for frame in frames))


def pixels(frame: Any) -> np.ndarray:
    """The (H, W, 3) uint8 RGB image of a frame of PyAV, upright."""
    image = frame.to_ndarray(format="rgb24")
    # Phones held upright store frames turned by 90 degrees, with the rotation as metadata.
    turns, remainder = divmod(frame.rotation, 90)
    return image if remainder or turns % 4 == 0 else np.ascontiguousarray(np.rot90(image, turns))


def _matroska_is_cut(path: Path) -> bool:
    """Whether a Matroska or WebM file is shorter than its header says, which FFmpeg ignores.

    Files may be joined: each part has EBML's header and a segment.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        end = 0
        for element in itertools.cycle((b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67")):
            file.seek(end)
            if file.read(4) != element:
                return False
            # EBML's integers (RFC 8794, sec. 4): leading zeros give the number of further bytes.
            first = file.read(1)
            bits = 7 * (9 - first[0].bit_length()) if first else 7
            length = int.from_bytes(first + file.read(bits // 7 - 1), "big") % 2**bits
            if length == 2**bits - 1:  # unknown size, as of a live stream
                return False
            end = file.tell() + length
            if end >= size:
                break
    return end > size
