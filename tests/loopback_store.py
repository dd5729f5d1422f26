"""A real server of S3's on loopback (moto's), in a thread of the test, with faults in the way to it."""

import logging
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import boto3
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server
from werkzeug.wrappers import Request, Response

Fault = Callable[[Request], Response | None]
"""Answers a request in the store's place, or lets it pass (None)."""

logging.getLogger("werkzeug").setLevel(logging.ERROR)


class LoopbackStore:
    """Buckets at `endpoint`; `asked`: (method, path) of every request; `faults`: see `Fault`."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self.asked: list[tuple[str, str]] = []
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._answer, True, request_handler=MotoRequestHandler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self._count = 0
        names = {"aws_access_key_id": "any", "aws_secret_access_key": "any", "region_name": "us-east-1"}
        self.client: Any = boto3.client("s3", endpoint_url=self.endpoint, **names)

    def _answer(self, environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        request = Request(environ)
        self.asked.append((request.method, request.path))
        for fault in self.faults:
            if (response := fault(request)) is not None:
                request.get_data()
                return response(environ, start)
        answer: Iterable[bytes] = self._moto(environ, start)
        return answer

    def bucket(self) -> str:
        """Make an empty bucket, and forget faults and requests; returns its name."""
        self.faults, self.asked = [], []
        self._count += 1
        name = f"bucket-{self._count}"
        self.client.create_bucket(Bucket=name)
        return name

    def upload(self, folder: Path, bucket: str, prefix: str) -> str:
        """Put all files of a folder below `prefix`; returns its address."""
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            self.client.upload_file(str(path), bucket, f"{prefix}/{path.relative_to(folder).as_posix()}")
        return f"s3://{bucket}/{prefix}"

    def content(self, bucket: str) -> dict[str, bytes]:
        """Key -> content of all objects."""
        keys = [one["Key"] for one in self.client.list_objects_v2(Bucket=bucket).get("Contents", [])]
        return {key: self.client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()


def refused(request: Request) -> Response:
    """The store gives no right to anything."""
    body = "<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
    return Response("" if request.method == "HEAD" else body, 403, content_type="application/xml")


def forgetful(request: Request) -> Response | None:
    """The store says that it took an object, and keeps nothing."""
    return Response("", 200, headers={"ETag": '"0"'}) if request.method == "PUT" else None


def busy(times: int, path: str = "") -> Fault:
    """The store is too busy for the first requests whose path contains `path`."""
    left = [times]

    def answer(request: Request) -> Response | None:
        if left[0] <= 0 or path not in request.path:
            return None
        left[0] -= 1
        return Response("<Error><Code>InternalError</Code></Error>", 500, content_type="application/xml")

    return answer


def spoilt(times: int, body: bytes) -> Fault:
    """The first reads of objects give this content instead."""
    left = [times]

    def answer(request: Request) -> Response | None:
        if left[0] <= 0 or request.method != "GET" or "list-type" in request.args:
            return None
        left[0] -= 1
        return Response(body, 200)

    return answer
