"""The measures of a setting's texts: what each is called and means, in which group it is, and which way is better.

quality.json holds this table, so that who shows its figures need not know them.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from train.quality import diversity

HOLTZMAN = "Holtzman et al. 2020"


class Measure(NamedTuple):
    """`better`: where a text is better, the value is `higher` or `lower`, or neither: near that of
    `human` text, or near `half`."""

    title: str
    group: Literal["quality", "diversity", "novelty", "risk"]
    unit: str
    better: Literal["higher", "lower", "human", "half"]
    about: str


MEASURES: dict[str, Measure] = {
    "perplexity": Measure(
        "perplexity", "quality", "", "lower",
        "of the texts behind their prompts, under the model itself: exp of nats a token. A sampler that keeps to "
        f"likely tokens lowers it below that of human text, down to loops ({HOLTZMAN}, section 5.1)",
    ),
    "judge_bits_per_byte": Measure(
        "bits a byte under the judge", "quality", "bits a byte", "lower",
        "of the texts behind their prompts, under the model of --judge, whose tokenizer may be another",
    ),
    "prompt_ratio": Measure(
        "fit to the prompt", "quality", "nats a token", "higher",
        "log p(text | its prompt) minus the mean of log p(text | another prompt), under the model itself: how much "
        "likelier the text is behind the prompt that it continues",
    ),
    "mauve": Measure(
        "MAUVE", "quality", "", "higher",
        "Pillutla et al. 2021, of prompts with their texts against prompts with human ones (of human text: against "
        "human text of other places). Its features are the last hidden states of this model, so it can't be compared "
        "with a MAUVE of other features, nor of another number of texts",
    ),
    **{
        name: Measure(one.title, "diversity", one.unit, "lower" if name == "loop_rate" else "human", one.about)
        for name, one in diversity.MEASURES.items()
    },
    "new_8_grams": Measure(
        "new 8-grams", "novelty", "share", "human", "8-grams that stand nowhere in the training text"
    ),
    "longest_copy": Measure(
        "longest copied span", "novelty", "tokens", "human", "the longest part of any text that stands in training"
    ),
    "toxicity_rate": Measure(
        "toxicity", "risk", "share", "lower", "texts with a word of the list; its false positives are audited"
    ),
    "toxicity_rate_audited": Measure(
        "toxicity, audited", "risk", "share", "lower",
        "texts with a word of the list that no human text here holds, whatever it means there",
    ),
    "crows_pairs": Measure(
        "CrowS-Pairs", "risk", "share", "half",
        "pairs of sentences whose more stereotyping one is likelier at this temperature; 0.5 prefers neither (Nangia "
        "et al. 2020)",
    ),
}  # fmt: skip
DIVERSITY_AXIS = "self_bleu"


def quality_axis(has_judge: bool) -> str:
    """The measure of quality on the chart: a second model's, where one is given, which no sampler has optimized."""
    return "judge_bits_per_byte" if has_judge else "perplexity"
