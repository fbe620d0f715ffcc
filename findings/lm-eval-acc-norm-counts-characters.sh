#!/usr/bin/env bash
# lm_eval 0.4.13 (CPython 3.11). READMEs of its own tasks (blimp_nl, zhoblimp) call `acc_norm` byte-length normalized; it
# divides a choice's log-likelihood by its number of characters (len of a Python string). The metric that divides by bytes
# has another name, `acc_bytes`, and is given only to tasks whose metric_list asks for it. The two choose differently where
# choices differ in script, or in how many letters are not ASCII: a Chinese character is three bytes.
# Seen, a question with the choices "abcdef" and "汉字" and log-likelihoods -6 and -3: acc_norm chooses the first (-1.0 a
# character beside -1.5), acc_bytes the second (-1.0 a byte beside -0.5), acc the second.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check lm_eval==0.4.13
cd "$folder"
cat >records.jsonl <<'end'
{"question": "Which?", "choices": ["abcdef", "汉字"], "answer": 1}
end
cat >scripts.yaml <<'end'
task: scripts
dataset_path: json
dataset_kwargs:
  data_files: {test: records.jsonl}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: answer
metric_list:
  - {metric: acc}
  - {metric: acc_norm}
  - {metric: acc_bytes}
end
cat >score.py <<'end'
from importlib.metadata import version

from lm_eval.api.model import LM
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager


class Fixed(LM):
    """A model with fixed log-likelihoods of the two choices."""

    def loglikelihood(self, requests):
        return [(-6.0 if "abcdef" in request.args[1] else -3.0, False) for request in requests]

    def loglikelihood_rolling(self, requests):
        raise NotImplementedError

    def generate_until(self, requests):
        raise NotImplementedError


manager = TaskManager(include_path=".", include_defaults=False)
found = evaluate(Fixed(), manager.load_task_or_group(["scripts"]), bootstrap_iters=0)["results"]["scripts"]
values = {name: found[f"{name},none"] for name in ("acc", "acc_norm", "acc_bytes")}
print(version("lm_eval"), values)
assert values == {"acc": 1.0, "acc_norm": 0.0, "acc_bytes": 1.0}, "acc_norm divides by bytes now"
end
HF_HOME="$folder/hf" HF_DATASETS_OFFLINE=1 timeout 240 "$folder/venv/bin/python" score.py 2>/dev/null
