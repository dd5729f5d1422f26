"""The command line: help, one-line errors that say how to mend them, and exit statuses that tell the truth."""

import importlib.metadata
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.cli import main, parse
from pipeline.commands import COMMANDS, Command
from pipeline.core.errors import InputError, ToolError
from pipeline.core.reporting import RunSummary
from pipeline.core.signals import StoppedError

ROOT = Path(__file__).parents[2]
Refused = Callable[..., str]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """Run a command that must end with status 2 and one line on standard error; returns the line."""

    def check(*arguments: object) -> str:
        assert main([str(argument) for argument in arguments]) == 2
        error = capsys.readouterr().err
        assert error.endswith("\n") and error.count("\n") == 1, error
        assert error.startswith("mcn") and "Traceback" not in error
        return error

    return check


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example_that_parses(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit) as left:
        main([*name.split(), "--help"])
    assert left.value.code == 0
    text = capsys.readouterr().out
    command = COMMANDS[name]
    assert f"example: {command.example}" in text and f"mcn {name}" in text
    assert ("Apache Beam" in text.split("example:")[1]) == command.beam
    monkeypatch.chdir(ROOT)
    program, *arguments = shlex.split(command.example)
    assert program == "mcn" and arguments[: len(name.split())] == name.split()
    settings, further = parse(name, arguments[len(name.split()) :])
    assert type(settings) is command.settings_class() and further == []
    flags = [word.removeprefix("--").replace("-", "_") for word in arguments if word.startswith("--")]
    for flag in flags:
        given = arguments[arguments.index("--" + flag.replace("_", "-")) + 1]
        assert str(getattr(settings, flag)) == given


@pytest.mark.parametrize("name", [name for name, command in COMMANDS.items() if not command.experiment])
def test_every_flag_has_a_help_text(name: str) -> None:
    from pipeline.core import config

    settings_class = COMMANDS[name].settings_class()
    assert all(setting.help for setting in config.settings_in(settings_class).values())


def test_the_overview_lists_every_stage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    unwrapped = " ".join(text.split())
    assert all(f"  {name} " in text and command.summary in unwrapped for name, command in COMMANDS.items())
    assert main([]) == 2 and capsys.readouterr().out == text
    assert main(["help"]) == 0 and capsys.readouterr().out == text


def test_help_and_version_are_words_of_their_own(capsys: pytest.CaptureFixture[str], refused: Refused) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"mcn {importlib.metadata.version('mcn')}\n"
    texts = []
    for arguments in (["help", "probe"], ["probe", "--help"]):
        with pytest.raises(SystemExit):
            main(arguments)
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] and "mcn probe" in texts[0]
    assert "did you mean 'train'?" in refused("help", "trian")


def test_a_terminal_of_one_column_gets_help_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "1")
    assert main(["help"]) == 0 and "retrieval" in capsys.readouterr().out


def test_flags_stand_in_groups_with_what_is_required_and_the_defaults_as_typed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "72")
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    text = capsys.readouterr().out
    assert max(map(len, text.split("example:")[0].splitlines())) <= 72
    titles = ("data", "model", "loss", "clusters", "hardware", "output", "mcn train")
    parts = re.split(rf"\n({'|'.join(titles)}):\n", text)
    groups = {title: " ".join(part.split()) for title, part in zip(parts[1::2], parts[2::2], strict=True)}
    assert tuple(groups) == titles
    assert "(required)" in groups["data"] and "(default: resnet152)" in groups["data"]
    assert "--margin" in groups["loss"] and "--refit-every" in groups["clusters"] and "--width" in groups["model"]
    assert "--precision" in groups["hardware"] and "--out" in groups["output"] and "--epochs" in groups["mcn train"]
    assert "(default: true)" in groups["model"] and "(default: True)" not in text


LIGHT = """
import os, sys
from pipeline.cli import main
from pipeline.commands import COMMANDS
for name, command in COMMANDS.items():
    command.settings_class()
    try:
        main([*name.split(), "--help"])
    except SystemExit:
        pass
# The module of `mcn run`, which waits for hours beside the workers of its stages.
assert main(["config", "list"]) == 0
assert main(["extract", "--media", ".", "--out", "o", "--feature-fp", "1"]) == 2
assert main(["download", "--ids", "i", "--out", "o", "--runer=DirectRunner"]) == 2
assert main(["train", "--manifest", "missing.json", "--out", "o"]) == 2
print([name for name in ("torch", "gensim", "apache_beam") if name in sys.modules], file=sys.stderr)
"""


def test_settings_help_and_refusals_load_no_library_of_the_work() -> None:
    answer = subprocess.run([sys.executable, "-c", LIGHT], cwd=ROOT, capture_output=True, text=True)
    *refusals, loaded = answer.stderr.splitlines()
    assert loaded == "[]", answer.stderr
    for line, named in zip(refusals, ("'--feature-fps'?", "'--runner'?", "missing.json: no such file"), strict=True):
        assert named in line


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "--out", "o", "--manifest"),
        ("export", "--out", "o"),
        ("download", "--out", "o", "--ids"),
        ("evaluate", "retrieval", "--checkpoint", __file__, "--out", "o", "--clips"),
        ("probe", "--checkpoint", __file__, "--out", "o", "--beside"),
        ("search",),
        ("verify",),
        ("estimate",),
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_a_missing_input_is_refused_before_the_work_is_loaded(
    refused: Refused, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    monkeypatch.setattr(Command, "run", raising(AssertionError("the work was begun")))
    assert f"{tmp_path / 'none'}: no such file or folder (" in refused(*arguments, tmp_path / "none")


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("mcn tr", {"train"}),
        ("mcn evaluate ", {"retrieval", "localization", "classification"}),
        ("mcn train --pres", {"--preset"}),
        ("mcn train --preset ", {"default", "mcn-iccv21", "sample"}),
        ("mcn evaluate retrieval --published", {"--published-ties"}),
    ],
)
def test_the_shell_completes_stages_flags_and_choices(tmp_path: Path, line: str, offered: set[str]) -> None:
    out = tmp_path / "out"
    asked = {"COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_TYPE": "9", "_ARGCOMPLETE": "1"}
    asked |= {"_ARGCOMPLETE_IFS": "\n", "_ARGCOMPLETE_STDOUT_FILENAME": str(out)}
    subprocess.run([sys.executable, "-m", "pipeline.cli"], cwd=ROOT, env=os.environ | asked, check=True)
    assert {word.strip() for word in out.read_text().split("\n")} == offered


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["trian"], "unknown stage 'trian'; did you mean 'train'?"),
        (["evaluate"], "'evaluate retrieval', 'evaluate localization', 'evaluate classification'"),
        (["evaluate", "retreival"], "did you mean 'evaluate retrieval'?"),
        (["evaluat", "retrieval"], "did you mean 'evaluate retrieval'?"),
        (["evaluate", "xyz"], "known: evaluate retrieval, evaluate localization, evaluate classification"),
        (["localisation"], "did you mean 'evaluate localization'?"),
        (["config"], "'config list', 'config copy'"),
        (["xyz"], f"unknown stage 'xyz'; known: {', '.join(sorted(COMMANDS))}"),
        (["train", "--manifest", "d", "--out", "o", "--epoch", "3"], "'--epoch'; did you mean '--epochs'?"),
        (["train", "--manifest", "d", "--out", "o", "more"], "unknown argument 'more'"),
        (["forget", "-UksU_Rq-P6", "--run", "r"], "put ids that begin with - after --"),
        (["train", "--manifest"], "expected one argument; see mcn train --help"),
        (["train", "--out", "o"], "--manifest is required: Manifest made by"),
        (["train", "--manifest", "d"], "--out is required"),
        (["run"], "CONFIG.yaml"),
        (["run", "x.yaml", "--epochs", "3"], "give settings of stages as --set train.epochs=3"),
        (["run", "x.yaml", "--epoch=3"], "give settings of stages as --set train.epochs=3"),
        (["compare", "x.yaml", "--seed", "2"], "give settings of stages as --set seeds=2"),
        (["run", "x.yaml", "--step-seconds", "2"], "give settings of stages as --set localize.step_seconds=2"),
        (["run", "x.yaml", "--runer=DirectRunner"], "did you mean '--runner'?"),
        (["search", "i", "-fry"], "put a query that begins with - after --: mcn search ... -- -fry"),
        (["search", "i", "--tpo", "3"], "did you mean '--top'?"),
        (["inspect", "-abc"], "give a path that begins with - as ./-abc"),
        (["inspect", "-hbc"], "give a path that begins with - as ./-hbc"),
        (["train", "--manifest", "d", "--out", "-x"], "a value that begins with - is given as --out=-x"),
        (["train", "--manifest", "--out", "o"], "expected one argument; see mcn train --help"),
        (["freeze", "d", "n", "-seed=3"], "did you mean '--seed'?"),
        (["freeze", "d", "spring", "2026"], "unknown argument '2026': expected DATASET NAME"),
        (["search", "i", "q", "--top", "0"], "mcn search: --top must be 1 to 1000"),
        (["extract", "--media", "m", "--out", "o", "--follow"], "mcn extract: --follow needs --ids"),
        (
            ["train", "--manifest", "d", "--out", "o", "--epochs", "many"],
            "epochs: expected an integer, got 'many'",
        ),
        (["train", "--manifest", "d", "--out", "o", "--epochs", "0"], "--epochs is 0: it must be at least 1"),
        (["train", "--manifest", "d", "--out", "o", "--preset", "sampel"], "did you mean 'sample'?"),
        (["train", "--manifest", "d", "--out", "o", "--precision", "fp16"], "'fp16' is not allowed; did you mean"),
        (["extract", "--media", "m", "--out", "o", "--runer=FlinkRunner"], "'--runer'; did you mean '--runner'?"),
        (["extract", "--media", "m", "--out", "o", "--runner=FlinkRuner"], "did you mean 'FlinkRunner'?"),
        (["extract", "--media", "m", "--out", "o", "--feature_fp", "1"], "did you mean '--feature-fps'?"),
        (["extract", "--media", "m", "--out", "o", "--feature-fps", "7"], "7"),
        (["extract", "--media", "m", "--out", "o", "--streams", "resnt18"], "resnt18 is unknown; did you mean"),
        (["extract", "--media", "m", "--out", "o", "--streams", "vit_b_16"], "vit_b_16 takes pictures of 224x224"),
        (["extract", "--media", "m", "--out", "o", "--weights", "r3d_18=a.pt"], "--weights: r3d_18 is none of the str"),
        (["weights", "fetch", "resnet19"], "resnet19 is no video network; did you mean resnet18 or"),
        (["weights", "fetch", "resnet18:IMAGENET1K_V2"], "no weights 'IMAGENET1K_V2'; did you mean 'IMAGENET1K_V1'?"),
        (["weights", "fetch", "davenet"], "davenet is no video network"),
        (["evaluate", "retrieval", "--checkpoint", "c", "--clips", "x", "--out", "o", "--bootstrap", "0"], "bootstrap"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_unknown_or_missing_is_named_with_its_nearest(
    refused: Refused, arguments: list[str], named: str
) -> None:
    assert named in refused(*arguments)


def test_yaml_keys_are_checked_like_flags(refused: Refused, tmp_path: Path) -> None:
    path = tmp_path / "train.yaml"
    command = ("train", "--config", path, "--out", tmp_path / "out")
    for text, named in {
        "batch_video: 3": "unknown setting 'batch_video'; did you mean 'batch_videos'?",
        "manifest: [a]": "manifest: expected a path, got ['a']",
        "manifest: d\nepochs: 1.5": "epochs: expected an integer, got 1.5",
        "manifest: 'd": "line 1: not valid YAML",
        "- manifest": "expected settings as `name: value` lines",
        "manifest: d\nseed: 2026-13-45": "not valid YAML",
        "preset: [sample]": "preset: ['sample'] is unknown",
        "": "--manifest is required",
    }.items():
        path.write_text(text)
        line = refused(*command)
        assert str(path) in line and named in line
    assert "no such file" in refused("train", "--config", tmp_path / "none.yaml")


@pytest.fixture
def media(tmp_path: Path) -> Path:
    folder = tmp_path / "media"
    folder.mkdir()
    (folder / "abcdefghijk.mp4").write_bytes(b"no video")
    return folder


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (None, "no such file"),
        ("id,rank\nabcdefghijk,1\n", "line 1: no column video_id"),
        ("video_id,rank\nabcdefghijk,1\n../../../etc,2\n", "line 3: '../../../etc' is not a video id"),
        ("video_id,rank\nabcdefghijk\n", "line 2: expected 2 fields, as in line 1, got 1"),
        ("video_id,rank\nabcdefghijk,1,2\n", "line 2: expected 2 fields, as in line 1, got 3"),
        ("video_id\n", "lists no video"),
        (b"video_id\n\xff\xfe\n", "line 2: byte 0xff isn't UTF-8"),
    ],
    ids=str,
)
@pytest.mark.parametrize("stage", ["extract", "download"])
def test_a_bad_list_is_refused_with_its_line(
    refused: Refused, tmp_path: Path, media: Path, stage: str, text: str | bytes | None, named: str
) -> None:
    path = tmp_path / "list.csv"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    source = ("--media", media) if stage == "extract" else ()
    line = refused(stage, *source, "--ids", path, "--out", tmp_path / "out")
    assert str(path) in line and named in line


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (None, "no such file"),
        (
            '{"abcdefghijk": {"start": [0], "end": [1], "text": ["a"]}, "lmn',
            "not valid JSON at or after key 'abcdefghijk'",
        ),
        ('{"abcdefghijk": {"start": [0] "end"', "not valid JSON"),
        ('[{"abcdefghijk": {}}]', "expected one JSON object"),
    ],
    ids=str,
)
def test_bad_captions_are_refused_with_their_key(
    refused: Refused, tmp_path: Path, media: Path, text: str | None, named: str
) -> None:
    path = tmp_path / "caption.json"
    if text is not None:
        path.write_text(text)
    line = refused("extract", "--media", media, "--captions", path, "--out", tmp_path / "out")
    assert str(path) in line and named in line and not (tmp_path / "out" / "dataset.json").exists()


def test_weights_of_a_wrong_kind_are_refused(refused: Refused, tmp_path: Path, media: Path) -> None:
    path = tmp_path / "weights.pth"
    command = ("extract", "--media", media, "--out", tmp_path / "out", "--weights", path)
    path.write_text("no weights")
    assert str(path) in refused(*command)
    torch.save({"fc.weight": torch.zeros(3, 4)}, path)
    assert str(path) in refused(*command)
    torch.save(torch.nn.Linear(2, 2), path)
    assert str(path) in refused(*command)
    assert "none.pth" in refused(*command[:-1], tmp_path / "none.pth")
    assert not (tmp_path / "out" / "dataset.json").exists()


def test_media_that_are_not_there_are_refused(refused: Refused, tmp_path: Path) -> None:
    assert "no such file or folder" in refused("extract", "--media", tmp_path / "none", "--out", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    assert "holds no video file" in refused("extract", "--media", tmp_path / "empty", "--out", tmp_path / "out")


@pytest.mark.parametrize("below", [".", "deeper"])
def test_an_output_that_can_not_be_written_is_refused(
    refused: Refused, tmp_path: Path, planted: Any, below: str
) -> None:
    file = tmp_path / "file"
    file.write_text("in the way")
    line = refused(
        *("train", "--manifest", planted.manifest, "--out", file / below, "--device", "cpu"),
        *("--batch-videos", 4, "--clips-per-video", 2, "--width", 8, "--clusters", 4, "--epochs", 1),
    )
    assert str(file) in line and "can't be written" in line and "choose another --out" in line
    assert file.read_text() == "in the way"


@pytest.mark.parametrize(
    ("file", "content", "named"),
    [
        ("dataset.json", None, "dataset.json: no such file"),
        ("dataset.json", b"{", "not a JSON file"),
        ("dataset.json", b"[]", "holds no Identity"),
        ("words.kv", None, "words.kv"),
        ("words.kv", b"2 4\nab", "words.kv"),
        ("words.kv", b"1 1\na \0\0\0\0\n", "not the vectors this data set was made with"),
        ("shards/000000.h5", b"", "not a whole HDF5 file"),
        ("manifests/planted.json", None, "planted.json: no such file"),
        ("manifests/planted.json", b"{", "not a JSON file"),
        ("manifests/planted.json", b"[]", "not a manifest"),
        ("manifests/planted.json", b'{"schema": 9, "digest": ""}', "schema 9, this program reads 1"),
    ],
)
def test_a_broken_data_set_is_refused(
    refused: Refused, tmp_path: Path, planted: Any, file: str, content: bytes | None, named: str
) -> None:
    import shutil

    folder = tmp_path / "dataset"
    shutil.copytree(planted.folder, folder)
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_bytes(content)
    line = refused(
        *("train", "--manifest", folder / "manifests" / "planted.json", "--out", tmp_path / "out"),
        *("--batch-videos", 4, "--device", "cpu", "--width", 8),
    )
    assert named in line and not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def clip_model(planted: Any, tiny_training: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    from pipeline.training.settings import TrainSettings
    from pipeline.training.train import run

    out = tmp_path_factory.mktemp("clip_model")
    run(TrainSettings.flat(manifest=planted.manifest, out=out, epochs=1, **tiny_training))
    return out


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (None, "no such file"),
        (b"video_id,start,text\n", "line 1: no column end; expected video_id,start,end,text"),
        (b"video_id,start,end,text\na,0,1,b\na,2,1,b\n", "line 3: expected 0 <= start < end"),
        (b"video_id,start,end,text\na,0,nan,b\n", "line 2"),
        (b"video_id,start,end,text\na,zero,1,b\n", "line 2"),
        (b"video_id,start,end,text\na,0,1\n", "line 2"),
        (b"video_id,start,end,text\n\xff,0,1,b\n", "line 2: byte 0xff isn't UTF-8"),
        (b"video_id,start,end,text\nnowhere,0,1,b\n", "no video in split heldout of"),
    ],
    ids=str,
)
def test_bad_clips_are_refused_with_their_line(
    refused: Refused, tmp_path: Path, clip_model: Path, text: bytes | None, named: str
) -> None:
    path = tmp_path / "clips.csv"
    if text is not None:
        path.write_bytes(text)
    line = refused("evaluate", "retrieval", "--checkpoint", clip_model, "--clips", path, "--out", tmp_path / "out")
    assert str(path) in line and named in line


def test_a_checkpoint_that_is_none_is_refused(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "clips.csv").write_text("video_id,start,end,text\nvideo,0,1,fry\n")
    command = ("evaluate", "retrieval", "--clips", tmp_path / "clips.csv", "--out", tmp_path, "--checkpoint", tmp_path)
    assert "no such file; train a model first" in refused(*command)
    torch.save({"schema": 1, "model": {}}, tmp_path / "checkpoint.pt")
    assert "not a checkpoint of this program" in refused(*command)
    (tmp_path / "checkpoint.pt").write_text("no checkpoint")
    assert "not a whole checkpoint" in refused(*command)


def answering(monkeypatch: pytest.MonkeyPatch, answer: Callable[..., Any]) -> list[str]:
    monkeypatch.setattr(importlib.import_module("pipeline.training.train"), "run", answer)
    return ["train", "--manifest", __file__, "--out", "o"]


@pytest.mark.parametrize("complete", [True, False])
def test_status_0_only_when_the_work_is_there(monkeypatch: pytest.MonkeyPatch, complete: bool) -> None:
    command = answering(monkeypatch, lambda settings: RunSummary("train", complete=complete))
    assert main(command) == (0 if complete else 1)


def raising(error: BaseException) -> Callable[[Any], Any]:
    def run(settings: Any) -> Any:
        raise error

    return run


def test_an_interruption_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(answering(monkeypatch, raising(KeyboardInterrupt()))) == 130
    assert capsys.readouterr().err == "mcn: interrupted; rerun the same command to resume\n"


def test_a_wait_that_a_signal_ends_is_status_75(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(answering(monkeypatch, raising(StoppedError("training in o: stopped by a signal")))) == 75
    assert capsys.readouterr().err == "mcn: training in o: stopped by a signal\n"


def test_a_pipe_that_is_not_the_output_s_is_an_error_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(answering(monkeypatch, raising(BrokenPipeError(32, "Broken pipe")))) == 1
    assert capsys.readouterr().err == "mcn: Broken pipe (--debug shows where)\n"


def test_a_fault_of_the_tool_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(answering(monkeypatch, raising(ToolError("a disk\nmcn: all is well\x1b[0m")))) == 1
    assert capsys.readouterr().err == "mcn: a disk\\nmcn: all is well\\u001b[0m (--debug shows where)\n"


@pytest.mark.parametrize(
    ("command", "status", "said"),
    [
        ("--version >/dev/full", 1, "standard output: No space left on device"),
        ("help train >/dev/full", 1, "standard output: No space left on device"),
        ("inspect shared >/dev/full", 1, "standard output: No space left on device"),
        ("trian >/dev/full", 2, "did you mean 'train'?"),
        ("--version >&-", 0, ""),
        ("--version 2>&-", 0, ""),
        ("inspect shared >&- 2>&-", 0, ""),
        ("trian 2>&-", 2, ""),
        ("trian 2>/dev/full", 2, ""),
        ("inspect shared | true", 141, ""),
        ("train --help | true", 141, ""),
    ],
)
def test_what_can_not_be_printed_shows_in_the_status_alone(command: str, status: int, said: str) -> None:
    program, _, pipe = command.partition("|")
    line = f"{{ exec {sys.executable} -m pipeline.cli {program}; }}" + (f" |{pipe}" if pipe else "")
    answer = subprocess.run(
        ["bash", "-o", "pipefail", "-c", line], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert answer.returncode == status and answer.stderr.count("\n") == bool(said) and said in answer.stderr


def test_a_traceback_is_shown_with_debug_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = answering(monkeypatch, raising(InputError("file.csv: is wrong")))
    assert main(command) == 2 and capsys.readouterr().err == "mcn: file.csv: is wrong\n"
    assert main([*command, "--debug"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("Traceback") and error.endswith("mcn: file.csv: is wrong\n")


def test_a_fault_of_the_program_itself_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ZeroDivisionError):
        main(answering(monkeypatch, raising(ZeroDivisionError())))


def test_arguments_come_from_the_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["mcn", "trane"])
    assert main() == 2 and "did you mean 'train'?" in capsys.readouterr().err


def test_beam_options_are_handed_on(tmp_path: Path) -> None:
    settings, further = parse(
        "extract", ["--media", "m", "--runner=FlinkRunner", "--out", "o", "--flink_master", "host:8081"]
    )
    assert (str(settings.media), str(settings.out)) == ("m", "o")
    assert further == ["--runner=FlinkRunner", "--flink_master", "host:8081"]
    config = tmp_path / "run.yaml"
    config.write_text(json.dumps({"out": "o"}))
    assert parse("run", [str(config), "--runner=FlinkRunner"])[1] == ["--runner=FlinkRunner"]


@pytest.mark.parametrize("what", ["name", "part", "yaml"])
def test_what_a_file_says_does_not_reach_the_terminal_raw(
    what: str, planted: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    harm = "\x1b]0;owned\x07\x1b[2J\u202e\nmcn: all is well"
    if what == "name":
        status = main(["download", "--ids", str(tmp_path / f"{harm}.csv"), "--out", str(tmp_path / "o")])
    elif what == "part":
        dataset = Path(shutil.copytree(planted.folder, tmp_path / "dataset"))
        (dataset / "parts" / "000000").mkdir(parents=True)
        (dataset / "parts" / "000000" / f"{harm}.h5").write_text("no part")
        status = main(["verify", str(dataset)])
    else:
        study = tmp_path / "study.yaml"
        study.write_text(f"out: x\nowned: {json.dumps(harm)}\n{json.dumps(harm)}: {{}}\n", encoding="utf-8")
        status = main(["compare", str(study)])
    printed = "".join(capsys.readouterr())
    assert status == (1 if what == "part" else 2) and "owned" in printed
    assert not set(printed) & set("\x1b\x07\u202e\r\b")
    assert not [line for line in printed.splitlines() if line.startswith("mcn: all is well")]


@pytest.mark.parametrize(
    ("words", "query"),
    [
        (["fry", "the", "onion"], "fry the onion"),
        (["fry the onion"], "fry the onion"),
        (["--json", "fry", "onion"], "fry onion"),
        (["fry", "--top", "3", "onion"], "fry onion"),
        (["--", "-fry", "--", "onion"], "-fry -- onion"),
        (["onion", "--", "onion"], "onion onion"),
        (["-fry it"], "-fry it"),
    ],
)
def test_the_words_after_an_index_are_the_query(words: list[str], query: str) -> None:
    settings, _ = parse("search", ["index", *words])
    assert (str(settings.index), settings.query, settings.json) == ("index", query, "--json" in words)


def test_ids_that_begin_with_a_hyphen_are_given_after_two() -> None:
    settings, _ = parse("forget", ["abcdefghijk", "--dry-run", "--run", "r", "--", "-UksU_Rq-P6", "--abcdefghi"])
    assert settings.ids == ("abcdefghijk", "-UksU_Rq-P6", "--abcdefghi") and settings.dry_run
    assert str(parse("inspect", ["--", "-abc"])[0].path) == "-abc"
    assert str(parse("train", ["--manifest", "m", "--out=-x"])[0].out) == "-x"


def test_flags_and_files_are_each_blamed_for_their_own(refused: Refused, tmp_path: Path) -> None:
    path = tmp_path / "train.yaml"
    path.write_text("manifest: m\nout: o\nepochs: 0\n")
    assert f"{path}: epochs is 0" in refused("train", "--config", path)
    assert refused("train", "--config", path, "--epochs", "many").startswith("mcn train: --epochs: expected an integer")
    assert refused("train", "--config", path, "--epochs", "-1").startswith("mcn train: --epochs is -1")
    assert f"{path}: epochs is 0" in refused("train", "--config", path, "--width", "8")


def test_placeholders_in_the_help_say_what_is_meant(capsys: pytest.CaptureFixture[str]) -> None:
    for name, command in COMMANDS.items():
        if command.experiment:
            continue
        with pytest.raises(SystemExit):
            main([*name.split(), "--help"])
        text = capsys.readouterr().out
        shown = dict(re.findall(r"^  (--[\w-]+) (\S+)", text, re.MULTILINE))
        echoing = [flag for flag, placeholder in shown.items() if placeholder == flag[2:].upper().replace("-", "_")]
        echoing = [flag for flag in echoing if flag != "--seconds"]  # a unit
        assert echoing == [], name
    with pytest.raises(SystemExit):
        main(["extract", "--help"])
    text = capsys.readouterr().out
    for flag in ("--media FOLDER", "--ids FILE.csv", "--feature-fps N", "--follow [true|false]"):
        assert f"  {flag}" in text


def test_a_group_of_stages_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--help"]) == 0
    text = capsys.readouterr().out
    assert [line.split()[:2] for line in text.splitlines() if line.startswith("  evaluate")] == [
        ["evaluate", name] for name in ("retrieval", "localization", "classification")
    ]


def test_what_was_likely_meant_is_named(refused: Refused, tmp_path: Path, planted: Any, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "demo"
    shutil.copytree(planted.folder, run / "dataset")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "x.yaml").write_text("out: o\n")
    (run / "models" / "a").mkdir(parents=True)
    (run / "models" / "a" / "checkpoint.pt").write_text("eine Datei")
    assert "did you mean 'configs/x.yaml'?" in refused("run", "config/x.yaml")
    assert "did you mean 'configs/x.yaml'?" in refused("run", "confgs/x")
    assert "did you mean 'configs/x.yaml'?" in refused("run", "configs")
    assert "did you mean 'demo/dataset'?" in refused("freeze", "demo", "spring")
    manifests = "demo/dataset/manifests/all.json, demo/dataset/manifests/planted.json: give one"
    for given in ("demo", "demo/dataset", "demo/dataset/manifests"):
        assert manifests in refused("train", "--manifest", given, "--out", "o")
    assert "did you mean 'shared'?" in refused("inspect", "sharde")
    assert "did you mean 'demo/dataset/dataset.json'?" in refused("inspect", "dmo/datset/dataset.jsn")
    evaluate = ("evaluate", "retrieval", "--clips", planted.clips, "--out", "o", "--checkpoint")
    assert "did you mean 'demo/models/a'?" in refused(*evaluate, "demo")
    assert "not a whole checkpoint: a text file;" in refused(*evaluate, "demo/models/a")
    (tmp_path / "other" / "models").mkdir(parents=True)
    assert "neither a data set, nor a media folder, nor the folder of a run" in refused("status", "other")


def test_a_stream_that_no_extractor_makes_is_refused_before_the_data_are_read(
    refused: Refused, tmp_path: Path, planted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.training.train.launch", raising(AssertionError("the work was begun")))
    line = refused("train", "--manifest", planted.manifest, "--out", tmp_path / "o", "--preset", "mcn-iccv21")
    assert "no video stream 'resnext101'; it has: resnet152; `mcn extract` makes none of that name" in line
    study = tmp_path / "study.yaml"
    study.write_text("out: o\nsample: {}\nextract: {}\ntrain: {preset: mcn-iccv21}\n")
    assert "'resnext101', by preset mcn-iccv21: extract makes resnet152 alone" in refused("run", study)


def test_the_way_from_a_manifest_to_a_found_clip_and_on_after_a_move(
    planted: Any, tiny_training: dict[str, Any], tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, elsewhere = tmp_path / "there", tmp_path / "elsewhere"
    shutil.copytree(planted.folder, there / "dataset")
    elsewhere.mkdir()
    monkeypatch.chdir(there)
    flags = [word for name, value in tiny_training.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    score = ["evaluate", "retrieval", "--clips", str(planted.clips), "--bootstrap", "2", "--out", "o", "--checkpoint"]
    assert main(["train", "--manifest", "dataset/manifests/planted.json", "--out", "m", "--epochs", "1", *flags]) == 0
    *_, held_out, checkpoint, following = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"  held-out clips, text -> video: R@1 [\d.]+ %, R@5 [\d.]+ %, R@10 [\d.]+ %", held_out)
    assert checkpoint == "  checkpoint: m/checkpoint.pt"
    assert following == "  next: mcn evaluate retrieval --checkpoint m --out m --clips CLIPS.csv"
    assert main([*score, "m"]) == 0
    assert main(["embed", "--checkpoint", "m", "--out", "e.h5"]) == 0
    assert main(["index", "e.h5", "--out", "i"]) == 0
    asked = ["now", "action3", "--top", "2", "--json"]
    assert not capsys.readouterr().err and main(["search", "i", *asked]) == 0
    found = json.loads(capsys.readouterr().out)["found"]
    (there / "dataset").rename(elsewhere / "dataset")
    for name in ("m", "e.h5", "e.json", "i"):
        (there / name).rename(elsewhere / name)
    monkeypatch.chdir(tmp_path)
    assert main(["search", "elsewhere/i", *asked]) == 0 and json.loads(capsys.readouterr().out)["found"] == found
    assert main([*score, "elsewhere/m"]) == 0
    # An index that is made after the move finds the model too.
    assert main(["index", "elsewhere/e.h5", "--out", "elsewhere/i2"]) == 0
    (elsewhere / "m").rename(elsewhere / "n")
    capsys.readouterr()
    assert main(["search", "elsewhere/i2", *asked]) == 2
    assert "--checkpoint" in capsys.readouterr().err
    assert main(["search", "elsewhere/i2", "--checkpoint", "elsewhere/n", *asked]) == 0
    capsys.readouterr()
    (elsewhere / "dataset" / "manifests" / "planted.json").rename(elsewhere / "planted.json")
    assert main([*score, "elsewhere/n"]) == 2
    assert "its manifest isn't at" in (line := capsys.readouterr().err) and line.endswith("with --manifest\n")
    shutil.copy(elsewhere / "dataset" / "manifests" / "all.json", elsewhere / "dataset" / "manifests" / "planted.json")
    assert main([*score, "elsewhere/n"]) == 2 and "another manifest lies at" in capsys.readouterr().err
