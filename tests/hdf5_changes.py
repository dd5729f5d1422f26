"""Changes to an HDF5 file as someone else might have made it."""

from collections.abc import Callable
from typing import Any

import h5py

Change = Callable[[h5py.File], None]


def put(name: str, place: Any, value: Any) -> Change:
    """Another value at a place of a dataset."""

    def change(file: h5py.File) -> None:
        values = file[name][:]
        values[place] = value
        file[name][:] = values

    return change


def instead(name: str, make: Callable[[Any], Any], **how: Any) -> Change:
    """Another dataset in the place of one, made from its values; `how` it is stored."""

    def change(file: h5py.File) -> None:
        values = file[name][:]
        del file[name]
        file.create_dataset(name, data=make(values), **how)

    return change
