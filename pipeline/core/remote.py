"""Stores at an address, `s3://`, `gs://`, `hf://` or any that fsspec knows: what lies there, fetched and put, checked.

An address stands in settings as a path, which holds one slash of its two. fsspec is loaded with the first store alone.

What the network or a busy store costs is tried again, and in the end a `StoreAwayError`; rights, names and packages are
an `InputError` at once. Nothing here deletes.
"""

import base64
import errno
import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.core import signals
from pipeline.core.errors import InputError, ToolError

_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+):/{1,3}([^/].*)", re.DOTALL)
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "hf": "hf"}
_EXCLUSIVE = frozenset(("s3", "s3a", "gs", "gcs", "memory", "file", "local"))
"""Stores whose back end makes an object only where there is none, and says so."""
_PATIENT = {"config_kwargs": {"read_timeout": 60}}
_OPTIONS: dict[str, dict[str, Any]] = {"s3": _PATIENT, "s3a": _PATIENT}
"""s3fs itself waits for 15 s, which a large upload's last step may take longer than."""
_MD5_ETAGS = frozenset(("s3", "s3a"))
TRIES = 4
_FIRST_WAIT_S = 0.5
_BLOCK = 8 << 20

_NO_RIGHTS = ("Credential", "Profile", "Token", "Auth", "Gated", "Unauthorized", "Forbidden")
"""In the names of what the back ends' libraries raise without rights; none of them has a class in common."""
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
_LASTING = {errno.EINVAL, errno.EPERM, errno.ENAMETOOLONG, errno.ENOSYS, errno.EISDIR, errno.ENOTDIR, errno.EMSGSIZE}


class MissingError(InputError):
    """Nothing lies at an address."""


class StoreAwayError(ToolError):
    """A store didn't answer, or not as it should, each time that it was asked."""


class _ChangedError(Exception):
    """What was fetched or put isn't what it should be."""


def address_of(path: Path | str) -> str | None:
    """The address that a path stands for, or None for one on this machine."""
    match = _ADDRESS.fullmatch(str(path))
    if match is None:
        return None
    return f"{match[1]}://{'/' if match[1] in ('file', 'local') else ''}{match[2]}"


def checked_address(text: str) -> str:
    """A given text, which is refused (ValueError says why) if it is an address that a path can't stand for."""
    if (address := address_of(text)) is not None:
        rest = address.partition("://")[2].lstrip("/")
        if "::" in rest or "//" in rest or {".", ".."} & set(rest.split("/")):
            raise ValueError("an address with ::, //, . or .. in it isn't supported")
        if ":" in rest.partition("@")[0].partition("/")[0] and "@" in rest.partition("/")[0]:
            raise ValueError("an address must hold no password; give it as the store's own tools expect it")
    return text


@dataclass(frozen=True)
class Stored:
    """An object of a store."""

    size: int
    """Bytes."""
    digest: tuple[str, str] | None = None
    """Algorithm (md5 or sha256) and hexadecimal digest of the content, where the store gives one."""
    version: str = ""
    """Another one where the content is another, as far as the store tells."""


class Store:
    """A folder at an address, or an object. InputError where the address or this machine's packages won't do."""

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        self.protocol = address.partition("://")[0]
        from fsspec.core import url_to_fs
        from fsspec.registry import known_implementations

        try:
            self._files, self._root = url_to_fs(
                self.address, skip_instance_cache=True, **_OPTIONS.get(self.protocol, {})
            )
        except ImportError as error:
            extra = _EXTRAS.get(self.protocol)
            cure = f"pip install 'mcn[{extra}]'" if extra else "install what it names"
            raise InputError(f"{self.address}: a package is missing: {_line(error)}: {cure}") from None
        except ValueError as error:
            is_known = self.protocol in known_implementations
            reason = _line(error) if is_known else "fsspec knows s3, gs, hf, az, sftp, https and others"
            raise InputError(f"{self.address}: not an address of a store: {reason}") from None
        except Exception as error:
            raise self._failure(error) from None
        self._root = str(self._root).rstrip("/")

    def _asked(self, method: str, *arguments: Any, tries: int = TRIES, **named: Any) -> Any:
        """What the back end answers. MissingError, FileExistsError, InputError, StoreAwayError."""
        wait_s = _FIRST_WAIT_S
        for attempt in range(tries):
            try:
                return getattr(self._files, method)(*arguments, **named)
            except FileExistsError:
                raise
            except Exception as error:
                failure = self._failure(error)
                if not isinstance(failure, StoreAwayError) or attempt == tries - 1:
                    raise failure from error
            if signals.wait(wait_s):
                break
            wait_s *= 4
        raise self._stopped()

    def _failure(self, error: Exception) -> Exception:
        """The error of a back end as one of ours."""
        kind, number = type(error).__name__, getattr(error, "errno", None)
        status = getattr(error, "status", None) or getattr(getattr(error, "response", None), "status_code", None)
        said = _line(error)
        if isinstance(error, ImportError):
            return InputError(f"{self.address}: a package is missing: {said}")
        if isinstance(error, FileNotFoundError) or status == 404:
            return MissingError(f"{self.address}: no such bucket, folder or file there: {said}")
        if number in _NO_ROOM:
            return InputError(f"{self.address}: can't be fetched: {said}; make room, or choose another --cache")
        if isinstance(error, PermissionError) or status in (401, 403) or any(word in kind for word in _NO_RIGHTS):
            return InputError(f"{self.address}: no right to it: {said}; see the store's credentials on this machine")
        if isinstance(error, ValueError | TypeError | NotImplementedError) or number in _LASTING:
            return InputError(f"{self.address}: the store refuses that: {said}")
        return StoreAwayError(f"{self.address}: the store doesn't answer: {said}; rerun to resume")

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def stored(self, name: str = "") -> Stored | None:
        """The object `name`, or with "" that of the address itself; None where there is none, or a folder."""
        self._files.invalidate_cache()
        try:
            info = self._asked("info", self._path(name))
        except MissingError:
            return None
        return self._stored(info) if info.get("type") == "file" else None

    def _stored(self, info: dict[str, Any]) -> Stored:
        etag = str(info.get("ETag") or info.get("etag") or "").strip('"')
        digest = None
        lfs = info.get("lfs")
        if lfs and lfs.get("sha256"):
            digest = ("sha256", str(lfs["sha256"]))
        elif info.get("md5Hash"):
            digest = ("md5", base64.b64decode(info["md5Hash"]).hex())
        elif self.protocol in _MD5_ETAGS and re.fullmatch("[0-9a-f]{32}", etag):
            digest = ("md5", etag)
        changed = info.get("LastModified") or info.get("mtime") or info.get("created") or info.get("last_commit")
        version = etag or str(info.get("generation") or info.get("blob_id") or changed or "")
        return Stored(int(info.get("size") or 0), digest, version)

    def walk(self, folder: str = "") -> Iterator[tuple[str, dict[str, Stored]]]:
        """Folder by folder below the address, in the order of their names: its name, and its objects by theirs.

        An object at the address itself comes as `""` in `""`. MissingError where there is nothing.
        """
        root = self._path(folder)
        self._files.invalidate_cache()  # of a million objects nothing is kept
        found = {str(entry["name"]).rstrip("/"): entry for entry in self._asked("ls", root, detail=True)}
        itself = found.pop(root, None)
        names = {path.removeprefix(root).lstrip("/"): entry for path, entry in found.items()}
        for name in names:
            if name in ("", ".", "..") or "/" in name or "\0" in name:
                raise InputError(f"{self.address}: {name!r} in it can't be the name of a file")
        if itself is not None and itself.get("type") == "file" and not names and not folder:
            names = {"": itself}
        yield folder, {name: self._stored(names[name]) for name in sorted(names) if names[name]["type"] == "file"}
        for name in sorted(names):
            if names[name]["type"] == "directory":
                yield from self.walk(f"{folder}/{name}".lstrip("/"))

    def listing(self) -> dict[str, Stored]:
        """All objects below the address by name below it. MissingError where there is none."""
        objects = {f"{folder}/{name}".lstrip("/"): one for folder, found in self.walk() for name, one in found.items()}
        if not objects:
            raise MissingError(f"{self.address}: nothing lies there")
        return objects

    def read(self, name: str, start: int | None = None, end: int | None = None, tries: int = TRIES) -> bytes:
        """The bytes [start, end) of an object, or all of them."""
        return bytes(self._asked("cat_file", self._path(name), start=start, end=end, tries=tries))

    def fetch(self, name: str, to: Path, stored: Stored, tries: int = TRIES) -> None:
        """Write an object, which should be `stored`, to a local file; check its size, and digest where one is known.

        StoreAwayError where it stays another one.
        """

        def once() -> None:
            self._asked("get_file", self._path(name), str(to), tries=1)
            with open(to, "rb") as file:
                self._compare(name, stored, _blocks(file))

        self._until_right(once, tries)

    def put(self, path: Path, name: str) -> None:
        """Write a local file to an object, and ask the store what it has: size, and digest or else all of the content.

        StoreAwayError where it doesn't keep what it took.
        """

        def once() -> None:
            self._asked("put_file", str(path), self._path(name), tries=1)
            with open(path, "rb") as file:
                self._check_put(name, Stored(path.stat().st_size), _blocks(file))

        self._until_right(once, TRIES)

    def put_bytes(self, content: bytes, name: str, exclusive: bool = False) -> None:
        """As `put`, of bytes; with `exclusive` FileExistsError where an object is there already."""
        if exclusive:
            self._asked("pipe_file", self._path(name), content, mode="create")
            self._check_put(name, Stored(len(content)), iter([content]))
            return

        def once() -> None:
            self._asked("pipe_file", self._path(name), content, tries=1)
            self._check_put(name, Stored(len(content)), iter([content]))

        self._until_right(once, TRIES)

    @property
    def is_exclusive(self) -> bool:
        """Whether `put_bytes` with `exclusive` can be relied on."""
        return self.protocol in _EXCLUSIVE

    def _until_right(self, once: Callable[[], None], tries: int) -> None:
        wait_s = _FIRST_WAIT_S
        for attempt in range(tries):
            try:
                once()
                return
            except (StoreAwayError, _ChangedError) as error:
                if attempt == tries - 1:
                    raise StoreAwayError(str(error)) from None
            if signals.wait(wait_s):
                raise self._stopped()
            wait_s *= 4

    def _stopped(self) -> signals.StoppedError:
        return signals.StoppedError(f"{self.address}: stopped by a signal; rerun to resume")

    def _check_put(self, name: str, sent: Stored, blocks: Iterator[bytes]) -> None:
        kept = self.stored(name)
        if kept is None:
            raise _ChangedError(f"{self.address}/{name}: the store has forgotten what it took")
        if kept.size != sent.size:
            raise _ChangedError(f"{self.address}/{name}: {sent.size:,} bytes were sent, the store has {kept.size:,}")
        if kept.digest is None:
            with self._told(), self._files.open(self._path(name), "rb") as file:
                kept = Stored(kept.size, ("sha256", _sha256(_blocks(file))))
        self._compare(name, kept, blocks)

    def _compare(self, name: str, stored: Stored, blocks: Iterator[bytes]) -> None:
        algorithm, expected = stored.digest or ("md5", "")
        digest, size = hashlib.new(algorithm, usedforsecurity=False), 0
        for block in blocks:
            size += len(block)
            digest.update(block)
        if size != stored.size:
            raise _ChangedError(f"{self.address}/{name}: {size:,} bytes here, the store says {stored.size:,}")
        if stored.digest is not None and digest.hexdigest() != expected and not self._is_encrypted(name):
            raise _ChangedError(f"{self.address}/{name}: its {algorithm} is not what the store says")

    def _is_encrypted(self, name: str) -> bool:
        """Whether an ETag is no md5: under keys of its own S3 gives another."""
        if self.protocol not in _MD5_ETAGS:
            return False
        bucket, _, key = self._path(name).partition("/")
        head = self._asked("call_s3", "head_object", Bucket=bucket, Key=key)
        return "kms" in str(head.get("ServerSideEncryption", "")) or bool(head.get("SSECustomerAlgorithm"))

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            raise self._failure(error) from error


def _blocks(file: Any) -> Iterator[bytes]:
    while block := file.read(_BLOCK):
        yield block


def _sha256(blocks: Iterator[bytes]) -> str:
    digest = hashlib.sha256()
    for block in blocks:
        digest.update(block)
    return digest.hexdigest()


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
