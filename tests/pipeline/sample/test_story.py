"""The design of the sample, before anything is drawn."""

import itertools
import re
from collections import Counter, defaultdict

import numpy as np
import pytest
from scipy.stats.contingency import crosstab

from pipeline.sample.procedures import (
    ABSENT,
    ACTIONS,
    BACKGROUNDS,
    NOISES,
    OBJECTS,
    PROCEDURES,
    SOUND_OF_ACTION,
    VOICES,
)
from pipeline.sample.speech import VOICES_OF_ESPEAK
from pipeline.sample.story import Balance, VideoStory, make_stories, video_ids


@pytest.fixture(scope="module", params=[0, 7])
def stories(request: pytest.FixtureRequest) -> list[VideoStory]:
    return make_stories(request.param, 52, 20.0)


def steps_of(story: VideoStory) -> list:
    return [segment for segment in story.segments if segment.kind == "step"]


def test_procedures_share_actions_and_objects() -> None:
    steps = [step for procedure in PROCEDURES for step in procedure.steps]
    assert len(PROCEDURES) == 12 and all(4 <= len(procedure.steps) <= 6 for procedure in PROCEDURES)
    assert len(set(steps)) == len(steps) == 60
    assert Counter(action for action, _ in steps) == dict.fromkeys(ACTIONS, 5)
    assert set(Counter(thing for _, thing in steps).values()) == {2, 3} and len(OBJECTS) == 24
    assert len(set(SOUND_OF_ACTION.values())) == len(ACTIONS)
    assert set(VOICES) == set(VOICES_OF_ESPEAK)


def test_lengths(stories: list[VideoStory]) -> None:
    assert len(stories) == 52
    assert all(20 <= story.seconds <= 25 for story in stories)
    assert 1050 <= sum(story.seconds for story in stories) <= 1100
    assert max(story.seconds for story in stories) > 24


def test_segments_fill_each_video_and_steps_at_most_half(stories: list[VideoStory]) -> None:
    for story in stories:
        assert story.segments[0].first == 0
        assert all(a.stop == b.first for a, b in itertools.pairwise(story.segments))
        assert [segment.kind == "step" for segment in story.segments] == [False, True] * len(steps_of(story)) + [False]
        assert [(s.action, s.object) for s in steps_of(story)] == list(story.procedure.steps)
        assert sum(s.end - s.start for s in steps_of(story)) <= story.seconds / 2


def test_every_step_holds_a_whole_second(stories: list[VideoStory]) -> None:
    lengths = [step.end - step.start for story in stories for step in steps_of(story)]
    assert min(lengths) > 1.3 - 1e-9
    assert max(lengths) > 2 * min(lengths)
    for story in stories:
        for step in steps_of(story):
            assert any(step.start <= second < step.end for second in range(26))


def test_split_holds_out_every_procedure_and_no_word_alone(stories: list[VideoStory]) -> None:
    held_out = [story for story in stories if story.split == "heldout"]
    training = [story for story in stories if story.split == "train"]
    assert len(held_out) >= 14 and sum(len(steps_of(story)) for story in held_out) >= 66
    assert {story.procedure for story in held_out} == set(PROCEDURES)
    known = {word for story in training for step in steps_of(story) for word in step.text.split()}
    assert {word for story in held_out for step in steps_of(story) for word in step.text.split()} <= known
    seen = Counter(step for story in training for step in story.procedure.steps)
    assert min(seen[step] for story in held_out for step in story.procedure.steps) >= 3


def test_media_are_varied(stories: list[VideoStory]) -> None:
    assert {(story.width, story.height) for story in stories} == {(640, 360), (480, 360), (360, 640)}
    assert sum(story.variable_rate for story in stories) == 1
    assert sum(not story.has_audio for story in stories) == 1
    assert all(story.has_audio and not story.variable_rate for story in stories if story.split == "heldout")


def test_levels_change_within_every_video(stories: list[VideoStory]) -> None:
    for story in stories:
        for factor in ("background", "noise", "voice"):
            assert len({getattr(segment, factor) for segment in story.segments} - {ABSENT}) >= 2, (story.index, factor)


def test_fillers_name_no_object_that_is_seen(stories: list[VideoStory]) -> None:
    fillers = [segment for story in stories for segment in story.segments if segment.kind != "step"]
    naming = [segment for segment in fillers if segment.named != ABSENT]
    assert len(naming) > 50
    assert all(segment.named != segment.object and segment.named in segment.text.split() for segment in naming)
    assert {segment.kind for segment in fillers} == {"talk", "pan", "scene"}
    assert any(not segment.text for segment in fillers)


def association(pairs: list[tuple[str, str]]) -> float:
    """Cramér's V, corrected for the bias of small tables (Bergsma 2013)."""
    table = crosstab([a for a, _ in pairs], [b for _, b in pairs]).count
    n, (rows, columns) = table.sum(), table.shape
    expected = table.sum(1, keepdims=True) * table.sum(0) / n
    phi = max(0.0, ((table - expected) ** 2 / expected).sum() / n - (rows - 1) * (columns - 1) / (n - 1))
    return float(np.sqrt(phi / (min(rows - (rows - 1) ** 2 / (n - 1), columns - (columns - 1) ** 2 / (n - 1)) - 1)))


def seconds_of(stories: list[VideoStory]) -> list[tuple[str, dict[str, str]]]:
    rows = []
    for story in stories:
        for second in range(int(story.seconds)):
            segment = next(s for s in story.segments if s.start <= second < s.end)
            rows.append((segment.kind, segment.levels()))
    return rows


def test_factors_are_crossed(stories: list[VideoStory]) -> None:
    values = defaultdict(dict)
    for a, b in itertools.combinations(stories[0].segments[0].levels(), 2):
        pairs = [(row[a], row[b]) for _, row in seconds_of(stories) if ABSENT not in (row[a], row[b])]
        values[a][b] = association(pairs)
    # What is done, seen and named in a step belong together; all else is crossed.
    together = {("action_sound", "object"), ("action_sound", "named"), ("object", "named")}
    crossed = {(a, b): v for a in values for b, v in values[a].items() if (a, b) not in together}
    assert max(crossed.values()) < 0.15, crossed
    assert np.mean(list(crossed.values())) < 0.05
    assert values["action_sound"]["object"] < 0.4


def test_what_is_seen_heard_and_named_is_crossed_in_fillers(stories: list[VideoStory]) -> None:
    rows = [row for kind, row in seconds_of(stories) if kind != "step"]
    pairs = [(row["action_sound"], row["object"]) for row in rows if ABSENT not in (row["action_sound"], row["object"])]
    assert association(pairs) < 0.3
    assert len({(row["named"], row["object"]) for row in rows}) > 100


def test_all_levels_are_used_about_equally(stories: list[VideoStory]) -> None:
    for factor, levels in (("background", BACKGROUNDS), ("noise", NOISES), ("voice", VOICES)):
        counts = Counter(row[factor] for _, row in seconds_of(stories))
        assert set(levels) <= set(counts)
        assert max(counts[level] for level in levels) < 1.35 * min(counts[level] for level in levels)


def test_ids() -> None:
    ids = video_ids(3, 62)
    assert len(set(ids)) == 62 and all(re.fullmatch(r"[A-Za-z0-9_-]{11}", video_id) for video_id in ids)
    assert any(video_id.startswith("-") for video_id in ids) and any(video_id.startswith("_") for video_id in ids)
    assert len({video_id.lower() for video_id in ids}) == 61
    assert video_ids(3, 70)[:62] == ids


def test_seed_decides() -> None:
    assert make_stories(5, 8, 16.0) == make_stories(5, 8, 16.0)
    assert make_stories(5, 8, 16.0) != make_stories(6, 8, 16.0)


def test_balance_takes_the_rarest_pair() -> None:
    balance = Balance(np.random.default_rng(0))
    for shape, seconds in (("round", 3.0), ("square", 1.0)):
        balance.record("colour", "red", [({"shape": shape}, seconds)])
    balance.record("colour", "blue", [({"shape": "square"}, 2.0)])
    assert balance.choose("colour", ("red", "blue"), [({"shape": "round"}, 1.0)]) == "blue"
    assert balance.choose("colour", ("red", "blue"), [({"shape": "square"}, 1.0)]) == "red"


def test_balance_crosses_two_factors_exactly() -> None:
    balance, table = Balance(np.random.default_rng(1)), Counter()
    for turn in range(60):
        shape = ("round", "square", "flat")[turn % 3]
        table[shape, balance.choose("colour", ("red", "blue"), [({"shape": shape}, 1.0)])] += 1
    assert set(table.values()) == {10}
