"""As much of S3 as a broker needs to keep what it holds: objects in memory, conditional writes, listing by prefix.

It lives in the test's process, so what a broker has written stays when the broker is killed. A write is answered
once it is kept; ``If-Match`` and ``If-None-Match`` hold under one lock.
"""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

DATE = "Thu, 01 Jan 2026 00:00:00 GMT"
MOMENT = "2026-01-01T00:00:00.000Z"


class ObjectStore:
    """``with ObjectStore() as store``: serves on ``store.url`` until the block ends."""

    def __init__(self) -> None:
        self.objects: dict[str, tuple[bytes, str]] = {}
        self.lock = threading.Lock()
        handler = type("BoundHandler", (_Handler,), {"store": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "ObjectStore":
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    store: ObjectStore

    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        tag = f'"{hashlib.sha256(data).hexdigest()[:32]}"'
        path, wanted = unquote(urlsplit(self.path).path), self.headers.get("If-Match")
        with self.store.lock:
            old = self.store.objects.get(path)
            is_refused = self.headers.get("If-None-Match") == "*" and old is not None
            is_refused |= wanted is not None and (old is None or old[1] != wanted)
            if not is_refused:
                self.store.objects[path] = data, tag
        if is_refused:
            self._answer(412, b"<Error><Code>PreconditionFailed</Code></Error>")
        else:
            self._answer(200, headers={"ETag": tag})

    def do_DELETE(self) -> None:
        with self.store.lock:
            self.store.objects.pop(unquote(urlsplit(self.path).path), None)
        self._answer(204)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if "list-type" in query:
            self._answer(200, self._listing(unquote(parts.path).rstrip("/") + "/", query))
            return
        found = self.store.objects.get(unquote(parts.path))
        if found is None:
            self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
            return
        data, tag = found
        headers = {"ETag": tag, "Last-Modified": DATE}
        if self.headers.get("If-None-Match") == tag:
            self._answer(304, headers=headers)
        elif (wanted := self.headers.get("Range", "")).startswith("bytes="):
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            end = min(int(last or len(data) - 1), len(data) - 1)
            headers["Content-Range"] = f"bytes {first}-{end}/{len(data)}"
            self._answer(206, data[int(first) : end + 1], headers)
        else:
            self._answer(200, data, headers)

    def _listing(self, base: str, query: dict[str, str]) -> bytes:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        contents, common = [], set()
        with self.store.lock:
            known = {path.removeprefix(base): value for path, value in self.store.objects.items()}
        for key in sorted(name for name in known if name.startswith(prefix)):
            rest = key.removeprefix(prefix)
            if delimiter and delimiter in rest:
                common.add(prefix + rest.split(delimiter)[0] + delimiter)
                continue
            data, tag = known[key]
            contents.append(
                f"<Contents><Key>{escape(key)}</Key><LastModified>{MOMENT}</LastModified>"
                f"<ETag>{escape(tag)}</ETag><Size>{len(data)}</Size></Contents>"
            )
        prefixes = "".join(
            f"<CommonPrefixes><Prefix>{escape(each)}</Prefix></CommonPrefixes>" for each in sorted(common)
        )
        body = f"<IsTruncated>false</IsTruncated>{''.join(contents)}{prefixes}"
        return f"<ListBucketResult>{body}</ListBucketResult>".encode()

    def _answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
