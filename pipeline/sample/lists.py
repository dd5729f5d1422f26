"""What is true of every second of a sample's videos, and of every step."""

from collections import defaultdict
from collections.abc import Iterator
from math import ceil

from pipeline.sample.procedures import ABSENT
from pipeline.sample.soundtrack import Utterance
from pipeline.sample.story import FRAME_RATE, Segment, VideoStory

TRUTH_COLUMNS = (
    "video_id",
    "second",
    "task_id",
    "kind",
    "step",
    "action",
    "object",
    "background",
    "noise",
    "voice",
    "action_sound",
    "phrase",
    "named",
    "words",
)
STEP_COLUMNS = ("video_id", "task_id", "step", "start", "end", "action", "object", "text")


def truth_rows(story: VideoStory, utterances: tuple[Utterance, ...]) -> Iterator[dict[str, str]]:
    """One row per second k of [0, duration).

    What is seen (kind, step, action, object, background) is that of the instant k. What is heard (noise, voice,
    action_sound, phrase, named) is that which fills most of [k, k + 1); `words` are all words that overlap it.
    """
    for second in range(ceil(story.frames / FRAME_RATE)):
        seen = next(s for s in story.segments if s.first <= second * FRAME_RATE < s.stop)
        heard = _heard(story, utterances, second) if story.has_audio else _silence()
        yield {
            "video_id": story.video_id,
            "second": str(second),
            "task_id": str(story.procedure.task_id),
            "kind": seen.kind,
            "step": "" if seen.step is None else str(seen.step),
            "action": seen.action,
            "object": seen.object,
            "background": seen.background,
        } | heard


def _silence() -> dict[str, str]:
    return {"noise": ABSENT, "voice": ABSENT, "action_sound": ABSENT, "phrase": ABSENT, "named": ABSENT, "words": ""}


def _heard(story: VideoStory, utterances: tuple[Utterance, ...], second: int) -> dict[str, str]:
    noise: defaultdict[str, float] = defaultdict(float)
    sound: defaultdict[str, float] = defaultdict(float)
    spoken: defaultdict[int, float] = defaultdict(float)
    for segment in story.segments:
        share = _overlap(segment.start, segment.end, second)
        noise[segment.noise] += share
        sound[segment.action_sound] += share
    words = []
    for utterance in utterances:
        spoken[utterance.segment] += _overlap(utterance.start, utterance.end, second)
        words += [word for word, start, end in utterance.words if _overlap(start, end, second) > 0]
    index = max(spoken, key=spoken.__getitem__, default=-1)
    speaking: Segment | None = story.segments[index] if spoken and spoken[index] > 0 else None
    return {
        "noise": max(noise, key=noise.__getitem__),
        "voice": speaking.voice if speaking else ABSENT,
        "action_sound": max(sound, key=sound.__getitem__),
        "phrase": speaking.phrase if speaking else ABSENT,
        "named": speaking.named if speaking else ABSENT,
        "words": " ".join(words),
    }


def _overlap(start: float, end: float, second: int) -> float:
    return max(0.0, min(end, second + 1) - max(start, second))


def step_rows(story: VideoStory) -> Iterator[dict[str, str]]:
    """One row per step: when it truly happens, [start, end) seconds, and its narration."""
    for segment in story.segments:
        if segment.kind == "step":
            yield {
                "video_id": story.video_id,
                "task_id": str(story.procedure.task_id),
                "step": str(segment.step),
                "start": f"{segment.start:.3f}",
                "end": f"{segment.end:.3f}",
                "action": segment.action,
                "object": segment.object,
                "text": segment.text,
            }
