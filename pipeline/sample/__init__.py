"""`mcn sample`: a small HowTo100M of its own, seen, heard and captioned, with the truth about every second."""

from pipeline.sample.make import SampleSettings, SampleSummary, make_sample, run

__all__ = ["SampleSettings", "SampleSummary", "make_sample", "run"]
