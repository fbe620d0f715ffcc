"""GPT-2's tokenizer, with its real files where they are: Hugging Face's and tiktoken's ids, at tiktoken's speed."""

import itertools
import random
import statistics
import time
from pathlib import Path

import numpy as np
import pytest
import tiktoken
import tokenizers
from tiktoken.load import data_gym_to_mergeable_bpe_ranks
from tiktoken_ext.openai_public import r50k_pat_str

from data.config import Tokenizer as Config
from data.tokenizers.segments import segments
from data.tokenizers.tokenizer import build_tokenizer

ODD = [*" aeit\n\t.,'!-1", "'s", "'ll", "  ", "\r\n", "é", "e\u0301", "ß", "Ж", "东", "の", "ع", "\u093f", "\u00a0",
       "\x1c", "\x85", "\u3000", "½", "👩🏽‍🚀", "<|endoftext|>", " the", "ing"]  # fmt: skip


def corpora() -> Path:
    """The folder of real corpora beside the checkout, or a skip."""
    folder = next((path for above in Path(__file__).parents if (path := above / "shared" / "data").is_dir()), None)
    if folder is None:
        pytest.skip("no folder shared/data above the checkout, with GPT-2's files and books")
    return folder


@pytest.fixture(scope="module")
def folder() -> Path:
    return corpora() / "gpt2_bpe"


@pytest.fixture(scope="module")
def ours(folder):
    return build_tokenizer(Config("gpt2", str(folder)), [])


@pytest.fixture(scope="module")
def hugging_face(folder) -> tokenizers.Tokenizer:
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt")))
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    return bpe


@pytest.fixture(scope="module")
def plain_tiktoken(folder) -> tiktoken.Encoding:
    """As tiktoken itself builds its `gpt2`, from local files."""
    ranks = data_gym_to_mergeable_bpe_ranks(str(folder / "merges.txt"), str(folder / "vocab.json"))
    return tiktoken.Encoding("gpt2", pat_str=r50k_pat_str, mergeable_ranks=ranks, special_tokens={})


CHARACTERS = [chr(code) for code in (*range(0xD800), *range(0xE000, 0x110000))]


def random_text(draw: random.Random) -> str:
    """Up to 60 pieces: odd ones, and any characters, or those of the first alphabets."""
    stop = draw.choice([0x3000, len(CHARACTERS)])
    pieces = (draw.choice(ODD) if draw.random() < 0.5 else CHARACTERS[draw.randrange(stop)] for _ in range(60))
    return "".join(itertools.islice(pieces, draw.randrange(60)))


def test_ids_of_random_text_are_those_of_hugging_face_and_of_tiktoken(ours, hugging_face, plain_tiktoken):
    draw = random.Random(0)
    texts = [random_text(draw) for _ in range(2_000)]
    for text, theirs in zip(texts, hugging_face.encode_batch(texts), strict=True):
        ids = ours.encode_array(text)
        assert ids.dtype == np.int32
        assert ids.tolist() == theirs.ids == plain_tiktoken.encode_ordinary(text) == ours.encode(text), text
        assert ours.decode(ids.tolist()) == text


def test_ids_of_a_book_by_segments_are_those_of_hugging_face_and_of_tiktoken(ours, hugging_face, plain_tiktoken):
    text = (corpora() / "books" / "train" / "frankenstein.txt").read_text(encoding="utf-8")
    parts = list(segments(ours, [text], "book"))
    ids = np.concatenate([ours.encode_array(*part) for part in parts]).tolist()
    assert len(parts) > 5
    assert ids == plain_tiktoken.encode_ordinary(text) == hugging_face.encode(text).ids


@pytest.mark.alone
def test_segments_are_encoded_as_fast_as_tiktoken_encodes_a_whole_text(ours, plain_tiktoken):
    """8 MB a second and core, where tiktoken has 8 to 11; a ratio is the same on a busy machine."""
    text = (corpora() / "books" / "train" / "frankenstein.txt").read_text(encoding="utf-8")

    def seconds(encode) -> float:
        start = time.perf_counter()
        encode()
        return time.perf_counter() - start

    def by_segments() -> list:
        return [ours.encode_array(*part) for part in segments(ours, [text], "book")]

    runs = [(seconds(by_segments), seconds(lambda: plain_tiktoken.encode_ordinary(text))) for _ in range(9)]
    ours_seconds, theirs_seconds = (statistics.median(column) for column in zip(*runs, strict=True))
    assert ours_seconds < 1.25 * theirs_seconds
