"""Cameras and streams: a fake camera, and a server on this machine."""

import functools
import http.server
import signal
import threading

import av
import numpy as np
import pytest

from detclip2.data.io.live_video import LiveVideo, is_live
from detclip2.utils.errors import UserError
from tests.helpers.videos import COUNT, draw_frames, write


@pytest.fixture
def clip(tmp_path):
    return write(tmp_path / "live.ts", codec="mpeg2video")


@pytest.fixture
def server(tmp_path, clip, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def check(frames, count=COUNT):
    frames = list(frames)
    assert len(frames) == count
    for frame, drawn in zip(frames, draw_frames(), strict=False):
        assert np.abs(frame.image.astype(int) - drawn).mean() < 12
    times = [frame.time for frame in frames]
    assert times == sorted(times)
    assert times[0] == 0


def test_a_stream_from_a_server(server):
    check(LiveVideo(f"{server}/live.ts").frames())
    check(LiveVideo(f"{server}/live.ts", max_frames=5).frames(), 5)


@pytest.fixture
def camera(clip, monkeypatch):
    """A camera that shows a file; the arguments that it was opened with."""
    asked = []
    really = av.open

    def fake(where, format=None, **more):
        asked.append((where, format))
        return really(str(clip), **more)

    monkeypatch.setattr(av, "open", fake)
    return asked


@pytest.mark.parametrize(
    ("system", "where", "form"),
    [
        ("linux", "/dev/video2", "v4l2"),
        ("darwin", "2", "avfoundation"),
        ("win32", "video=2", "dshow"),
    ],
)
def test_a_camera(camera, monkeypatch, system, where, form):
    monkeypatch.setattr("detclip2.data.io.live_video.sys.platform", system)
    check(LiveVideo("camera:2").frames())
    assert camera == [(where, form)]


def test_the_first_interrupt_ends_it_in_good_order(camera):
    before = signal.getsignal(signal.SIGINT)
    frames = []
    for frame in LiveVideo("camera:0").frames():
        frames.append(frame)
        if len(frames) == 3:
            signal.raise_signal(signal.SIGINT)
    assert len(frames) == 3
    assert signal.getsignal(signal.SIGINT) is before


def test_a_stream_that_breaks_off_keeps_what_came(clip, camera, monkeypatch, caplog):
    import detclip2.data.io.live_video as module

    number = [0]
    decoded = module.decoded

    def fail(packet):
        number[0] += 1
        if number[0] > 6:
            raise av.error.ConnectionResetError(104, "reset", "x")
        return decoded(packet)

    monkeypatch.setattr(module, "decoded", fail)
    frames = list(LiveVideo("camera:0").frames())
    assert 0 < len(frames) < COUNT
    assert "broke off" in caplog.text


def test_what_cannot_be_opened(server, monkeypatch):
    for source in (f"{server}/none.ts", "camera:77", "rtsp://127.0.0.1:9/x"):
        with pytest.raises(UserError, match="cannot be opened"):
            next(LiveVideo(source).frames())
    with pytest.raises(UserError, match=r"no frame|no video|cannot be opened"):
        list(LiveVideo(f"{server}/").frames())


def test_names():
    assert is_live("rtsp://u:p@h/1")
    assert is_live("camera:0")
    assert not is_live("cameras/0.png")
    assert not is_live("https://h/a.png")
    assert LiveVideo("rtsp://user:secret@h/a@b").path == "rtsp://h/a@b"
    assert "secret" not in LiveVideo("rtsp://user:secret@h/1").name
