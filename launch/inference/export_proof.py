"""The proof that a written Hugging Face folder is as good as the run it was made of, before it takes its name.

launch/inference/export.py calls it. What was written is read again as `skald import` reads it: every weight must be the
run's own, rounded to the files' dtype, and logits on random tokens those of the run; and those of transformers, where
it is installed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from data.errors import DataError
from data.tokenizers.tokenizer import Tokenizer
from launch.inference.transformers_logits import is_installed, tokenizer_difference
from model import config as c
from model.transformer import Transformer
from train.huggingface.reading import load_weights, open_checkpoint
from train.huggingface.shards import stored_tensors
from train.huggingface.writing import ExportError

TOLERANCE = 1e-4  # of the largest logit, or of 1: a hundred times float32's rounding, and far below any real fault
LONGEST_PROOF = 4352  # tokens of a row at most: longer than the windows of Mistral and Gemma
POSITIONS = 32  # of a row, at which logits are compared: those of all would take gigabytes


def check_weights(folder: Path, shapes: Mapping[str, tuple[int, ...]], tensors: Iterable[tuple]) -> None:
    """Raises ExportError where the files do not hold these tensors, by name, to the last bit."""
    stored = stored_tensors(folder)
    if {name: tensor.shape for name, tensor in stored.items()} != shapes:
        raise ExportError("the files do not hold the tensors that were written; nothing was published")
    for name, tensor in tensors:
        if stored[name].view().tobytes() != tensor.tobytes():
            raise ExportError(f"{name} was read back otherwise than it was written; nothing was published")


def proof_tokens(model: c.Model) -> tuple[np.ndarray, np.ndarray]:
    """Random tokens [B, T], and the positions of a row at which logits are compared.

    Rows are longer than windows and than the context that rotary positions were stretched from, where the model has
    room for it. B is a multiple of the number of devices.
    """
    length = min(model.context, LONGEST_PROOF, max([64, *(border + 32 for border in borders(model))]))
    rows = jax.device_count() * math.ceil(min(4, max(1, 1024 // length)) / jax.device_count())
    tokens = np.random.default_rng(0).integers(0, model.vocab_size, (rows, length), np.int32)
    return tokens, np.unique(np.linspace(0, length - 1, POSITIONS).astype(np.int64))


def borders(model: c.Model) -> list[int]:
    """Distances, in tokens, from which on attention is computed in another way."""
    mixers = [block.mixer for block in c.blocks(model)]
    scalings = [mixer.rope.scaling for mixer in mixers if getattr(mixer, "rope", None)]
    found = [getattr(mixer, "window", None) for mixer in mixers]
    return [border for border in (*found, *(getattr(s, "original_context", None) for s in scalings)) if border]


@jax.jit
def forward(model: Transformer, tokens_BT, positions):
    return model.logits(model.hidden(tokens_BT)[:, positions])


def logits(model: Transformer, tokens_BT: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Logits [B, len(positions), V] in float32, of products in float32 on every kind of device."""
    with jax.default_matmul_precision("highest"):
        return np.asarray(forward(model, tokens_BT, positions))


def folder_logits(folder: Path, mesh: Mesh, tokens_BT: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Logits of a folder, read as `skald import` reads it."""
    return logits(load_weights(open_checkpoint(folder), mesh), tokens_BT, positions)


def compare(reader: str, found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference of logits from the expected ones. Raises ExportError where it is no rounding."""
    difference = float(np.abs(found - expected).max()) if found.shape == expected.shape else math.inf
    largest = float(np.abs(expected).max())
    if not difference <= TOLERANCE * max(1.0, largest):  # a difference that is no number is none that passes
        raise ExportError(
            f"{reader} reads logits from what was written that differ by up to {difference:.3g} from the run's own, "
            f"whose largest is {largest:.3g}; nothing was published"
        )
    return difference


def tokenizer_notes(folder: Path, tokenizer: Tokenizer) -> tuple[str, ...]:
    """A line where there is no tokenizer to write, or where AutoTokenizer gives other ids than ours."""
    if tokenizer.reads_ids:
        return ("the run's data are token ids: no tokenizer was written",)
    if not is_installed():
        return ()
    ids = {text: ids for text in random_texts(tokenizer) if (ids := known_ids(tokenizer, text)) is not None}
    text = tokenizer_difference(folder, ids)
    return () if text is None else (f"AutoTokenizer gives other ids than the run's tokenizer for {text[:40]!r}",)


def random_texts(tokenizer: Tokenizer, count: int = 4, length: int = 64) -> list[str]:
    """Texts of random tokens, those before and behind documents left out."""
    generator = np.random.default_rng(0)
    ordinary = [i for i in range(tokenizer.vocab_size) if i not in (tokenizer.start_id, tokenizer.end_id)]
    return [tokenizer.decode(generator.choice(ordinary, length).tolist()) for _ in range(count)]


def known_ids(tokenizer: Tokenizer, text: str) -> list[int] | None:
    """The ids of a prompt; None where the text holds what the tokenizer does not know."""
    try:
        return [*([tokenizer.start_id] if tokenizer.start_prompts else []), *tokenizer.encode(text)]
    except DataError:
        return None
