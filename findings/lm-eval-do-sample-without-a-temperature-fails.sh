#!/usr/bin/env bash
# lm_eval 0.4.13 with transformers 5.24.0, torch 2.13.0 (CPython 3.11). A task whose generation_kwargs say `do_sample: true`
# and no temperature can't be run with the package's own Hugging Face model: it puts `temperature: 0.0` where a task names
# none, whether or not the task wants its text drawn, and transformers refuses to draw at temperature 0. The default
# temperature of transformers, 1.0, and that of the model's generation_config never come to bear. And a temperature above 0
# without do_sample is drawn at, where the docstring of normalize_gen_kwargs says that it will always be set to 0.0.
# Seen: `do_sample: true` ends in ValueError, "`temperature` (=0.0) has to be a strictly positive float"; with
# `temperature: 1.0` beside it the task runs; `temperature: 1.0` alone becomes temperature 1.0 and do_sample True.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check lm_eval==0.4.13 transformers==5.24.0 torch==2.13.0 \
  accelerate
cd "$folder"
echo '{"question": "a b", "answer": "b"}' >records.jsonl
cat >draw.py <<'end'
import tokenizers
import torch
import transformers
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.tasks import TaskManager

made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<end>": 0, "a": 1, "b": 2}, unk_token="<end>"))
made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<end>", pad_token="<end>")
torch.manual_seed(0)
config = transformers.GPT2Config(vocab_size=3, n_positions=32, n_embd=8, n_layer=1, n_head=1, bos_token_id=0, eos_token_id=0)
model = HFLM(pretrained=transformers.GPT2LMHeadModel(config), tokenizer=tokenizer, device="cpu")


def run(options: dict) -> str:
    task = {
        "task": "draw", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": "records.jsonl"}},
        "test_split": "test", "output_type": "generate_until", "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}", "metric_list": [{"metric": "exact_match"}],
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 4, **options},
    }  # fmt: skip
    try:
        evaluate(model, TaskManager(include_defaults=False).load_task_or_group([task]), bootstrap_iters=0)
    except ValueError as error:
        return str(error)
    return "it runs"


alone, beside = run({"do_sample": True}), run({"do_sample": True, "temperature": 1.0})
resolved = normalize_gen_kwargs({"temperature": 1.0})
print(alone, beside, resolved, sep="\n")
assert (resolved["temperature"], resolved["do_sample"]) == (1.0, True), "a temperature alone is greedy now"
assert "has to be a strictly positive float" in alone and beside == "it runs", "it draws without a temperature now"
end
HF_HOME="$folder/hf" HF_DATASETS_OFFLINE=1 timeout 240 "$folder/venv/bin/python" draw.py 2>/dev/null
