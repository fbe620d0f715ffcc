"""generation_config.json as the default chain: transformers' processors in their order; what is said of each key."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import shakespeare
from launch.inference import generation_config
from launch.inference.checkpoint import default_sampler
from model.decode.chain import LINKS, parse_chain, stack_chains
from model.decode.links.link import History, LinkState
from model.hf.config_reader import HuggingFaceError

pytestmark = pytest.mark.timeout(120)
VOCAB, PROMPT = 40, [3, 9, 9, 4, 3, 9]
SAMPLING = {"do_sample": True, "top_k": 0}
CONFIGS = [
    SAMPLING | {"temperature": 0.7, "top_k": 12, "top_p": 0.8},
    SAMPLING | {"temperature": 1.4, "min_p": 0.05, "typical_p": 0.7},
    SAMPLING | {"temperature": 2.0, "epsilon_cutoff": 0.02, "eta_cutoff": 0.03},
    SAMPLING | {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2, "temperature": 0.5, "top_k": 9},
    SAMPLING | {"sequence_bias": [[[5], 3.0], [[9, 7], -4.0]], "bad_words_ids": [[3, 9, 8], [6], [1]], "top_p": 0.9},
    {"min_new_tokens": 5, "suppress_tokens": [2, 11], "temperature": 0.1},
]  # fmt: skip


def parts(config: dict) -> set[str]:
    keys = generation_config.PROCESSORS | generation_config.SAMPLING
    return {keys[key].part for key in config if key in keys}


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: "+".join(sorted(parts(config))))
def test_the_chain_of_a_config_does_what_transformers_processors_do(config):
    torch = pytest.importorskip("torch", reason="needs torch: pip install torch==2.13.0 transformers")
    transformers = pytest.importorskip("transformers", reason="needs transformers: pip install transformers")
    if missing := parts(config) - LINKS.keys():
        pytest.skip(f"no links {', '.join(sorted(missing))}")
    sizes = {"vocab_size": VOCAB, "n_embd": 8, "n_head": 2, "n_layer": 1, "n_positions": 16}
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes))
    theirs = transformers.GenerationConfig(**config, eos_token_id=[1, 2], pad_token_id=0)
    model._prepare_special_tokens(theirs, False, device="cpu")
    processors = model._get_logits_processor(theirs, len(PROMPT), torch.tensor([PROMPT]), None, [], "cpu", {})
    logits_BV = np.random.default_rng(3).normal(0, 2, (1, VOCAB)).astype(np.float32)
    expected = processors(torch.tensor([PROMPT]), torch.tensor(logits_BV)).numpy()
    chain = parse_chain(generation_config.sampler(config, [1, 2], VOCAB))
    np.testing.assert_allclose(after_links(chain, logits_BV), expected, rtol=1e-5)


def after_links(chain, logits_BV):
    """The logits after the chain's links, at the first new token."""
    length_B = jnp.array([len(PROMPT)])
    history, logits_BV = History(jnp.array([PROMPT]), length_B, length_B), jnp.asarray(logits_BV)
    for link in stack_chains([chain]).links:
        state = LinkState(history, jnp.array([[1, 2, -1]]), link.start(history, VOCAB))
        _, logits_BV = link(state, logits_BV, jax.random.split(jax.random.key(0), 1))
    return np.asarray(logits_BV)


@pytest.mark.parametrize(
    "config, sampler",
    [
        ({}, "greedy"),
        ({"do_sample": False, "temperature": 0.5}, "greedy"),
        ({"do_sample": True}, "top_k=50"),
        ({"do_sample": True, "temperature": 0.6, "top_p": 0.9, "top_k": None}, "temperature=0.6,top_k=50,top_p=0.9"),
        ({"do_sample": True, "temperature": 1.0, "top_k": 0}, ""),
        ({"min_new_tokens": 9, "stop_strings": ["\n\n", "END"]}, 'min_length=9,greedy,stop=["\\n\\n", "END"]'),
        ({"stop_strings": "END", "suppress_tokens": [], "sequence_bias": []}, 'greedy,stop="END"'),
        ({"bad_words_ids": [[7], [3, 39], [3, 40], [1, 2]]}, "banned_words=[[3, 39], [1, 2]],greedy"),
        ({"suppress_tokens": [7, 300], "bad_words_ids": [[7]]}, "banned_words=[[7]],greedy"),
        ({"bad_words_ids": [[7]]}, "greedy"),
    ],
)
def test_generation_configs_become_chains(config, sampler):
    """Of 40 ids 7 ends a text."""
    assert generation_config.sampler(config, [7], 40) == sampler


def test_beams_become_a_chain():
    config = {"num_beams": 4, "length_penalty": 0.5}
    chain = parse_chain(generation_config.sampler(config))
    said = generation_config.describe(config, [], 40)
    assert (chain.strategy.width, chain.strategy.length_penalty) == (4, 0.5)
    assert said.endswith("; applied: num_beams=4, length_penalty=0.5")
    assert "beam" not in generation_config.sampler(config | {"do_sample": True})


@pytest.mark.parametrize(
    "others, sampler, said",
    [
        ({}, "contrastive_search=50", "applied: penalty_alpha=0.6"),
        ({"top_k": 4}, "contrastive_search=4", "applied: penalty_alpha=0.6, top_k=4"),
        ({"top_k": 1}, "greedy", "without effect, as do_sample is not true: top_k=1; not applied: penalty_alpha=0.6"),
        ({"do_sample": True}, "top_k=50", "applied: do_sample=True; not applied: penalty_alpha=0.6"),
        ({"num_beams": 2}, "beam=2", "applied: num_beams=2; not applied: penalty_alpha=0.6"),
    ],
)
def test_a_penalty_becomes_contrastive_search_where_transformers_would_search(others, sampler, said):
    config = {"penalty_alpha": 0.6, **others}
    assert generation_config.sampler(config) == sampler
    assert generation_config.describe(config, [], 40).endswith(f"by default; {said}")


def test_what_is_applied_of_a_generation_config_is_said():
    config = {
        "temperature": 0.5, "eos_token_id": [3, 4], "token_healing": True, "transformers_version": "5", "top_p": None,
        "num_beams": 1, "length_penalty": 2.0, "num_return_sequences": 1, "stop_strings": ["\n"], "max_new_tokens": 9,
    }  # fmt: skip
    assert generation_config.describe(config, [3, 4], 40) == (
        'generation_config.json: text is drawn with greedy,stop="\\n" by default; applied: eos_token_id=[3, 4], '
        "stop_strings=['\\n'], max_new_tokens=9; without effect, as do_sample is not true: temperature=0.5; without "
        "effect, as num_beams is 1: length_penalty=2.0; not applied: token_healing=True"
    )


@pytest.mark.parametrize(
    "config",
    [
        {"do_sample": 1},
        {"do_sample": True, "top_p": "much"},
        {"do_sample": True, "top_k": -1},
        {"bad_words_ids": [5]},
        {"bad_words_ids": [[]]},
        {"sequence_bias": [[5, 1.0]]},
        {"sequence_bias": [[[5], "much"]]},
        {"suppress_tokens": [[5]]},
        {"stop_strings": [""]},
        {"min_new_tokens": 1.5},
    ],
)
def test_a_generation_config_that_makes_no_sense_is_refused(config):
    with pytest.raises(HuggingFaceError, match=r"^generation_config\.json: ") as error:
        generation_config.sampler(config)
    assert "\n" not in str(error.value)


def test_a_runs_own_chain_is_its_default():
    """And where its config says none, that of the checkpoint which it was imported from."""
    plain = shakespeare.default()
    own = replace(plain, evaluation=replace(plain.evaluation, sampler="top_k=5"))
    imported = {"generation_config": {"do_sample": True, "temperature": 0.5}, "config": {}}
    silent = {"generation_config": None, "config": {}}
    chains = {
        (own, None): "top_k=5",
        (own, "imported"): "top_k=5",
        (plain, None): "temperature=0.8,top_p=0.95",
        (plain, "imported"): "temperature=0.5,top_k=50",
        (None, "imported"): "temperature=0.5,top_k=50",
        (None, "silent"): "temperature=0.8,top_p=0.95",
    }
    for (experiment, kind), chain in chains.items():
        huggingface = {"imported": imported, "silent": silent, None: None}[kind]
        assert default_sampler(experiment, huggingface, [], 40) == chain
