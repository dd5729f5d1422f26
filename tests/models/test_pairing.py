from copy import deepcopy
from typing import Any

import pytest

from models.pairing import (
    BUILTIN_SCHEMES,
    Pair,
    Scheme,
    SchemeError,
    Source,
    Space,
    builtin_scheme,
    scheme_from_dict,
    scheme_to_dict,
)


def layout(scheme: Scheme) -> dict[str, tuple[dict[str, str], set[str]]]:
    return {s.name: ({x.modality: x.origin for x in s.sources}, {p.name for p in s.pairs}) for s in scheme.spaces}


FEATURES = {"video": "feature", "audio": "feature"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("shared", {"shared": (FEATURES | {"text": "feature"}, {"video-text", "video-audio", "audio-text"})}),
        (
            "disjoint",
            {
                "video-text": ({"video": "feature", "text": "feature"}, {"video-text"}),
                "video-audio": (FEATURES, {"video-audio"}),
            },
        ),
        (
            "fine-and-coarse",
            {
                "fine": (FEATURES, {"video-audio"}),
                "coarse": (
                    {"video": "fine", "audio": "fine", "text": "feature"},
                    {"video-text", "video-audio", "audio-text"},
                ),
            },
        ),
        (
            "fine-and-coarse-mmv",
            {
                "fine": (FEATURES, {"video-audio"}),
                "coarse": ({"video": "fine", "audio": "fine", "text": "feature"}, {"video-text"}),
            },
        ),
        ("video-audio", {"video-audio": (FEATURES, {"video-audio"})}),
        ("video-text", {"video-text": ({"video": "feature", "text": "feature"}, {"video-text"})}),
        ("audio-text", {"audio-text": ({"audio": "feature", "text": "feature"}, {"audio-text"})}),
    ],
)
def test_built_in_schemes(name: str, expected: dict[str, Any]) -> None:
    assert layout(builtin_scheme(name)) == expected
    assert name in BUILTIN_SCHEMES and len(BUILTIN_SCHEMES) == 7


def test_mmv_leads_audio_through_the_videos_head_and_trains_it_only_in_the_fine_space() -> None:
    fine, coarse = builtin_scheme("fine-and-coarse-mmv").spaces
    assert coarse.source("audio").through == "video"
    assert coarse.trained_modalities == ("video", "text")
    assert fine.trained_modalities == ("video", "audio")
    with pytest.raises(KeyError):
        fine.source("text")


@pytest.mark.parametrize("name", BUILTIN_SCHEMES)
def test_a_scheme_survives_its_plain_form(name: str) -> None:
    scheme = builtin_scheme(name)
    assert scheme_from_dict(scheme_to_dict(scheme)) == scheme


def test_a_width_of_its_own_survives_the_plain_form() -> None:
    data = scheme_to_dict(builtin_scheme("shared"))
    data["spaces"][0]["width"] = 512  # type: ignore[index]
    scheme = scheme_from_dict(data)
    assert scheme.spaces[0].width == 512
    assert scheme_from_dict(scheme_to_dict(scheme)) == scheme


def test_questions_about_spaces() -> None:
    scheme = builtin_scheme("fine-and-coarse-mmv")
    assert [s.name for s in scheme.holding("video", "audio")] == ["fine", "coarse"]
    assert [s.name for s in scheme.holding("text", "audio")] == ["coarse"]
    assert [s.name for s in scheme.contrasting("text", "video")] == ["coarse"]
    assert scheme.contrasting("text", "audio") == ()
    with pytest.raises(SchemeError, match="unknown space 'corse'; did you mean coarse?"):
        scheme.space("corse")


def test_every_vector_comes_after_the_one_it_is_made_from() -> None:
    data = {
        "name": "backwards",
        "spaces": [
            {"name": "c", "modalities": {"video": "b", "audio": "feature"}, "pairs": ["video-audio"]},
            {"name": "b", "modalities": {"video": "a", "audio": "feature"}, "pairs": ["video-audio"]},
            {"name": "a", "modalities": {"video": "feature", "audio": "c"}, "pairs": ["video-audio"]},
        ],
    }
    order = [(space.name, source.modality) for space, source in scheme_from_dict(data).in_order()]
    assert len(order) == 6
    for later, earlier in [("b", "a"), ("c", "b")]:
        assert order.index((earlier, "video")) < order.index((later, "video"))
    assert order.index(("c", "audio")) < order.index(("a", "audio"))


GOOD: dict[str, Any] = {
    "name": "mine",
    "spaces": [
        {"name": "fine", "modalities": {"video": "feature", "audio": "feature"}, "pairs": ["video-audio"]},
        {"name": "coarse", "modalities": {"video": "fine", "text": "feature"}, "pairs": ["video-text"]},
    ],
}


def changed(*path: Any, to: Any) -> dict[str, Any]:
    data = deepcopy(GOOD)
    place: Any = data
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = to
    return data


def without(*path: Any) -> dict[str, Any]:
    data = deepcopy(GOOD)
    place: Any = data
    for step in path[:-1]:
        place = place[step]
    del place[path[-1]]
    return data


COARSE = ("spaces", 1)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (changed(*COARSE, "modalities", "vidoe", to="fine"), "unknown modality 'vidoe'; did you mean video?"),
        (changed(*COARSE, "modalities", "smell", to="fine"), "unknown modality 'smell'; known: video, audio, text"),
        (changed(*COARSE, "pairs", to=["video-audio"]), "pair video-audio needs audio, which is not in this space"),
        (changed(*COARSE, "pairs", to=["video-txet"]), "unknown modality 'txet'; did you mean text?"),
        (changed(*COARSE, "pairs", to=["video-video"]), "pair video-video contrasts video with itself"),
        (changed(*COARSE, "pairs", to=["video-text", "text-video"]), "pair text-video is listed twice"),
        (changed(*COARSE, "pairs", to=["video"]), "pair 'video' is not two modalities joined by -"),
        (changed(*COARSE, "pairs", to=[]), "it contrasts no pair"),
        (changed(*COARSE, "pairs", to="video-text"), "`pairs` is a list"),
        (changed(*COARSE, "modalities", "video", to="fien"), "unknown source 'fien'; did you mean fine?"),
        (changed(*COARSE, "modalities", "text", to="fine"), "it comes from space fine, which holds no text"),
        (changed(*COARSE, "modalities", to=["video", "text"]), "`modalities` maps each modality"),
        (changed("spaces", 0, "modalities", "video", to="coarse"), "it goes in a cycle, fine <- coarse <- fine"),
        (changed(*COARSE, "modalities", "video", to="coarse"), "it goes in a cycle, coarse <- coarse"),
        (changed(*COARSE, "name", to="fine"), "two spaces have this name"),
        (changed(*COARSE, "name", to="a/b"), "a space's name has letters, digits"),
        (changed(*COARSE, "name", to="feature"), "is not `feature`"),
        (changed(*COARSE, "width", to=0), "width 0 is not a positive number"),
        (changed(*COARSE, "width", to="wide"), "width 'wide' is not a whole number"),
        (changed(*COARSE, "width", to=True), "width True is not a whole number"),
        (changed(*COARSE, "widht", to=8), "unknown key 'widht'; did you mean width?"),
        (changed(*COARSE, to="coarse"), "a space is a mapping with name, modalities and pairs"),
        (changed("spaces", to=[]), "it has no space"),
        (changed("spaces", to={}), "`spaces` is a list of spaces"),
        (changed("name", to=7), "scheme: name is a word, not 7"),
        (without("name"), "scheme: `name` is missing"),
        (without(*COARSE, "pairs"), "scheme mine, space coarse: `pairs` is missing"),
        (
            changed(*COARSE, "modalities", "text", to={"from": "feature", "through": "video"}),
            "to share video's head, both must come from the same space",
        ),
        (
            changed(*COARSE, "modalities", "text", to={"from": "fine", "through": "sound"}),
            "unknown head 'sound'; known: video, text",
        ),
        (changed(*COARSE, "modalities", "text", to={"from": "fine"}), "coarse, text: `through` is missing"),
    ],
)
def test_a_senseless_scheme_gets_one_clear_line(data: dict[str, Any], message: str) -> None:
    with pytest.raises(SchemeError) as caught:
        scheme_from_dict(data)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_schemes_made_in_code_are_checked_too() -> None:
    twice = (Source("video", "feature", "video"), Source("video", "feature", "video"))
    with pytest.raises(SchemeError, match="a modality is listed twice"):
        Scheme("made", (Space("s", twice, (Pair("video", "audio"),)),))
    chained = {
        "video": "fine",
        "audio": {"from": "fine", "through": "video"},
        "text": {"from": "fine", "through": "audio"},
    }
    with pytest.raises(SchemeError, match="audio has no head of its own"):
        scheme_from_dict(changed("spaces", 1, "modalities", to=chained))


def test_an_unknown_built_in_scheme_is_named_with_the_nearest() -> None:
    with pytest.raises(SchemeError, match="unknown pairing scheme 'disjont'; did you mean disjoint?"):
        builtin_scheme("disjont")
