import os
from pathlib import Path

from flask import Flask, Response


def create_app():
    app = Flask(__name__)

    @app.get("/")
    def hello():
        return Response(str(os.getpid()))

    @app.get("/stream")
    def stream():
        def parts():
            yield "begun "
            Path("go").read_bytes()
            yield "ended"

        return parts()

    return app
