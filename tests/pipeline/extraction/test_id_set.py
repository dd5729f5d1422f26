"""A compact set of ids answers as Python's own."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.extraction.planning import IdSet

ids = st.text("abcXYZ019_-", min_size=1, max_size=12)


@given(st.lists(st.lists(ids, max_size=6), max_size=6), st.sets(ids, max_size=4), st.lists(ids, max_size=8))
def test_it_answers_as_a_set(groups: list[list[str]], but: set[str], asked: list[str]) -> None:
    truth = {video_id for group in groups for video_id in group}
    found = IdSet(groups, but)
    # The last is how Python names a file whose name isn't UTF-8.
    for video_id in [*truth, *but, *asked, "", "é", "\udcff"]:
        assert (video_id in found) == (video_id in truth and video_id not in but)
