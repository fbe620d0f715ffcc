"""The tokens of a store, in several files that read as one array. data/store/store.py opens them."""

from __future__ import annotations

from pathlib import Path

import numpy as np


class TokenShards:
    """Token ids by memory map: `shards[indices]` for whole numbers of any shape, `shards[start:stop]` for a run.

    Raises ValueError where a file has another size than the manifest says.
    """

    def __init__(self, folder: Path, manifest: dict):
        self.files = [open_shard(folder, manifest["dtype"], **shard) for shard in manifest["shards"]]
        self.starts = np.cumsum([0, *map(len, self.files)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, index: slice | np.ndarray) -> np.ndarray:
        if isinstance(index, slice):
            start, stop, _ = index.indices(len(self))
            shard = int(np.searchsorted(self.starts, start, side="right")) - 1
            if shard < len(self.files) and stop <= self.starts[shard + 1]:
                return self.files[shard][start - self.starts[shard] : stop - self.starts[shard]]
            index = np.arange(start, stop)
        if len(self.files) == 1:
            return self.files[0][index]
        which = np.searchsorted(self.starts, index, side="right") - 1
        tokens = np.empty(index.shape, self.files[0].dtype)
        for shard in np.unique(which):
            chosen = which == shard
            tokens[chosen] = self.files[shard][index[chosen] - self.starts[shard]]
        return tokens


def open_shard(folder: Path, dtype: str, file: str, tokens: int) -> np.ndarray:
    path = folder / file
    wanted = tokens * np.dtype(dtype).itemsize
    if path.stat().st_size != wanted:
        raise ValueError(f"{file} has {path.stat().st_size} bytes, of {wanted}")
    return np.asarray(np.memmap(path, dtype, "r")) if tokens else np.zeros(0, dtype)
