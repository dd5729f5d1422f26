"""`mcn probe` from planted data to figures: what is planted in one modality is found there and nowhere else."""

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from extractors.made_clip import write_made_clip
from pipeline.cli import main
from pipeline.core.errors import InputError
from pipeline.evaluation.probe import probe
from pipeline.evaluation.probe.media_features import MediaFeatures, Sound
from pipeline.evaluation.settings import ProbeSettings


@pytest.fixture
def asked(factors: Any, tmp_path: Path) -> ProbeSettings:
    return ProbeSettings(
        checkpoint=factors.model,
        out=tmp_path / "out",
        truth=factors.truth,
        ids=factors.ids,
        steps=factors.steps,
        window_seconds=2,
        neighbour_seconds=2,
        permutations=2,
        bootstrap=40,
    )


def entry(results: list[dict[str, Any]], factor: str, space: str, modality: str) -> dict[str, Any]:
    (found,) = (r for r in results if (r["factor"], r["space"], r["modality"]) == (factor, space, modality))
    return found


@pytest.mark.slow
def test_what_one_modality_holds_is_found_in_it_alone(asked: ProbeSettings, capsys: Any) -> None:
    report = probe.run(asked)
    detail = report.detail
    for factor, carrier in (("background", "video"), ("background noise", "audio")):
        assert detail["carried by"][factor] == [carrier]
        for modality in ("video", "audio", "text"):
            for space in ("", "shared"):
                found = entry(detail["factors"], factor, space, modality)
                low, high, value = found["chance"]["low"], found["chance"]["high"], found["accuracy"]["value"]
                if modality == carrier:
                    assert value > max(0.6, high)
                else:
                    assert low - 0.05 <= value <= high + 0.05
                    assert space == "" or found["gain"]["low"] <= 0.05
    assert detail["permuted"]["within"] >= 0.85 * detail["permuted"]["of"] > 40
    words = entry(detail["factors"], "words", "", "text")
    assert words["accuracy"]["value"] == 1.0 and words["questions"] == 2
    notes = "\n".join(report.notes)
    assert "not run, dose curves: need --media" in notes and "not run, environmental sounds: need --sounds" in notes
    assert "voice: fewer than two levels that two videos have, no probe of video, audio, text" in notes
    assert "words asked for: step0" in notes and "trained on 16 of these videos" in notes
    shown = capsys.readouterr().out
    assert "Balanced accuracy of linear probes, scheme shared" in shown and "average precision, times chance" in shown


@pytest.mark.slow
def test_the_ladder_and_what_nearness_means(asked: ProbeSettings) -> None:
    detail = probe.run(dataclasses.replace(asked, truth=None)).detail
    assert detail["factors"] == []
    rungs = {found["factor"]: found["levels"] for found in detail["ladder"]}
    assert rungs == {"category_2": 2, "task_id": 4, "step": 8}
    for rung in rungs:
        # Words name task and step; pictures and sounds know nothing of either.
        assert entry(detail["ladder"], rung, "", "text")["accuracy"]["value"] == 1.0
        silent = entry(detail["ladder"], rung, "", "video")
        assert silent["accuracy"]["value"] <= silent["chance"]["high"] + 0.1
    text = next(found for found in detail["context"] if (found["space"], found["modality"]) == ("", "text"))
    assert text["same task"]["average precision"]["value"] > 2 * text["same task"]["chance"]
    assert text["clips"] == detail["windows"] == 16 * 6


def test_results_are_written_drawn_and_not_made_twice(asked: ProbeSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    first = probe.run(dataclasses.replace(asked, truth=None, steps=None))
    out = asked.out
    written = json.loads((out / "probe.json").read_text())
    assert written["detail"]["context"] == first.detail["context"] and written["detail"]["manifest"]["name"] == "all"
    assert "| task_id |" in (out / "probe.md").read_text() and "task\\_id" in (out / "probe.tex").read_text()
    lines = (out / "probe.csv").read_text().splitlines()
    assert lines[0] == f"# made by: {first.detail['command']}" and " mcn probe --checkpoint " in lines[0]
    rows = list(csv.DictReader(lines[1:]))
    assert {(row["factor"], row["space"], row["modality"]) for row in rows} == {
        (found["factor"], found["space"], found["modality"]) for found in first.detail["ladder"] if found["space"]
    }
    for row in rows:
        found = entry(first.detail["ladder"], row["factor"], row["space"], row["modality"])
        below = entry(first.detail["ladder"], row["factor"], "", row["modality"])
        assert (
            float(row["accuracy"]) == found["accuracy"]["value"] and float(row["input"]) == below["accuracy"]["value"]
        )
    drawn = (out / "probe.svg").read_text()
    assert "shared: shared, text" in drawn and "category_2" in drawn and (out / "probe.pdf").read_bytes()[:4] == b"%PDF"

    monkeypatch.setattr(probe._Parts, "run", lambda self: pytest.fail("made again"))
    again = probe.run(dataclasses.replace(asked, truth=None, steps=None))
    assert (again.done, again.skipped) == (0, first.done) and again.detail == first.detail
    with pytest.raises(pytest.fail.Exception):
        probe.run(dataclasses.replace(asked, truth=None, steps=None, seed=1))


def test_doses_of_real_media(
    factors: Any, asked: ProbeSettings, stand_ins: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = MediaFeatures.sound

    def sound_of(media: MediaFeatures, path: Path) -> Sound | None:
        """As decoded, in a noise of its own: the made clips all sound alike."""
        sound = decode(media, path)
        assert sound is not None
        random = np.random.default_rng([*path.stem.encode()])
        noise = (
            np.cumsum(random.normal(size=len(sound.samples)))
            if "1" in path.stem
            else random.normal(size=len(sound.samples))
        )
        return Sound((sound.samples // 8 + 2000 * noise / np.abs(noise).max()).astype(np.int16), sound.start)

    monkeypatch.setattr(MediaFeatures, "sound", sound_of)
    media = tmp_path / "media"
    media.mkdir()
    for number in range(3):
        write_made_clip(media / f"video{number:06d}.mp4", 12, 64 + 32 * number, 64)
    (media / "video000003.mp4").write_bytes(b"broken")
    report = probe.run(dataclasses.replace(asked, truth=None, ids=None, steps=None, media=media, windows_per_video=2))
    sound, surround = report.detail["doses"]
    assert (sound["modality"], surround["modality"], sound["clips"], surround["clips"]) == ("audio", "video", 3, 3)
    assert [point["dose"] for point in sound["points"]] == [None, 20, 15, 10, 5, 0, -5]
    assert [point["dose"] for point in surround["points"]] == [None, 0.1, 0.25, 0.5, 0.75]
    for curve in (sound, surround):
        shifts = [point["shift"]["value"] for point in curve["points"]]
        assert abs(shifts[0]) < 1e-6 and curve["monotone"]["shift"] and shifts[-1] > 0
        # The planted rows were never those of these files.
        assert curve["agreement"] < 0.999
    drawn = list(csv.DictReader((asked.out / "probe-doses.csv").read_text().splitlines()[1:]))
    lost = [row for row in drawn if (row["modality"], row["measure"]) == ("audio", "lost to video")]
    assert [row["dose"] for row in lost] == ["", "20.0", "15.0", "10.0", "5.0", "0.0", "-5.0"]
    assert [float(row["high"]) for row in lost] == [point["lost to video"]["high"] for point in sound["points"]]
    picture = (asked.out / "probe-doses.svg").read_text()
    assert "audio: lost to video" in picture and "video: shift" in picture and "shared: shared" in picture
    notes = "\n".join(report.notes)
    assert "no dose for a clip" in notes and "differs from the data set's, least cosine" in notes
    without = probe.run(dataclasses.replace(asked, media=tmp_path / "out", truth=None, ids=None, steps=None, seed=3))
    assert without.complete and without.detail["doses"] == []
    assert f"{tmp_path / 'out'} holds fewer than two videos that have all modalities" in "\n".join(without.notes)
    assert not list(asked.out.glob("probe-doses.*")), "an earlier call's curves would pass for this one's"


def test_other_results_stand_beside(asked: ProbeSettings, tmp_path: Path) -> None:
    plain = dataclasses.replace(asked, truth=None, steps=None, videos=8)
    probe.run(plain)
    other = plain.out / "probe.json"
    content = json.loads(other.read_text())
    content["detail"]["scheme"] = "disjoint"
    (tmp_path / "other.json").write_text(json.dumps(content))
    probe.run(dataclasses.replace(plain, out=tmp_path / "both", beside=(tmp_path / "other.json",)))
    rows = list(csv.DictReader((tmp_path / "both" / "probe.csv").read_text().splitlines()[1:]))
    assert {row["model"] for row in rows} == {"shared", "disjoint"}
    assert "disjoint: shared, video" in (tmp_path / "both" / "probe.svg").read_text()
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(InputError, match="other.json: not a probe.json of `mcn probe`"):
        probe.run(dataclasses.replace(plain, out=tmp_path / "third", beside=(tmp_path / "other.json",)))


def test_the_command_line(asked: ProbeSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = dataclasses.replace(asked, truth=None, ids=None, steps=None)
    assert plain.command().split()[:2] == ["mcn", "probe"] and "--bootstrap 40" in plain.command()
    assert main(plain.command().split()[1:]) == 0
    assert "probe: 1 part done" in capsys.readouterr().out
    for flags, problem in (
        (["--split", "absent"], "no split 'absent'"),
        (["--truth", str(tmp_path / "no.csv")], "no.csv: no such file or folder (--truth: truth.csv of"),
        (["--dose-clips", "1"], "--dose-clips at least 2"),
        (["--bootstrap", "0"], "must be at least 1"),
    ):
        assert main([*plain.command().split()[1:], *flags]) == 2
        assert problem in capsys.readouterr().err
