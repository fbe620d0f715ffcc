"""`skald report RUN [RUN…]`: writes one HTML page of a run, or of several beside each other."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

from data.errors import DataError
from data.whole_file import whole_file
from launch.commands.quantities import format_size
from launch.report.page import page
from launch.report.run_files import read_runs


def main(arguments: Namespace) -> int:
    runs = read_runs(arguments.runs)
    file = Path(arguments.out) if arguments.out else runs[0].folder / "report.html"
    if file.is_dir():
        raise DataError(f"{file}: a folder; name a file with --out")
    content = page(runs).encode("utf-8")
    try:
        with whole_file(file) as out:
            out.write(content)
    except OSError as error:
        raise DataError(f"{file}: can't write there ({error.strerror}); name another file with --out") from None
    if arguments.json:
        print(json.dumps({"file": str(file), "bytes": len(content), "runs": [run.name for run in runs]}))
    else:
        print(f"{file}: {format_size(len(content))}, opens in any browser, needs nothing else")
    return 0
