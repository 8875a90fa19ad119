"""A page on this machine: drag a picture in, and see the images of an index that look most like it."""

from __future__ import annotations

import io
import socket
from importlib.util import find_spec
from threading import Lock
from typing import TYPE_CHECKING, Any

from PIL import ImageOps

from .api import TrainedModel
from .datasets.decoding import read_image
from .exceptions import ConfigError, DataError
from .pages.rendering import render
from .pages.thumbnails import Thumbnails
from .searching import ImageIndex, Match

if TYPE_CHECKING:
    from flask import Flask
    from werkzeug.serving import BaseWSGIServer

HOST = "127.0.0.1"
"""The only address that is listened on: nobody but this machine reaches it."""
LARGEST_UPLOAD = 20 * 2**20
"""Bytes."""
IDLE = 5.0
"""Seconds without a byte, after which a connection is closed."""
FOUND = 24
"""Images that are shown for a query."""
SIDE = 256
"""Pixels of a shown image, at most."""


def build_app(trained: TrainedModel, index: ImageIndex) -> Flask:
    """Return the page and what it asks for, as a WSGI application.

    An image of the index is asked for by its position, never by a path. What is sent is a small JPEG of it,
    so a file that is no image stays where it is. An upload is decoded, embedded and forgotten.

    Args:
        trained: embeds what is uploaded.
        index: that is searched.

    Raises:
        ConfigError: Flask is missing.
        DataError: the index was made with another model.
    """
    if find_spec("flask") is None:
        raise ConfigError("serve needs flask: pip install 'pml-slade[serve]'.")
    from flask import Flask, abort, request

    trained.check_index(index)
    app = Flask(__name__, static_folder=None)
    app.config.update(MAX_CONTENT_LENGTH=LARGEST_UPLOAD, TRUSTED_HOSTS=[HOST, "localhost"])
    one_at_a_time = Lock()  # so that memory holds one decoded upload

    @app.before_request
    def refuse_other_sites() -> None:
        """Other sites, open in the same browser, have no business here."""
        if request.headers.get("Sec-Fetch-Site") == "cross-site":
            abort(403)

    @app.get("/")
    def page() -> str:
        return render(
            "serve.html", "Search by image", Thumbnails(), images=len(index), largest=LARGEST_UPLOAD
        )

    @app.post("/search")
    def search() -> Any:
        """The images that look most like the one in the request's body."""
        content = request.get_data(cache=False)
        try:
            with one_at_a_time:
                vectors = trained.embed([read_image(content, trained.mode)])
        except DataError:
            return {"error": "This file is not an image that can be read."}, 415
        return {"matches": _listed(index.search(vectors, FOUND)[0])}

    @app.get("/like/<int:position>")
    def like(position: int) -> Any:
        """The images that look most like one of the index."""
        if position >= len(index):
            abort(404)
        found = index.search(index.vector(position), FOUND, [index.names[position]])
        return {"matches": _listed(found[0])}

    @app.get("/image/<int:position>")
    def image(position: int) -> Any:
        if position >= len(index):
            abort(404)
        try:
            picture = read_image(index.names[position])
        except DataError:
            abort(404)
        file = io.BytesIO()
        ImageOps.contain(picture, (SIDE, SIDE)).save(file, "JPEG", quality=85)
        return file.getvalue(), {"Content-Type": "image/jpeg", "Cache-Control": "max-age=3600"}

    @app.errorhandler(413)
    def too_large(error: Any) -> Any:
        return {"error": f"The file is larger than {LARGEST_UPLOAD // 2**20} MB."}, 413

    return app


def build_server(app: Flask, opened: socket.socket) -> BaseWSGIServer:
    """Return what answers at an open port, each connection in a thread of its own, until `shutdown()`.

    Args:
        app: of `build_app`.
        opened: of `open_port`.
    """
    from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler

    class Handler(WSGIRequestHandler):
        timeout = IDLE

        def log_error(self, format: str, *args: Any) -> None:
            """Say nothing: browsers hold connections that come to nothing."""

    class Server(ThreadedWSGIServer):
        daemon_threads = False  # Python can abort where it ends while such a thread searches

    return Server(HOST, opened.getsockname()[1], app, handler=Handler, fd=opened.fileno())


def open_port(port: int) -> socket.socket:
    """Return a socket that listens on this machine alone.

    Args:
        port: number; 0 takes a free one.

    Raises:
        ConfigError: the port cannot be had.
    """
    try:
        return socket.create_server((HOST, port))
    except (OSError, OverflowError) as error:
        raise ConfigError(f"port: {port} cannot be used ({error}); give another one.") from None


def _listed(matches: list[Match]) -> list[dict[str, Any]]:
    return [
        {"position": match.position, "name": match.name, "score": round(match.score, 4)} for match in matches
    ]
