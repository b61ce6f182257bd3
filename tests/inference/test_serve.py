"""The page answers what is dropped on it, escapes what came from outside, and keeps nothing."""

import asyncio
import base64
import csv
import io
import itertools
import json
import math
import re
import shutil
import socket
import subprocess
import urllib.request
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from pneumonia.evaluation.abstention import ABOVE_ONE, Abstention
from pneumonia.inference.page.answer import render
from pneumonia.inference.page.desk import MOST_ASKING, Desk, describe
from pneumonia.inference.page.percent import percentages
from pneumonia.inference.page.tray import MOST_FILES, Tray
from pneumonia.inference.predictor import Predictor
from pneumonia.inference.types import FailedPrediction, Prediction

PICTURE = np.full((40, 60), 90, np.uint8)


@pytest.fixture(scope="module")
def predictor(sealed_file) -> Predictor:
    return Predictor.load(sealed_file)


@pytest.fixture(scope="module")
def usual(predictor) -> Predictor:
    """The same, with a threshold and a band as trained models have them."""
    point = replace(predictor.operating_point, threshold=0.764)
    band = Abstention(0.41, 0.8, 0.05, 30, 30)
    return replace(
        predictor, operating_point=point, classifier=replace(predictor.classifier, band=band)
    )


@pytest.fixture
def tray(tmp_path) -> Tray:
    (tmp_path / "uploads").mkdir()
    return Tray(tmp_path / "uploads")


@pytest.fixture
def desk(predictor, sealed_file, tray) -> Desk:
    return Desk(predictor, sealed_file, tray)


def answer(predictor, result) -> str:
    picture = None if isinstance(result, FailedPrediction) else PICTURE
    return render(predictor, [result], [picture], [None], "abc", "no heat map here")


def prediction(**changes) -> Prediction:
    told = {"path": "/x/a.jpeg", "probability": 0.83, "decision": "PNEUMONIA", "uncertain": False}
    told |= {"unlike": False, "unlikeness": 0.1, "warnings": ()}
    return Prediction(**(told | changes))


def table(html: str) -> list[dict[str, str]]:
    (encoded,) = re.findall(r'href="data:text/csv;charset=utf-8;base64,([^"]+)"', html)
    return list(csv.DictReader(io.StringIO(base64.b64decode(encoded).decode())))


def test_an_answer_is_a_plain_sentence_with_the_threshold(usual):
    html = answer(usual, prediction())
    assert "The model gives pneumonia a probability of 83%." in html
    assert "It calls PNEUMONIA from 76% up." in html
    assert "undecided: from 41% to below 80%" in html
    assert ">PNEUMONIA</p>" in html
    assert 'class="pn-tick" style="left:76.4%"' in html
    assert 'class="pn-band" style="left:41.0%;width:39.' in html
    assert 'class="pn-fill" style="width:83.0%"' in html
    assert "no heat map here" in html
    assert "/x/" not in html


def test_an_uncertain_answer_is_left_to_a_person(predictor):
    html = answer(predictor, prediction(uncertain=True))
    assert ">Undecided</p>" in html
    assert "leans to PNEUMONIA" in html
    assert "a person should read this image" in html


def test_an_image_unlike_the_training_gets_no_answer(usual):
    html = answer(usual, prediction(unlike=True))
    assert ">No answer</p>" in html
    assert html.index("<details>") < html.index("83%")


HOSTILE = [
    "<b>.png",
    "<img src=x onerror=alert(1)>.png",
    '"><script>alert(1)</script>',
    "{{ 7777*7777 }}${alert(1)}.png",
    "\udcff.png",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_what_came_from_outside_is_escaped(predictor, name):
    for result in (
        prediction(path=name, warnings=(name,)),
        FailedPrediction(name, f"{name} is bad"),
    ):
        html = answer(predictor, result)
        assert not re.search(r"<(b|script|img src=x)\b", html)
        assert '"><' not in re.sub(r'="[^"]*"><', "", html)
        assert "60481729" not in html


@pytest.mark.parametrize("name", ["=1+1.png", "@x.png", "-x.png", "+x.png", "=HYPERLINK(1).png"])
def test_a_name_is_no_formula_in_a_spreadsheet(predictor, name):
    for result in (prediction(path=name), FailedPrediction(name, f"{name} is bad")):
        for value in table(answer(predictor, result))[0].values():
            assert not value.startswith(tuple("=@+-"))


def test_the_table_can_be_taken_along(predictor):
    (row,) = table(answer(predictor, prediction(path="a.jpeg")))
    assert row["path"] == "a.jpeg"
    assert (row["probability"], row["decision"], row["unlike"]) == ("0.83", "PNEUMONIA", "false")


def number(text: str) -> float:
    return float(text.removesuffix("%")) / 100


probabilities = st.floats(0, 1)


@given(probabilities, probabilities, probabilities, probabilities)
@example(0.496, 0.5, 0.4, 0.6)  # would round to the threshold
@example(0.4999999, 0.5, 0.4, 0.5)
@example(0.5, 0.5, 0.5, 0.5)
@example(0.7636, 0.764, 0.3, 0.7641)
@example(0.003, 0.004, 0.0, 0.9)
@example(1.0, 1.0, 0.2, ABOVE_ONE)
@example(math.nextafter(1, 0), 1.0, 0.0, 1.0)
@example(5e-324, 1e-300, 0.0, 1.0)
def test_what_is_shown_agrees_with_what_is_decided(probability, threshold, one, two):
    band = Abstention(min(one, two, threshold), max(one, two, threshold), 0.05, 30, 30)
    shown = percentages(probability, threshold, band)
    bounds = {"threshold": threshold, "lower": band.lower, "upper": min(band.upper, 1.0)}
    for name, bound in bounds.items():
        assert shown[name].endswith("%")
        assert not shown[name].startswith(("less", "more"))
        if shown["probability"].startswith("less than "):
            least = number(shown["probability"].removeprefix("less than "))
            assert probability < least
            assert bound == 0 or number(shown[name]) >= least
        elif shown["probability"].startswith("more than "):
            most = number(shown["probability"].removeprefix("more than "))
            assert probability > most
            assert bound == 1 or number(shown[name]) <= most
        else:
            assert (number(shown["probability"]) >= number(shown[name])) == (probability >= bound)
        if band.lower < min(band.upper, 1.0):
            assert number(shown["lower"]) < number(shown["upper"])


@pytest.mark.parametrize(
    ("probability", "threshold", "words"),
    [
        (0.83, 0.764, ("83%", "76%")),
        (0.496, 0.5, ("49.6%", "50.0%")),
        (0.5, 0.5, ("50%", "50%")),
        (0.9999, 0.5, ("more than 99%", "50%")),
        (0.0001, 0.5, ("less than 1%", "50%")),
        (0.0, 0.5, ("0%", "50%")),
        (1.0, 0.996, ("100.0%", "99.6%")),
    ],
)
def test_percentages_have_no_more_digits_than_they_need(probability, threshold, words):
    shown = percentages(probability, threshold)
    assert (shown["probability"], shown["threshold"]) == words


def drop(tray, *contents: bytes, name: str = "x.jpeg") -> list[str]:
    return [tray.keep(name, io.BytesIO(content)) for content in contents]


def as_file(image: Image.Image, kind: str, **how) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **how)
    return content.getvalue()


def test_uploads_are_deleted_once_they_are_answered(desk, tray, synthetic, tmp_path):
    image = next((synthetic / "test/NORMAL").iterdir())
    html = desk.answer(drop(tray, image.read_bytes(), b"broken"))
    assert html.count("<article") == 2
    assert "2 images: 1 " in html
    assert "Could not be read" in html
    assert html.count("data:image/jpeg") == 2  # the original and its heat map
    assert list((tmp_path / "uploads").iterdir()) == []


def test_too_many_or_forgotten_images_are_a_sentence(desk, tray, tmp_path):
    assert "21 images are too many" in desk.answer(drop(tray, *[b"x"] * (MOST_FILES + 1)))
    assert list((tmp_path / "uploads").iterdir()) == []
    assert "not here any more" in desk.answer(["/etc/passwd"])
    assert Path("/etc/passwd").exists()


def test_a_crowd_at_the_desk_is_asked_to_come_back(desk, tray, tmp_path):
    for _ in range(MOST_ASKING):
        desk._asking.acquire()
    assert "Too many are asking at once" in desk.answer(drop(tray, b"x"))
    assert list((tmp_path / "uploads").iterdir()) == []


def test_a_page_that_ends_answers_no_further_images(desk, tray, tmp_path):
    desk.close()
    assert "<article" not in desk.answer(drop(tray, b"x"))
    assert list((tmp_path / "uploads").iterdir()) == []


def test_every_kind_of_file_gets_one_sentence_without_a_path(desk, tray, tmp_path, make_dicom):
    grey = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    frames = [Image.fromarray(np.roll(grey, k)) for k in range(3)]
    animated = as_file(frames[0], "GIF", save_all=True, append_images=frames[1:])
    deep = as_file(Image.fromarray(grey.astype(np.uint16) << 8), "PNG")
    cmyk = as_file(Image.fromarray(grey).convert("CMYK"), "JPEG")
    dicom = make_dicom(grey, PatientName="Doe^Jane", PatientID="4711")
    colour = make_dicom(grey, PatientName="Doe^Jane", PhotometricInterpretation="RGB")
    tiny = as_file(Image.fromarray(grey[:1, :1]), "PNG")
    cut = as_file(Image.fromarray(grey), "JPEG")[:300]
    readable, broken = [deep, cmyk, dicom], [animated, colour, tiny, cut, b"", b"\0" * 200]
    html = desk.answer(drop(tray, *readable, *broken, name="scan.dcm"))
    assert html.count("Could not be read") == len(broken)
    assert html.count("As read") == len(readable)
    assert "3 frames" in html
    assert "Doe" not in html
    assert "4711" not in html
    assert str(tmp_path) not in html
    for row in table(html):
        assert row["path"] == "scan.dcm"
        assert str(tmp_path) not in row["error"]
        assert row["error"].count(".") <= 3  # of the name, and at the end
    for sentence in re.findall(r"Could not be read</p>\s*<p>(.*?)</p>", html, re.DOTALL):
        assert sentence.startswith("scan.dcm ")
        assert "\n" not in sentence


def test_it_says_which_model_it_is(predictor, sealed_file):
    assert "best.ckpt (test_resnet)" in describe(predictor, sealed_file)


def test_a_model_of_the_time_before_band_and_detector_answers_too(older_file, tray, synthetic):
    old = Predictor.load(older_file)
    picture = next((synthetic / "test/NORMAL").iterdir()).read_bytes()
    html = Desk(old, older_file, tray).answer(drop(tray, picture))
    assert "undecided:" not in html
    assert "The model gives pneumonia a probability" in html


def test_a_band_without_an_upper_end_is_said_so(usual):
    band = Abstention(0.3, ABOVE_ONE, 0.05, 30, 30)
    wide = replace(usual, classifier=replace(usual.classifier, band=band))
    assert "undecided: 30% and more" in answer(wide, prediction(uncertain=True))


CLIPPED = """[...document.querySelectorAll('main p, main span, main h1, main figcaption')]
  .filter(e => e.getBoundingClientRect().right > innerWidth + 1 || e.scrollWidth > e.clientWidth + 1
    && getComputedStyle(e).display != 'inline')
  .map(e => e.className + ': ' + e.innerText)"""
"""What does not fit on the page."""

KEPT = """indexedDB.databases().then(found => (
  {databases: found.map(d => d.name), storage: JSON.stringify(localStorage).includes('broken')
    + sessionStorage.length}))"""
"""What the page left in the browser."""


async def browse(  # noqa: C901, PLR0915  one story, told in order
    address: str, files: list[Path], profile: Path, width: int, mode: str
) -> dict[str, object]:
    """Drop files on the page in a real browser, and tell what is seen."""
    websockets = pytest.importorskip("websockets")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
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
        complaints: list[str] = []
        async with websockets.connect(tab["webSocketDebuggerUrl"], max_size=None) as line:
            numbers = itertools.count(1)

            async def call(method: str, **parameters: object) -> dict:
                number = next(numbers)
                await line.send(json.dumps({"id": number, "method": method, "params": parameters}))
                while True:
                    reply = json.loads(await line.recv())
                    if reply.get("method") == "Network.requestWillBeSent":
                        asked.append(reply["params"]["request"]["url"])
                    if reply.get("method") == "Log.entryAdded":
                        complaints.append(reply["params"]["entry"]["text"])
                    if reply.get("id") == number:
                        return reply["result"]

            async def value(code: str) -> object:
                reply = await call(
                    "Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True
                )
                return reply["result"].get("value")

            async def wait_for(code: str) -> None:
                for _ in range(300):
                    if await value(code):
                        return
                    await asyncio.sleep(0.1)
                raise AssertionError(code)

            for domain in ("Network", "Page", "DOM", "Runtime", "Log"):
                await call(f"{domain}.enable")
            size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
            await call("Emulation.setDeviceMetricsOverride", **size)
            scheme = [{"name": "prefers-color-scheme", "value": mode}]
            await call("Emulation.setEmulatedMedia", features=scheme)
            await call("Page.navigate", url=address)
            await wait_for("!!document.querySelector('#uploads input[type=file]')")
            root = (await call("DOM.getDocument"))["root"]["nodeId"]
            query = {"nodeId": root, "selector": "#uploads input[type=file]"}
            node = (await call("DOM.querySelector", **query))["nodeId"]
            await call("DOM.setFileInputFiles", nodeId=node, files=[str(path) for path in files])
            await wait_for("!!document.querySelector('#answers .pn-card')")
            return {
                "page": await value("document.body.innerText"),
                "clipped": await value(CLIPPED),
                "kept": await value(KEPT),
                "complaints": complaints,
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
@pytest.mark.parametrize("mode", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200])
def test_in_a_browser_files_are_answered_offline(served, synthetic, tmp_path_factory, width, mode):
    folder = tmp_path_factory.mktemp("files")
    sound = folder / "${window.hacked=1} {{x}} <img src=x onerror=window.hacked=1>.jpeg"
    sound.write_bytes(next((synthetic / "test/PNEUMONIA").iterdir()).read_bytes())
    noise = folder / f"{'noise' * 30}.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (99, 99), np.uint8)).save(noise)
    broken = folder / "broken.jpeg"
    broken.write_bytes(b"no image")
    profile = tmp_path_factory.mktemp("profile")
    seen = asyncio.run(browse(served.address, [sound, noise, broken], profile, width, mode))
    assert "not a medical device" in seen["page"]
    assert "The model gives pneumonia a probability of" in seen["text"]
    assert "No answer" in seen["text"]
    assert "Could not be read" in seen["text"]
    assert sound.name in seen["text"]
    assert seen["hacked"] is None
    assert seen["width"] <= width
    assert seen["clipped"] == []
    assert seen["kept"] == {"databases": [], "storage": 0}
    own = (served.address, "data:", "blob:", "about:")
    assert [url for url in seen["asked"] if not url.startswith(own)] == []
    assert seen["complaints"] == []
    assert served.uploads() == []
