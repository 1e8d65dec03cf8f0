"""The application: requests in, json out. docs/serve.md describes it for its users."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from detectron2.structures import Instances
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from detclip2 import __version__
from detclip2.data.io.image import read_image
from detclip2.inference.predictor import OpenVocabularyPredictor
from detclip2.inference.prepared import PreparedVocabulary, ReadyImage
from detclip2.inference.results_file import Results
from detclip2.modeling.thresholds import DetectionThresholds
from detclip2.serving.batcher import Batcher
from detclip2.serving.limits import Limits
from detclip2.serving.metrics import CONTENT_TYPE, Metrics
from detclip2.serving.requests import (
    DetectionRequest,
    RequestError,
    read_detection,
    read_names,
)
from detclip2.serving.vocabularies import VocabularyCache, key_of
from detclip2.utils.errors import UserError
from detclip2.utils.files import json_bytes

CLIENT_LEFT = 499  # nginx's; nobody receives it, but it is counted
DECODERS = 2  # images in memory at their full size
# The rest of such a request is not read, so its connection cannot serve another one.
UNREAD = (408, 413)

Job = tuple[ReadyImage, PreparedVocabulary]
Handler = Callable[[Request], Awaitable[Response]]
Value = TypeVar("Value")

logger = logging.getLogger(__name__)


class Service:
    """The handlers of a server and what they share.

    Args:
        predictor: its vocabulary, if it has one, is that of requests that name none.
        limits: of requests.
    """

    def __init__(self, predictor: OpenVocabularyPredictor, limits: Limits) -> None:
        self.predictor = predictor
        self.limits = limits
        self.metrics = metrics = Metrics()
        self._vocabularies = VocabularyCache(
            predictor,
            max(limits.cached_names, limits.names),
            lambda found: metrics.vocabularies.labels(str(found).lower()).inc(),
        )
        self._detect: Batcher[DetectionThresholds, Job, Instances] = Batcher(
            self._detect_batch, limits.batch_size, metrics.batches.observe
        )
        self._decoders = ThreadPoolExecutor(DECODERS, thread_name_prefix="images")
        self._decoding = asyncio.Semaphore(DECODERS)
        own = predictor.vocabulary
        self._own = None if own is None else predictor.prepare(own)
        self._busy = 0

    def app(self) -> Starlette:
        """The ASGI application."""
        handlers = {
            "/": ("GET", self.describe),
            "/health": ("GET", self.health),
            "/metrics": ("GET", self.report),
            "/vocabularies": ("POST", self.encode),
            "/detect": ("POST", self.detect),
        }
        routes = [
            Route(path, self._answered(path, handler), methods=[method])
            for path, (method, handler) in handlers.items()
        ]
        # Of paths and methods that are not there.
        return Starlette(routes=routes, exception_handlers={HTTPException: _error_of})

    async def describe(self, request: Request) -> Response:
        """``GET /``: version, limits, and the labels of requests that name none."""
        labels = () if self._own is None else self._own.vocabulary.labels
        return _json({"detclip2": __version__, "limits": vars(self.limits), "labels": labels})

    async def health(self, request: Request) -> Response:
        """``GET /health``: a server listens once its model is loaded, so it is ready."""
        return _json({"status": "ok"})

    async def report(self, request: Request) -> Response:
        """``GET /metrics``: for Prometheus."""
        self.metrics.names.set(self._vocabularies.names)
        self.metrics.waiting.set(self._busy)
        return Response(self.metrics.text(), media_type=CONTENT_TYPE)

    async def encode(self, request: Request) -> Response:
        """``POST /vocabularies``: encode names, for requests that give their key."""
        names = await self._received(read_names(request, self.limits))
        prepared = await self._computed(self._vocabularies.get(names))
        return _json({"vocabulary": key_of(names), "labels": prepared.vocabulary.labels})

    async def detect(self, request: Request) -> Response:
        """``POST /detect``: the detections in an image."""
        asked = await self._received(read_detection(request, self.limits))
        try:
            labels, instances = await self._computed(self._found(request, asked))
        finally:
            await asked.close()
        results = Results(labels)
        results.add(asked.file_name, instances)
        return _json(results.content())

    async def _found(
        self, request: Request, asked: DetectionRequest
    ) -> tuple[tuple[str, ...], Instances]:
        """The labels and the detections."""
        prepared = await self._vocabulary(asked)
        loop = asyncio.get_running_loop()
        async with self._decoding:
            data = await asked.image.read()
            image = await loop.run_in_executor(self._decoders, self._ready, data, asked.file_name)
            del data
        if await request.is_disconnected():
            raise ClientDisconnect
        thresholds = asked.thresholds.or_else(self.predictor.asked)
        return prepared.vocabulary.labels, await self._detect(thresholds, (image, prepared))

    async def _vocabulary(self, asked: DetectionRequest) -> PreparedVocabulary:
        if asked.names is not None:
            return await self._vocabularies.get(asked.names)
        if asked.key is not None:
            found = self._vocabularies.find(asked.key)
            if found is None:
                raise RequestError(
                    404,
                    "there is no vocabulary with this key, or not any more: POST its names to "
                    "/vocabularies again",
                )
            return found
        if self._own is None:
            raise UserError("say what to detect: give one of names, caption and vocabulary")
        return self._own

    def _ready(self, data: bytes, name: str) -> ReadyImage:
        """The image, scaled to the size in which the model sees it."""
        return self.predictor.ready(read_image(data, name, self.limits.pixels))

    def _detect_batch(self, thresholds: DetectionThresholds, jobs: list[Job]) -> list[Instances]:
        images, vocabularies = zip(*jobs, strict=True)
        return self.predictor.detect(images, vocabularies, thresholds)

    async def _received(self, reading: Coroutine[Any, Any, Value]) -> Value:
        """What a client sends, if it does so in time."""
        try:
            return await asyncio.wait_for(reading, self.limits.seconds)
        except asyncio.TimeoutError:
            raise RequestError(
                408, f"the request did not arrive within {self.limits.seconds:g} seconds"
            ) from None

    async def _computed(self, work: Coroutine[Any, Any, Value]) -> Value:
        """The result of a request that was received, unless too many wait or it takes too long."""
        if self._busy >= self.limits.waiting:
            work.close()
            raise RequestError(503, f"{self._busy} requests are waiting already: try again later")
        self._busy += 1
        try:
            return await asyncio.wait_for(work, self.limits.seconds)
        except asyncio.TimeoutError:
            raise RequestError(
                504, f"there was no answer within {self.limits.seconds:g} seconds"
            ) from None
        finally:
            self._busy -= 1

    def _answered(self, path: str, handler: Handler) -> Handler:
        """The handler, with an answer for each exception; answers are counted."""

        async def answer(request: Request) -> Response:
            start = time.perf_counter()
            try:
                response = await handler(request)
            except Exception as error:
                response = await _error_of(request, error)
            self.metrics.requests.labels(path, response.status_code).inc()
            self.metrics.seconds.labels(path).observe(time.perf_counter() - start)
            return response

        return answer


async def _error_of(request: Request, error: Exception) -> Response:
    """The answer to a request that failed."""
    headers = {}
    if isinstance(error, RequestError):
        status, sentence = error.status, str(error)
        headers = {"retry-after": "1"} if status == 503 else {}
    elif isinstance(error, HTTPException):
        status, sentence = error.status_code, error.detail
        headers = dict(error.headers or {})
    elif isinstance(error, UserError):
        status, sentence = 400, str(error)
    elif isinstance(error, ClientDisconnect):
        status, sentence = CLIENT_LEFT, "the client has left"
    else:
        logger.error("a request to %s failed", request.url.path, exc_info=error)
        status, sentence = 500, "a fault of the server, which its log describes"
    if status in UNREAD:
        headers["connection"] = "close"
    return _json({"error": sentence}, status, headers)


def _json(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(json_bytes(content), status, headers, "application/json")
