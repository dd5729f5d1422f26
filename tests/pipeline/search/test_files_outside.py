"""Shards, parts, stores and embeddings that reach for another file: no command ever opens it."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from pipeline.cli import main
from pipeline.core.errors import InputError
from pipeline.core.records import Caption
from pipeline.dataset.caption_store import CaptionStore, build_caption_store
from pipeline.dataset.shard_check import ShardChecker
from pipeline.dataset.shard_plans import shard_path
from pipeline.dataset.shard_writer import Origin, write_part, write_shard
from pipeline.search.embed import run as embed
from pipeline.search.index import run as index
from pipeline.search.settings import EmbedSettings, IndexSettings
from pipeline.tools.verify.repair import sound_videos

Watch = Callable[[], int]


def reach(path: Path, name: str, secret: Path, how: str) -> None:
    """Put what leads to `secret`, which is made to be read in its place, where dataset `name` was."""
    secret.unlink(missing_ok=True)
    with h5py.File(path, "r+") as file:
        values = file[name][:]
        del file[name]
        if how == "storage":
            secret.write_bytes(values.tobytes())
            file.create_dataset(name, values.shape, values.dtype, external=[(str(secret), 0, values.nbytes)])
            return
        with h5py.File(secret, "w") as other:
            other["values"] = values
        if how == "link":
            file[name] = h5py.ExternalLink(str(secret), "values")
        else:
            layout = h5py.VirtualLayout(values.shape, values.dtype)
            layout[...] = h5py.VirtualSource(str(secret), "values", values.shape)
            file.create_virtual_dataset(name, layout)


@dataclass(frozen=True)
class Hostile:
    """A copy of a data set, one shard of which reaches for `secret`."""

    folder: Path
    model: Path
    secret: Path

    @property
    def dataset(self) -> Path:
        return self.folder / "dataset"

    @property
    def manifest(self) -> Path:
        return self.dataset / "manifests" / "all.json"

    @property
    def shard(self) -> Path:
        return shard_path(self.dataset, "000002")


@pytest.fixture(scope="module")
def made(trained: Any, tmp_path_factory: pytest.TempPathFactory) -> Hostile:
    folder = tmp_path_factory.mktemp("outside")
    shutil.copytree(trained.manifest.parents[1], folder / "dataset")
    return Hostile(folder, trained.model, folder / "secret")


OF_MODEL = "--checkpoint MODEL --manifest MANIFEST"
COMMANDS = {
    "embed": f"embed {OF_MODEL} --out OUT/clips.h5",
    "train": "train --manifest MANIFEST --out OUT/model --device cpu",
    "train from copies": "train --manifest MANIFEST --out OUT/model --device cpu --stage-to OUT/copies",
    "retrieval": f"evaluate retrieval {OF_MODEL} --clips LIST --split all --out OUT",
    "classification": f"evaluate classification {OF_MODEL} --clips LIST --split all --out OUT",
    "localization": f"evaluate localization {OF_MODEL} --annotations LIST --split all --out OUT",
    "probe": f"probe {OF_MODEL} --ids LIST --out OUT",
    "verify": "verify DATASET",
    "repair": "verify DATASET --repair",
    "freeze": "freeze DATASET again",
    "inspect": "inspect SHARD",
    "inspect the data set": "inspect DATASET",
    "status": "status DATASET",
}
READS_NO_SHARD = ("inspect the data set", "status")
TRIED = [(command, "storage") for command in COMMANDS]
TRIED += [(command, how) for command in ("embed", "freeze", "inspect") for how in ("link", "virtual")]


@pytest.mark.parametrize(("command", "how"), TRIED)
def test_no_command_opens_what_a_shard_reaches_for(
    made: Hostile, command: str, how: str, opened: Callable[[Path], Watch], tmp_path: Path, capsys: Any
) -> None:
    sound, receipt = made.shard.read_bytes(), made.shard.with_suffix(".json")
    stated = receipt.read_bytes()
    made.shard.unlink()
    made.shard.write_bytes(sound)
    reach(made.shard, "videos/duration" if command == "freeze" else "rows/resnet152", made.secret, how)
    if command == "freeze":
        receipt.unlink()  # which is then made anew from the shard
    (tmp_path / "list.csv").write_text(
        "video_id,start,end,text,class,task_id,step,category_1,category_2,rank\n"
        "train000001,0.0,4.0,now action1,a,1,1,x,y,1\nheldout0001,0.0,4.0,now action2,b,1,2,x,y,1\n"
    )
    places = {"MODEL": made.model, "MANIFEST": made.manifest, "DATASET": made.dataset, "SHARD": made.shard}
    places |= {"OUT": tmp_path / "out", "LIST": tmp_path / "list.csv"}
    arguments = COMMANDS[command].split()
    for name, place in places.items():
        arguments = [argument.replace(name, str(place)) for argument in arguments]
    watch = opened(made.secret)
    try:
        status = main(arguments)
    finally:
        made.shard.unlink()
        made.shard.write_bytes(sound)
        receipt.write_bytes(stated)
    output = capsys.readouterr()
    assert watch() == 0, "the file was opened"
    if command in READS_NO_SHARD:
        return
    assert status in (1, 2) and "Traceback" not in output.err
    if command == "repair":  # what is bad stays until there are media to make it anew from
        assert output.err.count("\n") == 1
        return
    said = [line for line in (output.out + output.err).splitlines() if str(made.shard) in line]
    assert said and all(word in said[0] for word in ("contiguous and plain" if how != "link" else "is a link").split())


def test_a_part_that_reaches_elsewhere_is_computed_anew_and_never_closed(
    tmp_path: Path, make_video: Callable[..., Any], make_identity: Callable[..., Any], opened: Callable[[Path], Watch]
) -> None:
    identity = make_identity({"resnet152": 2})
    part, secret = tmp_path / "a.h5", tmp_path / "secret"
    video = make_video("video000000", [(0.0, 1.0, "cut the onion")], 1.5, 0, {"resnet152": 2})
    write_part(part, video, Origin("000003", identity, {"host": "here"}))
    sound = part.read_bytes()
    with ShardChecker() as checker:
        for how, name in (
            ("storage", "rows/resnet152"),
            ("storage", "captions/text"),
            ("link", "videos/id"),
            ("virtual", "digests/id"),
        ):
            part.write_bytes(sound)
            reach(part, name, secret, how)
            watch = opened(secret)
            assert name in checker.check(part)[0]
            with pytest.raises(InputError, match="a.h5: .*(is a link|isn't contiguous)"):
                write_shard(tmp_path / "000003.h5", [part], Origin("000003", identity, {}, "plan"))
            assert watch() == 0 and not (tmp_path / "000003.h5").exists()


def test_a_repair_saves_what_is_sound_and_follows_nothing(
    made: Hostile, opened: Callable[[Path], Watch], tmp_path: Path
) -> None:
    """A name that doesn't belong costs no video; one that the videos lie under costs all of the shard's."""
    dataset = Path(shutil.copytree(made.dataset, tmp_path / "dataset"))
    shard = shard_path(dataset, "000002")
    made.secret.write_bytes(bytes(100))
    with h5py.File(shard, "r+") as file:
        file["rows/more"] = h5py.ExternalLink(str(made.secret), "/")
        file["note"] = np.arange(3)
        videos = len(file["videos/id"])
    watch = opened(made.secret)
    with ShardChecker() as checker:
        assert checker.check(shard) != []
    assert len(sound_videos(dataset, "000002", save=True)) == videos > 1
    with ShardChecker() as checker:
        assert all(checker.check(part) == [] for part in (dataset / "parts" / "000002").glob("*.h5"))
    assert watch() == 0
    reach(shard, "rows/resnet152", made.secret, "storage")
    watch = opened(made.secret)
    shutil.rmtree(dataset / "parts")
    with pytest.raises(InputError, match="rows/resnet152 isn't contiguous and plain"):
        sound_videos(dataset, "000002", save=True)
    assert watch() == 0


@pytest.mark.parametrize("how", ["storage", "link", "virtual"])
def test_a_caption_store_that_reaches_elsewhere_is_not_read(
    tmp_path: Path, how: str, opened: Callable[[Path], Watch]
) -> None:
    source, store, secret = tmp_path / "caption.json", tmp_path / "captions.h5", tmp_path / "secret"
    source.write_text(json.dumps({"video000000": {"start": [0], "end": [1], "text": ["said"]}}))
    build_caption_store(source, store, drop_overlaps=False).close()
    assert CaptionStore(store).of("video000000") == (Caption(0.0, 1.0, "said"),)
    with h5py.File(store, "a") as file:
        values = file["captions/text"][:]
        del file["captions/text"]
        file["captions/text"] = values
    reach(store, "captions/text", secret, how)
    watch = opened(secret)
    with pytest.raises(InputError, match=r"captions\.h5: captions/text .*delete it"):
        CaptionStore(store).of("video000000")
    assert main(["inspect", str(store)]) == 2 and watch() == 0


@pytest.fixture(scope="module")
def embedded(made: Hostile) -> tuple[Path, Path]:
    """Embeddings and an index of them."""
    embed(EmbedSettings(made.model, made.folder / "clips.h5", made.manifest))
    index(IndexSettings(made.folder / "clips.h5", made.folder / "index"))
    return made.folder / "clips.h5", made.folder / "index"


@pytest.mark.parametrize(
    ("how", "name"),
    [("storage", "vectors/video-text/video"), ("link", "clips/text"), ("virtual", "videos/offsets")],
)
def test_embeddings_that_reach_elsewhere_are_not_read(
    made: Hostile,
    embedded: tuple[Path, Path],
    how: str,
    name: str,
    opened: Callable[[Path], Watch],
    tmp_path: Path,
    capsys: Any,
) -> None:
    clips, index_folder = embedded
    hostile, secret = Path(shutil.copy(clips, tmp_path / "clips.h5")), tmp_path / "secret"
    reach(hostile, name, secret, how)
    watch = opened(secret)
    for arguments in (
        ["search", str(index_folder), "action3", "--embeddings", str(hostile)],
        ["index", str(hostile), "--out", str(tmp_path / "index")],
        ["inspect", str(hostile)],
        ["embed", "--checkpoint", str(made.model), "--manifest", str(made.manifest), "--out", str(hostile)],
    ):
        assert main(arguments) == 2
        line = capsys.readouterr().err
        assert line.startswith(f"mcn: {hostile}: {name} is") and line.count("\n") == 1
    assert watch() == 0


def test_a_part_of_embeddings_that_reaches_elsewhere_is_computed_anew(
    made: Hostile, embedded: tuple[Path, Path], opened: Callable[[Path], Watch], tmp_path: Path, monkeypatch: Any
) -> None:
    from pipeline.search import embed as module

    settings = EmbedSettings(made.model, tmp_path / "clips.h5", made.manifest)
    with monkeypatch.context() as patch:
        patch.setattr(module, "join_parts", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            embed(settings)
    part = next(iter(sorted(tmp_path.rglob("000002.h5"))))
    secret = tmp_path / "secret"
    reach(part, "vectors/video-text/video", secret, "storage")
    watch = opened(secret)
    assert embed(settings).complete
    assert settings.out.read_bytes() == embedded[0].read_bytes() and watch() == 0
