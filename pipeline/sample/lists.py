"""A sample's lists: captions as speech recognition gives them, ids whose videos are gone, the truth of each second."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from math import ceil

import numpy as np

from pipeline.core.records import Caption
from pipeline.sample.procedures import ABSENT
from pipeline.sample.sound import Utterance
from pipeline.sample.story import FRAME_RATE, Segment, VideoStory

LARGEST_DRIFT_S = 0.5
_SILENCE = dict.fromkeys(("noise", "voice", "action_sound", "phrase", "named"), ABSENT) | {"words": ""}


def make_captions(story: VideoStory, utterances: tuple[Utterance, ...]) -> list[Caption]:
    """One line per utterance; its start drifts by up to 0.5 s, and it stays on until the next one has begun."""
    random = story.random("captions")
    starts = [
        max(0.0, utterance.start + min(LARGEST_DRIFT_S, max(-LARGEST_DRIFT_S, random.normal(0, 0.2))))
        for utterance in utterances
    ]
    captions = []
    for index, (utterance, start) in enumerate(zip(utterances, starts, strict=True)):
        end = utterance.end + random.uniform(0.1, 0.5)
        if index + 1 < len(starts) and starts[index + 1] - end < 0.6:
            end = max(end, starts[index + 1] + random.uniform(0.1, 0.4))
        end = min(story.seconds, max(end, start + 0.5))
        text = " ".join(word for word, _, _ in utterance.words)
        captions.append(Caption(round(start, 2), round(end, 2), text))
    return sorted(captions, key=lambda caption: caption.start)


def permuted_texts(captions: Mapping[str, Sequence[Caption]], seed: int) -> dict[str, list[Caption]]:
    """Video id -> the same captions at the same times, each with the text of another one.

    All captions stand in one circle, in an order drawn by chance, and each gets its neighbour's text. So every text
    occurs as often as before, no caption keeps its own, and any other one's is as likely, from whichever video: texts
    barred from their own video would still tell something of it, with two videos all.
    """
    texts = [caption.text for lines in captions.values() for caption in lines]
    order = np.random.default_rng([seed, *b"uninformative text"]).permutation(len(texts)).tolist()
    neighbour = dict(zip(order, order[1:] + order[:1], strict=True))
    given = iter([texts[neighbour[index]] for index in range(len(texts))])
    return {video_id: [caption._replace(text=next(given)) for caption in lines] for video_id, lines in captions.items()}


DEAD_CLASSES = (
    ("private", "Private video. Sign in if you've been granted access to this video"),
    ("removed", "Video unavailable. This video has been removed by the uploader"),
    ("removed", "This video has been removed for violating YouTube's Community Guidelines"),
    (
        "terminated",
        "Video unavailable. This video is no longer available because the YouTube account associated with this video "
        "has been terminated.",
    ),
    ("age", "Sign in to confirm your age. This video may be inappropriate for some users."),
    ("geo", "Video unavailable. The uploader has not made this video available in your country"),
    (
        "members",
        "Join this channel to get access to members-only content like this video, and other exclusive perks.",
    ),
    ("live", "This live event will begin in a few moments."),
    ("removed", "Video unavailable"),
    ("private", "Private video"),
)
"""(class, message of the site): one dead id for each."""


def truth_rows(story: VideoStory, utterances: tuple[Utterance, ...]) -> Iterator[dict[str, str]]:
    """One row per second k of [0, duration).

    What is seen (kind, step, action, object, background) is that of the instant k. What is heard (noise, voice,
    action_sound, phrase, named) is that which fills most of [k, k + 1); `words` are all words that overlap it.
    """
    for second in range(ceil(story.frames / FRAME_RATE)):
        seen = next(s for s in story.segments if s.first <= second * FRAME_RATE < s.stop)
        heard = _heard(story, utterances, second) if story.has_audio else _SILENCE
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
