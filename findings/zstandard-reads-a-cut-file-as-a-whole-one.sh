#!/usr/bin/env bash
# zstandard 0.25.0, fsspec 2026.9.0 and backports.zstd 1.8.0 (CPython 3.11). A .zst file whose end was cut off (a broken
# download, a full disk) reads like a whole one: zstandard's open, stream_reader (with read_across_frames or without),
# read_to_iter and copy_stream end without an error where the file ends, in the middle of a frame. Python's gzip, bz2
# and lzma raise EOFError there. One byte less in the file can be 40,000 bytes less of text: what the last block held.
# Only decompress() raises, which takes the file as a whole, and of several frames gives the first; otherwise ask
# decompressobj().eof, which stays False.
# fsspec reads .zst with zstandard where it is the only package for it, and then keeps as silent; once backports.zstd
# is installed as well, the same call on the same file raises EOFError.
# Seen, text of 1,088,890 bytes in one frame, by each of the five ways:
#   without its last byte  1,048,576 bytes, no error; eof False
#   its first half           393,216 bytes, no error; eof False
#   its first 4 bytes              0 bytes, no error; eof False
#   fsspec, without its last byte: 1,048,576 bytes with zstandard; EOFError with backports.zstd beside it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check zstandard==0.25.0 fsspec==2026.9.0
cat >"$folder/cut.py" <<'end'
import bz2
import gzip
import io
import lzma
import sys

import zstandard


def copied(file):
    target = io.BytesIO()
    zstandard.ZstdDecompressor().copy_stream(file, target)
    return target.getvalue()


ways = {
    "open": lambda file: zstandard.open(file, "rb").read(),
    "stream_reader": lambda file: zstandard.ZstdDecompressor().stream_reader(file).read(),
    "across frames": lambda file: zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True).read(),
    "read_to_iter": lambda file: b"".join(zstandard.ZstdDecompressor().read_to_iter(file)),
    "copy_stream": copied,
}


def raises(error, function, *arguments):
    try:
        function(*arguments)
    except error:
        return True
    return False


text = b"".join(b"line %d\n" % number for number in range(100_000))
whole = zstandard.ZstdCompressor().compress(text)
cuts = {"whole": whole, "without its last byte": whole[:-1], "half": whole[: len(whole) // 2], "4 bytes": whole[:4]}
for name, content in cuts.items():
    read = {way: function(io.BytesIO(content)) for way, function in ways.items()}
    decompressor = zstandard.ZstdDecompressor().decompressobj()
    decompressor.decompress(content)
    print(f"{name}: bytes", {way: len(part) for way, part in read.items()}, "eof", decompressor.eof)
    assert all(text.startswith(part) for part in read.values())
    assert all((len(part) == len(text)) == (name == "whole") for part in read.values()), "a cut loses nothing now"
    assert decompressor.eof == (name == "whole"), "eof no longer tells"
    assert raises(zstandard.ZstdError, zstandard.decompress, content) == (name != "whole"), "decompress has changed"
for module in (gzip, bz2, lzma):
    cut = io.BytesIO(module.compress(text)[:-1])
    assert raises(EOFError, lambda file: module.open(file).read(), cut), f"{module.__name__} is silent"
with open(sys.argv[1], "wb") as file:
    file.write(whole[:-1])
end
cat >"$folder/filesystem.py" <<'end'
import sys

import fsspec

with fsspec.open(sys.argv[1], compression="infer") as file:
    try:
        print(len(file.read()), "bytes, no error")
    except EOFError:
        print("EOFError")
end
timeout 60 "$folder/venv/bin/python" "$folder/cut.py" "$folder/cut.zst"
found=$(timeout 60 "$folder/venv/bin/python" "$folder/filesystem.py" "$folder/cut.zst")
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check backports.zstd==1.8.0
beside=$(timeout 60 "$folder/venv/bin/python" "$folder/filesystem.py" "$folder/cut.zst")
echo "fsspec with zstandard: $found; with backports.zstd beside it: $beside"
[[ $found == "1048576 bytes, no error" && $beside == EOFError ]] || { echo "this has changed"; exit 1; }
