"""A local receiver of webhooks."""

import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Received(list):
    """Bodies that arrived, and the address they were sent to."""

    url = ""

    def wait(self, count=1, seconds=60):
        deadline = time.monotonic() + seconds
        while len(self) < count and time.monotonic() < deadline:
            time.sleep(0.1)
        assert len(self) >= count, f"{len(self)} of {count} messages arrived"
        return self


@contextmanager
def receiver(status=200):
    received = Received()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.append(json.loads(body) | {"_headers": dict(self.headers), "_raw": body})
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    received.url = f"http://127.0.0.1:{server.server_port}/hooks/SECRET"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield received
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
