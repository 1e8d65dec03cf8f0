"""A server on loopback, in a thread of the test."""

import http.client
import json
import threading
import time
from dataclasses import dataclass

import pytest

from scripts.benchmarks.serving import form


@dataclass
class Answer:
    status: int
    headers: dict
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)


class Client:
    """Requests to a server; each has its own connection."""

    def __init__(self, port, service):
        self.port = port
        self.service = service

    def request(self, method, path, body=None, headers=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return Answer(answer.status, dict(answer.getheaders()), answer.read())
        finally:
            connection.close()

    def detect(self, image, **fields):
        return self.request("POST", "/detect", *form(image, **fields))

    def later(self, image, **fields):
        """The same from a thread -> a list that will have the answer, and the thread."""
        answers = []
        thread = threading.Thread(target=lambda: answers.append(self.detect(image, **fields)))
        thread.start()
        return answers, thread

    def metric(self, name, **labels):
        from prometheus_client.parser import text_string_to_metric_families

        text = self.request("GET", "/metrics").body.decode()
        samples = [s for family in text_string_to_metric_families(text) for s in family.samples]
        return sum(
            s.value for s in samples if s.name == name and labels.items() <= s.labels.items()
        )


def until(condition):
    """Wait for what must happen; the limit is that of a test that fails."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


@pytest.fixture
def serve(colors, monkeypatch):
    """Start a server of a predictor, with some limits -> its client."""
    from detclip2.serving import server as module
    from detclip2.serving.limits import Limits

    running = []

    def start(predictor=colors, **limits):
        services = []
        original = module.Service
        monkeypatch.setattr(
            module, "Service", lambda *args: services.append(original(*args)) or services[0]
        )
        server = module.make_server(predictor, Limits(**{"seconds": 30, **limits}))
        monkeypatch.setattr(module, "Service", original)
        socket = module.listen("127.0.0.1", 0)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]})
        thread.start()
        running.append((server, socket, thread))
        return Client(socket.getsockname()[1], services[0])

    yield start
    for server, socket, thread in running:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()
        socket.close()
