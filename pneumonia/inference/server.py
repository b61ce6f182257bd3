"""`pneumonia serve`: a page and a JSON API for one model.

Uploads are counted while they are received, stay in memory, and are dropped with the response.
Nothing of them is logged, neither names nor contents.
"""

import asyncio
import base64
import contextlib
import functools
import io
import logging
import secrets
import signal
import socket
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from urllib.parse import urlsplit

import uvicorn
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from jinja2 import Environment, FileSystemLoader
from PIL import Image
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect

from pneumonia import __version__
from pneumonia.data.parallel import available_cores
from pneumonia.errors import ConfigError, ExtraError, ModelError, printable
from pneumonia.inference.batch_predict import model_digest
from pneumonia.inference.batching import Batcher
from pneumonia.inference.image_loading import LoadedImage, load_image
from pneumonia.inference.onnx_backend import OnnxBackend
from pneumonia.inference.predictor import BATCH_SIZE, BackendName, Predictor, choose_file
from pneumonia.inference.types import FailedPrediction, Prediction

log = logging.getLogger(__name__)

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")

_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_PAGE_POLICY = (  # a browser loads nothing from elsewhere
    "default-src 'none'; script-src 'nonce-{0}'; style-src 'nonce-{0}'; img-src blob: data:;"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
)
_FILES_SCHEMA = {"type": "array", "items": {"type": "string", "format": "binary"}}
_FORM_SCHEMA = {"type": "object", "required": ["files"], "properties": {"files": _FILES_SCHEMA}}
_REQUEST_BODY = {"required": True, "content": {"multipart/form-data": {"schema": _FORM_SCHEMA}}}
"""For /openapi.json, since the form is parsed here and not by FastAPI."""


_RETRY = {"Retry-After": "2"}  # seconds


@dataclass(frozen=True)
class Limits:
    """What clients may upload; `total_bytes` is the sum over all requests in flight."""

    requests: int = 64  # in flight
    files: int = 20
    file_bytes: int = 128 << 20  # the largest radiographs have about 40 MB
    request_bytes: int = 512 << 20
    total_bytes: int = 1 << 30
    seconds: float = 60.0  # to receive a request


@dataclass(frozen=True)
class ServedPrediction(Prediction):
    """A `Prediction` of the JSON API, with the image under its heat map as base64 PNG."""

    heat_map: str | None = None


class _InFlight:
    """Counts requests and their bytes from the first one received to the response."""

    def __init__(self, limits: Limits) -> None:
        self._limits, self._requests, self._bytes = limits, 0, 0

    @contextlib.contextmanager
    def admit(self) -> Iterator[Callable[[int], None]]:
        """Admit a request; its bytes are passed to the function before they are stored."""
        received = 0
        busy = HTTPException(503, "Too many uploads at the moment; try again later.", _RETRY)
        if self._requests >= self._limits.requests:
            raise busy

        def count(size: int) -> None:
            nonlocal received
            received, self._bytes = received + size, self._bytes + size
            if received > self._limits.request_bytes:
                raise HTTPException(413, "The request is too large; send fewer files.")
            if self._bytes > self._limits.total_bytes:
                raise busy

        self._requests += 1
        try:
            yield count
        finally:
            self._requests, self._bytes = self._requests - 1, self._bytes - received


class _FormParser(MultiPartParser):
    """Keeps uploads in memory, where its base class writes files to the disk."""

    spool_max_size = sys.maxsize
    complete = False

    def on_end(self) -> None:
        self.complete = True


async def _read_files(
    request: Request, limits: Limits, count: Callable[[int], None]
) -> list[tuple[str, bytes]]:
    """Read the names and contents of the uploaded files; at least one."""
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise HTTPException(415, "Expected multipart/form-data with files in the field 'files'.")

    async def chunks() -> AsyncGenerator[bytes, None]:
        async for chunk in request.stream():
            count(len(chunk))
            yield chunk

    parser = _FormParser(request.headers, chunks(), max_files=limits.files, max_fields=0)
    try:
        async with asyncio.timeout(limits.seconds):
            form = await parser.parse()
    except TimeoutError:
        raise HTTPException(408, "The upload took too long.") from None
    except MultiPartException as error:
        raise HTTPException(400, f"The upload cannot be read: {error.message}") from None
    files = []
    for field, upload in form.multi_items():
        if field != "files" or not isinstance(upload, UploadFile):
            raise HTTPException(422, "Expected only files, in the field 'files'.")
        name = _display_name(upload.filename or "")
        if (upload.size or 0) > limits.file_bytes:
            raise HTTPException(413, f"{name} is over {limits.file_bytes >> 20} MiB.")
        files.append((name, await upload.read()))
    if not parser.complete or not files:
        raise HTTPException(422, "Expected at least one file, in the field 'files'.")
    return files


def _display_name(filename: str) -> str:
    """Name of an upload for responses: printable, without folders, not too long."""
    name = PureWindowsPath(filename).name  # knows both / and \
    return printable(name)[-100:] or "image"


class _Worker:
    """Decodes on all cores, predicts in batches across requests, draws one heat map at a time."""

    def __init__(self, predictor: Predictor, checkpoint: Path) -> None:
        self._predictor, self._checkpoint = predictor, checkpoint
        self._cores, self._lock = asyncio.Semaphore(available_cores()), asyncio.Lock()
        self._batcher = Batcher(predictor.predict_batch, BATCH_SIZE, self._lock)

    async def predict(
        self, files: Sequence[tuple[str, bytes]], explain: bool
    ) -> list[ServedPrediction | FailedPrediction]:
        """Predict files, given by name and content."""
        images = await asyncio.gather(*(self._load(*file) for file in files))
        results: list[ServedPrediction | FailedPrediction] = []
        for (_, content), result in zip(files, await self._batcher(images), strict=True):
            if isinstance(result, FailedPrediction):
                results.append(result)
            else:
                heat_map = await self._draw(content) if explain else None
                results.append(ServedPrediction(**vars(result), heat_map=heat_map))
        return results

    async def _load(self, name: str, content: bytes) -> LoadedImage | FailedPrediction:
        async with self._cores:
            return await asyncio.to_thread(load_image, content, self._predictor.preprocessing, name)

    async def _draw(self, content: bytes) -> str:
        async with self._lock:
            return await asyncio.to_thread(self._heat_map, content)

    def _heat_map(self, content: bytes) -> str:
        """A PNG in base64."""
        file = io.BytesIO()
        Image.fromarray(self._explainer.explain(content).overlay()).save(file, "PNG")
        return base64.b64encode(file.getvalue()).decode()

    @functools.cached_property
    def _explainer(self) -> Predictor:
        """An exported model makes no heat maps; its checkpoint does."""
        if isinstance(self._predictor.backend, OnnxBackend):
            return Predictor.load(self._checkpoint)
        return self._predictor


def create_app(
    predictor: Predictor,
    checkpoint: Path,
    allowed_hosts: Sequence[str] = LOOPBACK,
    limits: Limits | None = None,
) -> FastAPI:
    """Create the web application of a model, whose file's name and digest are shown.

    Clients that address the service under other host names are refused, against DNS rebinding.
    """
    limits = limits or Limits()
    in_flight, worker = _InFlight(limits), _Worker(predictor, checkpoint)
    digest = model_digest(checkpoint)
    app = FastAPI(title="pneumonia", version=__version__, docs_url=None, redoc_url=None)

    @app.middleware("http")
    async def _protect(
        request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        origin = request.headers.get("origin")
        if origin and urlsplit(origin).netloc.lower() != request.headers["host"].lower():
            response: Response = JSONResponse({"detail": "Cross-origin requests are refused."}, 403)
        else:
            try:
                response = await call_next(request)
            except ClientDisconnect:
                response = Response(status_code=400)
            except Exception as error:  # noqa: BLE001 - its message may quote an upload
                log.error("A request failed: %s.", type(error).__name__)
                response = JSONResponse({"detail": "Internal error."}, 500)
        for name, value in _HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(allowed_hosts), www_redirect=False)

    @app.get("/", include_in_schema=False)
    def page() -> HTMLResponse:
        nonce = secrets.token_urlsafe()
        html = _TEMPLATES.get_template("page.html.jinja").render(
            name=checkpoint.name,
            backbone=predictor.checkpoint["hyper_parameters"].get("backbone", "unknown"),
            point=predictor.operating_point,
            max_files=limits.files,
            nonce=nonce,
        )
        return HTMLResponse(html, headers={"Content-Security-Policy": _PAGE_POLICY.format(nonce)})

    @app.get("/health")
    def health() -> dict[str, str]:
        """Whether the service is up, and the digest of its checkpoint."""
        return {"status": "ok", "model": digest, "version": __version__}

    @app.post("/predict", openapi_extra={"requestBody": _REQUEST_BODY})
    async def predict(
        request: Request, explain: bool = False
    ) -> list[ServedPrediction | FailedPrediction]:
        """Predict the files of the form field `files`: one result or one error for each."""
        with in_flight.admit() as count:
            files = await _read_files(request, limits, count)
            try:
                return await worker.predict(files, explain)
            except (ExtraError, ModelError) as error:  # no heat maps of this model
                raise HTTPException(501, str(error)) from error

    return app


def serve(
    checkpoint: Path,
    host: str = "127.0.0.1",
    port: int = 8000,
    allowed_hosts: Sequence[str] = (),
    backend: BackendName = "auto",
) -> None:
    """Serve a checkpoint until SIGINT (`KeyboardInterrupt`) or SIGTERM (`SystemExit` with 143).

    Raises:
        CheckpointError: If the checkpoint cannot be used.
        ConfigError: If the port is in use, the address is not of this machine, or the backend
            cannot run the model.
    """
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family)
    except OSError as error:
        raise ConfigError(
            f"--host {host} --port {port}: cannot listen there ({error.strerror or error})."
            " Choose another port or address."
        ) from error
    shown = f"[{host}]" if ":" in host else host
    with listener:
        file, line = choose_file(checkpoint, backend=backend)
        predictor = Predictor.load(file)
        log.info("%s", line)
        if shown not in LOOPBACK:
            log.warning("Listening on %s without login or encryption: anyone can use it.", host)
        app = create_app(predictor, checkpoint, (*LOOPBACK, shown, *allowed_hosts))
        log.info("Serving on http://%s:%s (Ctrl-C stops)", shown, port)
        config = uvicorn.Config(
            app,
            log_level="critical",  # a URL or an exception could quote an upload
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws="none",
            limit_concurrency=1000,  # connections; more get a 503 before `Limits` sees them
            timeout_graceful_shutdown=1,
        )
        uvicorn.Server(config).run(sockets=[listener])
