"""The web service under load, against `predict` on the same files. Run by hand:

pytest -m benchmark -s -n 0 tests/benchmarks/test_benchmark_serve.py
"""

import itertools
import json
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from runs import free_port

from pneumonia.inference.predictor import Predictor

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(600)]

CLIENTS = 16
SECONDS = float(os.environ.get("PNEUMONIA_LOAD_SECONDS", "60"))


def resident_mb(pid):
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def send(url, name, content):
    head = f'--b\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    body = head.encode() + content + b"\r\n--b--\r\n"
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    request = urllib.request.Request(url, body, headers)
    with urllib.request.urlopen(request, timeout=60) as response:
        (answer,) = json.load(response)
    return answer["probability"]


@pytest.mark.parametrize("backbone", ["resnetv2_50", "tf_efficientnet_lite0"])
def test_concurrent_clients_against_a_folder(checkpoint, files, backbone):
    path = checkpoint(backbone).with_suffix(".onnx")
    model, port = Predictor.load(path), free_port()
    expected = {file: p.probability for file, p in zip(files, model.predict(files), strict=True)}
    start = time.perf_counter()
    model.predict(files * 4)
    folder = 4 * len(files) / (time.perf_counter() - start)

    command = ["serve", "--checkpoint", path, "--port", str(port)]
    server = subprocess.Popen([sys.executable, "-m", "pneumonia.cli", *command])
    url, seconds, failed = f"http://127.0.0.1:{port}/predict", [], []
    contents = {file: Path(file).read_bytes() for file in files}
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(url.replace("predict", "health")).close()
                break
            except urllib.error.URLError:
                time.sleep(0.1)
        end, memory = time.monotonic() + SECONDS, []

        def client(number):
            for file in itertools.islice(itertools.cycle(files), number, None):
                begun = time.monotonic()
                if begun > end:
                    break
                probability = send(url, "a.jpeg", contents[file])
                seconds.append(time.monotonic() - begun)
                if abs(probability - expected[file]) > 1e-4:
                    failed.append(file)

        threads = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            time.sleep(SECONDS / 20)
            memory.append(resident_mb(server.pid))
    finally:
        server.terminate()
        server.wait(30)
    rate, p95 = len(seconds) / SECONDS, np.percentile(seconds, 95)
    print(
        f"\n{backbone}: {CLIENTS} clients {rate:.0f} images/s, folder {folder:.0f} images/s, ratio"
        f" {rate / folder:.2f}; latency median {np.median(seconds):.3f} s, p95 {p95:.3f} s;"
        f" {len(seconds)} requests; memory {memory[1]:.0f} to {memory[-1]:.0f} MB"
    )
    assert not failed
