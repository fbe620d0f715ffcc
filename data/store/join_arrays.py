"""Joins the parts of an array, each written with a shard, to one file. data/store/writer.py calls it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np


def join_arrays(target: Path, parts: list[Path], dtype: np.dtype, leading: bool) -> None:
    """Writes the numbers in `parts` as one array; `leading`: behind a zero.

    Not by memory map: where the disk is full, the system ends a process that writes to one.
    """
    count = sum(part.stat().st_size for part in parts) // dtype.itemsize + leading
    stored = np.dtype(bool) if dtype == np.int8 else dtype
    header = {"descr": np.lib.format.dtype_to_descr(stored), "fortran_order": False, "shape": (count,)}
    with target.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        file.write(bytes(leading * dtype.itemsize))
        for part in parts:
            with part.open("rb") as values:
                shutil.copyfileobj(values, file)
        file.flush()
        os.fsync(file.fileno())
