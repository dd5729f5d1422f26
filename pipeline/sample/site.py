"""The sample's video site: a small HTTP server on the loopback address, for `mcn download` to fetch from."""

import json
import logging
import re
import socketserver
import threading
from collections import deque
from collections.abc import Iterable, Mapping
from functools import cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal, Self

import av

from pipeline.core.errors import InputError
from pipeline.core.lists import csv_lines
from pipeline.core.video_ids import is_video_id

_LOGGER = logging.getLogger(__name__)

Fault = Literal["503", "429", "403", "cut", "short", "hang"]
"""What one request gets in place of its answer: a status; `cut`: the connection breaks halfway; `short`: half of the
file, as if it were all of it; `hang`: half of the file, and nothing more while the site is open."""

_CONNECTIONS = 32


class SampleSite:
    """Serves the media in `folder/media` and the dead ids of `folder/dead.csv` (columns video_id,class,message).

    A context manager. `/api/<id>` gives JSON: id, duration, width, height, filesize, or `class` and `message` for a
    dead id. `/media/<id>.mp4` gives the file, or the part of it that a Range header asks for.
    """

    def __init__(self, folder: Path, faults: dict[str, Iterable[Fault]] | None = None) -> None:
        media = folder / "media"
        if not media.is_dir():
            raise InputError(f"{folder}: no folder media in it; expected a sample made by `mcn sample`")
        self.media = {path.stem: path for path in sorted(media.glob("*.mp4")) if is_video_id(path.stem)}
        self.dead = _read_dead(folder / "dead.csv")
        self.faults = {path: deque(queue) for path, queue in (faults or {}).items()}
        """Path -> what its next requests get."""
        self.requests: list[str] = []
        """What was asked for, in order: `GET /api/<id>`."""
        self.closing = threading.Event()
        self._server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"site": self}))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        """`http://127.0.0.1:<port>`"""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def about(self, video_id: str) -> dict[str, Any] | None:
        """What `/api/<id>` answers, or None for an id never heard of."""
        if video_id in self.dead:
            return self.dead[video_id]
        if video_id in self.media:
            return _describe(self.media[video_id])
        return None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], handler: type[socketserver.BaseRequestHandler]) -> None:
        self._free = threading.BoundedSemaphore(_CONNECTIONS)
        super().__init__(address, handler)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        with self._free:
            super().process_request_thread(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A downloader that is killed breaks its connection: no cause for a traceback.
        _LOGGER.debug("connection from %s broke", client_address, exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    site: SampleSite
    timeout = 60

    def do_GET(self) -> None:
        self.site.requests.append(f"GET {self.path}")
        queue = self.site.faults.get(self.path)
        fault = queue.popleft() if queue else None
        if fault is not None and fault.isdigit():
            self.send_error(int(fault))
        elif match := re.fullmatch(r"/media/([A-Za-z0-9_-]{11})\.mp4", self.path):
            self._send_media(match[1], fault)
        elif match := re.fullmatch(r"/api/([A-Za-z0-9_-]{11})", self.path):
            self._send_about(match[1])
        else:
            self.send_error(HTTPStatus.NOT_FOUND)

    def _send_about(self, video_id: str) -> None:
        about = self.site.about(video_id)
        if about is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        body = json.dumps(about).encode()
        self._begin(HTTPStatus.OK, {"Content-Type": "application/json", "Content-Length": len(body)})
        self.wfile.write(body)

    def _begin(self, status: HTTPStatus, headers: Mapping[str, str | int]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()

    def _send_media(self, video_id: str, fault: str | None) -> None:
        path = self.site.media.get(video_id)
        if path is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        data = path.read_bytes()
        if fault == "short":
            data = data[: len(data) // 2]
        byte_range = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        first = int(byte_range[1]) if byte_range else 0
        last = min(int(byte_range[2]), len(data) - 1) if byte_range and byte_range[2] else len(data) - 1
        if first > last:
            self._begin(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, {"Content-Range": f"bytes */{len(data)}"})
            return
        headers: dict[str, str | int] = {"Content-Range": f"bytes {first}-{last}/{len(data)}"} if byte_range else {}
        headers |= {"Content-Type": "video/mp4", "Accept-Ranges": "bytes", "Content-Length": last + 1 - first}
        self._begin(HTTPStatus.PARTIAL_CONTENT if byte_range else HTTPStatus.OK, headers)
        body = data[first : last + 1]
        self.wfile.write(body[: len(body) // 2] if fault in ("cut", "hang") else body)
        if fault == "hang":
            self.wfile.flush()
            self.site.closing.wait()

    def log_message(self, format: str, *arguments: Any) -> None:
        _LOGGER.debug(format, *arguments)


@cache
def _describe(path: Path) -> dict[str, Any]:
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        duration = (container.duration or 0) / av.time_base
        size = {"width": context.width, "height": context.height, "filesize": path.stat().st_size}
    return {"id": path.stem, "duration": duration, **size}


def _read_dead(path: Path) -> dict[str, dict[str, str]]:
    if not path.exists():
        return {}
    rows = (row for _, row in csv_lines(path, ("video_id", "class", "message"), free=("message",)))
    return {row["video_id"]: {"class": row["class"], "message": row["message"]} for row in rows}
