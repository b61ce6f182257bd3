"""Bad input to `pneumonia predict`: its row or one sentence, and the others are answered."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from runs import rows_of


def saved(kind: str, image: Image.Image, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def test_every_bad_file_gets_a_row_with_its_error_and_the_others_are_predicted(
    predict, images, tmp_path, capsys
):
    folder = images[0].parent
    with Image.open(images[0]) as opened:
        grey = opened.convert("L")
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    bad = {
        "zero-bytes.jpeg": (b"", "it is empty"),
        "truncated.jpeg": (saved("JPEG", grey)[:-400], "truncated"),
        "truncated.png": (saved("PNG", grey)[:200], ""),
        "1x1.png": (saved("PNG", Image.new("L", (1, 1))), "1 x 1 pixels"),
        "animated.gif.png": (
            saved("GIF", grey, save_all=True, append_images=[Image.new("L", grey.size)]),
            "2 frames",
        ),
        "text.jpeg": (b"no image", "its format is not JPEG"),
    }
    for name, (content, _) in bad.items():
        (folder / name).write_bytes(content)
    with (folder / "1-gigabyte.jpeg").open("wb") as file:
        file.truncate(1 << 30)  # sparse
    for mode in ("CMYK", "RGB", "YCbCr"):
        (folder / f"good-{mode}.jpeg").write_bytes(saved("JPEG", grey.convert(mode)))
    for kind in ("PNG", "TIFF"):
        (folder / f"good-16-bits.{kind.lower()}").write_bytes(saved(kind, deep))
    assert predict(folder, "--out", tmp_path / "o.csv") == 1
    assert capsys.readouterr().err.count("Traceback") == 0
    rows = {Path(row["path"]).name: row for row in rows_of(tmp_path / "o.csv")}
    assert rows.keys() == {file.name for file in folder.iterdir()}
    failed = {name for name, row in rows.items() if row["error"]}
    assert failed == {*bad, "1-gigabyte.jpeg"}
    for name, (_, reason) in bad.items():
        assert name in rows[name]["error"]
        assert reason in rows[name]["error"]
    assert "1,073,741,824 bytes" in rows["1-gigabyte.jpeg"]["error"]
    for name in rows.keys() - failed:
        assert 0 <= float(rows[name]["probability"]) <= 1


def test_a_file_that_is_not_a_model_is_named(predict, images, tmp_path, capsys):
    (tmp_path / "text.ckpt").write_bytes(b"no checkpoint")
    (tmp_path / "text.onnx").write_bytes(b"no checkpoint")
    for name in (".", "none.ckpt", "none.onnx", "text.ckpt", "text.onnx"):
        assert predict(images[0], "--out", tmp_path / "o.csv", checkpoint=tmp_path / name) == 2
        error = capsys.readouterr().err
        assert str(tmp_path / name) in error
        assert "Traceback" not in error
    assert not (tmp_path / "o.csv").exists()


@pytest.mark.parametrize("where", ["image", "table", "model"])
def test_a_name_that_is_too_long_is_one_sentence(predict, images, checkpoint_file, capsys, where):
    long = Path("/", "x" * 300)
    image = long if where == "image" else images[0]
    options = ["--out", f"{long}.csv"] if where == "table" else []
    assert predict(image, *options, checkpoint=long if where == "model" else checkpoint_file) == 2
    error = capsys.readouterr().err
    assert "Error: " in error
    assert "xxx" in error
    assert "Traceback" not in error


def test_a_row_without_prediction_or_error_is_refused(predict, images, tmp_path, capsys):
    out = tmp_path / "o.csv"
    assert predict(images[0], "--out", out) == 0
    (row,) = rows_of(out)
    out.write_text(out.read_text().replace(row["probability"], ""))
    assert predict(images[0], "--out", out, "--resume") == 2
    assert "o.csv is not a table" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["ckpt", "onnx"])
def test_a_model_with_nan_weights_predicts_nothing(
    predict, images, checkpoint_file, exported, tmp_path, kind, capsys
):
    content = torch.load(checkpoint_file, weights_only=True)
    key = next(key for key in reversed(content["state_dict"]) if key.endswith("bias"))
    content["state_dict"][key].fill_(float("nan"))
    model = tmp_path / f"model.{kind}"
    torch.save(content, model)
    if kind == "onnx":
        weights = exported.read_bytes()
        sound = torch.load(checkpoint_file, weights_only=True)["state_dict"][key].numpy().tobytes()
        assert weights.count(sound) == 1
        model.write_bytes(weights.replace(sound, content["state_dict"][key].numpy().tobytes()))
    assert predict(images[0], "--out", tmp_path / "o.csv", checkpoint=model) == 2
    assert "not a finite number" in capsys.readouterr().err
    assert rows_of(tmp_path / "o.csv") == []
