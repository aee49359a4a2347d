"""A server that follows an alias of the registry, such as ``models:/sealr@champion``. See docs/serving.md.

MLflow's own scoring code answers /invocations, so requests and answers are those of ``mlflow models serve``. Around it,
this server limits the size of a body, the waiting requests and their time, and answers mistakes with 4xx and one
sentence. /ready reports whether a model has answered a warm-up request. A new champion loads beside the old one and
takes over between two requests.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import scoring_server
from mlflow.version import VERSION
from starlette.requests import ClientDisconnect

from sealr import tracking
from sealr.serving.available import VARIABLE, read_ids
from sealr.serving.follower import Follower, Served, ServerOptions, sentence
from sealr.serving.request import FAILED, BadRequest, Limits, read_options, refuse_unknown

log = logging.getLogger("sealr.serve")
FORMS = ("dataframe_records", "dataframe_split", "instances", "inputs")  # in which MLflow takes requests
ERROR_CODES = {
    408: "REQUEST_TIMEOUT",
    413: "REQUEST_TOO_LARGE",
    415: "UNSUPPORTED_MEDIA_TYPE",
    503: "TEMPORARILY_UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


class AddressError(OSError):
    """The server cannot listen at the address, for example because the port is in use."""


def create_app(options: ServerOptions, follower: Follower | None = None) -> FastAPI:
    """The server as an ASGI application. follower: one that is already running, for tests."""
    following = follower or Follower(options)
    workers = options.workers or max(1, (os.cpu_count() or 1) // torch.get_num_threads())
    pool = ThreadPoolExecutor(workers, "predict")
    waiting = 0

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if follower is None:
            following.start()
        yield
        following.stop()
        pool.shutdown(wait=True)

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

    @app.post("/invocations")
    async def invocations(request: Request) -> Response:
        nonlocal waiting
        served = following.served
        if served is None:
            return refusal(503, f"the model is not ready: {following.trouble}", retry=5)
        if waiting >= workers + options.waiting:
            return refusal(503, "too many calls are waiting; try again later", retry=1)
        waiting += 1  # before the body is read, which takes memory as well
        try:
            try:
                async with asyncio.timeout(options.timeout):
                    body = await read_body(request, options.body)
            except (TimeoutError, ClientDisconnect):
                return refusal(408, f"the body did not arrive within {options.timeout:g} seconds")
            if body is None:
                return refusal(413, f"the body is larger than {options.body} bytes; send several calls")
            content_type = request.headers.get("content-type", "")
            async with asyncio.timeout(options.timeout):
                return await asyncio.get_running_loop().run_in_executor(pool, answer, served, body, content_type)
        except TimeoutError:
            return refusal(504, f"no answer within {options.timeout:g} seconds; send fewer requests in one call")
        finally:
            waiting -= 1

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


def answer(served: Served, body: bytes, content_type: str) -> Response:
    """MLflow's answer to one call. Its errors become one sentence, with a status that says whose fault they are."""
    kind, _, rest = content_type.partition(";")
    json_type = scoring_server.CONTENT_TYPE_JSON
    if kind.strip().lower() != json_type:
        got = repr(content_type[:100])
        return refusal(415, f"send JSON with the header Content-Type: application/json, got {got}")
    try:
        check(json.loads(body.decode("utf-8")), served)
        result = scoring_server.invocations(body, f"{json_type};{rest}".rstrip(";"), served.model, served.schema)
    except BadRequest as error:
        return refusal(400, str(error))
    except json.JSONDecodeError as error:
        return refusal(400, f"the body is not valid JSON: {error}")
    except MlflowException as error:
        # If the model did not fail, MLflow could not make a table of the body, whatever status it gives itself
        return refusal(500 if error.error_class == FAILED else 400, sentence(error.message), error.error_code)
    except Exception as error:  # for example RecursionError on deeply nested JSON
        name = type(error).__name__
        log.warning("a request could not be read: %s", name)
        return refusal(400, f"the request could not be read ({name}); send {{'dataframe_records': [...]}}")
    if result.status != 200:
        return refusal(result.status, sentence(result.response))
    return Response(result.response, media_type=result.mimetype, headers={"X-Model-Version": served.version})


def check(call: Any, served: Served) -> None:
    """Raises BadRequest for names that the model does not know, which MLflow would drop, and for wrong parameters.

    call: the body. MLflow judges forms that are no form of a call.
    """
    if not isinstance(call, dict):
        return
    refuse_unknown("key", call, [*FORMS, "params"])
    rows, fields = next((call[form] for form in FORMS if form in call), None), served.schema.input_names()
    if isinstance(rows, dict):  # columns and data, or a list for each field
        columns = rows.get("columns") if "dataframe_split" in call else list(rows)
        refuse_unknown("field", columns if isinstance(columns, list) else (), fields)
    for number, row in enumerate(rows if isinstance(rows, list) else ()):
        refuse_unknown("field", row if isinstance(row, dict) else (), fields, f"request {number}: ")
    params = call.get("params")
    if isinstance(params, dict):
        refuse_unknown("parameter", params, [param.name for param in served.model.metadata.get_params_schema()])
        read_options(params)


def refusal(status: int, message: str, code: str = "", retry: int = 0) -> Response:
    """An error in MLflow's shape: {error_code, message}."""
    content = json.dumps({"error_code": code or ERROR_CODES.get(status, "BAD_REQUEST"), "message": message})
    headers = {"Retry-After": str(retry)} if retry else None
    return Response(content, status, headers, media_type="application/json")


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises AddressError."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise AddressError(f"cannot listen on {host}, port {port} ({reason}); choose another port or host") from None


def serve(options: ServerOptions, host: str = "127.0.0.1", port: int = 5001) -> None:
    """Serves until SIGTERM or Ctrl-C. Raises AddressError, or ValueError for SEALR_LIMITS or SEALR_AVAILABLE."""
    Limits.from_environment()  # a mistake stops the server here, not later every model that it loads
    if path := os.environ.get(VARIABLE):
        read_ids(Path(path))
    with listen(host, port) as listening:  # before a model is loaded, which takes a while
        os.environ["_MLFLOW_IS_IN_SERVING_ENVIRONMENT"] = "true"  # as in MLflow's own server: limits apply
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        logging.getLogger("mlflow").setLevel(logging.ERROR)  # it warns about every unknown field of every request
        tracking.setup()
        logging.basicConfig(format="%(asctime)s  %(message)s", datefmt="%H:%M:%S")
        log.setLevel(logging.INFO)
        uvicorn.Server(uvicorn.Config(create_app(options), log_level="warning", timeout_keep_alive=30)).run([listening])
