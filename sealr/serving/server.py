"""A server that follows an alias of the registry, such as ``models:/sealr@champion``. See docs/serving.md.

MLflow's own code makes tables of bodies and answers of predictions, so requests and answers are those of ``mlflow
models serve``. Around it, this server answers waiting calls together, limits the size of a body, the waiting calls and
their time, and answers mistakes with 4xx and one sentence. /ready reports whether a model has answered a warm-up
request. A new champion loads beside the old one and takes over between two requests.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import torch
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from mlflow.version import VERSION
from starlette.requests import ClientDisconnect

from sealr import tracking
from sealr.serving import logs
from sealr.serving.available import VARIABLE, read_ids
from sealr.serving.batching import Batcher, Job
from sealr.serving.calls import Call, Refusal
from sealr.serving.follower import Follower, ServerOptions
from sealr.serving.limits import Limits
from sealr.serving.metrics import Metrics
from sealr.serving.openapi import page, schema
from sealr.serving.traces import trace

__all__ = ["AddressError", "ServerOptions", "create_app", "serve"]


class AddressError(OSError):
    """The server cannot listen at the address, for example because the port is in use."""


def create_app(options: ServerOptions, follower: Follower | None = None) -> FastAPI:
    """The server as an ASGI application. follower: one that is already running, for tests."""
    following, limits = follower or Follower(options), Limits.from_environment()
    workers = options.workers or max(1, (os.cpu_count() or 1) // torch.get_num_threads())
    metrics = Metrics()
    batcher = Batcher(workers, options.batch, limits, metrics.passes.observe)
    metrics.waiting.set_function(lambda: len(batcher.waiting))
    held = 0  # calls that have no answer yet

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if follower is None:
            following.start()
        batcher.start()
        yield
        following.stop()
        batcher.stop()

    app = FastAPI(title="SEALR", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/ping")
    @app.get("/health")
    async def health() -> Response:
        """The process is alive; this says nothing about the model."""
        return Response("\n", media_type="application/json")

    @app.get("/version")
    async def version() -> Response:
        return Response(VERSION, media_type="application/json")

    @app.get("/ready")
    async def ready() -> Response:
        """200 once a model has answered a warm-up request, else 503; the body names the version and any trouble."""
        served, trouble = following.served, following.trouble
        version = served.version if served else None
        body = {"ready": served is not None, "model": options.model, "version": version, "trouble": trouble}
        return JSONResponse(body, 200 if served else 503)

    @app.get("/metrics")
    async def measured() -> Response:
        return metrics.page(options.model, following.served.version if following.served else None)

    @app.get("/openapi.json")
    async def openapi() -> Response:
        return JSONResponse(schema(limits))

    @app.get("/docs")
    async def docs() -> Response:
        return HTMLResponse(page(schema(limits)))

    @app.post("/invocations")
    async def invocations(request: Request) -> Response:
        nonlocal held
        began, number = time.perf_counter(), logs.request_id(request.headers.get("x-request-id"))
        held += 1  # before the body is read, which takes memory as well
        try:
            call, response = await respond(request)
        finally:
            held -= 1
        response.headers["X-Request-ID"] = number
        seconds = time.perf_counter() - began
        metrics.done(response, seconds, call)
        logs.write_call(number, response, seconds, call)
        if options.trace:
            trace(number, response, seconds, call)
        return response

    async def respond(request: Request) -> tuple[Call | None, Response]:
        """The call, if it could be read, and its answer."""
        served = following.served
        if served is None:
            return None, Refusal(503, f"the model is not ready: {following.trouble}", retry=5, reason="not_ready")
        if held > workers + options.waiting:
            return None, Refusal(503, "too many calls are waiting; try again later", retry=1, reason="queue_full")
        until = asyncio.get_running_loop().time() + options.timeout
        try:
            async with asyncio.timeout_at(until):
                body = await read_body(request, options.body)
        except (TimeoutError, ClientDisconnect):
            return None, Refusal(408, f"the body did not arrive within {options.timeout:g} seconds")
        if body is None:
            return None, Refusal(413, f"the body is larger than {options.body} bytes; send several calls")
        job = Job(served, body, request.headers.get("content-type", ""))
        try:
            async with asyncio.timeout_at(until):
                response = await batcher.answer(job)
        except TimeoutError:
            response = Refusal(504, f"no answer within {options.timeout:g} seconds; send fewer requests in one call")
        return job.call, response

    return app


async def read_body(request: Request, limit: int) -> bytes | None:
    """The body, or None if it has more than ``limit`` bytes.

    A body up to 16 times too long is read and dropped: most clients only read the answer after sending everything.
    """
    if int(request.headers.get("content-length", 0)) > 16 * limit:
        return None
    body, size = bytearray(), 0
    async for part in request.stream():
        size += len(part)
        if size > 16 * limit:
            break
        if size <= limit:
            body += part
    return bytes(body) if size <= limit else None


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises AddressError."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise AddressError(f"cannot listen on {host}, port {port} ({reason}); choose another port or host") from None


def serve(options: ServerOptions, host: str = "127.0.0.1", port: int = 5001, form: logs.Form = "plain") -> None:
    """Serves until SIGTERM or Ctrl-C, and then answers the calls that it has. form: of the log.

    Raises AddressError, or ValueError for SEALR_LIMITS or SEALR_AVAILABLE.
    """
    Limits.from_environment()  # a mistake stops the server here, not later every model that it loads
    if path := os.environ.get(VARIABLE):
        read_ids(Path(path))
    with listen(host, port) as listening:  # before a model is loaded, which takes a while
        os.environ["_MLFLOW_IS_IN_SERVING_ENVIRONMENT"] = "true"  # as in MLflow's own server: limits apply
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        logging.getLogger("mlflow").setLevel(logging.ERROR)  # it warns about every unknown field of every request
        tracking.setup()
        if options.trace:
            tracking.choose_experiment()
        logs.setup(form)
        config = uvicorn.Config(create_app(options), log_config=None, log_level="warning", timeout_keep_alive=30)
        uvicorn.Server(config).run([listening])
