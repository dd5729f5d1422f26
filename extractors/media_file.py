"""The bytes of a media file. FFmpeg gets these, and no name: what stands in a file can't lead to another."""

import io
import os
import stat
from typing import Self

from extractors.errors import MediaError


class MediaFile(io.RawIOBase):
    """The bytes of a regular file, for reading; `error` is the first error of the disk, which is no fault of the file.

    `path` names it in messages. MediaError "missing-file", "zero-length" or "undecodable" (a folder, a pipe).
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.name = os.path.basename(path)
        self.error: OSError | None = None
        # Without waiting: a pipe that no one writes to would never open.
        self._descriptor = _open_regular(path)
        self.size = os.fstat(self._descriptor).st_size

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        try:
            return os.readv(self._descriptor, [buffer])
        except OSError as error:
            self.error = self.error or error
            raise

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return os.lseek(self._descriptor, offset, whence)

    def tell(self) -> int:
        return self.seek(0, os.SEEK_CUR)

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()

    def __enter__(self) -> Self:
        return self


def _open_regular(path: str) -> int:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise MediaError("missing-file", f"{path}: there is no such file") from error
    except (OSError, ValueError) as error:
        raise MediaError("undecodable", f"{path}: can't be read ({error})") from error
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode) and status.st_size:
        return descriptor
    os.close(descriptor)
    if stat.S_ISREG(status.st_mode):
        raise MediaError("zero-length", f"{path}: the file is empty")
    raise MediaError("undecodable", f"{path}: is not a regular file")
