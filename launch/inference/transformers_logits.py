"""The logits that Hugging Face transformers computes from a folder, and the ids that its tokenizer gives.

Transformers and PyTorch are optional; export, which proves itself by them, asks `is_installed` first.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from train.huggingface.writing import ExportError


def is_installed() -> bool:
    return all(importlib.util.find_spec(name) for name in ("torch", "transformers"))


def transformers_logits(folder: Path, tokens_BT: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Logits [B, len(positions), V] in float32 of the tokens at these positions, on the CPU.

    Raises ExportError where transformers can't load the folder, or misses a tensor or finds one too many.
    """
    import torch  # heavy and optional, as is transformers
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    settings = {"dtype": torch.float32, "attn_implementation": "eager", "local_files_only": True}
    try:
        model, report = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, **settings)
    except Exception as error:  # a class of its own for every fault, of three libraries
        line = " ".join(str(error).split())[:200]
        raise ExportError(f"transformers {transformers.__version__} does not load what was written: {line}") from None
    odd = {kind: sorted(names) for kind, names in report.items() if names and kind != "error_msgs"}
    if odd:
        raise ExportError(f"transformers {transformers.__version__} does not take the tensors as written: {odd}")
    with torch.inference_mode():
        tokens = torch.from_numpy(tokens_BT.astype(np.int64))
        return model(tokens, use_cache=False, logits_to_keep=torch.from_numpy(positions)).logits.numpy()


def tokenizer_difference(folder: Path, ids: Mapping[str, list[int]]) -> str | None:
    """The first of these texts of which AutoTokenizer gives other ids; None: there is none."""
    import transformers  # heavy and optional

    theirs = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return next((text for text, own in ids.items() if theirs(text)["input_ids"] != own), None)
