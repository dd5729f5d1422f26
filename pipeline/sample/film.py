"""One video's media file: H.264 and AAC in MP4, the same bytes from the same story."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from pipeline.core.files import write_aside
from pipeline.sample.drawing import HOSTS, SegmentScene
from pipeline.sample.sound import SOUND_RATE, Samples
from pipeline.sample.soundtrack import Soundtrack
from pipeline.sample.story import FRAME_RATE, VideoStory

TICKS = 600
"""Ticks a second of the frames' times."""
_VARIED_INTERVALS = (10, 20, 30, 50)
"""Ticks from frame to frame of the variable-rate video: 60 to 12 frames a second."""

_NEW_DRAWING = 2 * TICKS // FRAME_RATE
"""Ticks before the drawing changes: animated on twos, as drawn films are, which halves the work."""


def frame_ticks(story: VideoStory) -> list[tuple[int, int]]:
    """(time, duration) of every frame in 1/600 s; they fill the video without a gap."""
    end = story.frames * TICKS // FRAME_RATE
    if not story.variable_rate:
        return [(tick, TICKS // FRAME_RATE) for tick in range(0, end, TICKS // FRAME_RATE)]
    random = story.random("frame times")
    # A frame at every cut, so that none stays on into the next segment.
    drawn = np.cumsum(random.choice(_VARIED_INTERVALS, size=end // min(_VARIED_INTERVALS))).tolist()
    cuts = (segment.first * TICKS // FRAME_RATE for segment in story.segments)
    times = sorted({*cuts, *(time for time in drawn if time < end)})
    return list(zip(times, np.diff([*times, end]).tolist(), strict=True))


def _frames(story: VideoStory) -> Iterator[tuple[av.VideoFrame, int]]:
    """Each frame and the tick at which it ends."""
    segments = iter(story.segments)
    scene, drawn_at = None, 0
    for time, duration in frame_ticks(story):
        cut = scene is None or time / TICKS >= scene.segment.end
        if scene is None or cut:
            segment = next(segments)
            random = story.random(f"scene {segment.first}")
            scene = SegmentScene(segment, story.width, story.height, (story.seed + story.index) % HOSTS, random)
        if cut or time - drawn_at >= _NEW_DRAWING:
            picture = av.VideoFrame.from_image(scene.frame(time / TICKS - scene.segment.start))
            frame, drawn_at = picture.reformat(format="yuv420p"), time
        frame.pts, frame.duration, frame.time_base = time, duration, Fraction(1, TICKS)
        yield frame, time + duration


def _sound(samples: Samples, first: int, stop: int) -> av.AudioFrame:
    frame = av.AudioFrame.from_ndarray(samples[None, first:stop], format="fltp", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = SOUND_RATE, first, Fraction(1, SOUND_RATE)
    return frame


def write_film(story: VideoStory, soundtrack: Soundtrack, path: Path) -> None:
    """Draw and encode one video; `path` appears only when it is whole."""
    with write_aside(path) as aside, av.open(str(aside), "w", format="mp4") as container:
        options = {"preset": "superfast", "crf": "24", "threads": "1"}
        video = container.add_stream("libx264", rate=FRAME_RATE, options=options)
        video.width, video.height, video.pix_fmt = story.width, story.height, "yuv420p"
        video.codec_context.time_base = Fraction(1, TICKS)
        audio = container.add_stream("aac", rate=SOUND_RATE, layout="mono") if story.has_audio else None
        if audio is not None and soundtrack.bit_rate:
            audio.bit_rate = soundtrack.bit_rate
        heard = 0
        for frame, end in _frames(story):
            container.mux(video.encode(frame))
            until = min(len(soundtrack.samples), end * SOUND_RATE // TICKS)
            if audio is not None and (until - heard >= SOUND_RATE // 2 or until == len(soundtrack.samples)):
                container.mux(audio.encode(_sound(soundtrack.samples, heard, until)))
                heard = until
        container.mux(video.encode(None))
        if audio is not None:
            container.mux(audio.encode(None))
