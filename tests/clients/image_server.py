"""Serves the files of a folder over TLS in ranges: image_server.py FOLDER CERTIFICATE KEY.

Says its port, then each range it was asked for and how many bytes of it left. The second answer of each file breaks off in its middle, without
a goodbye of TLS, as a lost network does.
"""

import http.server
import os
import ssl
import sys


class Images(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    answers: dict[str, int] = {}

    def do_GET(self) -> None:
        with open(os.path.join(sys.argv[1], os.path.basename(self.path)), "rb") as file:
            image = file.read()
        first, last = self.headers["Range"].removeprefix("bytes=").split("-")
        first, last = int(first), min(int(last), len(image) - 1)
        part = image[first : last + 1]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(image)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.answers[self.path] = self.answers.get(self.path, 0) + 1
        if self.answers[self.path] == 2:
            part = part[: len(part) // 2]
        self.wfile.write(part)
        self.wfile.flush()
        print(f"{self.path} {first} {len(part)}", flush=True)
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """A client that goes is none."""


server = Server(("127.0.0.1", 0), Images)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[2], sys.argv[3])
server.socket = context.wrap_socket(server.socket, server_side=True)
print(f"port {server.server_address[1]}", flush=True)
server.serve_forever()
