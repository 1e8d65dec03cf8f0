"""The commands and the snippet of docs/serve.md, against a server."""

import json
import re
import shlex
import shutil
import subprocess
import threading
from pathlib import Path

import pytest
from PIL import Image

from detclip2.commands import serve
from detclip2.serving.limits import Limits
from tests.helpers.color_model import draw_image

PAGE = (Path(__file__).parents[2] / "docs" / "serve.md").read_text()


@pytest.fixture
def address(colors, tmp_path, monkeypatch):
    """A server in the place of localhost:8000, and the reader's folder."""
    from detclip2.serving.server import listen, make_server

    Image.fromarray(draw_image(red=(10, 20, 30, 40))).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    server, socket = make_server(colors, Limits()), listen("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]})
    thread.start()
    yield f"127.0.0.1:{socket.getsockname()[1]}"
    server.should_exit = True
    thread.join(30)
    socket.close()


def blocks(language):
    found = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    assert found
    return found


def test_the_requests_of_the_page(address):
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    requests = [shlex.split(line) for line in lines if line.startswith("curl")]
    assert len(requests) == 4
    for command in requests:
        words = [word.replace("localhost:8000", address) for word in command]
        options = ["--silent", "--show-error", "--fail-with-body", "--noproxy", "*"]
        done = subprocess.run([*words, *options], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout


def test_the_snippet_of_the_page(address, capsys):
    [snippet] = blocks("python")
    names = {}
    exec(snippet.replace("localhost:8000", address), names)
    content = names["found"].json()
    [example] = map(json.loads, blocks("json"))
    assert content.keys() == example.keys()
    assert content["images"][0].keys() == example["images"][0].keys()
    assert [one["name"] for one in content["categories"]] == ["person", "couch", "cup"]


def test_the_limits_of_the_page_are_those_of_the_command():
    default = Limits()
    shown = dict(re.findall(r"^\| `(--[\w-]+)` \| ([\d,]+)", PAGE, re.MULTILINE))
    expected = {
        "--max-megabytes": default.body_bytes / serve.MIB,
        "--max-megapixels": default.pixels / 1e6,
        "--max-names": default.names,
        "--cached-names": default.cached_names,
        "--timeout": default.seconds,
        "--max-waiting": default.waiting,
        "--max-connections": default.connections,
        "--batch-size": default.batch_size,
    }
    assert {name: float(value.replace(",", "")) for name, value in shown.items()} == expected


def test_the_metrics_of_the_page_exist(address):
    import urllib.request

    with urllib.request.urlopen(f"http://{address}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    names = re.findall(r"`((?:detclip2|process)_\w+)`", PAGE)
    assert len(names) > 6
    for name in names:
        assert f"# TYPE {name} " in text, name
