"""TensorBoard's lines, written as they come: no thread that may fail on its own, no file that a fork would share."""

import os
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from pipeline.core.files import Closeable, open_to_append


class LearningCurves(Closeable):
    """Figures by name and step in a file of TensorBoard's; use as a context manager.

    Lines of an earlier run at `first_step` or later, which a kill has cost, are taken back. What can't be written is
    announced once and costs these lines alone: training has its own table of figures.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        self._file: BinaryIO | None = None
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = open_to_append(folder / name)
        except OSError as error:
            self._give_up(error)
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))
        self._write(Event(wall_time=time.time(), step=first_step, session_log=SessionLog(status=SessionLog.START)))

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def add(self, figures: Mapping[str, float], step: int, group: str) -> None:
        """One line for each figure, named `GROUP/NAME`."""
        values = [Summary.Value(tag=f"{group}/{name}", simple_value=value) for name, value in figures.items()]
        self._write(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))

    def _write(self, event: Event) -> None:
        if self._file is None:
            return
        try:
            RecordWriter(self._file).write(event.SerializeToString())
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        print(
            f"mcn: TensorBoard's lines can't be written ({error.strerror}): training continues without them",
            file=sys.stderr,
        )
        self._file = None
