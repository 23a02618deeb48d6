"""A web server on this machine that knows ranges, breaks off on demand, and can pose as a model hub."""

import hashlib
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Served:
    """What the server has, and what it was asked."""

    def __init__(self):
        self.files = {}
        self.break_after = {}  # path: bytes of the first answer
        self.requests = []

    def etag(self, path):
        return hashlib.sha256(self.files[path]).hexdigest()


def _handler(served):
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_HEAD(self):
            self._answer(with_body=False)

        def do_GET(self):
            self._answer(with_body=True)

        def _answer(self, with_body):
            path = self.path.partition("?")[0]
            wanted = self.headers.get("Range")
            served.requests.append((self.command, path, wanted))
            if path not in served.files:
                self.send_response(404)
                self.send_header("X-Error-Code", "EntryNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            content, start = served.files[path], 0
            condition = self.headers.get("If-Range")
            if wanted and condition in (None, f'"{served.etag(path)}"'):
                start = int(wanted.removeprefix("bytes=").partition("-")[0])
            self.send_response(206 if start else 200)
            self.send_header("ETag", f'"{served.etag(path)}"')
            self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("X-Linked-Etag", f'"{served.etag(path)}"')
            self.send_header("X-Linked-Size", str(len(content)))
            self.send_header("Content-Length", str(len(content) - start))
            self.send_header("Accept-Ranges", "bytes")
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.end_headers()
            if with_body:
                limit = served.break_after.pop(path, None)
                self.wfile.write(content[start:] if limit is None else content[start : start + limit])
                if limit is not None:
                    self.close_connection = True

    return Handler


@contextmanager
def serve():
    """Yield the address of the server and what it has."""
    served = Served()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(served))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)  # looks so often whether to stop
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", served
    finally:
        server.shutdown()
        server.server_close()
