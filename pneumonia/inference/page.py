"""The page: drop X-rays, read answers. It keeps nothing and asks nothing of any other host."""

import contextlib
import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import escape

from pneumonia.data.content import MOST_BYTES
from pneumonia.data.image import read_grey
from pneumonia.data.phantom import write_phantom
from pneumonia.errors import ConfigError, ExtraError, PneumoniaError
from pneumonia.evaluation.subject import Subject
from pneumonia.inference.answer import STYLE, render
from pneumonia.inference.prediction import Failure
from pneumonia.inference.predictor import Predictor
from pneumonia.inference.rows import digest

log = logging.getLogger(__name__)

MOST_FILES = 20
LOCAL = "127.0.0.1"

DEVICE = (
    "Research software, not a medical device: it must not be used to diagnose anybody. Trained on"
    " X-rays of children aged 1 to 5 of one hospital; nothing suggests that it works elsewhere."
)
_FONTS = ["system-ui", "sans-serif"]  # the default ones would be fetched from elsewhere
_EXAMPLES = ("NORMAL", "PNEUMONIA")


class Desk:
    """Answers what is handed in, and deletes it.

    Args:
        predictor: The model.
        checkpoint: Its file.
    """

    def __init__(self, predictor: Predictor, checkpoint: str | Path) -> None:
        self._predictor = predictor
        self._model = digest(checkpoint)
        self._no_heat = ""
        try:
            from pneumonia.inference.explain import HeatMaps  # noqa: PLC0415 - torch, if there is one

            HeatMaps(predictor, tempfile.gettempdir(), [])
        except PneumoniaError as error:
            self._no_heat = str(error)

    def answer(self, uploads: list[str] | None) -> str:
        """Answer uploaded files, and delete them.

        Args:
            uploads: Their paths, as the server stored them.

        Returns:
            HTML.
        """
        paths = uploads or []
        try:
            if len(paths) > MOST_FILES:
                return f"<p>{len(paths)} images are too many; drop at most {MOST_FILES}.</p>"
            return self.look(paths)
        finally:
            for path in paths:
                shutil.rmtree(Path(path).parent, ignore_errors=True)

    def look(self, paths: list[str]) -> str:
        """Answer files, which are kept.

        Args:
            paths: Of images.
        """
        results = list(self._predictor.stream(paths))
        pictures: list[Any] = []
        heats: list[Any] = []
        for result in results:
            picture, heat = None, None
            if not isinstance(result, Failure):
                picture, heat = self._picture(result.path)
            pictures.append(picture)
            heats.append(heat)
        return render(self._predictor, results, pictures, heats, self._model, self._no_heat)

    def _picture(self, path: str) -> tuple[Any, Any]:
        if self._no_heat:
            return np.asarray(read_grey(path)), None
        from pneumonia.inference.overlay import blend  # noqa: PLC0415 - matplotlib takes a second

        found = self._predictor.explain(path)
        return found.image, blend(found.image, found.heat)


def describe(predictor: Predictor, checkpoint: str | Path) -> str:
    """Say which model it is, in HTML.

    Args:
        predictor: The model.
        checkpoint: Its file.
    """
    content, point = predictor.classifier.checkpoint, predictor.operating_point
    backbone = content["hyper_parameters"].get("backbone", "unknown")
    subject = Subject(Path(checkpoint).name, "", facts=content.get("facts", {}))
    train = subject.table("data", "splits", "train")
    trained = ""
    if train:
        drawn = "drawn phantoms" if subject.fact("data", "phantom") else "X-rays"
        trained = f" Trained on {train.get('images')} {drawn} of {train.get('patients')} patients."
    return str(
        escape(
            f"Model {subject.name} ({backbone}).{trained} On the images that chose its"
            f" threshold it had a sensitivity of {point.sensitivity:.2f} and a specificity of"
            f" {point.specificity:.2f}; new images give less."
        )
    )


def serve(checkpoint: str | Path, host: str = LOCAL, port: int = 7860) -> None:
    """Show the page until it is interrupted.

    Args:
        checkpoint: A `.ckpt` or `.onnx` file.
        host: Address to listen on.
        port: Likewise.

    Raises:
        CheckpointError: If the model cannot be used.
        ConfigError: If the port is taken, or the host is not of this machine.
        ExtraError: If gradio is not installed.
    """
    predictor = Predictor.load(checkpoint)
    with _private_folder() as folder:
        gradio = _gradio(folder)
        page = _build(gradio, Desk(predictor, checkpoint), describe(predictor, checkpoint), folder)
        if host != LOCAL:
            log.warning("listening on %s without a login: whoever reaches it can use it", host)
        try:
            page.queue(default_concurrency_limit=1).launch(
                server_name=host,
                server_port=port,
                share=False,
                quiet=True,
                prevent_thread_lock=True,
                max_file_size=MOST_BYTES,
                footer_links=[],
                ssr_mode=False,
                enable_monitoring=False,
                theme=gradio.themes.Default(font=_FONTS, font_mono=["monospace"]),
                css=STYLE,
            )
        except OSError as error:
            raise ConfigError(
                f"The page cannot listen on {host}, port {port} (it is taken, or not of this"
                " machine); choose another --port or --host."
            ) from error
        try:
            log.info("http://%s:%s", host, port)
            threading.Event().wait()
        finally:
            page.close(verbose=False)


def _build(gradio: Any, desk: Desk, model: str, folder: Path) -> Any:
    drawn = write_phantom(folder / "drawn", images=60, workers=1)
    with gradio.Blocks(title="pneumonia", analytics_enabled=False, delete_cache=(60, 60)) as page:
        gradio.HTML(
            "<h1>Pneumonia on children's chest X-rays</h1>"
            f"<p class='pn-device'>{escape(DEVICE)}</p><p>{model}</p>"
        )
        uploads = gradio.File(
            label=f"Drop up to {MOST_FILES} X-rays (JPEG, PNG, TIFF, BMP, WebP, DICOM); they are"
            " deleted once they are answered",
            file_count="multiple",
            type="filepath",
            elem_id="uploads",
        )
        with gradio.Row():
            examples = [(name, gradio.Button(f"Try a drawing: {name}")) for name in _EXAMPLES]
        answers = gradio.HTML(elem_id="answers")
        private = {"api_visibility": "private", "show_progress": "minimal"}
        uploads.upload(desk.answer, uploads, answers, **private)
        for name, button in examples:
            picture = str(next((drawn / "test" / name).iterdir()))
            button.click(lambda path=picture: desk.look([path]), None, answers, **private)
    return page


def _gradio(folder: Path) -> Any:
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # it reads them when it is imported
    os.environ["GRADIO_TEMP_DIR"] = str(folder / "uploads")
    try:
        import gradio  # noqa: PLC0415  an extra
    except ImportError as error:
        raise ExtraError("pneumonia app", "app") from error
    return gradio


@contextlib.contextmanager
def _private_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="pneumonia-", ignore_cleanup_errors=True) as name:
        yield Path(name)
