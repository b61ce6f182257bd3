"""The route that files are sent to: bounded while they come, and kept on the tray."""

from collections.abc import Awaitable, Callable

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import Message

from pneumonia.data.safe_open import MOST_BYTES
from pneumonia.inference.page.tray import MOST_FILES, TooMuchError, Tray


def receiver(tray: Tray) -> Callable[[Request], Awaitable[Response]]:
    """Make the route, which answers as gradio's own: with the paths, as a list in JSON.

    Gradio's takes a thousand files of any sum, names their folders by their content, so that two
    clients can share one, and leaves them when the browser goes away.

    Args:
        tray: Where the files are kept.
    """

    async def receive(request: Request) -> Response:
        try:
            with tray.incoming() as count:
                return JSONResponse(await _kept(request, tray, count))
        except TooMuchError as error:
            return _refused(413, str(error))
        except HTTPException as error:  # of the form's parser
            words = error.detail
            if words.startswith("Too many files"):
                words = f"Too many images; drop at most {MOST_FILES} at once."
            return _refused(400, words)
        except ClientDisconnect:
            return Response(status_code=400)
        except OSError as error:
            return _refused(507, f"The image cannot be stored ({error.strerror}).")

    return receive


async def _kept(request: Request, tray: Tray, count: Callable[[int], None]) -> list[str]:
    announced = request.headers.get("content-length", "")
    if announced.isdecimal():  # refused before a byte is read
        with tray.incoming() as room:
            room(int(announced))

    async def counted() -> Message:
        message = await request.receive()
        count(len(message.get("body", b"")))
        return message

    paths: list[str] = []
    try:
        async with Request(request.scope, counted).form(
            max_files=MOST_FILES, max_fields=MOST_FILES
        ) as form:
            for file in form.getlist("files"):
                if not isinstance(file, UploadFile):
                    raise HTTPException(400, "There is no file in it.")
                if (file.size or 0) > MOST_BYTES:
                    raise TooMuchError(f"An image is larger than {MOST_BYTES >> 20} MiB.")
                paths.append(await run_in_threadpool(tray.keep, file.filename or "", file.file))
    except BaseException:
        with tray.take(paths):
            raise
    return paths


async def progress(_: Request) -> Response:
    """Answer the page's question how far an upload is: on its own machine it is there at once."""
    return Response('data: {"msg": "done"}\n\n', media_type="text/event-stream")


def _refused(status: int, words: str) -> Response:
    return PlainTextResponse(words, status)  # shown as it is
