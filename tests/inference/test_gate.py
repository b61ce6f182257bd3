"""What a client can make the page do: answer uploads, and nothing else."""

import asyncio
import http.server
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.testclient import TestClient

from pneumonia.inference.page import tray as bounds
from pneumonia.inference.page.blocks import build, uploads
from pneumonia.inference.page.desk import Desk
from pneumonia.inference.page.gate import ROUTES, names
from pneumonia.inference.page.tray import MOST_FILES, TooMuchError, Tray, shown_name
from pneumonia.inference.page.upload import receiver
from pneumonia.inference.predictor import Predictor


@pytest.fixture(scope="module")
def other():
    """Another server of this machine; counts what it is asked."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()

        do_HEAD = do_POST = do_GET  # noqa: N815  as http.server calls them

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()


@contextmanager
def opened(model, folder, **settings):
    """The page in this process, for a client of its own."""
    kept = ("GRADIO_ANALYTICS_ENABLED", "GRADIO_RUN_HISTORY", "GRADIO_TEMP_DIR")
    with pytest.MonkeyPatch.context() as patch:
        for name in kept:
            patch.setenv(name, "")
        predictor = Predictor.load(model)
        uploads(folder).mkdir()
        tray = Tray(uploads(folder))
        page = build(Desk(predictor, model, tray), tray, "", folder, "127.0.0.1", **settings)
        with TestClient(page, "http://127.0.0.1:7860", raise_server_exceptions=False) as client:
            yield client, tray


@pytest.fixture(scope="module")
def page(sealed_file, tmp_path_factory):
    with opened(sealed_file, tmp_path_factory.mktemp("page")) as (client, tray):
        yield client, tray


def drop(client, *contents, name="a.png", **more):
    files = [("files", (name, content)) for content in contents]
    return client.post("/gradio_api/upload", files=files, **more)


def question(data, **changes):
    asked = {"data": data, "fn_index": 0, "session_hash": os.urandom(5).hex(), "trigger_id": 1}
    return asked | changes


def file(path, **more):
    return {"path": path, "meta": {"_type": "gradio.FileData"}, **more}


def ask(client, *paths):
    """Ask as the page does; gives the answer's HTML."""
    asked = question([[file(path) for path in paths]])
    client.post("/gradio_api/queue/join", json=asked).raise_for_status()
    query = {"session_hash": asked["session_hash"]}
    with client.stream("GET", "/gradio_api/queue/data", params=query) as lines:
        for line in lines.iter_lines():
            if "process_completed" in line:
                return json.loads(line.removeprefix("data: "))["output"]["data"][1]
    raise AssertionError("no answer")


CLOSED = [
    "/gradio_api/file={other}/a",
    "/gradio_api/file=http://example.com/a",
    "/gradio_api/file=/etc/passwd",
    "/gradio_api/file={model}",
    "/gradio_api/file/{other}/a",
    "/gradio_api/file/etc/passwd",
    "/file={other}/a",
    "/file=/etc/passwd",
    "/gradio_api/proxy={other}/a",
    "/proxy={other}/a",
    "/static/../../../../etc/passwd",
    "/static/..%2f..%2f..%2f..%2fetc%2fpasswd",
    "/assets/..%2f..%2f..%2f..%2fetc%2fpasswd",
    "/assets//etc/passwd",
    "/assets/.hidden",
    "//gradio_api/info",
    *(
        f"{prefix}{route}"
        for prefix in ("", "/gradio_api")
        for route in (
            "/info", "/info/", "/config", "/config/", "/openapi.json", "/docs", "/redoc", "/user",
            "/token", "/app_id", "/login", "/login_check", "/logout", "/deep_link", "/monitoring",
            "/monitoring/summary", "/monitoring/x", "/dev/reload", "/reload", "/mcp", "/mcp/sse",
            "/runs", "/run-history/buckets", "/vibe-code", "/vibe-edit", "/queue/status",
            "/startup-events", "/pwa_icon", "/robots.txt", "/profiling/traces",
            "/custom_component/x/client/component/a.js", "/stream/a/b/1/playlist.m3u8",
            "/component_server", "/run/predict", "/api/predict", "/call/predict", "/call/v2/x",
            "/call/x/y", "/process_recording", "/reset", "/cancel", "/queue", "/queue/join/",
            "/upload/", "/svelte/x", "/undo-vibe-edit", "/vibe-starter-queries",
        )
    ),
]  # fmt: skip


@pytest.mark.parametrize("route", CLOSED)
def test_a_route_that_the_page_does_not_need_is_closed(page, other, sealed_file, route):
    client, _ = page
    address, asked = other
    route = route.format(other=address, model=sealed_file)
    for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"):
        found = client.request(method, route, follow_redirects=False)
        assert found.status_code in {404, 405}, (method, found.status_code, found.text[:200])
        assert "root:" not in found.text
    assert asked == []


def test_no_route_of_gradio_is_open_but_those_that_are_named(page):
    """Whatever routes the installed release has."""
    client, _ = page
    inner = client.app._app
    mounted = next(route.app for route in inner.routes if hasattr(route, "app") and not route.path)
    routes = {getattr(route, "path", "") for route in mounted.routes}
    assert len(routes) > 20
    closed = {
        route
        for route in routes
        if route and "{" not in route and not any(re.fullmatch(known, route) for known in ROUTES)
    }
    for route in closed:
        for method in ("GET", "POST"):
            assert client.request(method, route).status_code in {404, 405}, route


def test_a_question_names_only_uploads(page, other, sealed_file):
    client, tray = page
    address, asked = other
    mine = drop(client, b"x").json()[0]
    hostile = [
        [[file(f"{address}/a")]],
        [[file("http://example.com/a")]],
        [[file("/etc/passwd")]],
        [[file(str(sealed_file))]],
        [[file(f"{mine}/../../NORMAL.png")]],
        [[file(mine.replace("uploads/", "uploads/./"))]],
        [[file(mine), file("/etc/passwd")]],
        [file("/etc/passwd")],
        [{"path": {"path": "/etc/passwd"}}],
        [[[file("/etc/passwd")]]],
        [["/etc/passwd"]],
        "/etc/passwd",
        None,
    ]
    for data in hostile:
        found = client.post("/gradio_api/queue/join", json=question(data))
        assert found.status_code in {400, 410}, (data, found.text)
        assert "root:" not in found.text
    assert asked == []
    assert mine in tray


def test_of_a_question_only_the_known_goes_on(page, other, synthetic):
    client, _ = page
    address, asked = other
    picture = next((synthetic / "test/NORMAL").iterdir())
    path = drop(client, picture.read_bytes()).json()[0]
    hostile = file(path, url=f"{address}/a", orig_name="../x", is_stream=True)
    body = question([[hostile]], event_data=[hostile], simple_format=True, batched=True, event_id=1)
    client.post("/gradio_api/queue/join", json=body).raise_for_status()
    query = {"session_hash": body["session_hash"]}
    told = client.get("/gradio_api/queue/data", params=query).text
    assert "The model gives pneumonia a probability" in told
    assert asked == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no json",
        b"[]",
        b"[" * 60000,
        b'{"data": []}',
        json.dumps(question([], session_hash="../x")).encode(),
        json.dumps(question([], fn_index="0")).encode(),
        json.dumps(question([], fn_index=True)).encode(),
        json.dumps(question([], trigger_id=[1])).encode(),
    ],
    ids=range(9),
)
def test_what_is_no_question_of_the_page_is_refused(page, body):
    client, _ = page
    assert client.post("/gradio_api/queue/join", content=body).status_code == 400


def test_a_long_question_is_refused(page):
    client, _ = page
    body = json.dumps(question(["x" * 70_000])).encode()
    assert client.post("/gradio_api/queue/join", content=body).status_code == 413


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "", "[x", "evil.example:7860"]
)
def test_another_name_that_points_here_is_refused(page, host):
    client, _ = page
    for method, route in (("GET", "/"), ("POST", "/gradio_api/upload"), ("GET", "/theme.css")):
        assert client.request(method, route, headers={"Host": host}).status_code == 421


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost", "LOCALHOST:7860", "[::1]:7860"])
def test_the_names_of_this_machine_are_known(page, host):
    client, _ = page
    assert client.get("/", headers={"Host": host}).status_code == 200


def test_a_page_that_others_reach_is_known_by_numbers_and_its_own_names():
    assert names("127.0.0.1") == {"localhost"}
    assert {"localhost", "xrays.lan", socket.gethostname().lower()} <= names("XRAYS.lan")


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:9999", "x"])
def test_another_web_page_can_neither_ask_nor_read(page, origin):
    client, tray = page
    before = len(tray._waiting)
    assert drop(client, b"x", headers={"Origin": origin}).status_code == 403
    assert client.get("/", headers={"Origin": origin}).status_code == 403
    assert len(tray._waiting) == before
    own = {"Origin": "http://127.0.0.1:7860"}
    assert client.get("/", headers=own).status_code == 200


def test_headers_do_not_give_the_page_another_address(page):
    client, _ = page
    hostile = {
        "X-Forwarded-Host": "evil.example",
        "X-Gradio-Server": "http://evil.example",
        "X-Forwarded-Proto": "gopher",
        "Forwarded": "host=evil.example",
    }
    for route in ("/", "/?deep_link=..%2f..%2fx&page=evil.example"):
        found = client.get(route, headers=hostile)
        assert found.status_code == 200
        assert "evil.example" not in found.text
        assert "gopher" not in found.text


def test_a_browser_is_told_to_fetch_nothing_from_elsewhere_and_to_keep_nothing(page):
    client, _ = page
    for route in ("/", "/nowhere"):
        headers = client.get(route).headers
        assert headers["Content-Security-Policy"].startswith("default-src 'self';")
        assert "http" not in headers["Content-Security-Policy"]
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
    assert client.get("/").headers["Cache-Control"] == "no-store"
    assert '"run_history":false' in client.get("/").text  # gradio would keep answers in it


@pytest.mark.parametrize(
    "name", ["../../../x.png", "/etc/passwd", "..", "", "a\0b.png", "C:\\x\\a.png", "x" * 5000]
)
def test_nothing_is_opened_by_the_name_of_an_upload(page, name):
    client, tray = page
    folder = tray._folder
    found = drop(client, b"x", name=name or ".")
    assert found.status_code in {200, 400}
    for path in found.json() if found.status_code == 200 else []:
        assert Path(path).parent == folder
        assert len(Path(path).name) <= 41
    tray.sweep(0)
    assert [path for path in folder.iterdir() if path.is_file()] == []


def test_a_name_is_shown_without_folders_and_printable():
    assert shown_name("/home/x/Röntgen 1.png") == "Röntgen 1.png"
    assert shown_name("C:\\x\\a.png") == "a.png"
    assert shown_name("a\x1b[2J\n.png") == "a\ufffd[2J\ufffd.png"
    assert shown_name("..") == ".."
    assert shown_name("") == "image"
    assert len(shown_name("x" * 5000 + ".png")) <= 101


def test_too_many_images_are_refused_and_none_is_kept(page):
    client, tray = page
    before = set(tray._folder.iterdir())
    found = drop(client, *[b"x"] * (MOST_FILES + 1))
    assert found.status_code == 400
    assert found.text == f"Too many images; drop at most {MOST_FILES} at once."
    assert set(tray._folder.iterdir()) == before


def test_too_much_is_refused_before_it_is_read(page, monkeypatch):
    client, tray = page
    monkeypatch.setattr(bounds, "MOST_DROPPED", 1 << 20)
    before, held = set(tray._folder.iterdir()), tray._bytes
    assert drop(client, b"x" * (2 << 20)).status_code == 413
    assert set(tray._folder.iterdir()) == before
    assert tray._bytes == held


def test_a_stream_without_an_announced_end_is_cut_at_the_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(bounds, "MOST_DROPPED", 1 << 20)
    tray, read, told = Tray(tmp_path), [], []
    app = Starlette(routes=[Route("/", receiver(tray), methods=["POST"])])

    async def receive():
        start = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n'
        body = b"x" * (1 << 16) if read else start
        read.append(len(body))
        return {"type": "http.request", "body": body, "more_body": True}

    async def send(message):
        told.append(message)

    form = (b"content-type", b"multipart/form-data; boundary=b")
    scope = {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": [form]}
    asyncio.run(app(scope, receive, send))
    assert told[0]["status"] == 413
    assert (1 << 20) < sum(read) < (1 << 20) + (2 << 16)
    assert list(tmp_path.iterdir()) == []
    with tray.incoming() as count:
        count(1 << 20)


def test_the_tray_counts_what_all_clients_have_on_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(bounds, "MOST_WAITING", 100)
    tray = Tray(tmp_path)
    path = tray.keep("a.png", io.BytesIO(b"x" * 60))
    with pytest.raises(TooMuchError, match="try again later"), tray.incoming() as count:
        count(41)
    with tray.take([path]) as kept:
        assert [upload.name for upload in kept] == ["a.png"]
    assert list(tmp_path.iterdir()) == []
    with tray.incoming() as count:
        count(100)


def test_an_upload_that_nobody_asks_about_is_deleted(sealed_file, tmp_path):
    with opened(sealed_file, tmp_path, patience=0.5) as (client, _):
        (path,) = drop(client, b"x").json()
        assert Path(path).exists()
        assert wait(lambda: not Path(path).exists())
        late = client.post("/gradio_api/queue/join", json=question([[file(path)]]))
        assert late.status_code == 410
        assert "drop it again" in late.text


def test_uploads_are_deleted_when_answering_fails(sealed_file, tmp_path, monkeypatch, caplog):
    with opened(sealed_file, tmp_path) as (client, _):

        def fail(*_):
            raise RuntimeError("Jane Doe")

        monkeypatch.setattr(Predictor, "stream", fail)
        (path,) = drop(client, b"x", name="Jane Doe.png").json()
        assert "Something went wrong here" in ask(client, path)
        assert not Path(path).exists()
        assert "RuntimeError" in caplog.text
        assert "Doe" not in caplog.text
        assert str(tmp_path) not in caplog.text


def wait(condition, seconds=30):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.1)
    return False


def sending(served, size):
    """Begin an upload, and say how long it will be."""
    port = int(served.address.rpartition(":")[2])
    head = f"POST /gradio_api/upload HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
    head += f"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: {size}\r\n\r\n"
    line = socket.create_connection(("127.0.0.1", port), timeout=60)
    line.sendall(head.encode())
    return line


@pytest.mark.slow
def test_nothing_is_left_when_the_browser_goes_away(served, synthetic):
    part = '--b\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    with sending(served, 9_999_999) as line:  # in the middle of an upload
        line.sendall(part.encode() + b"x" * 4_000_000)
        time.sleep(1)
    picture = next((synthetic / "test/NORMAL").iterdir()).read_bytes()
    with httpx.Client(base_url=served.address, timeout=60) as client:
        path = drop(client, picture).json()[0]
        client.post("/gradio_api/queue/join", json=question([[file(path)]])).raise_for_status()
    assert wait(lambda: served.uploads() == [])  # nobody waits for the answer


@pytest.mark.slow
def test_the_served_page_answers_and_logs_nothing_of_it(served, synthetic, other):
    picture = next((synthetic / "test/NORMAL").iterdir()).read_bytes()
    with httpx.Client(base_url=served.address, timeout=60) as client:
        paths = drop(client, picture, b"broken", name="Doe^Jane.png").json()
        html = ask(client, *paths)
        assert html.count("<article") == 2
        assert str(served.folder) not in html
        assert client.get("/nowhere/Doe").status_code == 404
        assert client.post("/gradio_api/queue/join", content=b"Doe").status_code == 400
        evil = {"Host": "evil.example"}
        assert client.get("/", headers=evil).status_code == 421
        for pattern in CLOSED:
            route = pattern.format(other=other[0], model="/etc/hostname")
            assert client.get(route).status_code in {404, 405}, route
    with sending(served, 1 << 40) as line:  # refused before a byte of it is sent
        assert line.recv(100).startswith(b"HTTP/1.1 413 ")
    assert other[1] == []
    assert served.uploads() == []
    log = served.log.read_text()
    assert log == f"Open {served.address} (Ctrl-C ends it)\n"


@pytest.mark.slow
def test_sigterm_leaves_nothing_behind_even_with_an_upload_waiting(
    serve_page, sealed_file, tmp_path
):
    page = serve_page(sealed_file, tmp_path)
    drop(httpx.Client(base_url=page.address), b"x")
    assert len(page.uploads()) == 1
    assert page.end(signal.SIGTERM) == 143
    assert list(tmp_path.iterdir()) == [page.log]
    assert "Traceback" not in page.log.read_text()


def refused(sealed_file, *options):
    command = [sys.executable, "-m", "pneumonia.cli", "app", "--checkpoint", str(sealed_file)]
    done = subprocess.run(
        [*command, *options], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    return done.stderr


def test_a_taken_port_and_a_foreign_host_are_sentences(sealed_file):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert f"Port {port} of 127.0.0.1 is taken" in refused(sealed_file, "--port", port)
    foreign = refused(sealed_file, "--host", "192.0.2.1", "--port", "7860")
    assert "192.0.2.1 is no address of this machine" in foreign
    assert "a b is no address" in refused(sealed_file, "--host", "a b")


@pytest.mark.slow
def test_a_page_that_others_reach_says_that_it_has_no_login(serve_page, sealed_file, tmp_path):
    page = serve_page(sealed_file, tmp_path, "--host", "0.0.0.0")
    assert "without a login" in page.log.read_text()
    evil = {"Host": "evil.example"}
    assert httpx.get(page.address, headers=evil).status_code == 421
    assert httpx.get(page.address, headers={"Host": "192.0.2.7"}).status_code == 200
    assert page.end() == 130
