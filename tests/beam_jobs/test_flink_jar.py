"""The job server's jar is made of pinned jars alone; Maven is asked for what is missing, and believed in nothing."""

import hashlib
import re
import sys
import zipfile
from pathlib import Path

import pytest

from beam_jobs import flink_jar

PINNED = {"one-1.0.jar": b"one", "two-2.0.jar": b"two"}


@pytest.fixture
def maven(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose files mvn, a program made here, brings; mvn's calls are counted in `calls` beside it."""
    recipe, programs, repository = (tmp_path / name for name in ("recipe", "bin", "repository"))
    for folder in (recipe, programs, repository):
        folder.mkdir()
    lines = [f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in PINNED.items()]
    (recipe / "jars.sha256").write_text("".join(lines))
    for name, content in PINNED.items():
        (repository / name).write_bytes(content)
    (programs / "mvn").write_text(
        f"#!{sys.executable}\n"
        "import pathlib, shutil, sys\n"
        f"open({str(tmp_path / 'calls')!r}, 'a').write('called\\n')\n"
        "folder = next(word for word in sys.argv if word.startswith('-DoutputDirectory=')).split('=')[1]\n"
        f"shutil.copytree({str(repository)!r}, folder, dirs_exist_ok=True)\n"
    )
    (programs / "mvn").chmod(0o755)
    monkeypatch.setattr(flink_jar, "RECIPE", recipe)
    monkeypatch.setenv("PATH", str(programs))
    return repository


def class_path(jar: Path) -> tuple[str, list[str]]:
    """Main class and class path of a jar, by the rules of its manifest."""
    with zipfile.ZipFile(jar) as opened:
        manifest = opened.read("META-INF/MANIFEST.MF")
    lines = manifest.split(b"\r\n")
    assert max(map(len, lines)) <= 72 and lines[-2:] == [b"", b""]
    headers = dict(line.split(": ", 1) for line in manifest.decode().replace("\r\n ", "").splitlines() if line)
    return headers["Main-Class"], headers["Class-Path"].split(" ")


def test_the_jar_names_the_pinned_jars_beside_it(
    maven: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (maven / "stray-1.0.jar").write_bytes(b"nobody asked for it")
    folder = tmp_path / "jars"
    assert flink_jar.main([str(folder)]) == 0
    assert capsys.readouterr().out == f"{folder / 'flink-job-server.jar'}\n"
    assert class_path(folder / flink_jar.NAME) == (
        "org.apache.beam.runners.flink.FlinkJobServerDriver",
        ["one-1.0.jar", "two-2.0.jar"],
    )


def test_a_class_path_of_all_jars_keeps_to_the_length_of_a_manifests_lines(tmp_path: Path) -> None:
    jars = list(flink_jar.pinned_jars())
    flink_jar.write_manifest_jar(tmp_path / "server.jar", "Main", jars)
    assert len(jars) > 100 and class_path(tmp_path / "server.jar") == ("Main", jars)


def test_maven_is_asked_for_what_is_missing_or_damaged_alone(maven: Path, tmp_path: Path) -> None:
    folder, calls = tmp_path / "jars", tmp_path / "calls"
    assert flink_jar.main([str(folder)]) == flink_jar.main([str(folder)]) == 0
    assert calls.read_text() == "called\n"
    (folder / "two-2.0.jar").write_bytes(b"damaged")
    assert flink_jar.main([str(folder)]) == 0
    assert calls.read_text() == "called\ncalled\n" and (folder / "two-2.0.jar").read_bytes() == b"two"


def test_another_jar_than_the_pinned_one_is_refused(
    maven: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (maven / "one-1.0.jar").write_bytes(b"another")
    assert flink_jar.main([str(tmp_path / "jars")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"mcn: {tmp_path / 'jars' / 'one-1.0.jar'}: not what ") and "jars.sha256 pins" in line
    assert not (tmp_path / "jars" / flink_jar.NAME).exists()


@pytest.mark.parametrize(
    ("program", "words"),
    [
        (
            "echo '[ERROR] Network is unreachable'; echo '[ERROR] more'; exit 1",
            "Network is unreachable",
        ),
        ("echo 'JAVA_HOME is wrong' >&2; exit 1", "JAVA_HOME is wrong"),
        (None, "mvn isn't on PATH"),
    ],
)
def test_without_the_jars_it_fails_in_one_line(
    program: str | None, words: str, maven: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mvn = tmp_path / "bin" / "mvn"
    mvn.unlink()
    if program is not None:
        mvn.write_text(f"#!/bin/sh\n{program}\n")
        mvn.chmod(0o755)
    assert flink_jar.main([str(tmp_path / "jars")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("mcn: ") and words in line


def test_the_shipped_pins_are_of_the_shipped_recipe() -> None:
    pinned = flink_jar.pinned_jars()
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in pinned.values())
    recipe = (flink_jar.RECIPE / "pom.xml").read_text(encoding="utf-8")
    asked = re.findall(r"<artifactId>(.*?)</artifactId>\s*<version>(.*?)</version>", recipe.partition("<build>")[0])
    assert {f"{name}-{version}.jar" for name, version in asked[1:]} <= set(pinned)
