"""Weights and precision, looked at by another process: the same answers and the same errors as in this one."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from extractors.weights import load_weights
from pipeline.core.child import environment
from pipeline.core.errors import InputError
from pipeline.extraction import prepare as prepare_module
from pipeline.extraction.prepare import Networks, prepare, prepare_networks, prepare_weights
from pipeline.extraction.settings import ExtractSettings


def settings(folder: Path, **changes: Any) -> ExtractSettings:
    return ExtractSettings(folder / "media", folder / "dataset", streams=("efficientnet-lite0",), **changes)


def test_another_process_finds_what_this_one_does(tmp_path: Path) -> None:
    asked = settings(tmp_path)
    found = prepare_networks(asked, "fp32")
    assert found.files == prepare_weights(asked) and found.precision == "fp32"
    assert found.digests == {network: load_weights(network, path).digest for network, path in found.files.items()}
    assert found.files.keys() == {"efficientnet-lite0", "davenet"}
    assert prepare_networks(asked, "auto").precision in ("bf16", "fp32")


def test_what_can_not_be_had_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere.pt: no such weights file for davenet; give a file"):
        prepare_networks(settings(tmp_path, davenet_weights="nowhere.pt"), "fp32")
    with pytest.raises(InputError, match="device 'abacus' is unknown"):
        prepare_networks(settings(tmp_path, device="abacus"), "fp32")


def test_a_process_that_dies_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text("import os, sys\nif sys.argv[0] == '-m':\n    os.kill(os.getpid(), 9)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(InputError, match="ended with status -9; .* memory"):
        prepare_networks(settings(tmp_path), "fp32")


def test_weights_are_looked_at_once_unless_others_may_be_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "davenet.pt"
    file.touch()
    asked = []

    def look(settings: ExtractSettings, precision: str) -> Networks:
        asked.append(settings)
        return Networks({"davenet": file}, {"efficientnet-lite0": "aa", "davenet": "bb"}, "fp32")

    monkeypatch.setattr(prepare_module, "prepare_networks", look)
    (tmp_path / "captions").mkdir()
    (tmp_path / "captions" / "a-video-id0.csv").write_text("start,end,text\n0,1,pour the milk\n")
    captions = {"captions": tmp_path / "captions"}
    first, again = (prepare(settings(tmp_path, **captions)) for _ in range(2))
    assert (first.weight_files, again.weight_files, len(asked)) == ({"davenet": file}, {}, 1)
    assert again.description == first.description
    with pytest.raises(InputError, match="--feature-fps was 1, now 2; give those, or another --out$"):
        prepare(settings(tmp_path, **captions, feature_fps=2))
    with pytest.raises(InputError, match="--davenet-weights was random:0, now random:1"):
        prepare(settings(tmp_path, **captions, davenet_weights="random:1"))
    assert len(asked) == 1
    for other in ({"davenet_weights": str(file)}, {"device": "cpu"}):
        assert prepare(settings(tmp_path, **captions, **other)).weight_files == {"davenet": file}
    assert len(asked) == 3


def test_who_drives_an_extraction_loads_no_networks() -> None:
    program = "import sys, beam_jobs.extract; print([name for name in ('torch', 'gensim') if name in sys.modules])"
    command = [sys.executable, "-c", program]
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment()).stdout
    assert found == "[]\n"
