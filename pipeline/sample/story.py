"""What happens in every video of a sample: spans of time with their levels, drawn from the seed alone."""

import string
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.sample.procedures import (
    ABSENT,
    ACTION_SOUNDS,
    BACKGROUNDS,
    CHATTER,
    MENTIONS,
    NOISES,
    OBJECTS,
    PROCEDURES,
    SOUND_OF_ACTION,
    STEP_PHRASES,
    VOICES,
    Procedure,
)

Spans = Sequence[tuple[Mapping[str, str], float]]
"""What a level stands beside: (factor -> level, seconds) of each span it covers."""

_OWN_WEIGHT = 1 / 16
"""Weight of a level's own seconds against those it shares with another level: enough to break ties."""


class Balance:
    """Seconds that any two levels of two factors have spent together so far."""

    def __init__(self, random: np.random.Generator) -> None:
        self._random = random
        self._seconds: defaultdict[tuple[str, str, str, str], float] = defaultdict(float)
        self._own: defaultdict[tuple[str, str], float] = defaultdict(float)

    def choose(self, factor: str, levels: Sequence[str], beside: Spans) -> str:
        """The level of `factor` that adds least to the sum of squares of all pair tables, recorded; ties are drawn."""
        costs = [self._cost(factor, level, beside) for level in levels]
        rarest = [level for level, cost in zip(levels, costs, strict=True) if cost <= min(costs) + 1e-9]
        level = rarest[int(self._random.integers(len(rarest)))]
        self.record(factor, level, beside)
        return level

    def record(self, factor: str, level: str, beside: Spans) -> None:
        """Count a level that is given and was not chosen here."""
        for given, seconds in beside:
            self._own[factor, level] += seconds
            for other, other_level in given.items():
                self._seconds[factor, level, other, other_level] += seconds
                self._seconds[other, other_level, factor, level] += seconds

    def _cost(self, factor: str, level: str, beside: Spans) -> float:
        own = self._own[factor, level] * _OWN_WEIGHT
        return sum(
            seconds * (own + sum(self._seconds[factor, level, other, at] for other, at in given.items()))
            for given, seconds in beside
        )


FRAME_RATE = 30
SHORTEST_STEP_S = 1.3
"""More than a second, so that every step contains a whole second."""
SHORTEST_FILLER_S = 1.0
LONGEST_MORE_S = 5.0
"""The longest video is this much longer than the shortest."""
MEAN_MORE_S = 1.0
HELD_OUT_SHARE = 0.27
CHATTER_SHARE = 0.42
"""Share of fillers with a line that names no object; the fillers left after the mentions are without speech."""
MENTION_SHARE = 0.48
"""Share of fillers whose line names an object that is not to be seen."""
SILENT_ACTION_SHARE = 0.3
"""Share of fillers without a sound of an action from off screen."""
FILLER_KINDS = ("talk", "pan", "scene")
_ID_LETTERS = string.ascii_letters + string.digits + "-_"


@dataclass(frozen=True)
class Segment:
    """Frames [first, stop) of a video, within which no factor changes. Absent levels are `none`."""

    first: int
    stop: int
    kind: str
    """`step`, or a filler: `talk` (a host and an object at rest), `pan` (over the table), `scene` (no object)."""
    step: int | None
    """Index of the step in its procedure, from 0."""
    action: str
    object: str
    """What is to be seen: in a filler it lies at rest and smaller."""
    action_sound: str
    """In a filler it comes from off screen."""
    phrase: str
    named: str
    """The object that the speech names: in a filler never the one to be seen."""
    text: str
    """What is said; empty if nothing is."""
    background: str = ABSENT
    noise: str = ABSENT
    voice: str = ABSENT

    @property
    def start(self) -> float:
        """Seconds."""
        return self.first / FRAME_RATE

    @property
    def end(self) -> float:
        """Seconds."""
        return self.stop / FRAME_RATE

    def levels(self) -> dict[str, str]:
        """Factor -> level, the ones crossed with one another."""
        names = ("background", "noise", "voice", "action_sound", "object", "phrase", "named")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class VideoStory:
    """One video; `index` and the sample's seed determine every byte of it."""

    seed: int
    index: int
    video_id: str
    procedure: Procedure
    split: str
    width: int
    height: int
    variable_rate: bool
    has_audio: bool
    segments: tuple[Segment, ...]

    @property
    def frames(self) -> int:
        """Length in frames of 1/30 s."""
        return self.segments[-1].stop

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return self.frames / FRAME_RATE

    def random(self, purpose: str) -> np.random.Generator:
        """Random numbers of this video for one purpose."""
        return np.random.default_rng([self.seed, self.index, *purpose.encode()])


def video_ids(seed: int, count: int) -> list[str]:
    """Distinct ids of 11 characters.

    The second begins with `-`, the third with `_`; the fifth is the fourth with upper and lower case exchanged.
    """
    random = np.random.default_rng([seed, *b"ids"])
    ids: list[str] = []
    while len(ids) < count:
        letters = "".join(_ID_LETTERS[i] for i in random.integers(len(_ID_LETTERS), size=11))
        first = {1: "-", 2: "_", 3: "q"}.get(len(ids), letters[0])
        candidate = ids[3].swapcase() if len(ids) == 4 else first + letters[1:]
        if candidate not in ids:
            ids.append(candidate)
    return ids


def make_stories(seed: int, videos: int, shortest_s: float) -> list[VideoStory]:
    """The stories of all videos, in the order of their index.

    Every procedure in use has at least 3 training videos and a held-out one (from 4 videos on); the
    held-out ones are the last. Lengths go from `shortest_s` to 5 s more, 1 s more on average.
    """
    random = np.random.default_rng([seed, *b"stories"])
    procedures = PROCEDURES[: max(1, min(len(PROCEDURES), videos // 4))]
    first_held_out = videos - max(len(procedures), round(HELD_OUT_SHARE * videos))
    # Quantiles of a skewed law instead of draws of it: the sum is the same for every seed.
    quantiles = random.permutation((np.arange(videos) + 0.5) / videos)
    seconds = shortest_s + LONGEST_MORE_S * quantiles ** (LONGEST_MORE_S / MEAN_MORE_S - 1)
    balance = Balance(random)
    stories = []
    for index, video_id in enumerate(video_ids(seed, videos)):
        procedure = procedures[index % len(procedures)]
        width, height = {3: (480, 360), 6: (360, 640)}.get(index % 8, (640, 360))
        segments = _segments(random, balance, procedure, int(seconds[index] * FRAME_RATE))
        stories.append(
            VideoStory(
                seed=seed,
                index=index,
                video_id=video_id,
                procedure=procedure,
                split="train" if index < first_held_out else "heldout",
                width=width,
                height=height,
                variable_rate=index == min(2, first_held_out - 1),
                has_audio=index != min(1, first_held_out - 1),
                segments=tuple(segments),
            )
        )
    return stories


def _shares(random: np.random.Generator, frames: int, count: int, shortest_s: float) -> list[int]:
    """`frames` cut into `count` unequal parts, none below `shortest_s`."""
    shortest = int(np.ceil(shortest_s * FRAME_RATE))
    rest = frames - count * shortest
    cuts = np.floor(np.cumsum(random.dirichlet(np.full(count, 3.0))) * rest).astype(int)
    cuts[-1] = rest
    return [int(part) + shortest for part in np.diff(cuts, prepend=0)]


@dataclass
class _Draft:
    """A segment whose background, noise and voice are still to be given."""

    first: int
    stop: int
    values: dict[str, Any]
    given: dict[str, str] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        return (self.stop - self.first) / FRAME_RATE


def _segments(random: np.random.Generator, balance: Balance, procedure: Procedure, frames: int) -> Iterator[Segment]:
    steps = len(procedure.steps)
    step_frames = max(int(frames * random.uniform(0.43, 0.49)), int(np.ceil(SHORTEST_STEP_S * FRAME_RATE)) * steps)
    step_lengths = _shares(random, step_frames, steps, SHORTEST_STEP_S)
    filler_lengths = _shares(random, frames - step_frames, steps + 1, SHORTEST_FILLER_S)
    drafts = []
    first = 0
    for position in range(2 * steps + 1):
        index, is_step = position // 2, position % 2 == 1
        draft = _Draft(first, first + (step_lengths if is_step else filler_lengths)[index], {})
        if is_step:
            _fill_step(draft, balance, procedure, index)
        else:
            _fill_filler(draft, balance, random)
        drafts.append(draft)
        first = draft.stop
    for factor, levels in (("background", BACKGROUNDS), ("noise", NOISES), ("voice", VOICES)):
        _spread(random, balance, drafts, factor, levels)
    for draft in drafts:
        spoken = {} if draft.values["text"] else {"voice": ABSENT}
        yield Segment(draft.first, draft.stop, **(draft.values | draft.given | spoken))


def _fill_step(draft: _Draft, balance: Balance, procedure: Procedure, index: int) -> None:
    action, thing = procedure.steps[index]
    given = draft.given
    for factor, level in (("object", thing), ("action_sound", SOUND_OF_ACTION[action]), ("named", thing)):
        balance.record(factor, level, [(given, draft.seconds)])
        given[factor] = level
    given["phrase"] = balance.choose("phrase", tuple(STEP_PHRASES), [(given, draft.seconds)])
    text = STEP_PHRASES[given["phrase"]].format(action=action, object=thing)
    draft.values = {"kind": "step", "step": index, "action": action, "text": text}


def _fill_filler(draft: _Draft, balance: Balance, random: np.random.Generator) -> None:
    kind = str(random.choice(FILLER_KINDS))
    given = draft.given

    def choose(factor: str, levels: Iterable[str]) -> str:
        # The kind stands beside, so that levels are balanced within the fillers, whatever the steps hold.
        return balance.choose(factor, tuple(levels), [({"kind": "filler"} | given, draft.seconds)])

    given["object"] = ABSENT if kind == "scene" else choose("object", OBJECTS)
    given["action_sound"] = ABSENT if random.random() < SILENT_ACTION_SHARE else choose("action_sound", ACTION_SOUNDS)
    text, speech = "", random.random()
    if speech < CHATTER_SHARE:
        given["phrase"] = choose("phrase", CHATTER)
        text = CHATTER[given["phrase"]]
    elif speech < CHATTER_SHARE + MENTION_SHARE:
        given["phrase"] = choose("phrase", MENTIONS)
        given["named"] = choose("named", (other for other in OBJECTS if other != given["object"]))
        text = MENTIONS[given["phrase"]].format(object=given["named"])
    draft.values = {"kind": kind, "step": None, "action": ABSENT, "text": text}
    given.setdefault("phrase", ABSENT)
    given.setdefault("named", ABSENT)


def _spread(
    random: np.random.Generator, balance: Balance, drafts: list[_Draft], factor: str, levels: tuple[str, ...]
) -> None:
    """Give `factor` one level over runs of one to three segments, neighbours never the same."""
    last, start = "", 0
    while start < len(drafts):
        run = drafts[start : start + int(random.integers(1, 4))]
        beside = [(draft.given, draft.seconds) for draft in run]
        last = balance.choose(factor, [level for level in levels if level != last], beside)
        for draft in run:
            draft.given[factor] = last
        start += len(run)
