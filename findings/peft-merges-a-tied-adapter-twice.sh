#!/usr/bin/env bash
# peft 0.21.2 with transformers 5.24.0 and torch 2.13.0 (CPython 3.11). Where input embedding and output are one matrix and
# `ensure_weight_tying=True` puts one tied adapter on both, `merge_and_unload` adds the adapter's product to that matrix
# once for each of the two modules: W + 2 B A where the adapted model multiplies with W + B A. The merged model is another
# one. (The warning of PEFT at this place is a general one, that merging tied weights "can lead to complications"; it says
# nothing of twice, and it comes without `ensure_weight_tying` too, where the product is added once.) Untie the two before
# merging.
# Seen, GPT-2's shape, alpha = rank: what is added is 2.00 times B A; the logits change by as much as they are large.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.24.0 peft==0.21.2 \
  accelerate==1.15.0
cat >"$folder/merge.py" <<'end'
import warnings

import torch
from peft import LoraConfig, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel

warnings.simplefilter("ignore")
sizes = {"n_embd": 16, "n_head": 2, "n_layer": 1, "n_positions": 16, "vocab_size": 32}


def merged(tying):
    """How many times B A is in the merged matrix, and by how much of their size the logits changed."""
    torch.manual_seed(0)
    base = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)).eval()
    before = base.lm_head.weight.detach().clone()
    config = LoraConfig(r=2, lora_alpha=2, target_modules=["lm_head"], ensure_weight_tying=tying)
    model = get_peft_model(base, config).eval()
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter)
    product = model.base_model.model.lm_head.get_delta_weight("default").detach().clone()
    tokens = torch.arange(8)[None]
    with torch.no_grad():
        expected = model(tokens).logits
        whole = model.merge_and_unload()
        change = (whole(tokens).logits - expected).abs().max() / expected.abs().max()
    return ((whole.lm_head.weight - before) / product).median().item(), change.item()


times, change = merged(True)
print(f"tied adapter: B A is added {times:.2f} times; logits change by {change:.2f} of the largest")
assert abs(times - 2) < 1e-3 and change > 0.1, "a tied adapter is merged once now"
times, _ = merged(False)
print(f"adapter of the output alone: {times:.2f} times")
assert abs(times - 1) < 1e-3
end
TRANSFORMERS_VERBOSITY=error timeout 240 "$folder/venv/bin/python" "$folder/merge.py"
