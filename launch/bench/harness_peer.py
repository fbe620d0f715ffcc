"""The peer's side of `skald bench likelihood --against harness`: lm-evaluation-harness's HFLM, Hugging Face on PyTorch.

It reads the checkpoint that our side exported, with the batch size that is fastest here and all cores; on a GPU in
bfloat16. It imports neither JAX nor anything that does.
"""

from __future__ import annotations

import json
import time
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

from launch.bench.serving import serve
from launch.machine.detection import cores

BATCH_SIZES = (1, 8, 16, 32)
TRIED = 32  # questions with which batch sizes are tried


def likelihood(experiment: dict, folder: str):
    """A function that scores the requests of a folder and returns their number a second and the sum of their nats."""
    import torch
    from lm_eval.models.huggingface import HFLM  # here, so that `prepare` can say what is not installed

    del experiment
    device, dtype = ("cuda", "bfloat16") if torch.cuda.is_available() else ("cpu", "float32")
    model = HFLM(str(Path(folder) / "exported"), device=device, dtype=dtype, batch_size=1)
    items = json.loads((Path(folder) / "items.json").read_text())
    requests = [SimpleNamespace(args=(question, answer)) for question, answers in items for answer in answers]

    def run_once(count: int | None = None) -> dict[str, float]:
        start, chosen = time.perf_counter(), requests[:count]
        nats = -sum(log_p for log_p, _ in model.loglikelihood(chosen, disable_tqdm=True))
        return {"requests_per_second": len(chosen) / (time.perf_counter() - start), "nats": nats}

    def speed(size: int) -> float:
        model.batch_size_per_gpu = size
        return run_once(2 * TRIED)["requests_per_second"]

    speed(BATCH_SIZES[0])  # first touches
    model.batch_size_per_gpu = max(BATCH_SIZES, key=speed)
    return run_once


def prepare() -> str:
    """Sets PyTorch up; returns the peer's name and versions. Raises ImportError where a package is missing."""
    import lm_eval  # noqa: F401
    import torch
    import transformers

    torch.set_num_threads(cores())
    transformers.logging.set_verbosity_error()
    return (
        f"lm-evaluation-harness {metadata.version('lm_eval')}, transformers {transformers.__version__}, PyTorch "
        f"{torch.__version__}"
    )


if __name__ == "__main__":
    serve(prepare, {"likelihood": likelihood}, "lm_eval torch transformers")
