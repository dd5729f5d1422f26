"""A data set's Identity: settled once; every difference is named. Tombstones keep a video out without naming it."""

import hashlib
from pathlib import Path

import pytest

from pipeline.core.errors import InputError
from pipeline.core.files import read_json
from pipeline.dataset.captions import caption_identity
from pipeline.dataset.folder import FILE, add_tombstones, forgotten, is_forgotten, read_description, settle
from pipeline.extraction.settings import ExtractSettings, identity

DIGESTS = {"resnet152": "aa", "efficientnet-lite0": "bb", "davenet": "cc"}


def described(streams: tuple[str, ...] = ("resnet152",), precision: str = "fp32", **asked: object) -> dict[str, object]:
    settings = ExtractSettings(Path("media"), Path("out"), streams=streams, **asked)  # type: ignore[arg-type]
    captions = caption_identity(settings.captions, settings.drop_overlaps)
    return {"identity": identity(settings, DIGESTS, precision, captions), "words": "dd"}


def test_the_first_makes_it_and_the_same_settings_meet_it(tmp_path: Path) -> None:
    first = described()
    assert settle(tmp_path / "dataset", first) == first
    before = (tmp_path / "dataset" / "dataset.json").read_bytes()
    assert settle(tmp_path / "dataset", described() | {"words": "other"}) == first
    assert (tmp_path / "dataset" / "dataset.json").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"precision": "bf16"}, "streams.resnet152.precision was 'fp32', now 'bf16'"),
        ({"feature_fps": 2}, "feature_fps was 1, now 2"),
        ({"frame_size": "64x48"}, "frame_size was 'short-256', now '64x48'"),
        ({"view": "center"}, "streams.resnet152.view was 'full', now 'center'"),
        ({"audio_rate": "native"}, "audio.rate was 'rows', now 'native'"),
        ({"audio_store": "logmel"}, "audio.store was 'both', now 'logmel'"),
        ({"drop_overlaps": True}, "captions.overlaps was 'kept', now 'dropped'"),
        ({"streams": ("resnet152", "efficientnet-lite0")}, "streams.efficientnet-lite0 was None, now"),
    ],
)
def test_other_settings_are_refused_by_name(tmp_path: Path, change: dict[str, object], named: str) -> None:
    settle(tmp_path, described())
    with pytest.raises(InputError) as refused:
        settle(tmp_path, described(**change))  # type: ignore[arg-type]
    assert named in str(refused.value) and "give those, or another --out" in str(refused.value)
    assert str(refused.value).count(", now ") == 1


def test_other_captions_are_refused_though_their_name_is_the_same(tmp_path: Path) -> None:
    captions = tmp_path / "caption.json"
    captions.write_text("{}")
    settle(tmp_path / "dataset", described(captions=captions))
    captions.write_text('{"abcdefghijk": {"start": [], "end": [], "text": []}}')
    with pytest.raises(InputError, match=r"captions\.sha256 was [0-9a-f]{12}, now [0-9a-f]{12}; give those"):
        settle(tmp_path / "dataset", described(captions=captions))


def test_every_difference_is_named_at_once(tmp_path: Path) -> None:
    settle(tmp_path, described())
    with pytest.raises(InputError, match="audio.rate was .*; feature_fps was .*; frame_size was "):
        settle(tmp_path, described(feature_fps=2, frame_size="64x48", audio_rate="native"))


@pytest.mark.parametrize("content", ["[]", "{}", '{"identity": 3}', "{"])
def test_a_description_without_an_identity_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "dataset.json").write_text(content)
    for attempt in (lambda: settle(tmp_path, described()), lambda: read_description(tmp_path)):
        with pytest.raises(InputError, match=r"dataset\.json"):
            attempt()


def test_the_identity_is_that_of_the_page(tmp_path: Path) -> None:
    captions = tmp_path / "caption.json"
    captions.write_bytes(b"{}")
    settle(tmp_path, described(streams=("resnet152", "efficientnet-lite0"), captions=captions, drop_overlaps=True))
    found = read_json(tmp_path / "dataset.json")["identity"]
    stream = {"network": "resnet152", "weights": "aa", "view": "full", "precision": "fp32", "width": 2048}
    assert found == {
        "schema": 1,
        "feature_fps": 1,
        "frame_size": "short-256",
        "streams": {
            "resnet152": stream,
            "efficientnet-lite0": stream | {"network": "efficientnet-lite0", "weights": "bb", "width": 1280},
        },
        "audio": {"sample_rate": 16000, "rate": "rows", "store": "both", "weights": "cc", "precision": "fp32"},
        "captions": {
            "source": "caption.json",
            "format": "json",
            "sha256": hashlib.sha256(b"{}").hexdigest(),
            "rule": "published",
            "overlaps": "dropped",
        },
    }


@pytest.mark.parametrize(
    ("asked", "size"),
    [
        ({}, 2 * 2048 + 2 * 1024 + 100 * 40 * 2),
        ({"audio_store": "davenet"}, 2 * 2048 + 2 * 1024),
        ({"audio_store": "logmel"}, 2 * 2048 + 100 * 40 * 2),
        ({"audio_store": "davenet", "audio_rate": "native"}, 2 * 2048 + 2 * 1024 * 6.25),
        ({"streams": ("resnet152", "efficientnet-lite0"), "feature_fps": 3, "audio_store": "davenet"},
         3 * 2 * (2048 + 1280 + 1024)),
    ],
)  # fmt: skip
def test_the_size_of_a_second_is_that_of_its_arrays(asked: dict[str, object], size: float) -> None:
    settings = ExtractSettings(Path("media"), Path("out"), **asked)  # type: ignore[arg-type]
    assert settings.bytes_per_second() == size


@pytest.mark.parametrize(
    "change",
    [
        {"streams": ()},
        {"streams": ("resnet51",)},
        {"streams": ("vit_b_16",)},
        {"streams": ("resnet18", "r3d_18"), "weights": "random:0"},
        {"shard_size": 0.0},
        {"workers": -1},
        {"time_limit": 0.0},
        {"feature_fps": 7},
        {"frame_size": "large"},
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"streams|weights|shard_size|workers|fps|frame_size|size"):
        ExtractSettings(Path("media"), Path("out"), **change)  # type: ignore[arg-type]


def test_a_forgotten_id_is_known_and_not_written_down(tmp_path: Path) -> None:
    assert forgotten(tmp_path) == frozenset() and not is_forgotten("abcdefghijk", forgotten(tmp_path))
    add_tombstones(tmp_path, ["abcdefghijk"])
    add_tombstones(tmp_path, ["lmnopqrstuv", "abcdefghijk"])
    found = forgotten(tmp_path)
    assert len(found) == 2 and is_forgotten("abcdefghijk", found) and is_forgotten("lmnopqrstuv", found)
    assert not is_forgotten("Abcdefghijk", found)
    assert "abcdefghijk" not in (tmp_path / FILE).read_text()


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"schema": 1, "sha256": 3}', '{"schema": 9, "sha256": []}'])
def test_a_broken_file_is_not_taken_for_empty(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content)
    with pytest.raises(InputError, match="restore it from a copy"):
        forgotten(tmp_path)


def test_a_stream_of_clips_says_so(tmp_path: Path) -> None:
    settings = ExtractSettings(Path("media"), tmp_path, streams=("r3d_18", "mvit_v1_b"), view="center")
    streams = identity(settings, {"r3d_18": "aa", "mvit_v1_b": "bb", "davenet": "cc"}, "fp32", {})["streams"]
    common = {"network": "r3d_18", "weights": "aa", "view": "clip", "precision": "fp32", "width": 512}
    assert streams["r3d_18"] == common | {"clip_frames": 16, "clip_fps": 15}
    assert (streams["mvit_v1_b"]["clip_frames"], streams["mvit_v1_b"]["clip_fps"]) == (16, 7.5)


def test_a_stream_of_timms_says_what_timm_says_of_it(tmp_path: Path) -> None:
    settings = ExtractSettings(Path("media"), tmp_path, streams=("timm.any.tag", "resnet18"), view="center")
    described = {"timm.any.tag": {"width": 7, "resize": [248, 248], "interpolation": "bicubic"}}
    digests = {"timm.any.tag": "aa", "resnet18": "bb", "davenet": "cc"}
    streams = identity(settings, digests, "bf16", {}, described)["streams"]
    common = {"network": "timm.any.tag", "weights": "aa", "view": "own", "precision": "bf16"}
    assert streams["timm.any.tag"] == common | described["timm.any.tag"]
    assert (streams["resnet18"]["view"], streams["resnet18"]["width"]) == ("center", 512)


@pytest.mark.parametrize(
    ("streams", "feature_fps", "frame_fps"),
    [
        (("resnet18",), 1, 1),
        (("resnet18", "r3d_18"), 1, 15),
        (("r3d_18",), 30, 30),
        (("r3d_18",), 6, 30),
        (("r3d_18",), 3, 15),
        # Frames 4/30 s apart, rows a second: both are on the grid of 1/15 s.
        (("mvit_v1_b",), 1, 15),
        (("mvit_v1_b", "r3d_18"), 2, 30),
    ],
)
def test_as_few_frames_are_decoded_as_rows_and_clips_need(
    streams: tuple[str, ...], feature_fps: int, frame_fps: int
) -> None:
    settings = ExtractSettings(Path("media"), Path("out"), streams=streams, feature_fps=feature_fps)
    decoding = settings.decoding()
    assert (decoding.feature_fps, decoding.frame_fps) == (feature_fps, frame_fps)
