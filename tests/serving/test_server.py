"""The server, from outside: by HTTP on loopback."""

import io
import json
import socket
import struct
import threading
import zlib

import numpy as np
import pytest
from PIL import Image

from detclip2.inference.results_file import Results
from scripts.benchmarks.serving import BOUNDARY, form, put_load
from tests.helpers.color_model import draw_image
from tests.serving.conftest import until


def png(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


RED = png(draw_image(red=(10, 20, 30, 40)))
LIME = png(draw_image(lime=(1, 2, 3, 4), red=(10, 20, 30, 40)))


def huge_png(side):
    """A small file that says that it is huge."""
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b""))
    parts = [
        struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def labels_of(answer):
    assert answer.status == 200, answer.body
    names = [category["name"] for category in answer.json["categories"]]
    return [names[one["category_id"]] for one in answer.json["annotations"]]


def test_the_answer_is_that_of_a_results_file(serve, colors):
    client = serve()
    answer = client.detect(LIME, names="lime, red, blue")
    expected = Results(("lime", "red", "blue"))
    expected.add("a.jpg", colors(LIME, vocabulary=["lime", "red", "blue"]))
    assert answer.json == json.loads(json.dumps(expected.content()))
    assert labels_of(answer) == ["lime", "red"]
    assert answer.headers["content-type"] == "application/json"
    assert labels_of(client.detect(LIME, caption="a lime thing")) == []
    assert labels_of(client.detect(LIME, names="lime, red", score_threshold="0.8")) == ["lime"]
    assert labels_of(client.detect(LIME, names="lime, red", max_detections="1")) == ["lime"]


def test_names_are_encoded_once_and_found_by_their_key(serve, colors):
    client = serve()
    names = json.dumps({"names": ["red", ["lime", "lime "]]})
    first = client.request("POST", "/vocabularies", names).json
    assert first["labels"] == ["red", "lime"]
    assert client.request("POST", "/vocabularies", names).json == first
    assert labels_of(client.detect(LIME, vocabulary=first["vocabulary"])) == ["red", "lime"]
    assert colors.model.prepared == [("red", "lime")]
    assert client.metric("detclip2_vocabularies_total", found="false") == 1
    assert client.metric("detclip2_vocabularies_total", found="true") == 1
    assert client.metric("detclip2_cached_names") == 2, "equal prompts are one"
    unknown = client.detect(RED, vocabulary="0" * 64)
    assert unknown.status == 404
    assert "/vocabularies again" in unknown.json["error"]


def test_a_server_has_its_own_vocabulary(serve, colors):
    assert serve().detect(RED).status == 400
    colors.set_vocabulary(["blue", "red"])
    client = serve()
    assert labels_of(client.detect(RED)) == ["red"]
    assert client.request("GET", "/").json["labels"] == ["blue", "red"]
    assert labels_of(client.detect(RED, names="red")) == ["red"]


@pytest.mark.parametrize(
    ("image", "fields", "message"),
    [
        (RED[:150], {}, "a.jpg: this image is truncated or damaged"),
        (b"", {}, "empty"),
        (b"%PDF-1.4", {}, "not an image"),
        (huge_png(22_361), {}, "(500014321 pixels); the limit is 50 megapixels"),
        (RED, {"names": "red,,"}, "name 2 is empty"),
        (RED, {"names": "x" * 2000}, "the limit is 1,000"),
        (RED, {"names": "red", "caption": "red"}, "names and caption exclude each other"),
        (RED, {"caption": "and so on"}, "no noun phrase"),
        (RED, {"names": "red", "score_threshold": "high"}, "score_threshold is 'high'"),
        (RED, {"names": "red", "score_threshold": "nan"}, "expected a number from 0 to 1"),
        (RED, {"names": "red", "max_detections": "2.5"}, "expected a whole number"),
        (RED, {"names": "red", "class_agnostic_nms": "1"}, "expected true or false"),
        (RED, {"names": "red", "labels": "red"}, "there is no field 'labels'"),
    ],
    ids=range(13),
)
def test_bad_requests(serve_once, image, fields, message):
    answer = serve_once.detect(image, **(fields or {"names": "red"}))
    assert answer.status == 400
    assert message in answer.json["error"]


@pytest.fixture(scope="module")
def serve_once():
    """One server for all requests that it refuses, which also serves good ones at the end."""
    from detclip2.config import InferenceSettings
    from detclip2.inference.predictor import OpenVocabularyPredictor
    from tests.helpers.color_model import ColorModel
    from tests.serving import conftest

    predictor = OpenVocabularyPredictor.from_model(ColorModel(), InferenceSettings(120, 200))
    with pytest.MonkeyPatch.context() as monkeypatch:
        running = conftest.serve.__wrapped__(predictor, monkeypatch)
        client = next(running)()
        yield client
        assert labels_of(client.detect(RED, names="red")) == ["red"]
        assert client.metric("detclip2_requests_total", path="/detect", status="500") == 0
        next(running, None)


MULTIPART = form(RED)[1]
URLENCODED = {"Content-Type": "application/x-www-form-urlencoded"}
NO_IMAGE = form(RED)[0].replace(b'"image"', b'"names"')
NINE = form(RED, **dict.fromkeys("abcdefghi", ""))[0]


@pytest.mark.parametrize(
    ("path", "body", "headers", "status", "message"),
    [
        ("/detect", b"", {}, 400, "there is no image"),
        ("/detect", b"x", {"Content-Type": "image/jpeg"}, 400, "there is no image"),
        ("/detect", b"x", {"Content-Type": "multipart/form-data"}, 400, "boundary"),
        ("/detect", b"image=1", URLENCODED, 400, "a file"),
        ("/detect", NO_IMAGE, MULTIPART, 400, "must be text"),
        ("/detect", NINE, MULTIPART, 400, "Too many fields"),
        ("/vocabularies", b"{", {}, 400, "no json"),
        ("/vocabularies", b'["red"]', {}, 400, '{"names": ['),
        ("/vocabularies", b'{"names": []}', {}, 400, "there are no names"),
        ("/vocabularies", b'{"names": [1]}', {}, 400, "name 1"),
        ("/vocabularies", b'{"names": ["\\ud800"]}', {}, 400, "not valid text"),
        ("/vocabularies", b"[" * 10**5, {}, 400, "levels deep"),
        ("/nothing", b"", {}, 404, "Not Found"),
        ("/health", b"", {}, 405, "Method Not Allowed"),
    ],
)  # fmt: skip
def test_other_bodies(serve_once, path, body, headers, status, message):
    answer = serve_once.request("POST", path, body, headers)
    assert (answer.status, message in answer.json["error"]) == (status, True), answer.body


def test_limits(serve):
    client = serve(body_bytes=10_000, names=3, pixels=2_000)
    names = ", ".join(f"thing {n}" for n in range(10_000))
    many = serve().detect(RED, names=names)
    assert many.status == 413
    assert "there are 10,000 names; the limit is 2,000" in many.json["error"]
    large = client.detect(RED + bytes(10_000), names="red")
    assert large.status == 413
    assert "10,000 bytes" in large.json["error"]
    # Without a length beforehand.
    body, headers = form(RED + bytes(20_000), names="red")
    chunked = client.request("POST", "/detect", iter([body[:9_000], body[9_000:]]), headers)
    assert chunked.status == 413
    assert client.detect(RED, names="red, lime, blue, white").status == 413
    assert client.detect(RED, caption="red " * 300).status == 413
    assert "megapixels" in client.detect(RED, names="red").json["error"]
    assert labels_of(client.detect(png(draw_image(30, 40, red=(1, 1, 9, 9))), names="red")) == [
        "red"
    ]


def test_10_000_names_where_they_are_allowed(serve):
    names = [f"thing {n}" for n in range(10_000)]
    body = json.dumps({"names": names})
    assert serve(names=10_000).request("POST", "/vocabularies", body).json["labels"] == names


@pytest.fixture
def gate(colors, monkeypatch):
    """The model waits for this event, and fails for images that are 13 pixels high."""
    event = threading.Event()
    inference = colors.model.inference

    def slow(samples, **others):
        assert event.wait(60)
        if any(sample["height"] == 13 for sample in samples):
            raise RuntimeError("out of memory")
        return inference(samples, **others)

    monkeypatch.setattr(colors.model, "inference", slow)
    yield event
    event.set()


def test_a_bad_request_never_hurts_another(serve, gate, colors, caplog):
    client = serve()
    first = client.later(RED, names="red")
    until(lambda: client.metric("detclip2_batch_images_count") == 1)
    good = [client.later(LIME, names=name) for name in ("lime", "red", "blue")]
    poison = client.later(png(draw_image(13, 40)), names="red")
    until(lambda: client.metric("detclip2_waiting") == 5)
    assert client.detect(LIME[:100], names="red").status == 400, "while the model is busy"
    assert client.request("GET", "/health").json == {"status": "ok"}
    gate.set()
    for answers, thread in (first, *good, poison):
        thread.join(60)
        assert len(answers) == 1
    assert [labels_of(answers[0]) for answers, _ in (first, *good)] == [
        ["red"],
        ["lime"],
        ["red"],
        [],
    ]
    assert poison[0][0].status == 500
    assert poison[0][0].json == {"error": "a fault of the server, which its log describes"}
    assert "out of memory" in caplog.text
    assert client.metric("detclip2_batch_images_sum") == 5
    assert client.metric("detclip2_batch_images_count") == 2, "four shared a batch"
    assert client.metric("detclip2_waiting") == 0


def test_too_many_wait_or_for_too_long(serve, gate):
    client = serve(waiting=1, seconds=0.5)
    answers, thread = client.later(RED, names="red")
    until(lambda: client.metric("detclip2_batch_images_count") == 1)
    refused = client.detect(RED, names="red")
    assert (refused.status, refused.headers["retry-after"]) == (503, "1")
    thread.join(60)
    assert answers[0].status == 504
    assert "within 0.5 seconds" in answers[0].json["error"]
    gate.set()
    until(lambda: client.detect(RED, names="red").status == 200)


def raw(client, data):
    connection = socket.create_connection(("127.0.0.1", client.port), timeout=60)
    connection.sendall(data)
    return connection


def test_slow_clients_are_dropped_and_hold_nobody_up(serve):
    client = serve(seconds=0.3, waiting=1)
    body, headers = form(RED, names="red")
    head = f"POST /detect HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\nContent-Type: "
    slow_body = raw(client, f"{head}{headers['Content-Type']}\r\n\r\n".encode() + body[:200])
    slow_head = raw(client, head.encode())
    silent = raw(client, b"")
    # An answered request, and then a head that never ends.
    second_head = raw(client, b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
    answered = second_head.recv(4096)  # the whole answer, or its first part
    assert b"200" in answered
    second_head.sendall(b"GET /health")
    assert client.metric("detclip2_waiting") == 0
    assert labels_of(client.detect(RED, names="red")) == ["red"]
    answer = slow_body.makefile("rb").read()
    assert b"408" in answer.splitlines()[0]
    assert b"did not arrive within 0.3 seconds" in answer
    for connection, begin, end in (
        *((slow_head, b"", b""), (silent, b"", b"")),
        (second_head, answered, b'{"status": "ok"}'),
    ):
        assert (begin + connection.makefile("rb").read()).endswith(end), "it is closed"
        connection.close()
    slow_body.close()


def test_clients_that_leave(serve, gate):
    client = serve()
    body, headers = form(RED, names="red")
    head = f"POST /detect HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\nContent-Type: "
    whole = f"{head}{headers['Content-Type']}\r\n\r\n".encode() + body
    raw(client, whole[: len(whole) // 2]).close()
    until(lambda: client.metric("detclip2_requests_total", status="499") == 1)
    gate.set()
    raw(client, whole).close()
    assert labels_of(client.detect(RED, names="red")) == ["red"]


def test_connections_are_limited(serve):
    client = serve(connections=3)
    idle = [raw(client, b"") for _ in range(3)]
    until(lambda: client.request("GET", "/health").status == 503)
    for connection in idle:
        connection.close()
    until(lambda: client.request("GET", "/health").status == 200)


def test_metrics_and_description(serve, colors):
    client = serve()
    client.detect(RED, names="red")
    client.detect(RED[:100], names="red")
    assert client.metric("detclip2_requests_total", path="/detect", status="200") == 1
    assert client.metric("detclip2_requests_total", path="/detect", status="400") == 1
    assert client.metric("detclip2_request_seconds_count", path="/detect") == 2
    assert client.metric("process_resident_memory_bytes") > 2**20
    assert client.request("GET", "/").json["limits"]["names"] == 2_000


def test_a_small_load_has_no_errors(serve):
    """The 5 minutes of four clients are in scripts/benchmark.py serving."""
    client = serve(batch_size=3)
    images = [RED, LIME, png(np.full((300, 40, 3), 200, np.uint8))]
    load = put_load(f"http://127.0.0.1:{client.port}", images, lambda number: number < 25)
    assert load.errors == 0
    assert load.statuses == {(True, 200): 95, (False, 400): 5}
    assert client.metric("detclip2_waiting") == 0
    assert BOUNDARY.encode() not in client.request("GET", "/metrics").body
