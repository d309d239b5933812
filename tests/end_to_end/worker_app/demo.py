"""A Flask app whose routes do what a test of the worker needs."""

import os
import time
from collections.abc import Iterator

from flask import Flask, Response, jsonify, request

from chassis.errors import ServiceError

app = Flask(__name__)
closed = {"count": 0}


@app.before_request
def refuse() -> None:
    if "chassis.refusal" in request.environ:
        raise request.environ["chassis.refusal"]


@app.errorhandler(ServiceError)
def answer(error: ServiceError) -> tuple[Response, int]:
    return jsonify(code=error.code, error=error.message), error.status


@app.route("/")
def index() -> str:
    return "hello"


@app.route("/pid")
def pid() -> str:
    return str(os.getpid())


@app.route("/alive")
def alive() -> str:
    return "OK"


@app.route("/alive-slowly")
def alive_slowly() -> str:
    time.sleep(1.0)
    return "OK"


@app.route("/slow")
def slow() -> str:
    time.sleep(float(request.args["seconds"]))
    return "done"


@app.route("/body", methods=["POST"])
def body() -> str:
    return str(len(request.get_data()))


class Counted:
    """A body that counts how often it was closed."""

    def __init__(self, pieces: int, size: int) -> None:
        self.left = pieces
        self.piece = b"x" * size

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if not self.left:
            raise StopIteration
        self.left -= 1
        return self.piece

    def close(self) -> None:
        closed["count"] += 1


@app.route("/large")
def large() -> Response:
    if "pieces" in request.args:
        return Response(Counted(int(request.args["pieces"]), 1024 * 1024))
    return Response(b"x" * int(request.args["size"]))


@app.route("/broken")
def broken() -> Response:
    def pieces() -> Iterator[bytes]:
        yield b"x" * 10
        raise RuntimeError("broken on purpose")

    return Response(pieces(), headers={"Content-Length": "20"})


@app.route("/short")
def short() -> Response:
    return Response([b"x"], headers={"Content-Length": "20"})


@app.route("/closed")
def count() -> str:
    return str(closed["count"])


class Raising:
    """Raises outside Flask, as a fault of the app object itself would."""

    def __init__(self, inner: object) -> None:
        self.inner = inner

    def __call__(self, environ, start_response):  # type: ignore[no-untyped-def]
        if environ["PATH_INFO"] == "/raise":
            raise RuntimeError("raised on purpose")
        return self.inner(environ, start_response)  # type: ignore[operator]


wsgi = Raising(app.wsgi_app)
