"""The README.md of an exported folder: what the model is, where it comes from, how it is loaded. Export writes it."""

from __future__ import annotations

import datetime

from train import fields
from train.checkpoint_folder import CheckpointRef
from train.config import Experiment
from train.objective import make_objective

HEADER = """---
library_name: transformers
pipeline_tag: text-generation
tags:
- skald
---
"""
LOADING = """## Loading

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("FOLDER")
tokenizer = AutoTokenizer.from_pretrained("FOLDER")
```
"""


def model_card(checkpoint: CheckpointRef, architecture: str, dtype: str, parameters: int) -> str:
    """The card's text, in Markdown; its header is what the Hub reads. The license is for the owner to add."""
    metadata = checkpoint.metadata
    run, version = checkpoint.folder.parents[1].name, metadata.get("version", "of old")
    saved = datetime.datetime.fromtimestamp(metadata["saved"], datetime.UTC).date().isoformat()
    facts = [
        f"- Architecture: {architecture}, {parameters:,} parameters in {dtype}.",
        f"- Run: {run}, step {checkpoint.step:,}, saved {saved} by Skald {version}.",
        *training_lines(metadata),
        *data_lines(metadata.get("data") or {}),
        *score_lines(metadata),
    ]
    title = metadata["config"]["name"] if metadata["config"] else run
    return "\n".join([HEADER, f"# {title}\n", f"{origin(metadata)}\n", *facts, "", LOADING])


def origin(metadata: dict) -> str:
    """A sentence on where the weights come from."""
    if not metadata["huggingface"]:
        return "A language model trained with Skald."
    if metadata["config"]:
        return "A language model trained further with Skald, from a checkpoint of Hugging Face's form."
    return "A checkpoint of Hugging Face's form that was imported into Skald and not trained there."


def training_lines(metadata: dict) -> list[str]:
    trained = [f"- Rows of training had at most {metadata['trained_length']:,} tokens."]
    return trained if metadata["config"] else []


def data_lines(data: dict) -> list[str]:
    """The tokenized texts that data were taken from, by sha256 sums of what each was made of."""
    return [
        f"- {kind.capitalize()} data: from a text of {text['tokens']:,} tokens, source `{text['source'][:16]}`, "
        f"tokenizer `{text['tokenizer'][:16]}`."
        for kind in ("training", "validation")
        for text in data.get(kind, ())
    ]


def score_lines(metadata: dict) -> list[str]:
    """What the validation text was scored with, where it was."""
    if not metadata["scores"] or not metadata["config"]:
        return []
    objective = make_objective(fields.from_json(Experiment, metadata["config"]))
    return [f"- Scores on validation data: {objective.describe(metadata['scores'])}."]
