"""Captions as speech recognition would give them: lower case, no punctuation, late or early, overlapping."""

from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.core.records import Caption
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


def permuted_texts(captions: Mapping[str, Sequence[Caption]], seed: int) -> dict[str, list[Caption]]:
    """Video id -> the same captions at the same times, each with the text of another one.

    All captions stand in one circle, in an order drawn by chance, and each gets its neighbour's text. So every text
    occurs as often as before, no caption keeps its own, and any other one's is as likely, from whichever video: texts
    barred from their own video would still tell something of it, with two videos all.
    """
    texts = [caption.text for lines in captions.values() for caption in lines]
    order = np.random.default_rng([seed, *b"uninformative text"]).permutation(len(texts)).tolist()
    neighbour = dict(zip(order, order[1:] + order[:1], strict=True))
    given = iter([texts[neighbour[place]] for place in range(len(texts))])
    return {video_id: [caption._replace(text=next(given)) for caption in lines] for video_id, lines in captions.items()}
