"""`auto` settings: what is chosen where."""

import numpy as np
import pytest
import torch

from extractors import precision
from extractors.precision import (
    check_storable,
    has_bf16_arithmetic,
    one_thread,
    resolve_device,
    resolve_precision,
)

CPU = torch.device("cpu")


def test_names_are_taken_as_given():
    assert resolve_precision("bf16", CPU) == "bf16"
    assert resolve_precision("fp32", CPU) == "fp32"
    assert resolve_device("cpu") == CPU


@pytest.mark.parametrize("name", ["fp16", "", "AUTO"])
def test_unknown_precision(name):
    with pytest.raises(ValueError, match="choose auto, bf16 or fp32"):
        resolve_precision(name, CPU)


@pytest.mark.parametrize("name", ["gpu", "meta", "", "cpu:cpu"])
def test_unknown_device(name):
    with pytest.raises(ValueError, match="choose auto, cpu, cuda or cuda:N"):
        resolve_device(name)


def test_missing_cuda_device():
    with pytest.raises(ValueError, match="is not here"):
        resolve_device(f"cuda:{torch.cuda.device_count()}")


@pytest.mark.parametrize(("available", "kind"), [(True, "cuda"), (False, "cpu")])
def test_auto_device(monkeypatch, available, kind):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    assert resolve_device("auto").type == kind


@pytest.mark.parametrize(("capability", "chosen"), [((7, 5), "fp32"), ((8, 0), "bf16"), ((9, 0), "bf16")])
def test_auto_on_cuda_follows_the_compute_capability(monkeypatch, capability, chosen):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert resolve_precision("auto", torch.device("cuda")) == chosen


@pytest.mark.parametrize(
    ("has_arithmetic", "fp32_seconds", "bf16_seconds", "chosen"),
    [(False, 3.0, 1.0, "fp32"), (True, 3.0, 1.0, "bf16"), (True, 0.65, 1.0, "fp32"), (True, 1.4, 1.0, "fp32")],
)
def test_auto_on_a_processor_needs_instructions_that_pay(
    monkeypatch, has_arithmetic, fp32_seconds, bf16_seconds, chosen
):
    seconds = {torch.float32: fp32_seconds, torch.bfloat16: bf16_seconds}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": has_arithmetic})
    monkeypatch.setattr(precision, "_seconds", seconds.__getitem__)
    assert resolve_precision("auto", CPU) == chosen


@pytest.mark.parametrize("gain", [1.49, 1.51])
def test_auto_here_times_both_and_takes_bf16_where_it_has_it_and_it_pays(monkeypatch, gain):
    """Whatever processor this is: the products are timed on it, at a clock that says what they take."""
    clock, timed = [0.0], []

    def repeat(product, repeat, number):
        timed.append(product().dtype)
        clock[0] = gain if timed[-1] == torch.float32 else 1.0
        return [clock[0] + late for late in range(repeat)]

    monkeypatch.setattr(precision.timeit, "repeat", repeat)
    wanted = "bf16" if has_bf16_arithmetic() and gain > 1.5 else "fp32"
    assert resolve_precision("auto", CPU) == wanted
    assert set(timed) == ({torch.float32, torch.bfloat16} if has_bf16_arithmetic() else set())


@pytest.mark.parametrize("name", ["amx_bf16", "avx512_bf16", "bf16", "arm_bf16", "sve_bf16"])
def test_any_of_the_instructions_will_do(monkeypatch, name):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "amx_int8": True, name: True})
    assert has_bf16_arithmetic()
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "amx_int8": True, name: False})
    assert not has_bf16_arithmetic()


def test_on_one_thread_and_back_whatever_happens():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(KeyError), one_thread():
            assert torch.get_num_threads() == 1
            raise KeyError
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -65536.0, 65520.0])
def test_what_float16_cannot_hold_is_refused(bad):
    rows = np.zeros((2, 3), dtype=np.float32)
    rows[1, 2] = bad
    with pytest.raises(ValueError, match="resnet152 .*65504.*abcdef"):
        check_storable("resnet152", "abcdef", rows)


def test_what_float16_can_hold_passes():
    check_storable("resnet152", "abcdef", np.array([[65504.0, -65504.0, 0.0]], dtype=np.float32))
