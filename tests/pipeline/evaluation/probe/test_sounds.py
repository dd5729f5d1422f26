"""Environmental sounds in a folder as ESC-50 is: a tiny one, of synthetic sounds."""

import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from extractors.made_clip import SOUND_RATE
from pipeline.core.errors import InputError
from pipeline.evaluation.probe import factors as sounds
from pipeline.evaluation.probe.media_features import MediaFeatures
from pipeline.evaluation.settings import Draws
from pipeline.extraction.settings import ExtractSettings
from pipeline.sample.sound import action_sound
from pipeline.training.checkpoint import open_trained

CLASSES = ("knock", "sizzle", "rumble")
HEAD = "filename,fold,target,category,esc10,src_file,take"


@pytest.fixture(scope="module")
def esc50(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3 classes, 2 folds of 3 recordings each."""
    folder = tmp_path_factory.mktemp("esc50")
    (folder / "meta").mkdir()
    (folder / "audio").mkdir()
    lines = [HEAD]
    for target, category in enumerate(CLASSES):
        for take in range(6):
            name = f"{take % 2 + 1}-{target}{take}-A-{target}.wav"
            sound = action_sound(category, SOUND_RATE, np.random.default_rng([target, take]))
            with wave.open(str(folder / "audio" / name), "wb") as file:
                file.setnchannels(1)
                file.setsampwidth(2)
                file.setframerate(SOUND_RATE)
                file.writeframes((20000 * sound / np.abs(sound).max()).astype("<i2").tobytes())
            lines.append(f"{name},{take % 2 + 1},{target},{category},False,{target}{take},A")
    (folder / "meta" / "esc50.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_sounds_are_told_by_the_published_folds(
    esc50: Path, factors: Any, stand_ins: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = open_trained(factors.model)
    clips = sounds.read_sounds(esc50)
    assert {clip.fold for clip in clips} == {1, 2} and len(clips) == 18
    asked = []
    plain = sounds.question_of
    monkeypatch.setattr(sounds, "question_of", lambda *given: asked.append(plain(*given)) or asked[-1])
    with MediaFeatures(model, ExtractSettings(tmp_path, factors.manifest.parent.parent)) as media:
        found, notes = sounds.probe_sounds(model, media, clips, Draws(50, 2, 0))
    assert notes == [] and [(f["space"], f["modality"]) for f in found] == [("", "audio"), ("shared", "audio")]
    assert found[0]["accuracy"]["value"] > 0.9 and found[0]["chance"]["value"] == pytest.approx(1 / 3)
    (question,) = (one.question for one in asked)
    assert question.folds.tolist() == [clip.fold for clip in clips] and len(set(question.videos)) == 18


def test_what_is_wrong_with_the_folder_is_said(esc50: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"esc50.csv: no such file; expected a folder in ESC-50's layout"):
        sounds.read_sounds(tmp_path)
    (tmp_path / "meta").mkdir()
    (tmp_path / "audio").symlink_to(esc50 / "audio")
    for lines, problem in (
        ("filename,fold\n", "line 1: no column category,src_file; expected filename,fold,category,src_file"),
        (f"{HEAD}\n1-00-A-0.wav,x,0,knock,False,00,A\n", "line 2: .*an integer in fold"),
        (f"{HEAD}\n1-00-A-0.wav,{'1' * 5000},0,knock,False,00,A\n", "line 2: .*an integer in fold"),
        (f"{HEAD}\n{'a' * 300},1,0,knock,False,00,A\n", "line 2: no such file"),
        (f"{HEAD}\n../audio/1-00-A-0.wav,1,0,knock,False,00,A\n", "line 2: no such file"),
        (f"{HEAD}\nabsent.wav,1,0,knock,False,00,A\n", "line 2: no such file as .*absent.wav"),
        (
            f"{HEAD}\n1-00-A-0.wav,1,0,knock,False,s,A\n2-01-A-0.wav,2,0,knock,False,s,A\n",
            "recording s is in two folds",
        ),
    ):
        (tmp_path / "meta" / "esc50.csv").write_text(lines)
        with pytest.raises(InputError, match=problem):
            sounds.read_sounds(tmp_path)
