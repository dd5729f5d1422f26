"""No new file, socket or process while a media file is read: only what was opened before can be used."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def nothing_else_opens() -> Iterator[None]:
    """Within the block every attempt of this process to open anything fails (EMFILE), whatever library makes it.

    A limit of the process, not a rule of a kernel module, so that it holds on every machine and in every container.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
