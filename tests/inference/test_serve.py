"""The web service predicts uploads within its limits, keeps nothing of them, and trusts nobody."""

import asyncio
import base64
import io
import itertools
import json
import logging
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import numpy as np
import pytest
from PIL import Image
from runs import free_port
from starlette.testclient import TestClient

from pneumonia.inference import server
from pneumonia.inference.predictor import Predictor
from pneumonia.inference.server import Limits, create_app

SMALL = Limits(files=2, file_bytes=1000, request_bytes=2500, total_bytes=3000, seconds=1)
ADDRESS = "http://127.0.0.1:8000"


@pytest.fixture(scope="module")
def predictor(checkpoint_file):
    return Predictor.load(checkpoint_file)


@pytest.fixture(scope="module")
def client(predictor, checkpoint_file):
    with TestClient(create_app(predictor, checkpoint_file), ADDRESS) as client:
        yield client


@pytest.fixture
def limited(predictor, checkpoint_file):
    with TestClient(create_app(predictor, checkpoint_file, limits=SMALL), ADDRESS) as client:
        yield client


@pytest.fixture(scope="module")
def xray(synthetic):
    return min((synthetic / "test/PNEUMONIA").iterdir())


def upload(client, *contents, name="a.png", field="files", **options):
    files = [(field, (name, content)) for content in contents]
    return client.post("/predict", files=files, **options)


def test_every_file_gets_its_prediction_or_its_error(client, predictor, xray):
    broken, found, last = upload(client, b"no image", xray.read_bytes(), b"").json()
    assert found == {
        **vars(predictor.predict(xray)),
        "path": "a.png",
        "warnings": [],
        "heat_map": None,
    }
    for failed in (broken, last):
        assert failed.keys() == {"path", "error"}
        assert failed["error"].startswith("a.png ")


def test_explain_adds_a_heat_map(client, xray):
    (found,) = upload(client, xray.read_bytes(), params={"explain": True}).json()
    with Image.open(io.BytesIO(base64.b64decode(found["heat_map"]))) as heat, Image.open(xray) as x:
        assert (heat.format, heat.mode, heat.size) == ("PNG", "RGB", x.size)


def test_an_exported_model_predicts_but_has_no_heat_maps(exported, xray):
    with TestClient(create_app(Predictor.load(exported), exported), ADDRESS) as client:
        assert "probability" in upload(client, xray.read_bytes()).json()[0]
        assert upload(client, xray.read_bytes(), params={"explain": True}).status_code == 501


def test_the_checkpoint_makes_the_heat_maps_of_its_exported_model(exported, checkpoint_file, xray):
    with TestClient(create_app(Predictor.load(exported), checkpoint_file), ADDRESS) as client:
        found = upload(client, xray.read_bytes(), params={"explain": True})
        assert found.json()[0]["heat_map"]
        assert "torch" not in client.get("/").text


def test_health_names_the_model_and_the_schema_describes_the_upload(client):
    assert client.get("/health").json()["status"] == "ok"
    operation = client.get("/openapi.json").json()["paths"]["/predict"]["post"]
    assert "multipart/form-data" in operation["requestBody"]["content"]
    assert {client.get(path).status_code for path in ("/docs", "/redoc")} == {404}


def test_the_page_states_what_it_is_and_loads_nothing_from_elsewhere(client):
    page = client.get("/")
    assert "not a medical device" in page.text
    assert "http" not in page.text
    policy = page.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy
    assert page.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("contents", "status"),
    [
        ([b"x" * 1000] * 2, 200),
        ([b"x" * 1001], 413),
        ([b"x" * 1400] * 2, 413),
        ([b"x", b"x", b"x"], 400),
    ],
)
def test_limits_of_a_file_and_a_request(limited, contents, status):
    for _ in range(3):  # what was refused is not counted any longer
        assert upload(limited, *contents).status_code == status


def send(app, chunks):
    """Send a body in chunks; gives the response's status and the number of bytes it took."""
    sent = []
    taken = 0

    async def receive():
        nonlocal taken
        body = next(chunks, None)
        if body is None:
            await asyncio.sleep(60)
        taken += len(body)
        return {"type": "http.request", "body": body, "more_body": True}

    async def respond(message):
        sent.append(message)

    headers = [(b"content-type", b"multipart/form-data; boundary=b"), (b"host", b"localhost")]
    scope = {"type": "http", "method": "POST", "path": "/predict", "headers": headers}
    scope |= {"query_string": b"", "http_version": "1.1", "scheme": "http"}
    asyncio.run(app(scope, receive, respond))
    return sent[0]["status"], taken


HEAD = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n'


def test_an_endless_body_is_cut_at_the_limit_and_a_stalled_one_in_time(predictor, checkpoint_file):
    few = create_app(predictor, checkpoint_file, limits=Limits(total_bytes=1000))
    assert send(few, iter([HEAD, b"x" * 2000]))[0] == 503  # in all requests together
    app = create_app(predictor, checkpoint_file, limits=SMALL)
    status, taken = send(app, itertools.chain([HEAD], itertools.repeat(b"x" * 100)))
    assert status == 413
    assert taken < 2800
    start = time.monotonic()
    assert send(app, iter([HEAD, b"x"]))[0] == 408
    assert time.monotonic() - start < 30


def test_too_many_requests_are_told_when_to_come_back(predictor, checkpoint_file, xray):
    app = create_app(predictor, checkpoint_file, limits=Limits(requests=0))
    with TestClient(app, ADDRESS) as busy:
        refused = upload(busy, xray.read_bytes())
    assert refused.status_code == 503
    assert int(refused.headers["Retry-After"]) > 0


def test_requests_at_the_same_time_get_the_predictions_of_their_own_files(client, predictor, xray):
    images = [xray.read_bytes(), b"broken"] * 8
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda content: upload(client, content).json(), images))
    expected = predictor.predict(xray).probability
    for (answer,), content in zip(answers, images, strict=True):
        if content != b"broken":
            assert answer["probability"] == pytest.approx(expected, abs=1e-5)
        else:
            assert "cannot be read" in answer["error"]


def test_uploads_never_touch_the_disk(client, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/proc/nowhere")
    noise = np.random.default_rng(0).integers(0, 256, (2300, 2300), np.uint8)
    content = io.BytesIO()
    Image.fromarray(noise).save(content, "PNG")
    assert len(content.getvalue()) > 5_000_000
    assert "probability" in upload(client, content.getvalue()).json()[0]


FORM = "multipart/form-data; boundary=b"


@pytest.mark.parametrize(
    ("status", "kind", "content"),
    [
        (415, "application/json", b"{}"),
        (400, "multipart/form-data", HEAD + b"x\r\n--b--\r\n"),
        (422, FORM, HEAD.replace(b"files", b"other") + b"x\r\n--b--\r\n"),
        (422, FORM, b"--b--\r\n"),
        (422, FORM, HEAD + b"x"),
        (400, FORM, b"--b\r\n" + b"x: y\r\n" * 1000),
    ],
    ids=range(6),
)
def test_what_is_not_an_upload_is_refused(client, status, kind, content):
    found = client.post("/predict", content=content, headers={"Content-Type": kind})
    assert found.status_code == status
    assert found.json()["detail"]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("C:\\x/Röntgen 1.png", "Röntgen 1.png"),
        ("a\x1b[2J.png", "a\\x1b[2J.png"),
        ("x" * 2000 + ".png", "x" * 96 + ".png"),
        ("/", "image"),
    ],
)
def test_a_file_name_is_shown_printable_and_without_folders(client, name, shown):
    content = HEAD.replace(b'"a"', f'"{name}"'.encode()) + b"x\r\n--b--\r\n"
    (found,) = client.post("/predict", content=content, headers={"Content-Type": FORM}).json()
    assert found["path"] == shown


@pytest.mark.parametrize(
    ("host", "status"),
    [("127.0.0.1.evil.example:8000", 400), ("", 400), ("LOCALHOST:8000", 200), ("[::1]:8000", 200)],
)
def test_only_loopback_names_are_accepted(client, host, status):
    assert client.get("/", headers={"Host": host}).status_code == status


@pytest.mark.parametrize("origin", ["null", "http://127.0.0.1:9999"])
def test_other_sites_can_neither_upload_nor_read(client, origin):
    assert upload(client, b"x", headers={"Origin": origin}).status_code == 403
    assert client.get("/health", headers={"Origin": origin}).status_code == 403
    assert client.get("/health", headers={"Origin": ADDRESS}).status_code == 200


def test_an_internal_error_tells_nothing_of_the_upload(client, monkeypatch, caplog):
    def fail(*_):
        raise RuntimeError("Jane Doe")

    monkeypatch.setattr(server, "load_image", fail)
    caplog.set_level(logging.DEBUG)
    found = upload(client, b"x", name="Jane Doe.png")
    assert found.status_code == 500
    assert "RuntimeError" in caplog.text
    assert "Jane" not in caplog.text + found.text


def test_a_dicom_file_gives_away_no_patient(client, make_dicom):
    grey = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    for extra in ({}, {"PhotometricInterpretation": "RGB"}):  # predicted, and refused
        content = make_dicom(grey, PatientName="Doe^Jane", PatientID="4711", **extra)
        found = upload(client, content)
        assert found.status_code == 200
        assert not any(secret in found.text for secret in ("Doe", "4711"))


def wait_for(ask):
    """Ask until there is an answer, and return it."""
    for _ in range(1200):
        with suppress(OSError):
            if answer := ask():
                return answer
        time.sleep(0.1)
    raise TimeoutError


@contextmanager
def served(model, folder):
    """The service in a process of its own: gives the process, its address and its log."""
    port = free_port()
    command = [sys.executable, "-m", "pneumonia.cli", "serve", "--checkpoint", str(model)]
    log, address = folder / "log", f"http://127.0.0.1:{port}"
    with log.open("w") as file:
        process = subprocess.Popen([*command, "--port", str(port)], stdout=file, stderr=file)
    try:
        ask = f"{address}/health"
        wait_for(lambda: process.poll() is not None or urllib.request.urlopen(ask).close() is None)
        assert process.poll() is None, log.read_text()
        yield process, address, log
    finally:
        process.kill()


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)],
)
def test_a_signal_ends_it_cleanly(checkpoint_file, tmp_path, number, code):
    with served(checkpoint_file, tmp_path) as (process, address, log):
        process.send_signal(number)
        assert process.wait(60) == code
        backend, serving = log.read_text().splitlines()
        assert str(checkpoint_file) in backend
        assert serving == f"Serving on {address} (Ctrl-C stops)"


def test_a_port_in_use_is_named(checkpoint_file, run, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert run("serve", "--checkpoint", checkpoint_file, "--port", port) == 2
    assert f"--port {port}" in capsys.readouterr().err


def browse(address, files, profile, width):
    """Choose files in a real browser, ask for a heat map, and tell what is seen."""
    client = pytest.importorskip("websockets.sync.client")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"]
    flags += ["--disable-background-networking", f"--user-data-dir={profile}"]
    command = [shutil.which("chromium"), *flags, "--remote-debugging-port=0"]
    browser = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        port = wait_for(lambda: (profile / "DevToolsActivePort").read_text().split()[0])
        new = urllib.request.Request(f"http://127.0.0.1:{port}/json/new", method="PUT")
        with urllib.request.urlopen(new, timeout=60) as found:
            tab = json.load(found)["webSocketDebuggerUrl"]
        events, numbers = [], itertools.count(1)
        with client.connect(tab, max_size=None) as line:

            def call(method, **parameters):
                number = next(numbers)
                line.send(json.dumps({"id": number, "method": method, "params": parameters}))
                while (reply := json.loads(line.recv())).get("id") != number:
                    events.append(reply)
                return reply["result"]

            def value(code):
                reply = call("Runtime.evaluate", expression=code, returnByValue=True)
                return reply["result"].get("value")

            for domain in ("Network", "Page", "DOM", "Runtime", "Log"):
                call(f"{domain}.enable")
            size = {"width": width, "height": 1800, "deviceScaleFactor": 1, "mobile": width < 600}
            call("Emulation.setDeviceMetricsOverride", **size)
            call("Page.navigate", url=address)
            wait_for(lambda: value("!!document.querySelector('#files')"))
            root = call("DOM.getDocument")["root"]["nodeId"]
            node = call("DOM.querySelector", nodeId=root, selector="#files")["nodeId"]
            call("DOM.setFileInputFiles", nodeId=node, files=list(map(str, files)))
            answered = f"document.querySelectorAll('article').length == {len(files)}"
            answered += " && !document.body.innerText.includes('Waiting')"
            wait_for(lambda: value(answered))
            value("document.querySelector('article button').click()")
            wait_for(lambda: value("!!document.querySelector('img[src^=\"data:image/png\"]')"))
            return {
                "text": value("document.body.innerText"),
                "width": value("document.documentElement.scrollWidth"),
                "hacked": value("window.hacked"),
                "log": [e["params"] for e in events if e["method"] == "Log.entryAdded"],
                "asked": [
                    e["params"]["request"]["url"]
                    for e in events
                    if e["method"] == "Network.requestWillBeSent"
                ],
            }
    finally:
        browser.terminate()
        browser.wait(30)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium")
@pytest.mark.parametrize("width", [390, 1200])
def test_in_a_browser_without_network(checkpoint_file, xray, tmp_path, width):
    hostile = tmp_path / "${window.hacked=1} {{x}} <img src=x onerror=window.hacked=1>.jpeg"
    hostile.write_bytes(xray.read_bytes())
    noise = tmp_path / f"{'noise' * 30}.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (99, 99), np.uint8)).save(noise)
    broken = tmp_path / "broken.jpeg"
    broken.write_bytes(b"no image")
    files = [hostile, noise, broken]
    with served(checkpoint_file, tmp_path) as (_, address, _):
        seen = browse(address, files, tmp_path / "profile", width)
    for words in ("not a medical device", "Predicted class: ", "Cannot be read", hostile.name):
        assert words in seen["text"]
    assert (seen["hacked"], seen["log"]) == (None, [])
    assert seen["width"] <= width
    assert {url.split(":")[0] for url in seen["asked"]} <= {"http", "data", "blob", "about"}
    assert all(url.startswith(address) for url in seen["asked"] if url.startswith("http"))
