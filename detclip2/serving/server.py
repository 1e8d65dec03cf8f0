"""HTTP: a socket, and connections that cannot be held open without sending a request."""

import asyncio
import socket

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from detclip2.inference.predictor import OpenVocabularyPredictor
from detclip2.serving.app import Service
from detclip2.serving.limits import Limits
from detclip2.utils.errors import UserError


def listen(host: str, port: int) -> socket.socket:
    """A socket for `serve`.

    Args:
        host: name or address of this machine.
        port: 0 takes a free one.

    Raises:
        UserError: the port is taken or not allowed, or the host is not this machine.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"{host}:{port}: the server cannot listen there ({reason}): choose --host and --port"
        ) from None


def make_server(predictor: OpenVocabularyPredictor, limits: Limits) -> uvicorn.Server:
    """A server of `Service`; its ``run(sockets=[...])`` returns after SIGINT or SIGTERM."""
    config = uvicorn.Config(
        Service(predictor, limits).app(),
        http=_protocol(limits.seconds),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=limits.connections,
        timeout_graceful_shutdown=int(limits.seconds) + 1,
    )
    return uvicorn.Server(config)


def _protocol(seconds: float) -> type[H11Protocol]:
    """Uvicorn's, which closes connections that wait for the head of a request for too long.

    Uvicorn itself has a limit between requests alone, which one byte resets. The application limits
    the time of the rest.
    """

    class Protocol(H11Protocol):
        _patience: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop()
            super().connection_lost(exc)

        def _watch(self) -> None:
            if self.cycle is not None and not self.cycle.response_complete:
                self._stop()
            elif self._patience is None:
                self._patience = self.loop.call_later(seconds, self._close)

        def _stop(self) -> None:
            if self._patience is not None:
                self._patience.cancel()
                self._patience = None

        def _close(self) -> None:
            self._patience = None
            if self.cycle is None or self.cycle.response_complete:
                self.transport.close()

    return Protocol
