"""A server for the champion: ``python -m sealr.serving.server``. See docs/serving.md.

It answers /invocations with MLflow's own scoring code, so requests and answers are those of ``mlflow models serve``. Around
it: the size of a body is limited, mistakes are 4xx with one sentence, /ready tells when a warm-up request was answered, the
time and the number of waiting requests are bounded, and a new champion is loaded beside the old one and takes over between
two requests.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import re
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import mlflow
import torch
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import scoring_server
from mlflow.version import VERSION
from starlette.requests import ClientDisconnect

from sealr import tracking
from sealr.redact import redact
from sealr.serving.request import FAILED, Limits

log = logging.getLogger("sealr.serve")
ALIAS = re.compile(r"models:/(?P<name>[^/@]+)@(?P<alias>[^/@]+)")
LONGEST_PAUSE = 600.0  # seconds between two tries to load a version that cannot be loaded
LONGEST_MESSAGE = 500  # characters of an error's sentence


@dataclass(frozen=True)
class Options:
    """How a server behaves; the fields are the command line's options."""

    model: str = "models:/sealr@champion"  # an alias is followed; a version or a folder is loaded once
    poll: float = 10.0  # seconds between two looks at the alias
    workers: int = 0  # calls answered at the same time; 0: CPU cores divided by torch's threads
    waiting: int = 128  # calls that may wait for a worker; more get 503
    timeout: float = 60.0  # seconds until a call that is not answered gets 504
    body: int = 4 << 20  # bytes of a request body; more get 413


@dataclass(frozen=True)
class Served:
    """A loaded model that has answered a request."""

    model: mlflow.pyfunc.PyFuncModel
    schema: Any  # its input schema
    version: str  # number in the registry; "local" for a folder


class Follower:
    """Keeps ``served`` the model that the address means, in a thread of its own. Until the first is ready it is None."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.served: Served | None = None  # replaced as a whole: a call reads it once and keeps what it read
        self.trouble = "the model is being loaded"  # why the newest version is not served; "" where it is
        self._failed, self._again, self._pause = "", 0.0, 0.0  # a version that could not be loaded, when it is tried again, after how long
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="follow", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    def _follow(self) -> None:
        wait = 0.0
        while not self._stop.wait(wait):
            wait = self.options.poll
            try:
                self.update()
            except Exception as error:  # the registry is away, or a version cannot be loaded: what is served goes on
                self.trouble = redact(f"{type(error).__name__}: {sentence(str(error))}")
                log.error("%s cannot be served: %s", self.options.model, self.trouble)
            else:
                if self.served and not ALIAS.fullmatch(self.options.model):
                    return

    def update(self) -> None:
        """Loads and warms up what the address means now, unless it is served already, and only then lets it take over.

        A version that could not be loaded is tried again after pauses that get longer; another one is loaded at once.
        """
        address = self.options.model
        version = address.rpartition("/")[2] if address.startswith("models:/") else "local"
        if match := ALIAS.fullmatch(address):
            found = mlflow.MlflowClient().get_model_version_by_alias(match["name"], match["alias"])
            address, version = f"models:/{match['name']}/{found.version}", str(found.version)
        if version == self._failed and time.monotonic() < self._again:
            return
        if self.served is None or self.served.version != version:
            started = time.monotonic()
            try:
                self.served = load(address, version)
            except Exception:
                again = version == self._failed
                self._pause = min(LONGEST_PAUSE, 2 * self._pause) if again else self.options.poll
                self._failed, self._again = version, time.monotonic() + self._pause
                raise
            log.info("serving %s, version %s, ready after %.1f s", self.options.model, version, time.monotonic() - started)
        self.trouble, self._failed = "", ""


def load(address: str, version: str) -> Served:
    """A model that has answered its own input example. Raises what loading or predicting raises."""
    # What is downloaded may go again: weights are read into memory. A local store is read in place.
    with tempfile.TemporaryDirectory(prefix="sealr-serve-", ignore_cleanup_errors=True) as scratch:
        model = mlflow.pyfunc.load_model(address, dst_path=scratch)
        example = model.input_example
        if example is None:
            raise ValueError(f"{address} has no input example to warm up with")
        model.predict(*example) if isinstance(example, tuple) else model.predict(example)
    return Served(model, model.metadata.get_input_schema(), version)


def create_app(options: Options, follower: Follower | None = None) -> FastAPI:
    """The server as an ASGI application. follower: one that is running already, for tests."""
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
        """The process lives; nothing is said about the model."""
        return Response("\n", media_type="application/json")

    @app.get("/version")
    async def version() -> Response:
        return Response(VERSION, media_type="application/json")

    @app.get("/ready")
    async def ready() -> Response:
        """200 when a model has answered a warm-up request, else 503; the body says which, and what is wrong."""
        served, trouble = following.served, following.trouble
        body = {"ready": served is not None, "model": options.model, "version": served and served.version, "trouble": trouble}
        return JSONResponse(body, 200 if served else 503)

    @app.post("/invocations")
    async def invocations(request: Request) -> Response:
        nonlocal waiting
        served = following.served
        if served is None:
            return refusal(503, f"the model is not ready: {following.trouble}", retry=5)
        if waiting >= workers + options.waiting:
            return refusal(503, "too many calls are waiting already; try again later", retry=1)
        waiting += 1  # from here: a body that is being read takes memory, too
        try:
            try:
                async with asyncio.timeout(options.timeout):
                    body = await read_body(request, options.body)
            except (TimeoutError, ClientDisconnect):
                return refusal(408, f"the body did not arrive within {options.timeout:g} seconds")
            if body is None:
                return refusal(413, f"the body is larger than {options.body} bytes; send several calls")
            async with asyncio.timeout(options.timeout):
                content_type = request.headers.get("content-type", "")
                return await asyncio.get_running_loop().run_in_executor(pool, answer, served, body, content_type)
        except TimeoutError:
            return refusal(504, f"no answer within {options.timeout:g} seconds; send fewer requests in one call")
        finally:
            waiting -= 1

    return app


async def read_body(request: Request, limit: int) -> bytes | None:
    """The body, or None where it has more than ``limit`` bytes.

    A body that is somewhat too long is read to its end and dropped: most clients only listen when they have sent all.
    """
    parts: list[bytes] = []
    size = 0
    if int(request.headers.get("content-length", 0)) > 16 * limit:
        return None
    async for part in request.stream():
        size += len(part)
        if size <= limit:
            parts.append(part)
        elif size > 16 * limit:
            break
    return b"".join(parts) if size <= limit else None


def answer(served: Served, body: bytes, content_type: str) -> Response:
    """MLflow's answer to one call; its errors in one sentence, and with the status of whose fault they are."""
    kind, _, rest = content_type.partition(";")
    if kind.strip().lower() != scoring_server.CONTENT_TYPE_JSON:
        return refusal(415, f"send JSON with the header Content-Type: application/json, got {content_type[:100]!r}")
    try:
        body.decode("utf-8")
        result = scoring_server.invocations(
            body, f"{scoring_server.CONTENT_TYPE_JSON};{rest}".rstrip(";"), served.model, served.schema
        )
    except MlflowException as error:
        # Where the model itself is not to blame, MLflow failed to make a table of what was sent, whatever its own status
        return refusal(500 if error.error_class == FAILED else 400, sentence(error.message), error.error_code)
    except Exception as error:  # such as RecursionError: JSON that is nested too deep
        log.warning("a request could not be read: %s", type(error).__name__)
        return refusal(400, f"the request could not be read ({type(error).__name__}); send {{'dataframe_records': [...]}}")
    if result.status != 200:
        return refusal(result.status, sentence(result.response))
    return Response(result.response, media_type=result.mimetype, headers={"X-Model-Version": served.version})


def sentence(message: str) -> str:
    """MLflow's message without the request that it repeats."""
    message = message.rpartition("\nError: ")[2] if message.startswith("Failed to predict data") else message
    for repeated in ("\nInput: ", " IMPORTANT: "):  # the second: advice for users of MLflow 1
        message = message.partition(repeated)[0]
    return message if len(message) <= LONGEST_MESSAGE else f"{message[:LONGEST_MESSAGE]} ..."


def refusal(status: int, message: str, code: str = "", retry: int = 0) -> Response:
    """An error in the shape of MLflow's: {error_code, message}."""
    codes = {
        408: "REQUEST_TIMEOUT",
        413: "REQUEST_TOO_LARGE",
        415: "UNSUPPORTED_MEDIA_TYPE",
        503: "TEMPORARILY_UNAVAILABLE",
        504: "DEADLINE_EXCEEDED",
    }
    content = json.dumps({"error_code": code or codes.get(status, "BAD_REQUEST"), "message": message})
    headers = {"Retry-After": str(retry)} if retry else None
    return Response(content, status, headers, media_type="application/json")


def at_least(least: float, kind: type = float) -> Callable[[str], float]:
    """A number of the command line that is not below ``least``."""

    def number(text: str) -> float:
        if not (value := kind(text)) >= least:
            raise argparse.ArgumentTypeError(f"{text} is below {least}")
        return value

    return number


def main() -> None:
    defaults = Options()
    parser = argparse.ArgumentParser(
        prog="python -m sealr.serving.server",
        description="Serves a registered model and follows its alias.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--model", default=defaults.model, help="models:/NAME@ALIAS, models:/NAME/VERSION or a folder")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=5001, help="port to listen on")
    parser.add_argument("--poll", type=at_least(0.1), default=defaults.poll, help="seconds between two looks at the alias")
    parser.add_argument("--workers", type=at_least(0, int), default=defaults.workers, help="calls at a time; 0: cores / torch's threads")
    parser.add_argument("--waiting", type=at_least(0, int), default=defaults.waiting, help="calls that may wait; more get 503")
    parser.add_argument("--timeout", type=at_least(0.1), default=defaults.timeout, help="seconds for one call")
    parser.add_argument("--body", type=at_least(1, int), default=defaults.body, help="bytes of a body; more get 413")
    values = vars(parser.parse_args())
    host, port = values.pop("host"), values.pop("port")
    try:
        Limits.from_environment()  # a mistake in it shall stop the server, not every model that it loads
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None
    os.environ["_MLFLOW_IS_IN_SERVING_ENVIRONMENT"] = "true"  # what MLflow's own server sets: limits apply
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    logging.getLogger("mlflow").setLevel(logging.ERROR)  # it warns of every unknown field of every request
    tracking.setup()
    logging.basicConfig(format="%(asctime)s  %(message)s", datefmt="%H:%M:%S")
    log.setLevel(logging.INFO)
    uvicorn.run(create_app(Options(**values)), host=host, port=port, log_level="warning", timeout_keep_alive=30)


if __name__ == "__main__":
    main()
