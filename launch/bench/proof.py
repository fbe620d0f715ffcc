"""The start-up proof of attention kernels by itself, on this machine's device: does each compute what the formula says?

    python -m launch.bench.proof cudnn auto

prints a JSON line for each kernel and each attention. launch/bench/gpu.sh runs it before anything else.
"""

from __future__ import annotations

import json
import sys
import time

from launch.machine import setup
from model.config import Attention, Execution

LENGTH, DTYPE = 2048, "bfloat16"
ATTENTIONS = {
    "gpt2:small": Attention(12, 12, 64),
    "llama:1b": Attention(32, 8, 64),
    "llama:8b": Attention(32, 8, 128),
    "llama:1b with a window": Attention(32, 8, 64, window=256),
}


def proof(kernel: str, label: str) -> dict:
    """Proves one kernel for one attention: which program it is here, and the error that it raises, if any."""
    from model.kernels import KernelError  # imports JAX: after setup.prepare
    from model.kernels.proof import prove_attention

    config, start = ATTENTIONS[label], time.perf_counter()
    result = {"what": "proof", "kernel": kernel, "attention": label, "chosen": None, "error": None}
    try:
        result["chosen"] = chosen(kernel, config)
        prove_attention(config, Execution(kernel=kernel, dtype=DTYPE), LENGTH)
    except KernelError as error:
        result["error"] = str(error)
    return {**result, "seconds": round(time.perf_counter() - start, 1)}


def chosen(kernel: str, config: Attention) -> str:
    """The name of the kernel that rows of LENGTH tokens get. Raises KernelError."""
    import jax  # after setup.prepare

    from model import kernels

    query, key = (
        jax.ShapeDtypeStruct((1, heads, LENGTH, config.head_width), DTYPE) for heads in (config.heads, config.kv_heads)
    )
    return kernels.choose_kernel(kernel, query, key, key, kernels.AttentionMask(None, window=config.window))


def main(names: list[str]) -> int:
    setup.prepare()
    import jax  # after setup.prepare

    from model.kernels import KERNELS
    from model.sharding import make_mesh

    unknown = set(names) - {"auto", *KERNELS}
    if unknown or not names:
        print(f"proof: {', '.join(unknown) or 'no kernel'}: takes auto, {', '.join(KERNELS)}", file=sys.stderr)
        return 2
    with jax.set_mesh(make_mesh({}, jax.devices()[:1])):
        results = []
        for name in names:
            for label in ATTENTIONS:
                results.append(proof(name, label))
                print(json.dumps(results[-1]), flush=True)
    return any(result["error"] for result in results)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
