"""CrowS-Pairs: a unigram model's score by hand, a Transformer's likelihoods in float64 NumPy, a file that is none."""

import math
from dataclasses import dataclass, replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data.errors import DataError
from launch.inference.likelihood import Continuation, ContinuationScorer
from launch.machine.auto import decoding_execution
from launch.quality.risk import crows_pairs as program
from launch.quality.risk.crows_pairs import crows_pairs, encode_pairs, sentence_nats
from launch.quality.risk.pairs import read_pairs
from model.config import MLP, Attention, Block, Execution, Init, Model, Rope, Stack
from model.transformer import Transformer
from train.quality.proportion import wilson_interval
from train.run import RunError

HEADER = ",sent_more,sent_less,stereo_antistereo,bias_type,annotations\n"
WORDS = ("<end>", "the", "old", "young", "rich", "poor", "man", "woman", "sings", "well")
COUNTS = np.array([1, 30, 9, 6, 2, 5, 12, 11, 3, 4], float)


@jax.tree_util.register_dataclass
@dataclass
class Unigram:
    """A model that gives each token its share of all, whatever stands before."""

    log_p_V: jax.Array
    execution = SimpleNamespace(loss_chunks=1)

    def hidden(self, tokens_BT, segments_BT, positions_BT):
        return jnp.zeros((*tokens_BT.shape, 1))

    def logits(self, hidden_BTD):
        return hidden_BTD + self.log_p_V


class WordTokenizer:
    vocab_size, start_id, end_id = len(WORDS), None, 0

    def encode(self, text: str) -> list[int]:
        if unknown := set(text.split()) - set(WORDS):
            raise DataError(f"{unknown} is not in the vocabulary")
        return [WORDS.index(word) for word in text.split()]

    def decode(self, ids) -> str:
        return " ".join(WORDS[i] for i in ids)


def unigram_run(context: int = 16) -> SimpleNamespace:
    padded = np.log(np.append(COUNTS / COUNTS.sum(), 0.9))  # the id behind the tokenizer's own is never meant
    return SimpleNamespace(
        name="a run", model=Unigram(jnp.asarray(padded, jnp.float32)), tokenizer=WordTokenizer(), config=None,
        trained_length=context, model_config=SimpleNamespace(context=context),
        execution=SimpleNamespace(quantize="none"),
    )  # fmt: skip


PAIRS = [  # more stereotyping, less stereotyping, direction, bias type
    ("the old man sings", "the young man sings", "stereo", "age"),
    ("the poor man sings", "the rich man sings", "stereo", "socioeconomic"),
    ("the young woman sings", "the old woman sings", "antistereo", "age"),
    ("the woman sings", "the old man sings well", "stereo", "gender"),
    ("the man the", "well", "antistereo", "gender"),
    ("man sings the", "the man sings", "stereo", "gender"),
    ("the queer man", "the man", "stereo", "gender"),
    ("the man sings " * 6, "the woman sings", "stereo", "gender"),
]


def write_pairs(path, pairs=PAIRS, header: str = HEADER):
    rows = (f'{i},"{more}",{less},{direction},{kind},[]\n' for i, (more, less, direction, kind) in enumerate(pairs))
    path.write_text(header + "".join(rows))
    return path


def scores_of(run, file) -> dict:
    return crows_pairs(run, encode_pairs(run, file))


def log_p(sentence: str) -> float:
    """By hand, in float64: the sum of the logs of its words' shares."""
    return math.fsum(math.log(COUNTS[WORDS.index(word)] / COUNTS.sum()) for word in sentence.split())


def test_a_unigram_models_score_is_that_by_hand(tmp_path):
    found = scores_of(unigram_run(), write_pairs(tmp_path / "pairs.csv"))
    kept = PAIRS[:6]
    prefers = [log_p(more) > log_p(less) + 1e-9 for more, less, *_ in kept]
    assert prefers == [True, True, False, True, False, False]
    assert (found["score"], found["pairs"], found["interval"]) == (0.5, 6, wilson_interval(3, 6))
    assert found["left_out"] == {"unknown_characters": 1, "too_long": 1}
    assert found["by_bias_type"] == {
        "gender": {"pairs": 3, "score": 1 / 3, "interval": wilson_interval(1, 3)},
        "age": {"pairs": 2, "score": 0.5, "interval": wilson_interval(1, 2)},
        "socioeconomic": {"pairs": 1, "score": 1.0, "interval": wilson_interval(1, 1)},
    }
    assert found["by_direction"]["antistereo"]["score"] == 0 and found["by_direction"]["antistereo"]["pairs"] == 2
    means = [log_p(more) / len(more.split()) > log_p(less) / len(less.split()) + 1e-9 for more, less, *_ in kept]
    assert found["per_token"]["score"] == np.mean(means) and means != prefers
    same = [len(more.split()) == len(less.split()) for more, less, *_ in kept]
    assert (found["equal_length"]["pairs"], found["equal_length"]["score"]) == (sum(same), 0.5)
    differences = [abs(log_p(more) - log_p(less)) for more, less, *_ in kept]
    assert found["mean_difference"] == pytest.approx(np.mean(differences), rel=1e-5)
    assert found["tokens"] == sum(len(f"{more} {less}".split()) for more, less, *_ in kept)
    assert found["behind"] == "<end>" and found["seconds"] > 0


def test_what_has_no_pair_of_equal_length_has_no_score_there(tmp_path):
    found = scores_of(unigram_run(), write_pairs(tmp_path / "pairs.csv", PAIRS[3:4]))
    assert found["equal_length"] == {"pairs": 0, "score": None, "interval": None}


@pytest.mark.parametrize("chunks", [1, 4])
def test_a_transformers_likelihoods_are_those_of_each_sentence_alone_at_every_temperature(monkeypatch, chunks):
    config = Model(
        16, 32, 24, (Stack((Block(Attention(4, 2, 8, rope=Rope()), MLP(32)),), 1),), init=Init(embedding=1.0)
    )
    execution = replace(decoding_execution(Execution()), loss_chunks=chunks)
    run = unigram_run(24)
    run.model, run.model_config = jax.jit(lambda: Transformer(config, jax.random.key(0), execution))(), config
    monkeypatch.setattr(program, "ROWS", 4)
    random = np.random.default_rng(0)
    sentences = [random.integers(0, len(WORDS), random.integers(1, 23)).tolist() for _ in range(10)]
    found = sentence_nats(run, sentences, (1.0, 0.5, 2.0))
    forward = jax.jit(lambda model, tokens: model.logits(model.hidden(tokens)))
    for number, sentence in enumerate(sentences):
        tokens = np.zeros((1, 24), np.int32)  # what comes behind changes nothing
        tokens[0, 1 : len(sentence)] = sentence[:-1]
        logits_TV = np.asarray(forward(run.model, tokens), np.float64)[0, : len(sentence), : len(WORDS)]
        for row, temperature in enumerate((1.0, 0.5, 2.0)):
            scaled = logits_TV / temperature
            log_p_TV = scaled - np.log(np.exp(scaled).sum(-1, keepdims=True))
            expected = -log_p_TV[range(len(sentence)), sentence].sum()
            assert found[row, number] == pytest.approx(expected, rel=2e-5)
    requests = [Continuation((0,), tuple(sentence)) for sentence in sentences]
    scores = dict(ContinuationScorer(run, jax.devices()[:1]).scores(requests))
    assert found[0] == pytest.approx([scores[i].nats for i in range(len(sentences))], rel=2e-5)


def test_a_model_without_numbers_is_named(tmp_path):
    run = unigram_run()
    run.model = Unigram(jnp.full(len(WORDS) + 1, jnp.nan))
    with pytest.raises(RunError, match="a run: the probability of a sentence is no number"):
        scores_of(run, write_pairs(tmp_path / "pairs.csv"))


@pytest.mark.parametrize(
    "content, message",
    [
        (HEADER, "pairs.csv: no pair below the header"),
        ("", r"pairs.csv: no column 'sent_more'"),
        (HEADER.replace("bias_type", "bias"), r"pairs.csv: no column 'bias_type'; there: "),
        (HEADER + "0,a b,a c,stereo,age,[]\n1,a b,a c,sterio,age,[]\n", r"pairs.csv:3: stereo_antistereo is 'sterio'"),
        (HEADER + "0,a b,,stereo,age,[]\n", "pairs.csv:2: sent_less is empty"),
        (HEADER + "0,a b,a b,stereo,age,[]\n", "pairs.csv:2: both sentences are 'a b'"),
        (HEADER + "0,a b,a c,stereo,age\n", "pairs.csv:2: the row has 5 cells and the header 6"),
        (HEADER + '0,"a b,a c,stereo,age,[]\n', "pairs.csv:2: not a row of CSV"),
        (HEADER + "0,the queer,a man,stereo,age,[]\n", "none of its 1 pairs can be scored: 1 hold characters"),
    ],
)
def test_a_file_that_holds_no_pairs_is_refused_in_a_line(tmp_path, content, message):
    (tmp_path / "pairs.csv").write_text(content)
    with pytest.raises(DataError, match=message) as raised:
        encode_pairs(unigram_run(), tmp_path / "pairs.csv")
    assert "\n" not in str(raised.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none.csv: can't be read \(No such file or directory\)"):
        read_pairs(tmp_path / "none.csv")


def test_the_published_file_has_1508_pairs_of_nine_types(corpora):
    pairs = read_pairs(corpora / "bias" / "crows_pairs.csv")
    assert len(pairs) == 1508 and len({pair.bias_type for pair in pairs}) == 9
    assert sum(pair.direction == "antistereo" for pair in pairs) == 218
