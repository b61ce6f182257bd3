"""The page: drop X-rays, read answers. It keeps nothing and asks nothing of any other host."""

import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import escape
from PIL import Image

from pneumonia.data.safe_open import MOST_BYTES
from pneumonia.data.synthetic import chest, expose
from pneumonia.errors import ExtraError
from pneumonia.inference.page.desk import Desk
from pneumonia.inference.page.style import STYLE
from pneumonia.inference.page.tray import MOST_FILES, PATIENCE, Tray, Upload, swept

DEVICE = (
    "Research software, not a medical device: it must not be used to diagnose anybody. Trained on"
    " X-rays of children aged 1 to 5 of one hospital; nothing suggests that it works elsewhere."
)
_FONTS = ["system-ui", "sans-serif"]  # the default ones would be fetched from elsewhere
_EXAMPLES = {"NORMAL": "normal", "PNEUMONIA": "bacterial"}


def build(
    desk: Desk, tray: Tray, model: str, folder: Path, host: str, patience: float = PATIENCE
) -> Any:
    """Build the page, with its gate before it.

    Args:
        desk: Answers.
        tray: Takes the uploads.
        model: Which model it is, in HTML.
        folder: For the examples; `UPLOADS` of it is the tray's.
        host: The address that it will listen on.
        patience: Seconds after which an upload that nobody asks about is deleted.

    Returns:
        An ASGI application.

    Raises:
        ExtraError: If gradio is not installed.
    """
    gradio = _gradio(folder)
    from fastapi import FastAPI  # noqa: PLC0415  an extra, too

    from pneumonia.inference.page.gate import PROGRESS, UPLOAD, Gate  # noqa: PLC0415  likewise
    from pneumonia.inference.page.upload import progress, receiver  # noqa: PLC0415

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with swept(tray, patience):
            yield

    server = FastAPI(openapi_url=None, lifespan=lifespan)
    server.add_route(UPLOAD, receiver(tray), methods=["POST"])  # before gradio's own
    server.add_route(PROGRESS, progress, methods=["GET"])
    gradio.mount_gradio_app(
        server,
        _blocks(gradio, desk, model, folder),
        path="/",
        max_file_size=MOST_BYTES,
        footer_links=[],
        show_error=False,
        ssr_mode=False,
        enable_monitoring=False,
        mcp_server=False,
        theme=gradio.themes.Base(font=_FONTS, font_mono=["monospace"]),
        css=STYLE,
    )
    return Gate(server, host, tray)


def uploads(folder: Path) -> Path:
    """Give the folder of the uploads, which gradio takes no file from outside of.

    Args:
        folder: Of the page.
    """
    return folder / "uploads"


def _blocks(gradio: Any, desk: Desk, model: str, folder: Path) -> Any:
    def answer(files: list[dict[str, Any]] | None) -> tuple[None, str]:
        return None, desk.answer([file["path"] for file in files or []])

    with gradio.Blocks(title="Pneumonia on chest X-rays", analytics_enabled=False) as page:
        gradio.HTML(
            "<header class='pn-head'><h1>Pneumonia on children's chest X&#8209;rays</h1>"
            f"<p class='pn-device'>{escape(DEVICE)}</p></header>",
            padding=False,
        )
        dropped = gradio.File(
            label=f"X-rays, up to {MOST_FILES} at once",
            file_count="multiple",
            elem_id="uploads",
            height=150,
        )
        with gradio.Row(elem_classes="pn-examples"):
            gradio.HTML(
                "<p class='pn-quiet'>JPEG, PNG, TIFF, BMP, WebP or DICOM. Images are deleted once"
                " they are answered. None at hand? Try a drawing.</p>",
                padding=False,
            )
            buttons = {name: gradio.Button(f"Drawing: {name}", size="sm") for name in _EXAMPLES}
        answers = gradio.HTML(elem_id="answers", padding=False)
        gradio.HTML(f"<footer class='pn-quiet'>{model}</footer>", padding=False)
        # Every question starts at once and waits for its turn at the desk, which deletes its
        # uploads even if the browser is gone by then. Gradio does not look at the files itself.
        asked: dict[str, Any] = {
            "api_visibility": "private",
            "concurrency_limit": None,
            "show_progress": "minimal",
        }
        dropped.upload(answer, dropped, [dropped, answers], preprocess=False, **asked)
        for name, button in buttons.items():
            example = _example(name, folder)
            button.click(lambda of=example: desk.look([of]), None, answers, **asked)
    page.state_session_capacity = 20  # gradio keeps the last answers of so many in memory
    return page


def _example(name: str, folder: Path) -> Upload:
    random = np.random.default_rng(len(name))
    path = folder / f"{name}.png"
    Image.fromarray(expose(chest(_EXAMPLES[name], random), random)).save(path)
    return Upload(path, f"a drawing of {name}")


def _gradio(folder: Path) -> Any:
    settings = {  # read when gradio is imported or a page is built
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_RUN_HISTORY": "False",  # would keep questions and answers in the browser
        "GRADIO_TEMP_DIR": str(uploads(folder)),
    }
    os.environ.update(settings)
    try:
        import gradio  # noqa: PLC0415  an extra
    except ImportError as error:
        raise ExtraError("pneumonia app", "app") from error
    return gradio
