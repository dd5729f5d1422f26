"""Pairing schemes as data: which spaces there are, what lies in each, and which pairs are contrasted there.

A scheme is a plain mapping, as a YAML file gives it:

    name: fine-and-coarse-mmv
    spaces:
      - name: fine
        modalities: {video: feature, audio: feature}
        pairs: [video-audio]
      - name: coarse
        width: 2048                                       # optional: the model's width when left out
        modalities:
          video: fine                                     # from the vector in space `fine`
          audio: {from: fine, through: video}             # likewise, through the video's head
          text: feature
        pairs: [video-text]

`feature` is the extractor's output. A modality that is in no pair of its space is embedded there, so that it can be
searched, but takes part in none of that space's losses. The built-in schemes follow "Self-Supervised MultiModal
Versatile Networks" (Alayrac et al., 2020): shared, disjoint, fine and coarse; and the three pairs alone. DaveNet is
trained by `video-audio`, on pictures and sound (AVLnet, Rouditchenko et al., 2021).
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

MODALITIES = ("video", "audio", "text")
FEATURE = "feature"

_SPACE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


class SchemeError(ValueError):
    """A pairing scheme that makes no sense: one line that says where and how to mend it."""


@dataclass(frozen=True)
class Pair:
    """Two modalities contrasted in a space."""

    first: str
    second: str

    @property
    def name(self) -> str:
        """The pair as it is written and logged: `video-text`."""
        return f"{self.first}-{self.second}"


@dataclass(frozen=True)
class Source:
    """How a modality reaches a space: from `origin` (`feature` or a space) through the head of modality `through`."""

    modality: str
    origin: str
    through: str


@dataclass(frozen=True)
class Space:
    """An embedding space; `width` None means the model's."""

    name: str
    sources: tuple[Source, ...]
    pairs: tuple[Pair, ...]
    width: int | None = None

    @property
    def modalities(self) -> tuple[str, ...]:
        """All modalities that have a vector here."""
        return tuple(source.modality for source in self.sources)

    @property
    def trained_modalities(self) -> tuple[str, ...]:
        """The modalities in a pair of this space: those with cluster and reconstruction terms here."""
        paired = {modality for pair in self.pairs for modality in (pair.first, pair.second)}
        return tuple(modality for modality in self.modalities if modality in paired)

    def source(self, modality: str) -> Source:
        """The source of `modality`; raises KeyError when it has no vector here."""
        for source in self.sources:
            if source.modality == modality:
                return source
        raise KeyError(modality)


@dataclass(frozen=True)
class Scheme:
    """A named list of spaces; checked when made (SchemeError)."""

    name: str
    spaces: tuple[Space, ...]

    def __post_init__(self) -> None:
        if not self.spaces:
            raise SchemeError(f"scheme {self.name}: it has no space")
        seen: set[str] = set()
        for space in self.spaces:
            where = f"scheme {self.name}, space {space.name}"
            if not _SPACE_NAME.fullmatch(space.name) or space.name == FEATURE:
                raise SchemeError(f"{where}: a space's name has letters, digits, - and _, and is not `{FEATURE}`")
            if space.name in seen:
                raise SchemeError(f"{where}: two spaces have this name")
            seen.add(space.name)
            if space.width is not None and space.width < 1:
                raise SchemeError(f"{where}: width {space.width} is not a positive number")
            for modality in space.modalities:
                _require(modality, MODALITIES, where, "modality")
            self._check_pairs(space, where)
        for space in self.spaces:
            for source in space.sources:
                self._check_source(space, source)

    def _check_pairs(self, space: Space, where: str) -> None:
        if not space.pairs:
            raise SchemeError(f"{where}: it contrasts no pair; name at least one")
        if len(set(space.modalities)) != len(space.modalities):
            raise SchemeError(f"{where}: a modality is listed twice")
        seen: set[frozenset[str]] = set()
        for pair in space.pairs:
            for modality in (pair.first, pair.second):
                _require(modality, MODALITIES, f"{where}, pair {pair.name}", "modality")
                if modality not in space.modalities:
                    raise SchemeError(f"{where}: pair {pair.name} needs {modality}, which is not in this space")
            members = frozenset((pair.first, pair.second))
            if len(members) != 2:
                raise SchemeError(f"{where}: pair {pair.name} contrasts {pair.first} with itself")
            if members in seen:
                raise SchemeError(f"{where}: pair {pair.name} is listed twice")
            seen.add(members)

    def _check_source(self, space: Space, source: Source) -> None:
        where = f"scheme {self.name}, space {space.name}, {source.modality}"
        _require(source.origin, (FEATURE, *(s.name for s in self.spaces)), where, "source")
        if source.through != source.modality:
            _require(source.through, space.modalities, where, "head")
            owner = space.source(source.through)
            if owner.through != owner.modality:
                raise SchemeError(f"{where}: {source.through} has no head of its own to go through")
            if source.origin == FEATURE or owner.origin != source.origin:
                raise SchemeError(f"{where}: to share {source.through}'s head, both must come from the same space")
        path = [space.name]
        origin = source.origin
        while origin != FEATURE:
            if origin in path:
                raise SchemeError(f"{where}: it goes in a cycle, {' <- '.join([*path, origin])}")
            path.append(origin)
            before = self.space(origin)
            if source.modality not in before.modalities:
                raise SchemeError(f"{where}: it comes from space {origin}, which holds no {source.modality}")
            origin = before.source(source.modality).origin
            _require(origin, (FEATURE, *(s.name for s in self.spaces)), where, "source")

    def space(self, name: str) -> Space:
        """The space called `name`; raises SchemeError that names the known ones."""
        for space in self.spaces:
            if space.name == name:
                return space
        raise SchemeError(f"scheme {self.name}: {_unknown(name, [s.name for s in self.spaces], 'space')}")

    def holding(self, *modalities: str) -> tuple[Space, ...]:
        """The spaces in which all these modalities have a vector."""
        return tuple(space for space in self.spaces if set(modalities) <= set(space.modalities))

    def contrasting(self, first: str, second: str) -> tuple[Space, ...]:
        """The spaces in which these two are contrasted, in either order."""
        wanted = {first, second}
        return tuple(s for s in self.spaces if any({p.first, p.second} == wanted for p in s.pairs))

    def in_order(self) -> tuple[tuple[Space, Source], ...]:
        """Every vector of the scheme, each after the one it comes from."""
        depth: dict[tuple[str, str], int] = {}
        for space in self.spaces:
            for source in space.sources:
                origin, steps = source.origin, 0
                while origin != FEATURE:
                    origin, steps = self.space(origin).source(source.modality).origin, steps + 1
                depth[space.name, source.modality] = steps
        vectors = [(space, source) for space in self.spaces for source in space.sources]
        return tuple(sorted(vectors, key=lambda v: depth[v[0].name, v[1].modality]))


def scheme_from_dict(data: Mapping[str, object]) -> Scheme:
    """A scheme from a plain mapping (this module's first page shows one).

    Raises SchemeError, one line, for a missing or unknown key, a value of the wrong kind, an unknown modality or
    source, a pair outside its space, or a cycle.
    """
    _check_keys(data, {"name", "spaces"}, set(), "scheme")
    name = _text(data["name"], "scheme: name")
    spaces = data["spaces"]
    if not isinstance(spaces, list):
        raise SchemeError(f"scheme {name}: `spaces` is a list of spaces")
    return Scheme(name, tuple(_space_from_dict(space, name) for space in spaces))


def scheme_to_dict(scheme: Scheme) -> dict[str, object]:
    """The plain mapping that `scheme_from_dict` reads back as an equal scheme."""
    spaces: list[dict[str, object]] = []
    for space in scheme.spaces:
        modalities: dict[str, object] = {
            s.modality: s.origin if s.through == s.modality else {"from": s.origin, "through": s.through}
            for s in space.sources
        }
        entry: dict[str, object] = {"name": space.name, "modalities": modalities}
        entry["pairs"] = [pair.name for pair in space.pairs]
        if space.width is not None:
            entry["width"] = space.width
        spaces.append(entry)
    return {"name": scheme.name, "spaces": spaces}


def _space_from_dict(data: object, scheme: str) -> Space:
    where = f"scheme {scheme}"
    if not isinstance(data, Mapping):
        raise SchemeError(f"{where}: a space is a mapping with name, modalities and pairs, not {data!r}")
    _check_keys(data, {"name", "modalities", "pairs"}, {"width"}, f"{where}, space {data.get('name', '?')}")
    name = _text(data["name"], f"{where}: a space's name")
    where = f"{where}, space {name}"
    modalities, pairs, width = data["modalities"], data["pairs"], data.get("width")
    if not isinstance(modalities, Mapping):
        raise SchemeError(f"{where}: `modalities` maps each modality to `{FEATURE}` or to a space")
    if not isinstance(pairs, list):
        raise SchemeError(f"{where}: `pairs` is a list such as [video-text]")
    if width is not None and (isinstance(width, bool) or not isinstance(width, int)):
        raise SchemeError(f"{where}: width {width!r} is not a whole number")
    sources = tuple(_source(modality, source, where) for modality, source in modalities.items())
    return Space(name, sources, tuple(_pair(pair, where) for pair in pairs), width)


def _source(modality: object, data: object, where: str) -> Source:
    name = _text(modality, f"{where}: a modality")
    if isinstance(data, Mapping):
        _check_keys(data, {"from", "through"}, set(), f"{where}, {name}")
        origin = _text(data["from"], f"{where}, {name}: from")
        return Source(name, origin, _text(data["through"], f"{where}, {name}: through"))
    return Source(name, _text(data, f"{where}, {name}: source"), name)


def _pair(data: object, where: str) -> Pair:
    parts = _text(data, f"{where}: a pair").split("-")
    if len(parts) != 2:
        raise SchemeError(f"{where}: pair {data!r} is not two modalities joined by -, such as video-text")
    return Pair(*parts)


def _text(value: object, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise SchemeError(f"{where} is a word, not {value!r}")
    return value


def _check_keys(data: Mapping[str, object], required: set[str], optional: set[str], where: str) -> None:
    for key in data:
        _require(str(key), sorted(required | optional), where, "key")
    missing = sorted(required - set(data))
    if missing:
        raise SchemeError(f"{where}: `{missing[0]}` is missing")


def _require(name: str, known: Iterable[str], where: str, kind: str) -> None:
    if name not in known:
        raise SchemeError(f"{where}: {_unknown(name, list(known), kind)}")


def _unknown(name: str, known: list[str], kind: str) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
    return f"unknown {kind} {name!r}; {hint}"


def _alone(pair: str, name: str = "") -> dict[str, object]:
    """A space of one pair, whose modalities come from the features."""
    return {"name": name or pair, "modalities": dict.fromkeys(pair.split("-"), FEATURE), "pairs": [pair]}


_ALL_PAIRS = ["video-text", "video-audio", "audio-text"]
_BUILTIN: dict[str, list[dict[str, object]]] = {
    "shared": [{"name": "shared", "modalities": dict.fromkeys(MODALITIES, FEATURE), "pairs": _ALL_PAIRS}],
    "disjoint": [_alone("video-text"), _alone("video-audio")],
    "fine-and-coarse": [
        _alone("video-audio", "fine"),
        {"name": "coarse", "modalities": {"video": "fine", "audio": "fine", "text": FEATURE}, "pairs": _ALL_PAIRS},
    ],
    "fine-and-coarse-mmv": [
        _alone("video-audio", "fine"),
        {
            "name": "coarse",
            "modalities": {"video": "fine", "audio": {"from": "fine", "through": "video"}, "text": FEATURE},
            "pairs": ["video-text"],
        },
    ],
    **{pair: [_alone(pair)] for pair in ("video-text", "audio-text", "video-audio")},
}

BUILTIN_SCHEMES = tuple(_BUILTIN)


def builtin_scheme(name: str) -> Scheme:
    """The built-in scheme called `name`; raises SchemeError with the nearest known name."""
    if name not in _BUILTIN:
        raise SchemeError(_unknown(name, list(_BUILTIN), "pairing scheme"))
    return scheme_from_dict({"name": name, "spaces": _BUILTIN[name]})
