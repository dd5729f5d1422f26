"""Settings: one dataclass gives the YAML keys, the flags and the help."""

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest

from pipeline.core.config import add_flags, as_plain, command_line, convert, from_mapping, load_yaml, settings_in
from pipeline.core.errors import InputError


@dataclass(frozen=True)
class Base:
    folder: Path
    """Where it
    all goes."""


@dataclass(frozen=True)
class Settings(Base):
    PRESETS: ClassVar[dict[str, dict[str, dict[str, Any]]]] = {
        "preset": {"default": {}, "small": {"batch_size": 2, "names": ["x"]}}
    }

    preset: Literal["default", "small"] = "default"
    """Starting point."""
    batch_size: int = 8
    """How many, at 100 %."""
    rate: float = 0.5
    """How fast."""
    fast: bool = False
    """Whether to hurry."""
    names: tuple[str, ...] = ("a", "b")
    """Which."""
    sizes: tuple[int, ...] = ()
    """How large."""
    spare: Path | None = None
    """A second folder."""
    kind: Literal["tall", "wide"] = "tall"
    """Its shape."""

    def __post_init__(self) -> None:
        if self.batch_size > 100:
            raise ValueError("batch_size is too large")


@dataclass(frozen=True)
class Part:
    depth: int = 2
    """How deep."""
    inner: int = field(default=7, metadata={"flag": False})
    """What the program works out."""

    def __post_init__(self) -> None:
        if self.depth < 0:
            raise ValueError("depth is below 0")


@dataclass(frozen=True)
class Whole:
    name: str
    """Whose."""
    part: Part = Part()
    last: bool = True
    """Its end."""


def made(**values: Any) -> Settings:
    return from_mapping(Settings, {"folder": "f"} | values, "here")


def parsed(*arguments: str) -> dict[str, Any]:
    parser = argparse.ArgumentParser()
    add_flags(parser, Settings)
    return vars(parser.parse_args(arguments))


def test_help_is_the_text_below_each_field() -> None:
    known = settings_in(Settings)
    assert known["folder"].help == "Where it all goes." and known["rate"].help == "How fast."
    parser = argparse.ArgumentParser()
    add_flags(parser, Settings)
    text = " ".join(parser.format_help().split())
    assert "--batch-size N How many, at 100 %. (default: 8)" in text
    assert "--kind {tall,wide} Its shape. (default: tall)" in text
    assert "--spare FOLDER A second folder. --" in text + " --"


def test_flags_and_yaml_give_the_same_settings() -> None:
    flags = parsed(
        *("--folder", "~/x", "--batch-size", "3", "--rate", "1e-3", "--fast", "--names", "c,d", "--sizes", "4,5"),
        *("--spare", "y", "--kind", "wide"),
    )
    from_yaml = from_mapping(
        Settings,
        {
            "folder": "~/x", "batch-size": 3, "rate": 0.001, "fast": True, "names": ["c", "d"], "sizes": [4, 5],
            "spare": "y", "kind": "wide",
        },
        "x.yaml",
    )  # fmt: skip
    assert from_mapping(Settings, flags, "mcn") == from_yaml
    assert from_yaml.folder == Path.home() / "x" and from_yaml.sizes == (4, 5)
    assert parsed() == {}


def test_settings_go_there_and_back() -> None:
    settings = made(spare="s", sizes="1,2", fast="yes")
    assert from_mapping(Settings, as_plain(settings), "again") == settings
    assert as_plain(settings)["folder"] == "f" and as_plain(settings)["sizes"] == [1, 2]


def test_settings_nested_in_others_are_flat_outside() -> None:
    whole = from_mapping(Whole, {"name": "n", "depth": "5"}, "here")
    assert whole == Whole("n", Part(depth=5)) and as_plain(whole) == {"name": "n", "depth": 5, "last": True}
    assert from_mapping(Whole, as_plain(whole), "again") == whole
    assert command_line("stage", whole) == "mcn stage --name n --depth 5"
    parser = argparse.ArgumentParser()
    add_flags(parser, Whole)
    assert vars(parser.parse_args(["--depth", "3"])) == {"depth": "3"}
    assert "--depth N How deep. (default: 2)" in " ".join(parser.format_help().split())
    for name, named in (("inner", "unknown setting 'inner'"), ("part", "unknown setting 'part'")):
        with pytest.raises(InputError, match=named):
            from_mapping(Whole, {"name": "n", name: 1}, "here")
    with pytest.raises(InputError, match="^here: depth is below 0$"):
        from_mapping(Whole, {"name": "n", "depth": -1}, "here")


def test_flags_come_before_yaml_before_preset_before_defaults() -> None:
    assert made().batch_size == 8
    small = made(preset="small")
    assert (small.batch_size, small.names, small.rate) == (2, ("x",), 0.5)
    assert made(preset="small", batch_size=3).batch_size == 3
    for key in ("batch-size", "batch_size"):
        both = {"folder": "f", "preset": "small", key: 3} | parsed("--batch-size", "4")
        assert from_mapping(Settings, both, "here").batch_size == 4


@pytest.mark.parametrize(
    ("name", "value", "named"),
    [
        ("batch_size", "many", "batch_size: expected an integer, got 'many'"),
        ("batch_size", 1.5, "expected an integer"),
        ("batch_size", True, "expected an integer"),
        ("batch_size", None, "expected an integer"),
        ("batch_size", [1], "expected an integer"),
        ("batch_size", float("inf"), "expected an integer"),
        ("batch_size", 10**400, "expected an integer"),
        ("batch_size", 101, "here: batch_size is too large"),
        ("rate", "nan", "expected a number"),
        ("rate", "-inf", "expected a number"),
        ("rate", False, "expected a number"),
        ("fast", "maybe", "expected true or false"),
        ("fast", 1, "expected true or false"),
        ("folder", "", "expected a path"),
        ("folder", "a\0b", "expected a path"),
        ("folder", 3, "expected a path"),
        ("names", 3, "names: expected a list, got 3"),
        ("names", {"a": 1}, "expected a list"),
        ("names", [["a"]], "expected a string"),
        ("sizes", "1,x", "sizes: expected an integer, got 'x'"),
        ("kind", "widе", "did you mean 'wide'?"),
        ("kind", {}, "is not allowed"),
        ("preset", "smal", "preset: 'smal' is unknown; did you mean 'small'?"),
        ("preset", ["small"], "is unknown"),
        ("bath_size", 1, "unknown setting 'bath_size'; did you mean 'batch_size'?"),
        (7, 1, "unknown setting '7'"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_name(name: Any, value: Any, named: str) -> None:
    with pytest.raises(InputError) as refused:
        from_mapping(Settings, {"folder": "f", name: value}, "here")
    assert named in str(refused.value) and str(refused.value).startswith("here: ")
    assert "\n" not in str(refused.value)


def test_a_missing_setting_is_named_as_its_flag() -> None:
    with pytest.raises(InputError, match="^here: --folder is required: Where it all goes.$"):
        from_mapping(Settings, {}, "here")


@pytest.mark.parametrize(
    ("value", "wanted", "found"),
    [
        ("none", Path | None, None),
        (None, int | None, None),
        ("5", int | None, 5),
        (4.0, int, 4),
        (3, float, 3.0),
        (2, str, "2"),
        ("OFF", bool, False),
        ("a,,b,", tuple[str, ...], ("a", "b")),
        ("1e-4", float, 1e-4),
    ],
)
def test_values_are_converted(value: Any, wanted: Any, found: Any) -> None:
    converted = convert(value, wanted, "x")
    assert converted == found and type(converted) is type(found)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"a: 'b", "line 1: not valid YAML"),
        (b"a: 1\nb: [1\nc: 2", "line 3: not valid YAML"),
        (b"- a", "expected settings"),
        (b"text", "expected settings"),
        (b"\xff\xfe\xfa", "UTF-8"),
        (b"a: 2026-02-30", "not valid YAML"),
        (b"a: " + b"[" * 500, "not valid YAML"),
        (b"a: !!python/object/apply:os.getpid []", "not valid YAML"),
    ],
)
def test_broken_yaml_is_refused_with_its_line(tmp_path: Path, content: bytes, named: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError) as refused:
        load_yaml(path)
    assert str(path) in str(refused.value) and named in str(refused.value) and "\n" not in str(refused.value)


def test_yaml_files_that_are_empty_missing_or_folders(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("# nothing\n")
    assert load_yaml(tmp_path / "x.yaml") == {}
    with pytest.raises(InputError, match="no such file"):
        load_yaml(tmp_path / "none.yaml")
    with pytest.raises(InputError, match="can't be read"):
        load_yaml(tmp_path)
