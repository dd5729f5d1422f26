"""Captions as speech recognition would give them: lower case, no punctuation, late or early, overlapping."""

from pipeline.records import Caption
from pipeline.sample.soundtrack import Utterance
from pipeline.sample.story import VideoStory

LARGEST_DRIFT_S = 0.5


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
