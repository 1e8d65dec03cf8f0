import io
import struct
import weakref
from fractions import Fraction
from types import SimpleNamespace

import av
import cv2
import numpy as np
import pytest

from detclip2.data.io import video as video_module
from detclip2.data.io.image import read_image
from detclip2.data.io.video import Frame, Video, is_video, write_video
from detclip2.utils.errors import UserError
from tests.helpers.videos import COUNT, RATE, SIZE, cut, draw_frames, join, write


@pytest.fixture
def mp4(tmp_path):
    return write(tmp_path / "clip.mp4")


def by_opencv(path):
    capture = cv2.VideoCapture(str(path))
    while (result := capture.read())[0]:
        yield cv2.cvtColor(result[1], cv2.COLOR_BGR2RGB)
    capture.release()


def test_frames_equal_opencv(mp4):
    video = Video(mp4)
    frames = list(video.frames())
    assert (video.rate, video.count) == (RATE, COUNT)
    theirs = list(by_opencv(mp4))
    assert len(frames) == len(theirs) == COUNT
    for i, (frame, image, drawn) in enumerate(zip(frames, theirs, draw_frames(), strict=True)):
        assert frame.time == pytest.approx(i / RATE)
        assert frame.image.shape == (*SIZE, 3)
        assert frame.image.dtype == np.uint8
        assert np.abs(frame.image.astype(int) - image).mean() < 2  # other conversion to RGB
        assert np.abs(frame.image.astype(int) - drawn).mean() < 4  # H.264 loses a little


def test_a_video_can_be_read_again_and_stopped_early(mp4):
    video = Video(mp4)
    first = next(iter(video))
    assert len(list(video)) == COUNT
    np.testing.assert_array_equal(first, next(iter(video)))


def test_one_frame_is_in_memory_at_a_time(mp4):
    alive = []
    most = 0
    for image in Video(mp4):
        alive.append(weakref.ref(image))
        most = max(most, sum(reference() is not None for reference in alive))
    assert len(alive) == COUNT
    assert most <= 2  # the loop variable holds one frame while the next is made


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("clip.avi", "mpeg4"),
        ("clip.mkv", "libx264"),
        ("clip.webm", "libvpx-vp9"),
        ("clip.ts", "libx264"),
        ("clip.MOV", "mpeg4"),
    ],
)
def test_other_formats(tmp_path, name, codec):
    path = write(tmp_path / name, codec=codec)
    assert is_video(path)
    frames = list(Video(path).frames())
    assert len(frames) == COUNT
    assert [frame.time for frame in frames] == pytest.approx(np.arange(COUNT) / RATE, abs=2e-3)


def test_frames_of_a_rotated_video(mp4):
    upright = Video(mp4)
    content = mp4.read_bytes()
    matrix = content.index(b"tkhd") + 4 + 40
    assert struct.unpack_from(">9i", content, matrix)[0] == 0x10000
    quarter = struct.pack(">9i", 0, 0x10000, 0, -0x10000, 0, 0, SIZE[0] << 16, 0, 0x40000000)
    turned = mp4.with_name("turned.mp4")
    turned.write_bytes(content[:matrix] + quarter + content[matrix + 36 :])
    for lying, standing in zip(upright, Video(turned), strict=True):
        np.testing.assert_array_equal(standing, np.rot90(lying, -1))  # clockwise
    assert next(by_opencv(turned)).shape == (SIZE[1], SIZE[0], 3)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("clip.mp4", "libx264", {"movflags": "faststart"}),
        ("clip.mp4", "mpeg4", {"movflags": "faststart"}),
        ("clip.mp4", "libx264", {"movflags": "frag_keyframe+empty_moov"}),
        ("clip.mp4", "libx264", {}),  # its index is at the end
        ("clip.avi", "mpeg4", {}),
        ("clip.mkv", "libx264", {}),
        ("clip.webm", "libvpx-vp9", {}),
        # Not MPEG-TS: it has no index, and FFmpeg does not always report the broken last frame.
    ],
)
def test_a_video_truncated_within_a_frame(tmp_path, name, codec, options, share):
    path = write(tmp_path / name, codec=codec, noise=True, options=options)
    assert len(list(Video(path))) == COUNT
    cut(path, share)
    with pytest.raises(UserError, match=r"middle of a frame|cut off") as error:
        list(Video(path))
    assert str(path) in str(error.value)


def test_a_live_stream_has_no_length_in_its_header(tmp_path):
    class Pipe(io.RawIOBase):
        def __init__(self):
            self.content = b""

        def writable(self):
            return True

        def seekable(self):
            return False

        def write(self, data):
            self.content += bytes(data)
            return len(data)

    pipe = Pipe()
    with av.open(pipe, "w", format="matroska") as container:
        stream = container.add_stream("mpeg4", rate=RATE)
        stream.height, stream.width = SIZE
        for image in draw_frames():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    path = tmp_path / "live.mkv"
    path.write_bytes(pipe.content)
    assert len(list(Video(path))) == COUNT


def test_damage_in_the_middle_is_skipped(tmp_path):
    path = write(tmp_path / "clip.ts", draw_frames(20), codec="mpeg2video", noise=True)
    packets = bytearray(path.read_bytes())
    middle = len(packets) // 188 // 4 * 188
    del packets[middle : middle + 188]  # one of the packets of a transport stream is lost
    path.write_bytes(packets)
    assert len(list(Video(path))) >= 18


@pytest.mark.parametrize("content", [None, b"", b"these are notes\n" * 100, "folder"])
def test_files_that_are_not_videos(tmp_path, content):
    path = tmp_path / "clip.mp4"
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"clip\.mp4: this (is not a video|video does not exist)"):
        Video(path)


def test_a_file_with_sound_only(tmp_path):
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        silence.sample_rate = 44100
        container.mux(stream.encode(silence))
        container.mux(stream.encode())
    with pytest.raises(UserError, match="no frames"):
        Video(path)


def test_is_video():
    assert is_video("a.mp4")
    assert is_video("A.MKV")
    for suffix in ("vob", "asf", "3g2", "m2v", "h264"):
        assert is_video(f"a.{suffix}")
    for other in ("a.jpg", "a.gif", "mp4", b"a.mp4", None, np.zeros(3)):
        assert not is_video(other)
    with pytest.raises(UserError, match=r"a\.mp4: this is a video, where an image is expected"):
        read_image("a.mp4")


@pytest.mark.parametrize("size", [(64, 96), (33, 47), (1, 1), (2, 300)])
def test_a_written_video_is_read_back(tmp_path, size):
    path = tmp_path / "out.mp4"
    times = [0.0, 0.04, 0.1, 0.1, 1.0]  # frames need not be evenly spaced
    images = [np.full((*size, 3), 40 * i, np.uint8) for i in range(len(times))]
    with path.open("wb") as file:
        write_video(file, map(Frame, images, times), Fraction(25))
    frames = list(Video(path).frames())
    assert [frame.time for frame in frames] == pytest.approx(times, abs=1e-3)
    for image, frame in zip(images, frames, strict=True):
        height, width = (side + side % 2 for side in size)
        assert frame.image.shape == (height, width, 3)
        assert np.abs(frame.image.astype(int) - image[0, 0]).max() < 6
    assert len(list(by_opencv(path))) == len(times)


PLAYLISTS = {
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n",
    "concat": "ffconcat version 1.0\nfile {}\n",
}


@pytest.mark.parametrize("kind", PLAYLISTS)
@pytest.mark.parametrize("suffix", [".mp4", ".ts"])
def test_a_playlist_reads_no_other_file(tmp_path, kind, suffix):
    write(tmp_path / "secret.ts", codec="mpeg2video")
    path = tmp_path / f"video{suffix}"
    path.write_text(PLAYLISTS[kind].format("secret.ts"))
    if kind == "concat":  # FFmpeg itself reads the other file
        with av.open(str(path)) as container:
            assert container.streams.video
    with pytest.raises(UserError, match="this is not a video"):
        Video(path)


OTHER_SIZE = (48, 64)


# The frames of joined files, of which FFmpeg loses one where MPEG-2 changes its size.
@pytest.mark.parametrize("count", [COUNT, 25])
@pytest.mark.parametrize("size", [SIZE, OTHER_SIZE])
@pytest.mark.parametrize(
    ("name", "codec"),
    [("clip.ts", "libx264"), ("clip.mpg", "mpeg2video"), ("clip.avi", "mpeg4")],
)
def test_joined_videos_go_on_where_the_clock_falls_back(tmp_path, name, codec, size, count):
    first = write(tmp_path / name, draw_frames(count), codec=codec)
    path = join(first, write(tmp_path / f"second.{name}", draw_frames(count, size), codec=codec))
    frames = list(Video(path).frames())
    assert len(frames) >= 2 * count - (size != SIZE)
    assert [frame.image.shape[:2] for frame in frames[-count:]] == [size] * count
    times = [frame.time for frame in frames]
    np.testing.assert_allclose(np.diff(times), 1 / RATE, atol=1e-6)


def test_a_joined_video_with_other_settings_is_not_reported_as_cut(tmp_path):
    # Matroska has the settings of H.264 once, at its beginning, so the second half is damaged.
    first = write(tmp_path / "clip.mkv")
    path = join(first, write(tmp_path / "second.mkv", draw_frames(COUNT, OTHER_SIZE)))
    with pytest.raises(UserError, match="joined of files with different settings"):
        list(Video(path))


@pytest.mark.parametrize(
    ("name", "codec"), [("clip.ts", "libx264"), ("clip.mpg", "mpeg2video"), ("clip.mkv", "libx264")]
)
def test_a_joined_video_may_be_cut(tmp_path, name, codec):
    # The two are equal, so that times of frames repeat.
    first = write(tmp_path / name, codec=codec, noise=True)
    second = write(tmp_path / f"second.{name}", codec=codec, noise=True)
    path = join(first, cut(second, 0.6))
    with pytest.raises(UserError, match=r"middle of a frame|cut off"):
        list(Video(path))


def test_frames_without_times(tmp_path):
    path = write(tmp_path / "clip.h264")  # a bare stream has no clock
    times = [frame.time for frame in Video(path).frames()]
    assert times == pytest.approx(np.arange(COUNT) / RATE)


@pytest.mark.parametrize(
    ("shown", "times"),
    [
        ([0.5, 0.6, 0.7], [0.0, 0.1, 0.2]),
        ([None, None, None], [0.0, 0.1, 0.2]),
        ([0.0, 0.3, None, 0.5], [0.0, 0.3, 0.4, 0.5]),
        ([0.0, 5.0, 1.0, 1.3], [0.0, 5.0, 5.1, 5.4]),
        ([3.0, 3.0, 3.2], [0.0, 0.0, 0.2]),  # equal times are not a fall
        ([-2.0, -1.9, -2.0], [0.0, 0.1, 0.2]),
    ],
)
def test_times_never_fall(shown, times):
    clock = video_module.Clock(Fraction(10))
    frames = [SimpleNamespace(pts=time, time=time) for time in shown]
    assert [clock.read(frame) for frame in frames] == pytest.approx(times)


def test_a_written_video_keeps_its_size(tmp_path):
    path = tmp_path / "out.mp4"
    wide = np.full((32, 128, 3), 255, np.uint8)
    images = [np.full((64, 64, 3), 100, np.uint8), wide, np.full((63, 64, 3), 100, np.uint8)]
    with path.open("wb") as file:
        write_video(file, map(Frame, images, [0.0, 0.1, 0.2]), Fraction(10))
    _, fitted, _ = Video(path)
    assert fitted.shape == (64, 64, 3)
    rows = fitted.mean(axis=(1, 2))  # 64 x 16 in the middle, black above and below it
    assert rows[26:38].min() > 220
    assert max(rows[:22].max(), rows[42:].max()) < 40


def test_metadata_may_have_any_bytes(tmp_path):
    path = write(tmp_path / "clip.mp4")
    content = path.read_bytes()
    assert b"Lavf" in content
    path.write_bytes(content.replace(b"Lavf", b"L\xa0vf"))
    assert len(list(Video(path).frames())) == COUNT
