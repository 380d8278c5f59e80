"""A service of stubs: it answers as it is told to, on a port of this machine."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from resnet_infer.zoo import SMALL, built_in

GOOD = {"predictions": [{"label": "cat", "probability": 0.9, "index": 3, "id": None}]}


class Stub:
    """`answer(path, body, headers)` gives status and JSON, or None to break the connection."""

    def __init__(self, answer: Callable[[str, bytes, Any], tuple[int, Any] | None]) -> None:
        from resnet_infer.runtimes.onnxruntime import OnnxRuntime

        with OnnxRuntime(built_in(SMALL, ".onnx"), device="cpu") as runtime:
            model = {**runtime.spec.to_json(), "runtime": {"runtime": "stub", "device": "cpu", "version": "1"}}
        stub = self
        self.requests: list[tuple[str, bytes, dict[str, str]]] = []
        self.answer = answer

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.reply(200, model)

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                stub.requests.append((self.path, body, {k.lower(): v for k, v in self.headers.items()}))
                found = stub.answer(self.path, body, self.headers)
                if found is None:
                    self.close_connection = True
                else:
                    self.reply(*found)

            def reply(self, status: int, value: Any) -> None:
                content = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *arguments: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *arguments: Any) -> None:
                pass

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()

    def stop(self) -> None:
        """Connections that are kept break when they are used."""
        self.answer = lambda *_: None
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@contextmanager
def stub(answer: Callable[[str, bytes, Any], tuple[int, Any] | None] = lambda *_: (200, GOOD)) -> Iterator[Stub]:
    made = Stub(answer)
    try:
        yield made
    finally:
        made.stop()
