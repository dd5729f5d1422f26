"""The truth of seconds as questions."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.core.errors import InputError
from pipeline.evaluation.probe.factors import (
    FACTORS,
    ask_factor,
    ask_words,
    carried_by,
    frequent_words,
    read_truth,
)

HEAD = "video_id,second,task_id,kind,step,action,object,background,noise,voice,action_sound,phrase,named,words"
LINES = [
    "a,0,1,talk,,none,egg,brick,fan,adam,none,p,none,hello there",
    "a,1,1,scene,,none,none,brick,fan,none,knock,p,none,",
    "a,2,1,step,0,chop,egg,brick,rain,adam,knock,p,egg,chop the egg",
    "b,0,1,talk,,none,egg,night,fan,beth,none,p,none,hello egg",
    "b,1,1,step,0,chop,corn,night,rain,beth,knock,p,corn,chop the corn",
    "c,0,1,pan,,none,corn,night,rain,beth,knock,p,corn,the corn",
]


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    path = tmp_path / "truth.csv"
    path.write_text("\n".join([HEAD, *LINES]) + "\n")
    return path


def test_levels_and_their_seconds(truth: Path) -> None:
    seconds = read_truth(truth, ["a", "b", "c"])
    rows = np.arange(6)
    by_name = {factor.name: factor for factor in FACTORS}

    def asked(name: str) -> dict[int, int]:
        found = ask_factor(by_name[name], seconds, rows)
        return dict(zip(found.rows.tolist(), found.question.labels[:, 0].tolist(), strict=True)) if found else {}

    # corn 0, egg 1; second 1 of a shows none.
    assert asked("object") == {0: 1, 2: 1, 3: 1, 4: 0, 5: 0}
    # brick is in one video alone: nothing is left to tell night from.
    assert asked("background") == {}
    assert asked("background noise") == {0: 0, 1: 0, 2: 1, 3: 0, 4: 1, 5: 1}
    assert asked("voice") == {} and asked("action") == {}
    # Asked of some rows, rows are counted among these.
    found = ask_factor(by_name["background noise"], seconds, np.array([2, 3, 4, 0]))
    assert found is not None and found.rows.tolist() == [0, 1, 2, 3]
    assert found.question.videos.tolist() == ["a", "b", "b", "a"]


def test_a_filler_has_nothing_of_a_step(truth: Path) -> None:
    seconds = read_truth(truth, ["a", "b", "c"])
    # Second 1 of a ends in a step, so does second 0 of b.
    assert [second.filler for second in seconds] == [True, False, False, False, False, True]


def test_words_are_asked_where_something_is_said(truth: Path) -> None:
    seconds = read_truth(truth, ["a", "b", "c"])
    found = ask_words(["the", "egg"], seconds, np.array([1, 2, 3, 5]))
    assert found is not None and found.rows.tolist() == [1, 2, 3]
    assert found.question.labels.tolist() == [[1, 1], [0, 1], [1, 0]]
    assert ask_words([], seconds, np.arange(6)) is None and ask_words(["the"], seconds, np.array([1])) is None


def test_frequent_words_are_in_many_videos_and_not_everywhere(tmp_path: Path) -> None:
    lines = [
        f"v{n},0,1,talk,,none,none,b,n,v,s,p,none,always {'often' if n % 2 else 'rare' + str(n)}"
        f"{' twice often' if n == 1 else ''}{' few' if n < 4 else ''}"
        for n in range(20)
    ]
    path = tmp_path / "truth.csv"
    path.write_text("\n".join([HEAD, *lines]) + "\n")
    assert frequent_words(read_truth(path, [f"v{n}" for n in range(20)])) == ["often"]


def test_other_videos_are_left_out_and_faults_named(truth: Path, tmp_path: Path) -> None:
    assert [second.video_id for second in read_truth(truth, ["b", "x"])] == ["b", "b"]
    with pytest.raises(InputError, match="knows no video of the split"):
        read_truth(truth, ["x"])
    with pytest.raises(InputError, match="no such file"):
        read_truth(tmp_path / "absent.csv", ["a"])
    for content, problem in (
        ("video_id,second\n", "line 1: no column .*; expected video_id,second,task_id"),
        (f"{HEAD}\n{LINES[0].replace(',0,', ',x,', 1)}\n", "line 2: expected an integer in column second, got 'x'"),
        (f"{HEAD}\na,0,1\n", "line 2: expected 14 fields, as in line 1, got 3"),
    ):
        truth.write_text(content)
        with pytest.raises(InputError, match=problem):
            read_truth(truth, ["a"])


def test_every_factor_says_what_carries_it() -> None:
    assert set(carried_by()) == {factor.name for factor in FACTORS} | {"words"}
    assert carried_by()["background"] == ["video"] and carried_by()["voice"] == ["audio"]
