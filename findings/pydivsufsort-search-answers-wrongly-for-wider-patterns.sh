#!/usr/bin/env bash
# pydivsufsort 0.0.20 (CPython 3.11, NumPy 2.4). `sa_search(text, suffix_array, pattern)` of a uint8 text takes a pattern of
# any integer type, and for all types but those of one byte answers for another pattern: the smallest value of the pattern
# is taken off each of its values first. It raises nothing. NumPy makes int64 of a list, so that this is what most callers
# pass.
# Seen: in [0, 1, 0, 1] the pattern [1, 2] as uint16 or int64 is found twice, at suffix 0 (it stands nowhere; [0, 1] does);
# in [5, 6, 7] the pattern [6, 7] as uint16 or int64 is not found (it stands there once). As uint8 both answers are right.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pydivsufsort==0.0.20 numpy==2.4.6
"$folder/venv/bin/python" - <<'end'
import numpy as np
from pydivsufsort import divsufsort, sa_search


def occurrences(text: list[int], pattern: list[int], dtype: type) -> int:
    text = np.array(text, np.uint8)
    return sa_search(text, divsufsort(text), np.array(pattern, dtype))[0]


for text, pattern, right, wrong in (([0, 1, 0, 1], [1, 2], 0, 2), ([5, 6, 7], [6, 7], 1, 0)):
    assert occurrences(text, pattern, np.uint8) == right
    for dtype in (np.uint16, np.int64):
        found = occurrences(text, pattern, dtype)
        print(f"{pattern} as {np.dtype(dtype)} in {text}: found {found} times, and it stands there {right} times")
        assert found == wrong
end
