"""An HDF5 file that isn't plain is refused before anything in it is followed; no other file is ever opened."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from h5py import h5d, h5p, h5s, h5t

from pipeline.core.hdf5 import Attributes, DatasetLayout, Layout, LayoutError, read_attributes, read_hdf5

ROOT = Path(__file__).parents[3]
LAYOUT = {"values": DatasetLayout("<f4", (3,)), "of/names": DatasetLayout("S"), "of/sums": DatasetLayout("V32")}
VALUES = np.arange(12, dtype="<f4").reshape(4, 3)


def expected(attributes: Attributes, names: frozenset[str]) -> Layout:
    return LAYOUT


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A file as `LAYOUT` says."""
    path = tmp_path / "plain.h5"
    with h5py.File(path, "w") as file:
        file["values"] = VALUES
        file["of/names"] = np.array([b"one", b"two"])
        file["of/sums"] = np.frombuffer(bytes(range(64)), "V32")
        file.attrs["schema"] = np.int64(1)
        file.attrs["name"] = "größe"
    return path


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """Another file, whose bytes could be taken for the values."""
    path = tmp_path / "secret"
    path.write_bytes(VALUES.tobytes() * 2)
    return path


def test_a_plain_file_is_opened_and_read_whole(plain: Path) -> None:
    file = read_hdf5(plain, expected)
    with file.hdf5:
        assert dict(file.contents.attributes) == {"schema": 1, "name": "größe"} == read_attributes(plain)
        assert dict(file.contents.lengths) == {"values": 4, "of/names": 2, "of/sums": 2}
        assert file.values("values").tolist() == VALUES.tolist()
        assert file.values("of/names").tolist() == [b"one", b"two"]
        assert file.values("of/sums").tobytes() == bytes(range(64))


def _external_storage(file: h5py.File, secret: Path) -> None:
    file.create_dataset("values", (4, 3), "<f4", external=[(str(secret), 0, 48)])


def _external_link(file: h5py.File, secret: Path) -> None:
    with h5py.File(secret, "w") as other:
        other["values"] = VALUES
    file["values"] = h5py.ExternalLink(str(secret), "values")


def _external_group(file: h5py.File, secret: Path) -> None:
    file["values"] = VALUES
    with h5py.File(secret, "w") as other:
        other["names"] = np.array([b"a", b"b"])
        other["sums"] = np.frombuffer(bytes(64), "V32")
    del file["of"]
    file["of"] = h5py.ExternalLink(str(secret), "/")


def _virtual(file: h5py.File, secret: Path) -> None:
    with h5py.File(secret, "w") as other:
        other["values"] = VALUES
    layout = h5py.VirtualLayout((4, 3), "<f4")
    layout[:] = h5py.VirtualSource(str(secret), "values", (4, 3))
    file.create_virtual_dataset("values", layout)


def _virtual_without_end(file: h5py.File, secret: Path) -> None:
    # To tell its shape, HDF5 opens the source.
    with h5py.File(secret, "w") as other:
        other.create_dataset("values", data=VALUES, maxshape=(None, 3))
    layout = h5py.VirtualLayout((4, 3), "<f4", maxshape=(None, 3))
    source = h5py.VirtualSource(str(secret), "values", (4, 3), maxshape=(None, 3))
    layout[0 : h5s.UNLIMITED : 1, :] = source[0 : h5s.UNLIMITED : 1, :]
    file.create_virtual_dataset("values", layout)


def _plugin(file: h5py.File, secret: Path) -> None:
    creation = h5p.create(h5p.DATASET_CREATE)
    creation.set_chunk((4, 3))
    creation.set_filter(32_015, h5p.h5z.FLAG_OPTIONAL if hasattr(h5p, "h5z") else 1, ())
    h5d.create(file.id, b"values", h5t.IEEE_F32LE, h5s.create_simple((4, 3)), creation)


def _compact(file: h5py.File, secret: Path) -> None:
    creation = h5p.create(h5p.DATASET_CREATE)
    creation.set_layout(h5d.COMPACT)
    h5d.create(file.id, b"values", h5t.IEEE_F32LE, h5s.create_simple((4, 3)), creation)


def _committed(file: h5py.File, secret: Path) -> None:
    file["type"] = np.dtype("<f4")
    file.create_dataset("values", (4, 3), file["type"])
    file["values"][:] = VALUES
    del file["type"]


def _loop(file: h5py.File, secret: Path) -> None:
    file["values"] = VALUES
    file["of/again"] = file["/"]


def _many(file: h5py.File, secret: Path) -> None:
    file["values"] = VALUES
    for number in range(5000):
        file[f"more{number}"] = h5py.SoftLink("/")


def _slash(file: h5py.File, secret: Path) -> None:
    # A link called `of/name`, which as a path leads elsewhere.
    file["values"] = VALUES
    file["ofXname"] = VALUES


HOSTILE: dict[str, tuple[Callable[[h5py.File, Path], None], str]] = {
    "external storage": (_external_storage, "values isn't contiguous and plain"),
    "external link": (_external_link, "values is a link to something else"),
    "external group": (_external_group, "of is a link to something else"),
    "soft link": (lambda file, _: file.__setitem__("values", h5py.SoftLink("/of/sums")), "values is a link"),
    "virtual": (_virtual, "values isn't contiguous and plain"),
    "virtual without end": (_virtual_without_end, "values isn't contiguous and plain"),
    "chunked": (lambda file, _: file.create_dataset("values", data=VALUES, chunks=(2, 3)), "isn't contiguous"),
    "bomb": (
        lambda file, _: file.create_dataset("values", (1 << 40, 3), "<f4", chunks=(1 << 20, 3), compression="gzip"),
        "values isn't contiguous and plain",
    ),
    "plugin": (_plugin, "values isn't contiguous and plain"),
    "compact": (_compact, "values isn't contiguous and plain"),
    "size": (lambda file, _: file.create_dataset("values", (1 << 60, 3), "<f4"), "size beyond that of the file"),
    "unwritten": (lambda file, _: file.create_dataset("values", (4, 3), "<f4"), "room for 48 bytes, of which 0"),
    "type": (lambda file, _: file.create_dataset("values", data=VALUES.astype(">f4")), "values isn't of type <f4"),
    "shape": (lambda file, _: file.create_dataset("values", data=VALUES.T), "has the shape"),
    "scalar": (lambda file, _: file.create_dataset("values", data=np.float32(1)), "has the shape"),
    "variable": (lambda file, _: file.create_dataset("values", (4, 3), h5py.vlen_dtype("f4")), "isn't of type"),
    "text": (lambda file, _: file.create_dataset("values", (4, 3), h5py.string_dtype()), "isn't of type"),
    "reference": (lambda file, _: file.create_dataset("values", (4, 3), h5py.ref_dtype), "isn't of type"),
    "region": (lambda file, _: file.create_dataset("values", (4, 3), h5py.regionref_dtype), "isn't of type"),
    "committed": (_committed, "values isn't of type <f4"),
    "group": (lambda file, _: file.create_group("values"), "values is missing"),
    "missing": (lambda file, _: None, "values is missing"),
    "loop": (_loop, "doesn't belong there|is no dataset"),
    "many": (_many, "more than 4096 objects"),
    "slash": (_slash, "of/name is a link to something else"),
    "committed type": (lambda file, _: file.__setitem__("values", np.dtype("<f4")), "values is no dataset"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_file_that_is_not_plain_is_refused_and_no_other_is_opened(
    plain: Path, secret: Path, kind: str, opened: Callable[[Path], Any]
) -> None:
    make, said = HOSTILE[kind]
    with h5py.File(plain, "r+") as file:
        del file["values"]
        make(file, secret)
    if kind == "slash":
        plain.write_bytes(plain.read_bytes().replace(b"ofXname", b"of/name"))
    watch = opened(secret)
    began = time.process_time()
    with pytest.raises(LayoutError, match=said) as error:
        read_hdf5(plain, expected)
    assert time.process_time() - began < 1 and "\n" not in str(error.value)
    assert watch() == 0, "the other file was opened"


@pytest.mark.parametrize("kind", ["external storage", "external link", "virtual", "virtual without end"])
def test_h5py_itself_would_open_the_other_file(
    plain: Path, secret: Path, kind: str, opened: Callable[[Path], Any]
) -> None:
    with h5py.File(plain, "r+") as file:
        del file["values"]
        HOSTILE[kind][0](file, secret)
    watch = opened(secret)
    with h5py.File(plain, "r") as file:
        assert file["values"][:].shape == (4, 3)
    assert watch() > 0


@pytest.mark.parametrize(
    "value",
    [np.arange(3), 1.5, np.bytes_(b"fixed"), h5py.Empty("f4"), np.array(["a", "b"], object), np.int32(1)],
)
def test_attributes_are_texts_and_integers(plain: Path, value: Any) -> None:
    with h5py.File(plain, "r+") as file:
        file.attrs["name"] = value
    with pytest.raises(LayoutError, match="attribute name is neither a text nor an integer"):
        read_hdf5(plain, expected)


def test_an_attribute_that_refers_elsewhere_is_refused(plain: Path) -> None:
    with h5py.File(plain, "r+") as file:
        file.attrs["name"] = file["of"].ref
    with pytest.raises(LayoutError, match="attribute name is neither"):
        read_attributes(plain)
    with h5py.File(plain, "r+") as file:
        del file.attrs["name"]
        for number in range(40):
            file.attrs[f"a{number}"] = "x"
    with pytest.raises(LayoutError, match="it has 41 attributes"):
        read_attributes(plain)


def test_a_name_out_of_the_file_can_steer_no_terminal(plain: Path) -> None:
    with h5py.File(plain, "r+") as file:
        file["\x1b[2Jcleared"] = 1
    with pytest.raises(LayoutError) as error:
        read_hdf5(plain, expected)
    assert "\x1b" not in str(error.value) and "x1b[2Jcleared doesn't belong there" in str(error.value)


def test_one_stretch_of_the_file_under_two_names_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "twice.h5"
    with h5py.File(path, "w") as file:
        file["first"] = np.zeros((5000, 3), "<f4")
        file["second"] = file["first"]
    layout = dict.fromkeys(("first", "second"), DatasetLayout("<f4", (3,)))
    with pytest.raises(LayoutError, match="its datasets overlap"):
        read_hdf5(path, lambda attributes, names: layout)


def test_a_dataset_that_begins_in_the_file_and_ends_beyond_it_is_refused(plain: Path) -> None:
    with h5py.File(plain, "r") as file:
        offset = file["values"].id.get_offset()
    whole = plain.read_bytes()
    # In the file, the place of a contiguous dataset stands before its size.
    stated = [place.to_bytes(8, "little") + VALUES.nbytes.to_bytes(8, "little") for place in (offset, len(whole) - 4)]
    assert whole.count(stated[0]) == 1
    plain.write_bytes(whole.replace(*stated))
    with pytest.raises(LayoutError):
        read_hdf5(plain, expected)


def test_what_is_in_the_way_is_passed_over_where_that_is_allowed(
    plain: Path, secret: Path, opened: Callable[[Path], Any]
) -> None:
    with h5py.File(plain, "r+") as file:
        file["more"] = h5py.ExternalLink(str(secret), "/")
        file["of/more"] = VALUES
    watch = opened(secret)
    file = read_hdf5(plain, expected, others_allowed=True)
    with file.hdf5:
        assert set(file.contents.lengths) == set(LAYOUT) and watch() == 0


@pytest.mark.parametrize("how", ["cut", "empty", "text", "folder", "pipe", "device", "gone", "block"])
def test_what_is_no_hdf5_file_is_told_at_once(plain: Path, tmp_path: Path, how: str) -> None:
    path, whole = tmp_path / "other.h5", plain.read_bytes()
    if how == "pipe":
        os.mkfifo(path)
    elif how == "folder":
        path.mkdir()
    elif how == "device":
        path = Path("/dev/zero")
    elif how != "gone":
        path.write_bytes({"cut": whole[:-600], "empty": b"", "text": b"x" * 5000, "block": b"x" * 512 + whole}[how])
    with pytest.raises(LayoutError, match="not a (whole HDF5|regular) file|no such file|stands before"):
        read_hdf5(path, expected)


def test_a_file_is_looked_through_once_and_again_when_it_is_another(plain: Path, tmp_path: Path) -> None:
    calls = []

    def counting(attributes: Attributes, names: frozenset[str]) -> Layout:
        calls.append(names)
        return LAYOUT

    first = read_hdf5(plain, counting)
    first.hdf5.close()
    again = read_hdf5(plain, counting, known=first.contents)
    again.hdf5.close()
    assert len(calls) == 1 and again.contents is first.contents
    before = plain.stat()
    with h5py.File(plain, "r+") as file:
        del file["values"]
        file["values"] = h5py.SoftLink("/of/sums")
    os.utime(plain, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(LayoutError, match="values is a link"):
        read_hdf5(plain, counting, known=first.contents)


def test_hdf5_looks_for_no_filters_in_the_plugin_path(tmp_path: Path) -> None:
    """A file in the plugin folder that isn't opened, though one with an unknown filter is read by h5py itself."""
    program = (
        "import sys, h5py; from pipeline.core import hdf5; from h5py import h5pl;"
        "sys.exit(h5pl.size() + h5py.h5z.filter_avail(32015))"
    )
    environment = {**os.environ, "HDF5_PLUGIN_PATH": str(tmp_path), "PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", program], env=environment).returncode == 0
    bare = program.replace("from pipeline.core import hdf5;", "")
    assert subprocess.run([sys.executable, "-c", bare], env=environment).returncode > 0


def test_hdf5_is_opened_here_and_nowhere_else() -> None:
    packages = ("pipeline", "extractors", "models", "beam_jobs")
    sources = {path: path.read_text(encoding="utf-8") for top in packages for path in (ROOT / top).rglob("*.py")}
    counts = {path: len(re.findall(r"h5py\.File\(|h5f\.open\(", source)) for path, source in sources.items()}
    calls = {str(path.relative_to(ROOT)): count for path, count in counts.items() if count}
    # The second there writes aside; the doctor makes a trial file of its own.
    assert calls == {
        "pipeline/core/hdf5.py": 2,
        "pipeline/tools/doctor/folder.py": 1,
    }
