"""What the report calls videos, texts and steps: by what they are, or in a public one by numbers."""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pipeline.experiment.report.embedded_clips import OTHER

_EXAMPLE = re.compile(r",? e\.g\. .*")
_NAME = re.compile(r"[A-Za-z0-9_-]+")
"""What may be an id, whole."""


class ShownNames:
    """Names to be shown. A public report has no video id, no caption and nothing made of one."""

    def __init__(self, public: bool) -> None:
        self.public = public
        self._videos: dict[str, int] = {}
        self._classes: dict[str, int] = {}

    def step_class(self, name: str) -> str:
        """A class of steps; the same number for the same name throughout the report."""
        if not self.public or name == OTHER:
            return name
        return f"class {self._classes.setdefault(name, len(self._classes) + 1)}"

    def step_classes(self, names: Sequence[str]) -> list[str]:
        """The classes of many clips; numbers go by the names' first places."""
        return [self.step_class(name) for name in names]

    def localized(self, video: Mapping[str, Any]) -> dict[str, Any]:
        """An entry of `videos` in localization.json as it may be drawn."""
        if not self.public:
            return dict(video)
        number = self._videos.setdefault(video["video_id"], len(self._videos) + 1)
        steps = [step | {"text": f"step {place}"} for place, step in enumerate(video["steps"], start=1)]
        return {"video_id": str(number), "seconds": video["seconds"], "steps": steps}

    def note(self, text: str, video_ids: Collection[str]) -> str:
        """A stage's announcement, which may name a video, known or not, as an example."""
        if not self.public:
            return text
        # An id of digits alone names nobody, and would take counts along.
        return _NAME.sub(
            lambda name: "one of them" if name[0] in video_ids and not name[0].isdigit() else name[0],
            _EXAMPLE.sub("", text),
        )
