"""The bytes of a media file. FFmpeg gets these, and no name of a file."""

import io
import os
import stat
from typing import Self

from extractors.errors import MediaError


class MediaFile(io.RawIOBase):
    """The bytes of a regular file, for reading; `error` is the first error of the disk, which is no fault of the file.

    `path` names it in messages. MediaError "missing-file", "zero-length", "undecodable" (a folder, a pipe) or
    "unreadable" (no right to read it, a fault of the disk).
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.error: OSError | None = None
        self._descriptor = _open_regular(path)
        self._position = 0
        self.size = os.fstat(self._descriptor).st_size

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if self._position >= self.size:
            return 0
        try:
            count = os.preadv(self._descriptor, [buffer], self._position)
        except OSError as error:
            self.error = self.error or error
            raise
        self._position += count
        return count

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        # Kept here: where a file says that something is, a file system may not be able to go.
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()

    def __enter__(self) -> Self:
        return self


def _open_regular(path: str) -> int:
    try:
        # Without waiting: a pipe that no one writes to would never open.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MediaError("missing-file", f"{path}: there is no such file") from error
    except ValueError as error:
        raise MediaError("undecodable", f"{path}: is no name of a file ({error})") from error
    except OSError as error:
        raise MediaError("unreadable", f"{path}: can't be opened: {error.strerror}") from error
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode) and status.st_size:
        return descriptor
    os.close(descriptor)
    if stat.S_ISREG(status.st_mode):
        raise MediaError("zero-length", f"{path}: the file is empty")
    raise MediaError("undecodable", f"{path}: is not a regular file")
