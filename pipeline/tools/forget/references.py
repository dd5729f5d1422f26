"""Files beside a data set that name a video: this program's own reports, and what is someone else's."""

import json
import os
import re
from collections.abc import Collection
from itertools import chain
from pathlib import Path

from pipeline.core.figures import is_of_a_report
from pipeline.core.reporting import RunSummary
from pipeline.download.media import MEDIA_SUFFIXES
from pipeline.tools.forget.texts import CannotSearchError, text_blocks

_REPORT_KEYS = frozenset(RunSummary("").as_json())
_RESULTS_KEYS = frozenset(("source", "stages", "scores", "processors"))
_PAGE_BEGINS, _PAGE_TITLE = b"<!doctype html>", b"<title>mcn run: "
_STUDY_TITLE = b"<title>mcn report: "


def files_naming(
    tops: Collection[Path],
    video_ids: Collection[str],
    but: Collection[Path],
    unsearched: dict[Path, str] | None = None,
) -> list[Path]:
    """Files under `tops` whose name or, in a text, content names one of the ids; nothing at or under `but`.

    Texts are searched in UTF-8, UTF-16 and UTF-32, and within .gz, .bz2, .xz and .zip. A compressed file that can't be
    searched to its end is put into `unsearched`, with the reason.
    """
    pattern = _pattern(video_ids)
    naming = set()
    for top in tops:
        for path in top.rglob("*"):
            if not path.is_file() or any(path.is_relative_to(excluded) for excluded in but):
                continue
            content = iter(()) if path.suffix.lower() in MEDIA_SUFFIXES else text_blocks(path)
            try:
                if any(pattern.search(text) for text in chain([os.fsencode(path.name)], content)):
                    naming.add(path)
            except CannotSearchError as error:
                if unsearched is not None:
                    unsearched[path] = str(error)
    return sorted(naming)


def is_report(path: Path) -> bool:
    """Whether this program wrote the file and makes it again: a stage's summary, a run's results or its page, a study's
    report, its figures and tables.

    Told by what is in it, since a name like `results.json` is anyone's.
    """
    try:
        if path.suffix == ".json":
            content = json.loads(path.read_bytes())
            return isinstance(content, dict) and content.keys() in (_REPORT_KEYS, _RESULTS_KEYS)
        if path.suffix == ".html":
            begin = path.read_bytes()[:4096]
            a_run = path.name == "index.html" and _PAGE_TITLE in begin
            return begin.startswith(_PAGE_BEGINS) and (a_run or _STUDY_TITLE in begin)
        return is_of_a_report(path)
    except (OSError, ValueError, RecursionError):
        return False


def figures_of(page: Path) -> list[Path]:
    """The figures and tables beside a study's page, whose drawings are compressed: what they name can't be searched."""
    return sorted(path for path in page.with_name(f"{page.stem}-figures").glob("*") if is_of_a_report(path))


def _pattern(video_ids: Collection[str]) -> re.Pattern[bytes]:
    # `video1` isn't named by `video10`; `ID_0001.jpg` names ID; in JSON `\n` may stand before an id.
    def alone(video_id: str) -> str:
        before = r"(?:(?<![A-Za-z0-9])|(?<=\\[nrt]))" if video_id[0].isalnum() else ""
        after = r"(?![A-Za-z0-9])" if video_id[-1].isalnum() else ""
        return f"{before}{re.escape(video_id)}{after}"

    return re.compile("|".join(map(alone, sorted(video_ids))).encode())


