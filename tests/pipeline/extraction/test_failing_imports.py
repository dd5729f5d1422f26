"""A library that is missing or broken, in the decoder's process or in the worker's: nothing is charged or lost."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from extractors import decoder_pool
from extractors.audio_track import extract_audio
from extractors.decoder_process import DecoderProcess
from extractors.made_clip import write_made_clip
from extractors.weights import load_weights, materialise
from pipeline.core.errors import ToolError
from pipeline.dataset.folder import settle
from pipeline.dataset.shard_plans import write_plans
from pipeline.extraction import features, made_clip
from pipeline.extraction.settings import ExtractSettings, identity

from .conftest import BAD, GOOD, Extraction

ROOT = Path(__file__).resolve().parents[3]


def libraries(*sources: str) -> list[str]:
    """Packages, neither ours nor Python's, that the modules import anywhere; given as globs."""
    names = set()
    for path in (path for source in sources for path in ROOT.glob(source)):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module is not None:
                names.add(node.module.partition(".")[0])
    return sorted(names - sys.stdlib_module_names - {"extractors", "models", "pipeline", "beam_jobs"})


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Real media in place of the words of `extraction`."""
    folder = tmp_path_factory.mktemp("clips")
    for number, video_id in enumerate(GOOD):
        write_made_clip(folder / f"{video_id}.mp4", 1 + number, 96, 54)
    (folder / f"{BAD}.mp4").write_bytes(b"spoilt")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def real(extraction: Extraction, clips: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Extraction:
    """With the product's decoders; networks are tiny."""
    for module in (decoder_pool, features):
        monkeypatch.setattr(module, "DecoderProcess", DecoderProcess)
    for module in (decoder_pool, made_clip):
        monkeypatch.setattr(module, "extract_audio", extract_audio)
    monkeypatch.setattr(made_clip, "write_made_clip", write_made_clip)
    extraction.content = clips
    for name, content in clips.items():
        (extraction.media / name).write_bytes(content)
    return extraction


OF_THE_DECODER = libraries("extractors/decode*.py", "extractors/frames_*.py", "extractors/media_*.py")
_FEATURES = "audio* clip_window logmel networks precision state_dict_file torchvision_networks video weights".split()
_LIBRARIES = libraries(
    *(f"extractors/{name}.py" for name in _FEATURES),
    *(f"pipeline/{name}.py" for name in ("extraction/worker", "extraction/features", "dataset/shard_*")),
    "pipeline/download/media.py",
)
# Only its own networks need torchvision, and only files of its form safetensors.
OF_THE_WORKER = [library for library in _LIBRARIES if library not in ("torchvision", "safetensors")]
WEIGHTS = {"efficientnet-lite0": "IMAGENET1K", "davenet": "random:0"}


@pytest.mark.parametrize("library", OF_THE_DECODER)
def test_a_decoder_without_a_library_is_charged_to_no_video(
    real: Extraction, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    (tmp_path / "broken" / library).mkdir(parents=True)
    (tmp_path / "broken" / library / "__init__.py").write_text("raise ImportError('undefined symbol: made to fail')")
    with monkeypatch.context() as patches:
        patches.syspath_prepend(tmp_path / "broken")  # this process has all of them already, the decoder's none
        try:
            real.run()
        except ToolError as error:
            assert "undefined symbol" in str(error)
            assert real.there() == real.content and not list(real.settings.out.glob("shards/*"))
            assert real.lines("extract") == real.lines("download") == []
        else:
            assert library == "decord", "nothing stands in for another"
    real.ends_right()


def test_a_library_of_another_version_is_charged_to_no_video(
    real: Extraction, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a PyAV whose `open` takes no `metadata_errors`."""
    import av

    (tmp_path / "newer").mkdir()
    (tmp_path / "newer" / "sitecustomize.py").write_text("")
    (tmp_path / "newer" / "av.py").write_text(
        f"import sys\nsys.path.remove({str(tmp_path / 'newer')!r})\ndel sys.modules['av']\nimport av\n"
        "_open = av.open\n"
        "def open(file, mode=None, *, format=None, options=None):\n    return _open(file, mode, format=format)\n"
        "av.open = open\nsys.modules['av'] = av\n"
    )
    assert av.__file__
    with monkeypatch.context() as patches:
        patches.syspath_prepend(tmp_path / "newer")
        with pytest.raises(ToolError, match="metadata_errors|unexpected keyword"):
            real.run()
    assert real.there() == real.content and real.lines("extract") == real.lines("download") == []
    real.ends_right()


WORKER = """
import json, sys
from pathlib import Path

OURS = ("beam_jobs", "pipeline", "extractors", "models")
media, dataset, lite0, davenet, *names = sys.argv[1:]
media, dataset = Path(media), Path(dataset)

def extract():
    from beam_jobs.extract import ExtractSettings, _ExtractShard
    settings = ExtractSettings(media, dataset, streams=("efficientnet-lite0",), delete_media=True)
    function = _ExtractShard(settings, {"efficientnet-lite0": Path(lite0), "davenet": Path(davenet)}, "", False)
    function.setup()
    try:
        return list(function.process("000000"))
    finally:
        function.teardown()

def without(name):
    for module in [m for m in sys.modules if m.partition(".")[0] in OURS]:
        del sys.modules[module]
    blocked = {m: sys.modules[m] for m in list(sys.modules) if m.partition(".")[0] == name}
    sys.modules.update(dict.fromkeys([*blocked, name]))
    try:
        said = extract()
    except Exception as error:
        said = type(error).__name__ + ": " + str(error)
    del sys.modules[name]
    sys.modules.update(blocked)
    written = [path.name for folder in ("parts", "shards", "ledger") for path in dataset.glob(folder + "/**/*.*")]
    return said, len(list(media.glob("*.mp4"))), written

import pipeline.extraction.worker, beam_jobs.extract
print(json.dumps({name: without(name) for name in [*names, ""]}))
"""


def test_a_worker_without_a_library_is_charged_to_no_video(clips: dict[str, bytes], tmp_path: Path) -> None:
    media, dataset = tmp_path / "media", tmp_path / "dataset"
    media.mkdir()
    for name, content in clips.items():
        (media / name).write_bytes(content)
    files = {network: materialise(network, spec, tmp_path) for network, spec in WEIGHTS.items()}
    digests = {network: load_weights(network, path).digest for network, path in files.items()}
    settings = ExtractSettings(media, dataset, streams=("efficientnet-lite0",))
    settle(dataset, {"identity": identity(settings, digests, "fp32", {"format": ""})})
    write_plans(dataset / "plans", [[GOOD[0], BAD, GOOD[1]]])
    command = [sys.executable, "-c", WORKER, str(media), str(dataset), *map(str, files.values()), *OF_THE_WORKER]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    said, media_files, written = found.pop("")
    assert (said, media_files) == ([["000000", {"done": 2, "failed undecodable": 1}]], 1) and written
    assert found.keys() >= {"torch", "torchaudio", "numpy", "h5py"}
    for library, (said, media_files, written) in found.items():
        assert f"import of {library}" in said or f"{library} doesn't load" in said
        assert "\n" not in said
        assert (media_files, written) == (3, []), library
