"""Files of state dicts: every form that PyTorch has written, and what hides in those of others."""

import builtins
import io
import os
import pickle
import struct
import tarfile
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from extractors.errors import WeightsError
from extractors.state_dict_file import WRAPPERS, read_state_dict

STATE = OrderedDict(
    {
        "conv.weight": torch.arange(6.0).reshape(2, 3),
        "conv.bias": torch.tensor([0.5], dtype=torch.float64),
        "bn.num_batches_tracked": torch.tensor(7),
    }
)


def same(read: dict[str, torch.Tensor], state: dict[str, torch.Tensor] = STATE) -> bool:
    return read.keys() == state.keys() and all(
        torch.equal(read[name], value) and read[name].dtype == value.dtype for name, value in state.items()
    )


def refused(path: Path) -> str:
    with pytest.raises(WeightsError) as caught:
        read_state_dict(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("as_zip", [True, False])
@pytest.mark.parametrize("wrapper", [None, *WRAPPERS])
def test_bare_and_wrapped_state_dicts_of_both_forms_are_one(tmp_path: Path, wrapper: str | None, as_zip: bool) -> None:
    content = STATE if wrapper is None else {"epoch": 3, wrapper: STATE, "optimizer": {"state": {0: torch.ones(2)}}}
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=as_zip)
    assert same(read_state_dict(tmp_path / "a.pth"))


def test_wrappers_may_lie_in_one_another(tmp_path: Path) -> None:
    content = {"net": {"state_dict": {"model": STATE}}, "amp": {"loss_scaler0": {"loss_scale": 65536.0}}}
    torch.save(content, tmp_path / "a")
    assert same(read_state_dict(tmp_path / "a"))


@pytest.mark.parametrize("as_zip", [True, False])
def test_parameters_views_and_numbers_beside_the_weights_are_read(tmp_path: Path, as_zip: bool) -> None:
    shared = torch.arange(12.0)
    state = {
        "parameter": torch.nn.Parameter(torch.ones(2, 2)),
        "view": shared[4:10].reshape(2, 3).T,
        "whole": shared,
        "half": torch.ones(3, dtype=torch.float16),
        "number": 3,
    }
    best = {"score": np.float64(0.25), "epoch": np.int64(3), "lr": np.float32(0.1), "done": np.bool_(True)}
    torch.save({"state_dict": state, "best": best}, tmp_path / "a", _use_new_zipfile_serialization=as_zip)
    read = read_state_dict(tmp_path / "a")
    assert same(read, {name: value for name, value in state.items() if isinstance(value, torch.Tensor)})
    assert not any(value.requires_grad for value in read.values())


def opcode_string(text: str) -> bytes:
    return pickle.SHORT_BINSTRING + bytes([len(text)]) + text.encode()


def global_of(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


def test_a_file_of_python_2_and_pytorch_0_1_is_read(tmp_path: Path) -> None:
    """Written out by hand: byte strings, an OrderedDict of lists, `_rebuild_tensor` without strides' flags."""

    def pickled(body: bytes) -> bytes:
        return pickle.PROTO + b"\x02" + body + pickle.STOP

    def whole(number: int) -> bytes:
        return pickle.BININT + struct.pack("<i", number)

    storage = (
        pickle.MARK
        + opcode_string("storage")
        + global_of("torch", "FloatStorage")
        + opcode_string("94251")
        + opcode_string("cpu")
        + whole(6)
        + pickle.NONE
        + pickle.TUPLE
        + pickle.BINPERSID
    )
    sizes = whole(2) + whole(3) + pickle.TUPLE2
    strides = whole(3) + whole(1) + pickle.TUPLE2
    tensor = (
        global_of("torch._utils", "_rebuild_tensor")
        + pickle.MARK
        + storage
        + whole(0)
        + sizes
        + strides
        + pickle.TUPLE
        + pickle.REDUCE
    )
    pair = pickle.EMPTY_LIST + pickle.MARK + opcode_string("module.conv.weight") + tensor + pickle.APPENDS
    pairs = pickle.EMPTY_LIST + pickle.MARK + pair + pickle.APPENDS
    state = global_of("collections", "OrderedDict") + pairs + pickle.TUPLE1 + pickle.REDUCE
    keys = pickle.EMPTY_LIST + opcode_string("94251") + pickle.APPEND
    system = pickle.EMPTY_DICT + opcode_string("little_endian") + pickle.NEWTRUE + pickle.SETITEM
    parts = [pickle.dumps(0x1950A86A20F9469CFC6C, 2), pickle.dumps(1001, 2), *map(pickled, (system, state, keys))]
    (tmp_path / "old.pth").write_bytes(b"".join(parts) + struct.pack("<q6f", 6, *range(6)))
    assert same(read_state_dict(tmp_path / "old.pth"), {"module.conv.weight": torch.arange(6.0).reshape(2, 3)})


class Asks:
    """Pickles as a call of `function`."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


HOSTILE = {
    "posix.system": Asks(os.system, "touch ran"),
    "eval": Asks(builtins.eval, "open('ran', 'w')"),
    "exec": Asks(builtins.exec, "open('ran', 'w')"),
    "getattr": Asks(getattr, "a", "upper"),
    "io.open": Asks(open, "ran", "w"),
    "functools.partial": Asks(partial, os.mkdir, "ran"),
    "torch.serialization.load": Asks(torch.load, "another"),
    "torch.hub.load": Asks(torch.hub.load, "owner/repository", "model"),
    "numpy.fromfile": Asks(np.fromfile, "another"),
    "argparse.Namespace": Namespace(lr=0.1),
    "torch.nn.modules.linear.Linear": torch.nn.Linear(1, 1),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("form", ["zip", "legacy", "pickle", "pickle of protocol 4"])
def test_what_is_no_tensor_is_refused_by_name_and_not_run(
    tmp_path: Path, name: str, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content = {"state_dict": STATE if form in ("zip", "legacy") else {}, "extra": HOSTILE[name]}
    if form in ("zip", "legacy"):
        torch.save(content, "a.pth", _use_new_zipfile_serialization=form == "zip")
    else:
        Path("a.pth").write_bytes(pickle.dumps(content, protocol=4 if form.endswith("4") else 2))
    message = refused(Path("a.pth"))
    assert f"refused, since it holds more than tensors: it asks for {name}" in message.replace("builtins.", "")
    assert "weights_only" not in message
    assert os.listdir() == ["a.pth"]


def test_the_tar_form_is_refused_with_the_way_to_convert_it(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.pth", "w") as tar:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    assert "tar form of PyTorch before 0.1.12" in refused(tmp_path / "a.pth")
    assert "torch.save its state dict" in refused(tmp_path / "a.pth")


def test_files_that_hold_something_else(tmp_path: Path) -> None:
    (tmp_path / "page").write_bytes(b"<html>not found</html>")
    assert "not a PyTorch file of tensors alone" in refused(tmp_path / "page")
    (tmp_path / "empty").write_bytes(b"")
    assert "not a PyTorch file of tensors alone" in refused(tmp_path / "empty")
    torch.save([torch.ones(2)], tmp_path / "list")
    assert "holds a list, not a state dict" in refused(tmp_path / "list")
    torch.save(STATE, tmp_path / "new", pickle_protocol=4)
    assert "not a PyTorch file of tensors alone (Unsupported operand" in refused(tmp_path / "new")
    for as_zip in (True, False):
        torch.save({"w": torch.ones(10_000)}, tmp_path / "whole", _use_new_zipfile_serialization=as_zip)
        (tmp_path / "torn").write_bytes((tmp_path / "whole").read_bytes()[:9_000])
        assert "not a PyTorch file of tensors alone" in refused(tmp_path / "torn")
    assert refused(tmp_path / "nowhere").endswith("no such weights file")
    assert "(a folder)" in refused(tmp_path)


def test_tensors_that_are_not_dense_are_left_out(tmp_path: Path) -> None:
    torch.save({"dense": torch.ones(2), "sparse": torch.eye(2).to_sparse()}, tmp_path / "a")
    assert read_state_dict(tmp_path / "a").keys() == {"dense"}


def test_reading_leaves_pytorchs_own_list_of_safe_names_as_it_was(tmp_path: Path) -> None:
    before = set(torch.serialization.get_safe_globals())
    torch.save(STATE, tmp_path / "a")
    read_state_dict(tmp_path / "a")
    assert set(torch.serialization.get_safe_globals()) == before
