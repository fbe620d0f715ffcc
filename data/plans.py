"""Arrays that are made from a store once and then read by memory map: splits, and which documents a row holds.

data/splits.py and data/packing.py ask for them, data/store/ says where they lie.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from data.whole_file import whole_file

RULES = 1  # of data/splits.py, packing.py and permutation.py: raised with any change to the arrays that they make


class Plans(Protocol):
    """`names` tell apart what is made of the same store."""

    def arrays(self, names: Sequence, make: Callable[[], Sequence[np.ndarray]], count: int) -> Sequence[np.ndarray]:
        """The `count` arrays of these names, made if they are not there yet."""
        ...

    def array(self, names: Sequence, make: Callable[[], np.ndarray]) -> np.ndarray:
        """One array of these names."""
        ...


class NoPlans:
    """Keeps nothing: every array is made anew, in memory."""

    def arrays(self, names: Sequence, make: Callable[[], Sequence[np.ndarray]], count: int) -> Sequence[np.ndarray]:
        del names, count
        return make()

    def array(self, names: Sequence, make: Callable[[], np.ndarray]) -> np.ndarray:
        del names
        return make()


class SavedPlans:
    """Keeps arrays as .npy files in a folder. `context` are names that all of them share.

    What several processes make at once is the same, and each file appears whole or not at all. Where the folder can't
    be written, arrays are made in memory. A file that can't be read is made anew.
    """

    def __init__(self, folder: Path, context: Sequence = ()):
        self.folder, self.context = folder, tuple(context)

    def within(self, *names) -> SavedPlans:
        """The same folder, with further names shared."""
        return SavedPlans(self.folder, (*self.context, *names))

    def arrays(self, names: Sequence, make: Callable[[], Sequence[np.ndarray]], count: int) -> Sequence[np.ndarray]:
        files = self.files(names, count)
        saved = load_saved(files)
        if saved:
            return saved
        made = make()
        try:
            for file, array in zip(files, made, strict=True):
                save_whole(file, array)
        except OSError:
            return made
        return load_saved(files) or made

    def files(self, names: Sequence, count: int) -> list[Path]:
        """Where arrays of these names lie; under other rules, or with another context, it is elsewhere."""
        identity = json.dumps([RULES, *self.context, *names])
        stem = hashlib.sha256(identity.encode()).hexdigest()[:32]
        return [self.folder / f"{stem}-{i}.npy" for i in range(count)]

    def array(self, names: Sequence, make: Callable[[], np.ndarray]) -> np.ndarray:
        return self.arrays(names, lambda: [make()], 1)[0]


def load_saved(files: Sequence[Path]) -> list[np.ndarray] | None:
    """The arrays of files by memory map; None where one is missing or damaged."""
    try:
        return [np.asarray(np.load(file, mmap_mode="r")) for file in files]
    except (OSError, ValueError, EOFError):
        return None


def save_whole(file: Path, array: np.ndarray) -> None:
    """Saves an array so that the file is there whole or not at all."""
    file.parent.mkdir(exist_ok=True)  # without parents: a store that was removed meanwhile is not begun anew
    with whole_file(file) as opened:
        np.save(opened, array)
