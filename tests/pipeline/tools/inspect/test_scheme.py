"""Pairing schemes described and drawn: sizes by their formulas, brackets by hand, drawings that name all there is."""

import json
import random
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from PIL import Image

from models.pairing import BUILTIN_SCHEMES, MODALITIES, builtin_scheme, scheme_from_dict
from pipeline.cli import main
from pipeline.core.errors import InputError
from pipeline.tools.inspect.scheme import SchemeDescription, SpaceDescription, Vector, brackets, describe, scheme_lines
from pipeline.tools.inspect.scheme_figure import draw_scheme

CROSSED: dict[str, Any] = {
    "name": "crossed",
    "spaces": [
        # Each space takes something from the other: no modality goes in a cycle.
        {"name": "left", "width": 16, "modalities": {"video": "right", "audio": "feature"}, "pairs": ["video-audio"]},
        {"name": "right", "modalities": {"video": "feature", "audio": "left"}, "pairs": ["audio-video"]},
    ],
}


def linear(width_in: int, width_out: int) -> int:
    return width_in * width_out + width_out


def gated(width_in: int, width_out: int) -> int:
    return linear(width_in, width_out) + linear(width_out, width_out)


def decoder(width: int, target: int) -> int:
    return linear(width, 1024) + linear(1024, target)


def test_parameters_of_shared_follow_from_the_layers() -> None:
    wide = 4096
    video = gated(2048, wide) + decoder(wide, 2048)
    audio = gated(1024, 1024) + linear(1024, wide) + decoder(wide, 1024)
    text = linear(300, wide) + gated(wide, wide) + decoder(wide, wide)
    assert describe(builtin_scheme("shared")).parameters == video + audio + text


@pytest.mark.parametrize("width", [1, 64, 6144])
def test_parameters_of_fine_and_coarse_at_any_width(width: int) -> None:
    fine = gated(2048, width) + gated(1024, 1024) + linear(1024, width) + decoder(width, 2048) + decoder(width, 1024)
    coarse = 3 * gated(width, width) + linear(300, width)
    coarse += decoder(width, 2048) + decoder(width, 1024) + decoder(width, width)
    found = describe(builtin_scheme("fine-and-coarse"), {"width": width})
    assert found.parameters == fine + coarse
    assert found.parameters == sum(v.head_parameters + v.decoder_parameters for s in found.spaces for v in s.vectors)


def test_a_head_that_two_share_is_counted_once() -> None:
    found = describe(builtin_scheme("fine-and-coarse-mmv"))
    coarse = {vector.modality: vector for vector in found.spaces[1].vectors}
    assert coarse["audio"].head == coarse["video"].head == "coarse/video"
    assert (coarse["audio"].head_parameters, coarse["video"].head_parameters) == (0, gated(4096, 4096))
    assert (coarse["audio"].origin, coarse["audio"].decoder) == ("fine", "")
    assert found.parameters == sum(v.head_parameters + v.decoder_parameters for s in found.spaces for v in s.vectors)


def test_davenet_inside_is_counted() -> None:
    found = describe(builtin_scheme("shared"), {"audio_from": "logmel"})
    assert found.davenet_parameters > 10**6
    assert found.parameters - found.davenet_parameters == describe(builtin_scheme("shared")).parameters
    assert f"of which DaveNet {found.davenet_parameters:,}" in "\n".join(scheme_lines(found))


@pytest.mark.parametrize("settings", [{"width": 0}, {"width": 2**62}, {"no_such": 1}])
def test_sizes_that_no_model_has_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(InputError, match="no model of these sizes"):
        describe(builtin_scheme("shared"), settings)


# The text


def space_of(modalities: list[str], pairs: list[tuple[str, str]]) -> SpaceDescription:
    vectors = tuple(Vector(m, "feature", f"s/{m}", "gated unit", 3, 4, 1, "", 0) for m in modalities)
    return SpaceDescription("s", 4, vectors, tuple(pairs))


@pytest.mark.parametrize(
    ("pairs", "drawn"),
    [
        ([("video", "audio")], ["─╮", "─╯", "  "]),
        ([("text", "video")], ["─╮", " │", "─╯"]),
        ([("video", "text"), ("audio", "text")], ["─╮  ", "─┼─╮", "─┴─╯"]),
        ([("video", "text"), ("video", "audio"), ("audio", "text")], ["─┬─╮  ", "─┼─┴─╮", "─┴───╯"]),
    ],
)
def test_brackets_join_what_is_contrasted(pairs: list[tuple[str, str]], drawn: list[str]) -> None:
    assert brackets(space_of(["video", "audio", "text"], pairs)) == drawn


def random_pairs(chance: random.Random) -> list[tuple[str, str]]:
    every = [("video", "audio"), ("video", "text"), ("audio", "text")]
    chance.shuffle(every)
    return every[: chance.randrange(1, 4)]


def joined(rows: list[str], column: int) -> list[int]:
    """The rows that a bracket has an end in: where its column's mark opens or closes it."""
    return [row for row, text in enumerate(rows) if text[column] in "╮╯┬┴"]


def test_every_bracket_ends_at_its_two_rows() -> None:
    chance = random.Random(0)
    for _ in range(40):
        modalities = chance.sample(MODALITIES, 3)
        pairs = random_pairs(chance)
        rows = brackets(space_of(modalities, pairs))
        for number, pair in enumerate(pairs):
            assert joined(rows, 2 * number + 1) == sorted(modalities.index(modality) for modality in pair)


@pytest.mark.parametrize("name", BUILTIN_SCHEMES)
def test_the_command_draws_every_built_in_scheme(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", name, "--width", "64"]) == 0
    text = capsys.readouterr().out
    scheme = builtin_scheme(name)
    for space in scheme.spaces:
        contrasted = ", ".join(pair.name for pair in space.pairs)
        assert f"space {space.name}, width 64, contrasts {contrasted}\n" in text
        for source in space.sources:
            origin = "feature" if source.origin == "feature" else f"of {source.origin}"
            assert f"  {source.modality} {origin} " in text
    assert f"parameters: {describe(scheme, {'width': 64}).parameters:,}\n" in text


def test_json_tells_heads_pairs_and_decoders(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "fine-and-coarse-mmv", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [space["name"] for space in found["spaces"]] == ["fine", "coarse"]
    assert [space["pairs"] for space in found["spaces"]] == [["video-audio"], ["video-text"]]
    audio = next(v for v in found["spaces"][1]["vectors"] if v["modality"] == "audio")
    assert (audio["origin"], audio["head"], audio["width_in"], audio["width_out"]) == (
        "fine",
        "coarse/video",
        4096,
        4096,
    )
    assert found["features"] == {"video": 2048, "audio": 1024, "text": 300}


def test_a_terminal_without_these_characters_gets_others() -> None:
    lines = scheme_lines(describe(builtin_scheme("shared")), "ascii")
    assert "\n".join(lines).isascii() and any("+" in line and ">" in line for line in lines)


# The figure


def words_of(svg: Path) -> str:
    return " ".join(text for element in ElementTree.parse(svg).iter() if (text := (element.text or "").strip()))


@pytest.mark.parametrize("name", BUILTIN_SCHEMES)
def test_a_figure_names_every_space_vector_and_head(name: str, tmp_path: Path) -> None:
    scheme = describe(builtin_scheme(name))
    draw_scheme(scheme, tmp_path / "scheme.svg")
    words = words_of(tmp_path / "scheme.svg")
    vectors = [vector for space in scheme.spaces for vector in space.vectors]
    for space in scheme.spaces:
        assert f"space {space.name}, width 4,096" in words
    for modality in scheme.features:
        own = sum(vector.modality == modality for vector in vectors)
        assert words.split().count(modality) == own + 1
    assert words.count("the same as") == sum(not vector.head_parameters for vector in vectors)
    assert "contrasted" in words
    before = (tmp_path / "scheme.svg").read_bytes()
    draw_scheme(scheme, tmp_path / "scheme.svg")
    assert (tmp_path / "scheme.svg").read_bytes() == before


def test_figures_come_as_pdf_and_png(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for suffix in ("pdf", "png"):
        assert main(["inspect", "disjoint", "--draw", str(tmp_path / "new" / f"scheme.{suffix}")]) == 0
        assert f"drawn: {tmp_path / 'new' / f'scheme.{suffix}'}" in capsys.readouterr().out
    assert (tmp_path / "new" / "scheme.pdf").read_bytes().startswith(b"%PDF-")
    with Image.open(tmp_path / "new" / "scheme.png") as image:
        colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 20) or []}
        # Each modality's colour, and that of the contrast.
        assert {(0, 0x72, 0xB2), (0xD5, 0x5E, 0), (0, 0x9E, 0x73), (0xAA, 0x33, 0x77)} <= colours


def described(content: dict[str, Any]) -> SchemeDescription:
    return describe(scheme_from_dict(content))


def test_spaces_that_take_from_each_other_can_be_drawn(tmp_path: Path) -> None:
    draw_scheme(described(CROSSED), tmp_path / "crossed.svg")
    assert "space left, width 16" in words_of(tmp_path / "crossed.svg")


def test_a_name_with_dollars_is_no_formula(tmp_path: Path) -> None:
    draw_scheme(described(CROSSED | {"name": "a $x_{ $ \x1b[2J"}), tmp_path / "odd.svg")
    assert "a $x_{ $ \\x1b[2J: " in words_of(tmp_path / "odd.svg")


# One's own schemes


def test_a_scheme_of_ones_own_is_read_from_yaml(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "crossed.yaml"
    path.write_text(yaml.safe_dump(CROSSED))
    assert main(["inspect", str(path), "--width", "32", "--draw", str(tmp_path / "crossed.png")]) == 0
    text = capsys.readouterr().out
    assert "space left, width 16, contrasts video-audio" in text and "space right, width 32" in text
    assert "video of right 32" in text and (tmp_path / "crossed.png").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["shared", "--draw", "FOLDER/a.gif"], "ends in .svg, .pdf, .png"),
        (["shared", "--draw", "FOLDER/scheme.yaml/a.svg"], "can't be written"),
        (["shared", "--width", "-1"], "can't be negative"),
        (["FOLDER/scheme.yaml"], "pair video-text needs text, which is not in this space"),
        (["FOLDER/report.json", "--draw", "FOLDER/a.svg"], "has no pairing scheme to draw"),
        (["FOLDER/report.json", "--width", "8"], "--width goes with a pairing scheme"),
    ],
)
def test_what_can_not_be_drawn_is_refused_in_a_line(
    tmp_path: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from pipeline.core.files import write_json
    from pipeline.core.reporting import RunSummary

    write_json(tmp_path / "report.json", RunSummary("verify").as_json())
    spaces = [{"name": "one", "modalities": {"video": "feature"}, "pairs": ["video-text"]}]
    (tmp_path / "scheme.yaml").write_text(yaml.safe_dump({"name": "broken", "spaces": spaces}))
    assert main(["inspect", *(argument.replace("FOLDER", str(tmp_path)) for argument in arguments)]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not (tmp_path / "a.svg").exists()
