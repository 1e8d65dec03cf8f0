"""Addresses, from servers on this machine, good and bad."""

import contextlib
import http.server
import socket
import threading

import pytest

from detclip2.data.io import url as module
from detclip2.data.io.image_item import ImageItem
from detclip2.data.io.url import fetch, is_url
from detclip2.utils.errors import UserError

CONTENT = bytes(range(256)) * 4000


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        kind = self.path.strip("/")
        if kind == "missing":
            self.send_error(404)
            return
        if kind.startswith("to-"):
            self.send_response(302)
            goal = {
                "to-content": "/content",
                "to-file": "file:///etc/passwd",
                "to-ftp": "ftp://h/a",
            }
            self.send_header("Location", goal.get(kind, f"/{kind}"))
            self.end_headers()
            return
        self.send_response(200)
        if kind == "lie":
            self.send_header("Content-Length", str(10 * len(CONTENT)))
        elif kind != "unstated":
            self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(CONTENT)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


@pytest.fixture(autouse=True)
def without_proxies(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def test_the_content_of_an_address(server):
    for kind in ("content", "unstated", "to-content"):
        assert fetch(f"{server}/{kind}") == CONTENT


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("missing", "answers 404"),
        ("lie", "the connection ended after"),
        ("to-file", r"file:///etc/passwd.* is not allowed"),
        ("to-ftp", "leads to ftp://h/a, which is not read"),
        ("to-itself", "answers 302|cannot be reached"),
    ],
)
def test_bad_answers(server, kind, words):
    with pytest.raises(UserError, match=words):
        fetch(f"{server}/{kind}")


def test_limits(server, monkeypatch):
    for kind in ("content", "unstated"):
        with pytest.raises(UserError, match="is larger than 0 MB"):
            fetch(f"{server}/{kind}", max_bytes=len(CONTENT) - 1)
        assert len(fetch(f"{server}/{kind}", max_bytes=len(CONTENT))) == len(CONTENT)
    seconds = iter(range(0, 1000, 61))
    monkeypatch.setattr(module.time, "monotonic", lambda: next(seconds))
    with pytest.raises(UserError, match="not read to its end within 60 s"):
        fetch(f"{server}/content")


def answer(text):
    """The address of a server that sends a text, whatever it is asked, and then waits."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve():
        with contextlib.suppress(OSError):
            connection, _ = listening.accept()
            connection.recv(1000)
            connection.sendall(text)
            connection.recv(1)  # until the client gives up

    threading.Thread(target=serve, daemon=True).start()
    return listening, f"http://127.0.0.1:{listening.getsockname()[1]}/a.jpg"


@pytest.mark.parametrize("text", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"])
def test_a_server_that_hangs_is_given_up(monkeypatch, text):
    monkeypatch.setattr(module, "SECONDS_TO_ANSWER", 0.05)
    listening, address = answer(text)
    with listening, pytest.raises(UserError, match="does not answer"):
        fetch(address)


def test_what_is_no_server(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    with pytest.raises(UserError, match="cannot be reached"):
        fetch(f"http://127.0.0.1:{port}/a.jpg")
    listening, address = answer(b"SSH-2.0-x\r\n\r\n")
    monkeypatch.setattr(module, "SECONDS_TO_ANSWER", 0.05)
    with listening, pytest.raises(UserError, match=r"a\.jpg"):
        fetch(address)
    for bad in ("http://", "http://[", "http://h:port/", "http://\0/"):
        with pytest.raises(UserError):
            fetch(bad)


def test_an_image_that_is_no_image(server):
    assert is_url(f"{server}/x")
    assert not is_url("file:///etc/passwd")
    with pytest.raises(UserError, match="/content: this is not an image"):
        ImageItem("x", f"{server}/content").read()
