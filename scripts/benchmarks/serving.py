"""The server under load: several clients on loopback, and one request in `BAD` that is damaged."""

import contextlib
import http.client
import io
import os
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from .timing import Setting, spread

CLIENTS = 4
BAD = 20
NAMES = "person, cat, dog, car, bicycle, chair, cup, book"
SIZES = ((480, 640), (640, 480), (240, 320), (600, 800))
BOUNDARY = "a-boundary"
SAMPLES = 10  # of the memory, after the first share of the time


@dataclass
class Load:
    """What clients saw."""

    seconds: list[float] = field(default_factory=list)
    """Of each good request."""
    statuses: Counter[tuple[bool, int]] = field(default_factory=Counter)
    """(Is the request good, status or 0 for no answer) -> how many."""

    @property
    def errors(self) -> int:
        """Good requests without detections, and bad ones that were not refused."""
        wanted = {(True, 200), (False, 400)}
        return sum(count for kind, count in self.statuses.items() if kind not in wanted)


def form(image: bytes, **fields: str) -> tuple[bytes, dict[str, str]]:
    """Body and headers of a form with an image and texts."""
    disposition = f"--{BOUNDARY}\r\nContent-Disposition: form-data; name="
    parts = [f'{disposition}"{name}"\r\n\r\n{text}\r\n' for name, text in fields.items()]
    head = f'{disposition}"image"; filename="a.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
    body = b"".join([*map(str.encode, parts), head.encode(), image, b"\r\n"])
    body += f"--{BOUNDARY}--\r\n".encode()
    return body, {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


def put_load(
    address: str, images: Sequence[bytes], go_on: Callable[[int], bool], clients: int = CLIENTS
) -> Load:
    """Send requests from several threads, each one after the answer to the one before.

    Args:
        address: of the server.
        images: JPEGs, sent in turns.
        go_on: gets the number of requests of a client so far.
        clients: how many.
    """
    load, lock = Load(), threading.Lock()

    def client(first: int) -> None:
        connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=120)
        number = 0
        while go_on(number):
            is_good = (first + number) % BAD != BAD - 1
            image = images[(first + number) % len(images)]
            body, headers = form(image if is_good else image[: len(image) // 2], names=NAMES)
            start = time.perf_counter()
            try:
                connection.request("POST", "/detect", body, headers)
                answer = connection.getresponse()
                answer.read()
                status = answer.status
            except (OSError, http.client.HTTPException):
                connection.close()
                status = 0
            with lock:
                load.statuses[is_good, status] += 1
                if is_good:
                    load.seconds.append(time.perf_counter() - start)
            number += 1
        connection.close()

    threads = [threading.Thread(target=client, args=(5 * i,)) for i in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return load


def jpegs(seed: int = 0) -> list[bytes]:
    """Images of several sizes, smooth noise."""
    random = np.random.default_rng(seed)
    found = []
    for height, width in SIZES:
        coarse = random.integers(0, 256, (height // 20, width // 20, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(coarse).resize((width, height)).save(file, "JPEG")
        found.append(file.getvalue())
    return found


def memory(address: str) -> float:
    """Resident memory of the server, MiB."""
    with urllib.request.urlopen(f"{address}/metrics", timeout=60) as answer:  # noqa: S310
        lines = answer.read().decode().splitlines()
    (line,) = [one for one in lines if one.startswith("process_resident_memory_bytes ")]
    return float(line.split()[1]) / 2**20


@contextlib.contextmanager
def served(*arguments: str) -> Iterator[str]:
    """The address of ``detclip2 serve`` in a new process."""
    command = [sys.executable, "-m", "detclip2", "serve", "--port", "0", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().split()[-1]
        finally:
            process.terminate()


def measure(setting: Setting, seconds: float) -> list[dict[str, Any]]:
    """One row: `CLIENTS` clients for some seconds, against the model that ships."""
    images = jpegs(setting.seed)
    with served("--device", setting.device) as address:
        put_load(address, images, lambda number: number < BAD)  # memory is allocated
        resident, done = [], threading.Event()

        def watch() -> None:
            while not done.wait(seconds / SAMPLES):
                resident.append(memory(address))

        watcher = threading.Thread(target=watch)
        watcher.start()
        start = time.monotonic()
        load = put_load(address, images, lambda number: time.monotonic() < start + seconds)
        spent = time.monotonic() - start
        done.set()
        watcher.join()
        resident.append(memory(address))
    answered = sorted(load.seconds)
    return [
        {
            "clients": CLIENTS,
            "seconds": round(spent),
            "requests": sum(load.statuses.values()),
            "bad": sum(count for (good, _), count in load.statuses.items() if not good),
            "errors": load.errors,
            "a_second": round(len(answered) / spent, 2),
            "ms": spread([1000 * value for value in answered]),
            "p95_ms": round(1000 * statistics.quantiles(answered, n=20)[-1]),
            "MiB": [round(resident[0]), round(max(resident)), round(resident[-1])],
            "load": [round(value, 1) for value in os.getloadavg()],
        }
    ]
