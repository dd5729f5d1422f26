"""An error of the tool is charged to no video and costs no media, whatever fails, with --delete-media on."""

import errno
import shutil
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from extractors import decoder_pool
from extractors.errors import DecoderError, MediaError
from pipeline.core.errors import InputError, ToolError
from pipeline.extraction import features, made_clip, worker

from .conftest import BAD, GOOD, Extraction, TinyFrames, TinySound, WordDecoder

CALLS: dict[str, list[tuple[Any, str]]] = {
    "open": [(WordDecoder, "open")],
    "batches": [(WordDecoder, "batches")],
    "summary": [(WordDecoder, "summary")],
    "sound": [(decoder_pool, "extract_audio"), (made_clip, "extract_audio")],
    "frame network": [(TinyFrames, "features")],
    "audio network": [(TinySound, "steps")],
    "log-mel": [(decoder_pool, "log_mel"), (features, "log_mel")],
}
ERRORS: list[Exception] = [
    DecoderError("PyAV is of another version"),
    TypeError("open() got an unexpected keyword argument 'metadata_errors'"),
    AttributeError("module 'av' has no attribute 'logging'"),
    ImportError("undefined symbol"),
    KeyError("surprise"),
    ValueError("operands could not be broadcast"),
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    torch.OutOfMemoryError("CUDA out of memory"),
    MemoryError(),
    OSError(errno.ENOSPC, "No space left on device", "/tmp/x"),
    OSError(errno.EIO, "Input/output error"),
]
OF_EVERY_FILE = [
    MediaError("undecodable", "it decodes nothing any more"),
    MediaError("crashed", "the decoder process crashed on it"),
]
"""Of a decoder that fails on the made clip too."""
DECODING = ("open", "batches", "summary", "sound")


def fail_from(monkeypatch: pytest.MonkeyPatch, call: str, number: int, error: Exception) -> None:
    """Make every call from the `number`-th on (counted from 1) raise."""
    calls = 0

    def failing(whole: Callable[..., Any]) -> Callable[..., Any]:
        def either(*arguments: Any, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls >= number:
                raise error
            return whole(*arguments, **named)

        return either

    for owner, name in CALLS[call]:
        whole = getattr(owner, name)
        fault = property(failing(whole.fget)) if isinstance(whole, property) else failing(whole)
        monkeypatch.setattr(owner, name, fault)


@pytest.mark.parametrize(("call", "number"), [(c, n) for c in CALLS for n in ((1, 2, 3) if c in DECODING else (1, 2))])
def test_every_call_that_fails_stops_the_work_and_costs_nothing(
    extraction: Extraction, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    for error in (*ERRORS, *(OF_EVERY_FILE if call in DECODING else ())):
        with monkeypatch.context() as patches:
            fail_from(patches, call, number, error)
            with pytest.raises(ToolError) as caught:
                extraction.run()
        said = str(caught.value)
        assert "\n" not in said and (type(error).__name__ in said or str(error.args[0]) in said)
        assert extraction.there() == extraction.content and extraction.lines("download") == []
        assert not list((extraction.settings.out / "shards").glob("*"))
        extraction.nothing_is_lost()
        shutil.rmtree(extraction.settings.out / "parts", ignore_errors=True)
    extraction.ends_right()


def test_nothing_is_touched_when_the_made_clip_fails(extraction: Extraction, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_from(monkeypatch, "open", 1, MediaError("undecodable", "decoding stopped on TypeError"))
    with pytest.raises(ToolError, match=r"made clip.*mcn doctor.*TypeError"):
        extraction.run()
    assert extraction.lines("extract") == [] and extraction.there() == extraction.content
    assert not (extraction.settings.out / "parts").exists()


@pytest.mark.parametrize("lacking", ["rows", "sound"])
def test_a_made_clip_of_which_something_is_missing_fails(
    extraction: Extraction, monkeypatch: pytest.MonkeyPatch, lacking: str
) -> None:
    if lacking == "rows":
        whole = WordDecoder.batches
        monkeypatch.setattr(WordDecoder, "batches", lambda self: list(whole(self))[:1])
    else:
        monkeypatch.setattr(made_clip, "extract_audio", lambda *given, **named: None)
    with pytest.raises(ToolError, match="made clip"):
        extraction.run()
    assert extraction.lines("extract") == [] and extraction.there() == extraction.content


def test_without_a_video_to_work_on_nothing_is_decoded(
    extraction: Extraction, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in extraction.media.iterdir():
        path.unlink()
    fail_from(monkeypatch, "open", 1, RuntimeError("must not be called"))
    assert extraction.run() == {"waiting": 3}


def test_the_faults_of_a_file_are_charged_to_it_alone_and_its_media_kept(extraction: Extraction) -> None:
    assert extraction.run() == {"done": 2, "failed undecodable": 1}
    assert {(i, outcome, reason) for i, outcome, reason, _ in extraction.lines("extract")} == {
        (GOOD[0], "done", ""), (GOOD[1], "done", ""), (BAD, "failed", "undecodable"),
    }  # fmt: skip
    assert set(extraction.there()) == {f"{BAD}.mp4"}
    assert {i: message for i, _, _, message in extraction.lines("download")} == dict.fromkeys(
        GOOD, f"its features are in shard {extraction.name}"
    )
    extraction.nothing_is_lost()


def test_values_that_one_video_alone_gives_are_charged_to_it(
    extraction: Extraction, monkeypatch: pytest.MonkeyPatch
) -> None:
    (extraction.media / f"{BAD}.mp4").write_bytes(b"video 9 96 54")
    whole = TinyFrames.features
    # Row 9 is the spoilt video's alone.
    monkeypatch.setattr(TinyFrames, "features", lambda self, f: whole(self, f) + (1e6 if f.max() == 9 else 0))
    assert extraction.run() == {"done": 2, "failed bad-values": 1}
    assert set(extraction.there()) == {f"{BAD}.mp4"}


def test_a_file_that_vanishes_before_it_is_opened_waits(
    extraction: Extraction, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = WordDecoder.open

    def gone(self: WordDecoder, path: Any) -> Any:
        if GOOD[0] in str(path):
            raise MediaError("missing-file", f"{path}: there is no such file")
        return whole(self, path)

    with monkeypatch.context() as patches:
        patches.setattr(WordDecoder, "open", gone)
        assert extraction.run()["waiting"] == 1
    assert GOOD[0] not in {line[0] for line in extraction.lines("extract")} and not extraction.stored()
    extraction.ends_right()


def test_a_receipt_that_says_more_than_its_shard_holds_deletes_nothing(
    extraction: Extraction, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = worker.make_receipt
    more = {"video_ids": (GOOD[0], BAD, GOOD[1]), "left_out": {}}
    monkeypatch.setattr(worker, "make_receipt", lambda *given: replace(whole(*given), **more))
    with pytest.raises(InputError, match="not what its receipt says"):
        extraction.run()
    assert extraction.there() == extraction.content and extraction.lines("download") == []
