"""A page of a hundred assets, an event stream and a WebSocket. What the page finds is written to a file beside this one."""
import base64, hashlib, http.server, os, struct, time

ASSETS = 100
PAGE = open("page.html").read()
KINDS = [
    ("js", "text/javascript", b"window.loaded = (window.loaded || 0) + 1;"),
    ("css", "text/css", b"p { color: black }"),
    ("svg", "image/svg+xml", b'<svg xmlns="http://www.w3.org/2000/svg" width="1" height="1"/>'),
]


def tags():
    for n in range(ASSETS):
        kind = KINDS[n % 3][0]
        yield {
            "js": f'<script src="/asset/{n}.js" onerror="failed(this.src)"></script>',
            "css": f'<link rel="stylesheet" href="/asset/{n}.css" onerror="failed(this.href)">',
            "svg": f'<img src="/asset/{n}.svg" onerror="failed(this.src)">',
        }[kind]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def answer(self, body, kind="text/plain", status=200):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def do_GET(self):
        path = self.path.split("?")[0]
        if path == "/":
            return self.answer(PAGE.replace("<!-- assets -->", "\n".join(tags())).encode(), "text/html")
        if path.startswith("/asset/"):
            kind, body = next((k[1], k[2]) for k in KINDS if path.endswith(k[0]))
            # Large enough that it is not one frame.
            return self.answer(body + b" " * (20_000 if path.endswith("svg") else 200), kind)
        if path == "/over":
            return self.answer(b"yes" if os.path.exists("over") else b"no")
        if path == "/events":
            return self.stream()
        if path == "/chat":
            return self.chat()
        self.answer(b"ok" if path == "/health" else b"", status=200 if path == "/health" else 404)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        name = {"/began": "began", "/verdict": "verdict"}[self.path]
        with open(name + ".part", "wb") as file:
            file.write(body)
        os.rename(name + ".part", name)
        self.answer(b"")

    def stream(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for n in range(10_000):
                event = f"data: {n}\n\n".encode()
                self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))
                self.wfile.flush()
                time.sleep(0.05)
        except OSError:
            self.close_connection = True

    def chat(self):
        key = self.headers["Sec-WebSocket-Key"]
        accept = hashlib.sha1(key.encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(accept).decode())
        self.end_headers()
        self.wfile.flush()
        self.close_connection = True
        # Whose key is all zeros came by a stream: the proxy asks so.
        self.say(b"by a stream" if key == base64.b64encode(bytes(16)).decode() else b"by a connection")
        while (message := self.hear()) is not None:
            self.say(message)

    def say(self, message, kind=0x81):
        self.wfile.write(struct.pack("!BB", kind, len(message)) + message)
        self.wfile.flush()

    def hear(self):
        head = self.rfile.read(2)
        if len(head) < 2:
            return None
        length = head[1] & 0x7F
        mask = self.rfile.read(4)
        message = bytes(byte ^ mask[n % 4] for n, byte in enumerate(self.rfile.read(length)))
        if head[0] & 0x0F == 8:
            self.say(message, 0x88)
            return None
        return message

    def log_message(self, *args):
        pass


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 256
    daemon_threads = True


Server((os.environ["HOST"], int(os.environ["PORT"])), Handler).serve_forever()
