"""Who may ask the page for what: everything that it does not need is refused before gradio sees it.

Gradio serves much more than one page needs: routes that fetch addresses and files which a client
names, an interface to its functions, their descriptions, and what it records. Some of it is closed
by settings, which change from release to release. So the page is served behind an allow-list:

- *Host.* The page is on this machine, without a login. A web page elsewhere could have its own name
  point to 127.0.0.1 and then read the answers ("DNS rebinding"); its name is not one of ours.
- *Origin.* A web page elsewhere could send uploads here. A browser says where it stands.
- *Routes.* `ROUTES` and no others.
- *Files.* A question may name uploads of this page, by the names that they were given here.
- *Answers.* A browser is told to fetch nothing from elsewhere (Content-Security-Policy).
"""

import contextlib
import ipaddress
import json
import re
import socket
from collections.abc import Container, Mapping
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

UPLOAD = "/gradio_api/upload"
PROGRESS = "/gradio_api/upload_progress"
JOIN = "/gradio_api/queue/join"
QUEUE = "/gradio_api/queue/data"

ROUTES: Mapping[str, str] = {
    r"/": "GET HEAD",
    r"/theme\.css|/favicon\.ico|/manifest\.json": "GET",
    r"/(assets|static)(/[\w-][\w.-]*)+": "GET",
    r"/gradio_api/heartbeat/\w{1,64}": "GET",
    UPLOAD: "POST",
    PROGRESS: "GET",
    JOIN: "POST",
    QUEUE: "GET",
}
"""Every path that is answered, as a regular expression, and the methods."""

HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": (
        "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval';"
        " style-src 'self' 'unsafe-inline';"
        " img-src 'self' data: blob:; font-src 'self' data:; object-src 'none'; base-uri 'self';"
        " form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""Of every answer. Gradio's page has inline parts, and `gradio.HTML` evaluates its own frame."""

_MOST_QUESTION = 64 << 10
"""Bytes of a question: twenty paths take 4 KB."""

_QUIET = "Forwarded X-"
"""Beginnings of headers that would make gradio believe that it has another address."""


class Gate:
    """Lets through what the page needs, and refuses the rest.

    Args:
        app: The page.
        host: The address that it listens on.
        uploads: Paths of the uploads that may be asked about.
    """

    def __init__(self, app: ASGIApp, host: str, uploads: Container[str]) -> None:
        self._app, self._uploads = app, uploads
        self._names = names(host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer or refuse a request, as ASGI has it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # the page opens no other kind of line
            await send({"type": "websocket.close", "code": 1008})
            return
        refusal = self._refusal(scope)
        question: bytes | None = None
        if refusal is None and scope["path"] == JOIN:
            question, refusal = await self._question(Request(scope, receive))
        if refusal is not None:
            await PlainTextResponse(refusal[1], refusal[0], HEADERS)(scope, receive, send)
            return
        await self._app(
            _plain(scope, question),
            receive if question is None else _replay(question, receive),
            _sealed(send),
        )

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        headers = Headers(scope=scope)
        hosts, origin = headers.getlist("host"), headers.get("origin")
        if len(hosts) != 1 or not self._known(hosts[0]):
            return 421, "The page is not known by that name: open the address that it printed."
        if origin is not None and origin.lower() not in {
            f"{scheme}://{hosts[0].lower()}" for scheme in ("http", "https")
        }:
            return 403, "Another web page may not use this one."
        for route, methods in ROUTES.items():
            if re.fullmatch(route, scope["path"], re.ASCII):
                return None if scope["method"] in methods.split() else (405, "Not allowed.")
        return 404, "There is nothing here."

    def _known(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        with contextlib.suppress(ValueError):
            ipaddress.ip_address(name)
            return True  # a number is no name that somebody else could point here
        return name in self._names

    async def _question(self, request: Request) -> tuple[bytes, tuple[int, str] | None]:
        """Read a question, and put it anew from what is known to be harmless in it."""
        content = b""
        async for chunk in request.stream():
            content += chunk
            if len(content) > _MOST_QUESTION:
                return b"", (413, "The question is too long.")
        try:
            asked = json.loads(content)
            question = {
                "session_hash": _word(asked["session_hash"]),
                "fn_index": _number(asked["fn_index"]),
                "trigger_id": _number(asked.get("trigger_id") or 0),
                "data": [self._files(value) for value in asked["data"]],
            }
        except _GoneError:
            return b"", (410, "The image is not here any more; drop it again.")
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return b"", (400, "That is no question of this page.")
        return json.dumps(question).encode(), None

    def _files(self, value: Any) -> list[dict[str, Any]] | None:
        if value is None:
            return None
        if not isinstance(value, list):
            raise TypeError
        return [self._file(entry["path"]) for entry in value]

    def _file(self, path: Any) -> dict[str, Any]:
        if not isinstance(path, str):
            raise TypeError
        if path not in self._uploads:
            raise _GoneError
        return {"path": path, "meta": {"_type": "gradio.FileData"}}


class _GoneError(Exception):
    """A file that is no upload of this page, or is answered already."""


def names(host: str) -> frozenset[str]:
    """Give the names of this machine under which the page may be asked for, besides numbers.

    Args:
        host: The address that it listens on.
    """
    if host in ("127.0.0.1", "::1", "localhost"):
        return frozenset({"localhost"})
    own = socket.gethostname().lower()
    return frozenset({"localhost", host.lower(), own, f"{own}.local"})


def _word(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"\w{1,64}", value, re.ASCII):
        raise TypeError
    return value


def _number(value: Any) -> int:
    if type(value) is not int:
        raise TypeError
    return value


def _plain(scope: Scope, question: bytes | None) -> Scope:
    """Leave out what the page does not send and gradio would act on."""
    quiet = tuple(word.lower().encode() for word in _QUIET.split())
    headers = [(key, value) for key, value in scope["headers"] if not key.startswith(quiet)]
    if question is not None:
        headers = [(key, value) for key, value in headers if key != b"content-length"]
        headers.append((b"content-length", str(len(question)).encode()))
    query = scope["query_string"] if scope["path"] == QUEUE else b""
    return {**scope, "headers": headers, "query_string": query}


def _replay(body: bytes, receive: Receive) -> Receive:
    sent = False

    async def replay() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def _sealed(send: Send) -> Send:
    async def seal(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers.update(HEADERS)
            headers.setdefault("Cache-Control", "no-store")
        await send(message)

    return seal
