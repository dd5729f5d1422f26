"""What `--weights` says of which stream."""

import pytest

from extractors.weight_specs import mapped_weights, stream_weights, weight_items


@pytest.mark.parametrize(
    ("weights", "streams", "expected"),
    [
        ("", ["resnet152", "r3d_18"], {"resnet152": "IMAGENET1K_V1", "r3d_18": "KINETICS400_V1"}),
        ("a.pt", ["resnet152", "efficientnet-lite0"], {"resnet152": "a.pt", "efficientnet-lite0": "IMAGENET1K"}),
        ("a.pt", ["resnet18"], {"resnet18": "a.pt"}),
        ("resnet18=a.pt,r3d_18=random:1", ["r3d_18", "resnet18"], {"r3d_18": "random:1", "resnet18": "a.pt"}),
        ("random:0,resnet18=/x/a,b.pt", ["resnet18", "resnet152"], {"resnet18": "/x/a,b.pt", "resnet152": "random:0"}),
        ("/x=1/a.pt", ["resnet18"], {"resnet18": "/x=1/a.pt"}),
        ("resnet18=/x=1,y/a.pt", ["resnet18"], {"resnet18": "/x=1,y/a.pt"}),
        # As version 0.1.0 recorded it.
        ("IMAGENET1K_V1", ["efficientnet-lite0"], {"efficientnet-lite0": "IMAGENET1K"}),
        ("efficientnet-lite0=random:0", ["efficientnet-lite0"], {"efficientnet-lite0": "random:0"}),
    ],
)
def test_each_stream_gets_its_own(weights: str, streams: list[str], expected: dict[str, str]) -> None:
    assert stream_weights(weights, streams) == expected


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("random:0", "`weights`: random:0 is for which stream. give resnet18=random:0"),
        ("resnet152=a.pt", r"resnet152 is none of the streams \(resnet18, r3d_18\)$"),
        ("resnt18=a.pt", "resnt18 is none of the streams .*; did you mean resnet18"),
        ("resnet18=a,resnet18=b", "resnet18 is given twice"),
        ("resnet18=", "resnet18 has none: give resnet18=WEIGHTS"),
    ],
)
def test_what_fits_no_stream_is_refused(weights: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stream_weights(weights, ["resnet18", "r3d_18"])


def test_each_of_them_can_be_changed() -> None:
    assert mapped_weights("a.pt,resnet18=b,c.pt", str.upper) == "A.PT,resnet18=B,C.PT"
    assert mapped_weights("", str.upper) == "" and weight_items("") == []
