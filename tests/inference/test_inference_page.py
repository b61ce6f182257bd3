"""The page answers what is dropped on it, escapes what came from outside, and keeps nothing."""

import asyncio
import base64
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pneumonia.inference.answer import render
from pneumonia.inference.page import MOST_FILES, Desk, describe
from pneumonia.inference.prediction import Failure, Prediction
from pneumonia.inference.predictor import Predictor

PICTURE = np.full((40, 60), 90, np.uint8)


@pytest.fixture(scope="module")
def predictor(sealed_file) -> Predictor:
    return Predictor.load(sealed_file)


def answer(predictor, result) -> str:
    picture = None if isinstance(result, Failure) else PICTURE
    return render(predictor, [result], [picture], [None], "abc", "no heat map here")


def prediction(**changes) -> Prediction:
    told = {"path": "/x/a.jpeg", "probability": 0.83, "decision": "PNEUMONIA", "uncertain": False}
    told |= {"unlike": False, "unlikeness": 0.1, "warnings": ()}
    return Prediction(**(told | changes))


def test_an_answer_is_a_plain_sentence_with_the_threshold(predictor):
    html = answer(predictor, prediction())
    assert "a probability of <strong>83%</strong>" in html
    assert ">PNEUMONIA</p>" in html
    assert f"left:{100 * predictor.operating_point.threshold}%" in html
    assert "no heat map here" in html
    assert "/x/" not in html


def test_an_uncertain_answer_is_left_to_a_person(predictor):
    assert "a person should read this image" in answer(predictor, prediction(uncertain=True))


def test_an_image_unlike_the_training_gets_no_answer(predictor):
    html = answer(predictor, prediction(unlike=True))
    assert ">No answer</p>" in html
    assert html.index("<details>") < html.index("83%")


@pytest.mark.parametrize("result", [prediction(path="<b>.png"), Failure("<b>.png", "<b>.png bad")])
def test_what_came_from_outside_is_escaped(predictor, result):
    html = answer(predictor, result)
    assert "<b>" not in html
    assert "&lt;b&gt;.png" in html


def test_the_table_can_be_taken_along(predictor):
    html = answer(predictor, prediction())
    (table,) = re.findall(r'href="data:text/csv;base64,([^"]+)"', html)
    rows = base64.b64decode(table).decode().splitlines()
    assert rows[0].startswith("path,probability,decision")
    assert ",0.83,PNEUMONIA,false,false" in rows[1]


def test_uploads_are_deleted_once_they_are_answered(predictor, sealed_file, phantom, tmp_path):
    desk = Desk(predictor, sealed_file)
    image = next((phantom / "test/NORMAL").iterdir())
    uploads = []
    for number, content in enumerate([image.read_bytes(), b"broken"]):
        path = tmp_path / str(number) / "x.jpeg"
        path.parent.mkdir()
        path.write_bytes(content)
        uploads.append(str(path))
    html = desk.answer(uploads)
    assert html.count("<article") == 2
    assert "Could not be read" in html
    assert html.count("data:image/jpeg") == 2  # the original and its heat map
    assert list(tmp_path.iterdir()) == []
    assert "too many" in desk.answer(["/nowhere/x"] * (MOST_FILES + 1))


def test_it_says_which_model_it_is(predictor, sealed_file):
    assert "best.ckpt (test_resnet)" in describe(predictor, sealed_file)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def page(sealed_file, tmp_path):
    """The page, served; gives its address and the folder of its temporary files."""
    port = free_port()
    command = [sys.executable, "-m", "pneumonia.cli", "app", "--checkpoint", str(sealed_file)]
    command += ["--port", str(port)]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        address = f"http://127.0.0.1:{port}"
        for _ in range(600):
            try:
                urllib.request.urlopen(address, timeout=5).close()
                break
            except OSError:
                assert process.poll() is None, process.stderr.read()
                time.sleep(0.1)
        yield address, tmp_path
        process.send_signal(signal.SIGINT)
        error = process.communicate(timeout=30)[1]
    assert process.returncode == 130
    assert "Traceback" not in error
    assert list(tmp_path.glob("pneumonia-*")) == []


@pytest.mark.slow
def test_no_file_of_the_machine_is_served_and_a_taken_port_is_a_sentence(page, sealed_file):
    address, _ = page
    for path in ("/etc/passwd", sealed_file):
        with pytest.raises(urllib.error.HTTPError, match=r"403|404"):
            urllib.request.urlopen(f"{address}/gradio_api/file={path}", timeout=5)
    command = [sys.executable, "-m", "pneumonia.cli", "app", "--checkpoint", str(sealed_file)]
    command += ["--port", address.rpartition(":")[2]]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=100)
    assert done.returncode == 2
    assert "choose another --port" in done.stderr
    assert "Traceback" not in done.stderr


async def browse(  # noqa: C901  one story, told in order
    address: str, files: list[Path], profile: Path
) -> dict[str, object]:
    """Drop files on the page in a real browser, phone width, and tell what is seen."""
    websockets = pytest.importorskip("websockets")
    port = free_port()
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]
    command = [str(shutil.which("chromium")), *flags, f"--remote-debugging-port={port}"]
    browser = subprocess.Popen([*command, "about:blank"], stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=5) as found:
                    tab = next(t for t in json.load(found) if t["type"] == "page")
                break
            except OSError:
                await asyncio.sleep(0.1)
        asked: list[str] = []
        async with websockets.connect(tab["webSocketDebuggerUrl"], max_size=None) as line:
            numbers = itertools.count(1)

            async def call(method: str, **parameters: object) -> dict:
                number = next(numbers)
                await line.send(json.dumps({"id": number, "method": method, "params": parameters}))
                while True:
                    reply = json.loads(await line.recv())
                    if reply.get("method") == "Network.requestWillBeSent":
                        asked.append(reply["params"]["request"]["url"])
                    if reply.get("id") == number:
                        return reply["result"]

            async def value(code: str) -> object:
                reply = await call("Runtime.evaluate", expression=code, returnByValue=True)
                return reply["result"].get("value")

            async def wait_for(code: str) -> None:
                for _ in range(300):
                    if await value(code):
                        return
                    await asyncio.sleep(0.1)
                raise AssertionError(code)

            for domain in ("Network", "Page", "DOM", "Runtime"):
                await call(f"{domain}.enable")
            size = {"width": 390, "height": 900, "deviceScaleFactor": 1, "mobile": True}
            await call("Emulation.setDeviceMetricsOverride", **size)
            await call("Page.navigate", url=address)
            await wait_for("!!document.querySelector('#uploads input[type=file]')")
            root = (await call("DOM.getDocument"))["root"]["nodeId"]
            query = {"nodeId": root, "selector": "#uploads input[type=file]"}
            node = (await call("DOM.querySelector", **query))["nodeId"]
            await call("DOM.setFileInputFiles", nodeId=node, files=[str(path) for path in files])
            await wait_for("!!document.querySelector('#answers .pn-card')")
            return {
                "text": await value("document.querySelector('#answers').innerText"),
                "width": await value("document.documentElement.scrollWidth"),
                "hacked": await value("window.hacked"),
                "asked": asked,
            }
    finally:
        browser.terminate()
        browser.wait(30)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium")
def test_in_a_browser_files_are_answered_offline_on_a_phone(page, phantom, tmp_path_factory):
    address, temporary = page
    folder = tmp_path_factory.mktemp("files")
    sound = folder / "<img src=x onerror=window.hacked=1>.jpeg"
    sound.write_bytes(next((phantom / "test/PNEUMONIA").iterdir()).read_bytes())
    noise = folder / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (99, 99), np.uint8)).save(noise)
    broken = folder / "broken.jpeg"
    broken.write_bytes(b"no image")
    seen = asyncio.run(browse(address, [sound, noise, broken], tmp_path_factory.mktemp("profile")))
    assert "The model gives pneumonia a probability of" in seen["text"]
    assert "No answer" in seen["text"]
    assert "Could not be read" in seen["text"]
    assert seen["hacked"] is None
    assert seen["width"] <= 390
    outside = [
        url for url in seen["asked"] if not url.startswith((address, "data:", "blob:", "about:"))
    ]
    assert outside == []
    assert [path for path in temporary.rglob("*") if path.suffix in {".jpeg", ".png"}] == [
        path for path in temporary.rglob("drawn/**/*") if path.suffix in {".jpeg", ".png"}
    ]
