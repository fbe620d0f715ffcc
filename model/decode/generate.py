"""Generates text: prompts in, tokens out as they are drawn. launch/ and the samples listener call Generator.

It runs two programs: `prefill` reads all of a prompt but its last token, `decode` draws up to CHUNK tokens a dispatch.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from model.decode.chain import Chain, check_words, format_chain, stack_chains
from model.decode.constraint import Matcher, MatcherMaker, find_grammar, with_mask, with_masks
from model.decode.draw import Drawn, Requests, Texts, draw, no_draws, shard_rows, start, take_parents
from model.decode.ends import LoopDetector
from model.decode.links.link import History, last_token
from model.decode.parameters import power_of_two
from model.decode.sources import Source, branch_caches, compose
from model.decode.trellis import FinishReason, Path, Trellis, join_draws
from model.sharding import shard, shard_count

CHUNK = 16  # tokens a dispatch at most: a caller that streams text gets no more than this at once
SLOT_MULTIPLE = 64  # the number of slots of a cache is a multiple of this


class PromptError(ValueError):
    """A request can't be served; the message is one line with the prompt, what is wrong and what works."""


class PromptTooLong(PromptError):
    """A prompt leaves no room in the context for a new token."""


@dataclass
class Completion:
    """The new tokens of one row: all (`generate`), or those since the last time (`stream`). They include no stop id.

    The lists beside `tokens` are those of draw.Drawn. `emptied_by`: the link that left no token to draw, if one did.
    `repetition_start`: the index among the new tokens at which the loop began that ended the row, if one did.
    """

    tokens: list[int] = field(default_factory=list)
    log_probabilities: list[float] = field(default_factory=list)
    chain_log_probabilities: list[float] = field(default_factory=list)
    choice_log_probabilities: list[float] = field(default_factory=list)
    truncated: list[float] = field(default_factory=list)
    finish_reason: FinishReason | None = None  # None: not finished
    emptied_by: str | None = None
    repetition_start: int | None = None

    def extend(self, piece: Completion) -> None:
        """Adds the tokens of a later piece of the same row."""
        for name in (f.name for f in fields(self)):
            old, new = getattr(self, name), getattr(piece, name)
            setattr(self, name, old + new if isinstance(new, list) else old if new is None else new)

    def cut(self, count: int) -> None:
        """Keeps the first `count` tokens."""
        for value in (getattr(self, f.name) for f in fields(self)):
            if isinstance(value, list):
                del value[count:]


class Windows(NamedTuple):
    """What prefill reads of one branch, all of each row's window but its last token, as arrays [B, …] of NumPy.

    `last_B`: those last tokens. `slots`: of the branch's cache.
    """

    tokens_BT: np.ndarray
    count_B: np.ndarray
    last_B: np.ndarray
    slots: int


class WindowBatch(NamedTuple):
    """Rows of text as arrays [B, …] of NumPy, to be decoded in one window of the context; `branches`: of the source."""

    branches: tuple[Windows, ...]
    history: History
    finished_B: np.ndarray
    requests: Requests


class DecodeState(NamedTuple):
    """A batch during decoding. The cache holds each row's tokens but the last, which the next step reads."""

    cache: Any
    texts: Texts


def prefill(source: Source, tokens_BT, count_B, slots: int):
    """Reads a batch of texts up to their last tokens: the first `count_B` of tokens [B, T], padded on the right."""
    tokens_BT = shard(tokens_BT, "batch", None)
    cache = source.init_cache(tokens_BT.shape[0], slots)
    if not tokens_BT.shape[1]:  # texts of one token leave nothing to read
        return cache
    return source(tokens_BT, cache, shard(count_B, "batch"))[1]


def decode(source: Source, state: DecodeState, requests: Requests, steps, vocab_size: int):
    """Draws up to `steps` <= CHUNK tokens for every row, fewer when all are finished.

    Returns the state after them, and what the caller is to fetch: (Drawn [B, CHUNK], finished [B]).
    """
    state, requests = state._replace(texts=shard_rows(state.texts)), shard_rows(requests)
    rows = requests.limit_B.shape[0]
    strategy = requests.chain.strategy
    drawn = jax.tree.map(lambda x: shard(x, "batch", None), no_draws(rows, CHUNK, strategy.searches))

    def unfinished(carry):
        step, state, _ = carry
        return (step < steps) & ~state.texts.finished_B.all()

    def step_rows(carry):
        step, (cache, texts), drawn = carry
        logits_BTV, cache = source(last_token(texts.history)[:, None], cache, (~texts.finished_B).astype(jnp.int32))
        logits_BV = shard(logits_BTV[:, 0].astype(jnp.float32), "batch", None)
        logits_BV = jnp.where(jnp.arange(logits_BV.shape[1]) < vocab_size, logits_BV, -jnp.inf)
        texts, new = draw(texts, requests, logits_BV)
        cache = take_parents(cache, new.parent, strategy.rows) if strategy.searches else cache
        mask_C = jnp.arange(CHUNK) == step
        drawn = jax.tree.map(lambda new, old: jnp.where(mask_C, new[:, None], old), new, drawn)
        return step + 1, DecodeState(cache, texts), drawn

    _, state, drawn = jax.lax.while_loop(unfinished, step_rows, (jnp.int32(0), state, drawn))
    finished_B = shard(state.texts.finished_B, None)
    return state, (jax.tree.map(lambda x: shard(x, None, None), drawn), finished_B)  # whole: every process reads it


@dataclass
class SequenceState:
    """A sequence while it is generated: its ids, prompt first, and whether it is finished."""

    ids: list[int]
    chain: Chain
    seed: int
    sample: int
    prompt: int  # number of ids of the prompt
    limit: int  # number of ids at which it is complete
    finish_reason: FinishReason | None = None
    memories: Any = None  # of its chain, once it was decoded
    matcher: Matcher | None = None  # of its chain's grammar
    detectors: list[LoopDetector] = field(init=False)  # of its chain's ends
    draws: list[Drawn] = field(default_factory=list)  # of each dispatch [steps], where `rank` needs them;
    # with the stop id's at the end, if one ended it
    emptied_by: str | None = None

    def __post_init__(self):
        self.detectors = [detector for end in self.chain.ends if (detector := end.detector())]

    def windows(self, contexts: Sequence[int]) -> list[list[int]]:
        """The ids that each branch of the source reads before the next token, of its own text."""
        texts = self.chain.source.texts(self.ids, self.prompt)
        return [text[window_start(len(text), context) :] for text, context in zip(texts, contexts, strict=True)]

    def add(self, draws: Drawn, finished: bool, window_limit: int) -> Completion:
        """Adds what a dispatch drew, arrays [C], cut where the text loops; decides whether the text ends with it."""
        piece = completion(draws, self.chain)
        loops = [found for detector in self.detectors if (found := detector.push(piece.tokens))]
        if loops:
            last, piece.repetition_start = min(loops)
            piece.cut(last + 1)
            piece.emptied_by = None
        self.ids += piece.tokens
        for token in piece.tokens if self.matcher else ():
            self.matcher.accept(token)
        if loops:
            self.finish_reason = "repetition"
        elif piece.emptied_by:
            self.finish_reason = "emptied"
        elif self.matcher and self.matcher.finished:
            self.finish_reason = "stop"
        elif len(self.ids) == self.limit:
            self.finish_reason = "length"
        elif finished and len(self.ids) < window_limit:
            self.finish_reason = "stop"
        piece.finish_reason, self.emptied_by = self.finish_reason, piece.emptied_by
        if not self.chain.strategy.streams:
            count = len(piece.tokens) + (self.finish_reason in ("stop", "emptied"))
            self.draws.append(jax.tree.map(lambda x: x[:count], draws))
        return piece

    def mask(self) -> np.ndarray:
        """What its grammar allows next, uint32 [W]; nothing where it is finished."""
        return self.matcher.mask() & np.uint32(0 if self.finish_reason else 2**32 - 1)


def window_start(length: int, context: int) -> int:
    """The first token of a text that a model still sees: a text that fills the context goes on from its newest half."""
    step = context - context // 2
    return 0 if length < context else step * ((length - context) // step + 1)


@functools.lru_cache(maxsize=32)
def jitted_prefill(structure):
    """Jitted `prefill` of the leaves of a model with this tree structure: modules flatten more slowly."""

    def prefill_leaves(leaves, *arguments, **static):
        return prefill(structure.unflatten(leaves), *arguments, **static)

    return jax.jit(prefill_leaves, static_argnames="slots")


@functools.lru_cache(maxsize=32)
def jitted_decode(structures):
    """Jitted `decode` of the leaves of all models of a chain's source, which have these tree structures."""

    def decode_leaves(leaves, state, requests, steps, vocab_size):
        models = tuple(structure.unflatten(own) for structure, own in zip(structures, leaves, strict=True))
        source = compose(requests.chain.source, models, vocab_size)
        cache = tuple(branch._replace(first_B=shard_rows(branch.first_B)) for branch in state.cache)
        return decode(source, state._replace(cache=cache), requests, steps, vocab_size)

    return jax.jit(decode_leaves, static_argnames="vocab_size", donate_argnums=1)


class DecodingModel:
    """A model whose weights are prepared for decoding once (Transformer.for_decoding). `context`: tokens it can see."""

    def __init__(self, model, context: int):
        self.context = context
        self.leaves, self.structure = jax.tree.flatten(jax.jit(type(model).for_decoding)(model))

    def prefill(self, windows: Windows):
        """The cache of a branch that has read these windows."""
        return jitted_prefill(self.structure)(self.leaves, windows.tokens_BT, windows.count_B, slots=windows.slots)


start_texts = jax.jit(start, static_argnames="vocab_size")


class Generator:
    """Generates text with a model.

    `vocab_size`: ids from this one on are padding of the vocabulary, never drawn. `context`: tokens the model can see;
    a text that outgrows it goes on from its newest half, read anew. With a mesh set, the batch is split over it.
    `models`: by the names that chains have for them; "" is this one, the caller adds those of other runs.
    `matcher_maker`: for chains with a grammar.
    """

    def __init__(
        self, model, *, vocab_size: int, context: int, chunk: int = CHUNK, matcher_maker: MatcherMaker | None = None
    ):
        self.vocab_size, self.context, self.chunk = vocab_size, context, min(chunk, CHUNK)
        self.models = {"": DecodingModel(model, context)}
        self.matcher_maker = matcher_maker

    def generate(self, prompts: Sequence[Sequence[int]], **request) -> list[Completion]:
        """All that `stream` yields, as one Completion a row."""
        rows: list[Completion] = []
        for pieces in self.stream(prompts, **request):
            rows = rows or [Completion() for _ in pieces]
            for row, piece in zip(rows, pieces, strict=True):
                row.extend(piece)
        return rows

    def stream(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        chain: Chain | Sequence[Chain],
        max_new_tokens: int,
        seed: int | Sequence[int] = 0,
        samples: int = 1,
        stop_ids: Sequence[int] = (),
    ) -> Iterator[list[Completion]]:
        """Yields every row's new tokens since the last time, rows in order of prompt, then sample.

        Chain and seed are one for all, or one a prompt; all chains are of the same kinds. A row's text depends on its
        prompt, seed, sample index and chain alone; where several rows write it, all of it comes last. The samples of a
        search are the best texts that it finds, whatever the seed. Raises PromptError, SamplerError, at the call.
        """
        self.check(prompts, max_new_tokens, samples)
        for one in [chain] if isinstance(chain, Chain) else chain:
            check_words(one)
        seeds = [seed] * len(prompts) if isinstance(seed, int) else list(seed)
        chains = [chain] * len(prompts) if isinstance(chain, Chain) else list(chain)
        self.check_chains(chains, samples)
        strategy = chains[0].strategy
        searches = 1 if strategy.searches else samples
        rows = [
            SequenceState(list(prompt), chain, seed, sample, len(prompt), len(prompt) + max_new_tokens)
            for prompt, chain, seed in zip(prompts, chains, seeds, strict=True)
            for sample in range(searches * strategy.rows)
        ]
        for row in rows:
            row.matcher = self.matcher(row.chain, row.ids, stop_ids)
        pieces = self.stream_windows(rows, list(dict.fromkeys(stop_ids)))
        return pieces if strategy.streams else stream_ranked(pieces, rows, samples if strategy.searches else 1)

    def matcher(self, chain: Chain, prompt: Sequence[int], stop_ids: Sequence[int]) -> Matcher | None:
        """A new matcher of the chain's grammar, if it has one. Raises SamplerError, PromptError."""
        grammar = find_grammar(chain)
        if grammar is None:
            return None
        if self.matcher_maker is None:
            raise PromptError(f"{format_chain(Chain((grammar,)))}: a grammar needs a tokenizer, and here is none")
        return self.matcher_maker(grammar, prompt, stop_ids)

    def stream_windows(self, rows: list[SequenceState], stop_ids: list[int]) -> Iterator[list[Completion]]:
        """Generates until every row is finished: one window of the context after another, each row at its own pace."""
        while unfinished := [row for row in rows if not row.finish_reason]:
            for pieces in self.stream_window(unfinished, stop_ids):
                pieces_by_id = {id(row): piece for row, piece in zip(unfinished, pieces, strict=True)}
                yield [pieces_by_id.get(id(row)) or Completion(finish_reason=row.finish_reason) for row in rows]

    def stream_window(self, rows: list[SequenceState], stop_ids: list[int]) -> Iterator[list[Completion]]:
        """Runs prefill, then decode until all rows are finished or have filled their window."""
        batch, runs = self.batch(rows, stop_ids), rows[0].chain.source.runs
        caches = [self.models[run].prefill(branch) for run, branch in zip(runs, batch.branches, strict=True)]
        cache = branch_caches(caches, [branch.last_B for branch in batch.branches])
        state, models = DecodeState(cache, self.texts(rows, batch)), [self.models[run] for run in dict.fromkeys(runs)]
        decode, leaves = jitted_decode(tuple(m.structure for m in models)), [model.leaves for model in models]
        finished_B, limits = batch.finished_B, batch.requests.limit_B
        while not all(row.finish_reason or finished_B[index] for index, row in enumerate(rows)):
            ended_B = np.array([bool(row.finish_reason) for row in rows] + [True] * (len(finished_B) - len(rows)))
            requests = batch.requests._replace(limit_B=np.where(ended_B, 0, limits))
            step = (state, *self.next_draws(rows, requests))
            state, fetched = decode(leaves, *step, vocab_size=self.vocab_size)
            # Waits for every device: what else may be dispatched in between must not find one still at work.
            finished_before_B, (drawn, finished_B) = finished_B, jax.device_get(jax.block_until_ready(fetched))
            pieces = []
            for index, row in enumerate(rows):
                if row.finish_reason or finished_before_B[index]:
                    pieces.append(Completion(finish_reason=row.finish_reason))
                else:
                    draws = jax.tree.map(lambda x, index=index: x[index], drawn)
                    pieces.append(row.add(draws, finished_B[index], limits[index]))
            yield pieces
        if jax.tree.leaves(state.texts.memories):
            memories = jax.device_get(jax.tree.map(lambda x: shard(x, *[None] * x.ndim), state.texts.memories))
            for index, row in enumerate(rows):
                row.memories = jax.tree.map(lambda x, index=index: x[index : index + 1], memories)
        if rows[0].chain.strategy.searches:
            reorder_ids(rows)

    def next_draws(self, rows: list[SequenceState], requests: Requests) -> tuple[Requests, np.int32]:
        """The requests for the next dispatch, and its number of tokens: one where grammars must see each before the
        next."""
        if rows[0].matcher is None:
            return requests, np.int32(self.chunk)
        masks = [row.mask() for row in rows]
        masks += [np.zeros_like(masks[0])] * (len(requests.limit_B) - len(rows))
        return requests._replace(chain=with_masks(requests.chain, np.stack(masks))), np.int32(1)

    def batch(self, rows: list[SequenceState], stop_ids: list[int]) -> WindowBatch:
        """The rows as arrays of few shapes: the number of texts is padded to a power of two.

        A row's limit is its request's, or where its first branch fills its context. The rows of a search stay together,
        on one shard of the mesh.
        """
        strategy = rows[0].chain.strategy
        together = strategy.rows if strategy.searches else 1
        size = together * math.lcm(power_of_two(len(rows) // together), shard_count("batch"))
        contexts = [self.models[run].context for run in rows[0].chain.source.runs]
        windows = [row.windows(contexts) for row in rows]
        room = [
            min(row.limit - len(row.ids), *(context - len(w) for context, w in zip(contexts, own, strict=True)))
            for row, own in zip(rows, windows, strict=True)
        ]
        branches = tuple(
            pad_windows([own[branch] for own in windows], room, context, size)
            for branch, context in enumerate(contexts)
        )
        capacity = max(branches[0].slots, round_up(max(row.limit for row in rows), SLOT_MULTIPLE))
        history_BS = np.zeros((size, capacity), np.int32)
        length_B, prompt_B, limit_B, text_limit_B = (np.ones(size, np.int32) for _ in range(4))
        seed_BW, sample_B = np.zeros((size, 2), np.uint32), np.zeros(size, np.int32)
        for index, row in enumerate(rows):
            history_BS[index, : len(row.ids)], length_B[index], prompt_B[index] = row.ids, len(row.ids), row.prompt
            limit_B[index], text_limit_B[index] = len(row.ids) + room[index], row.limit
            seed_BW[index], sample_B[index] = divmod(row.seed % 2**64, 2**32), row.sample
        stops = [list(dict.fromkeys([*stop_ids, *row.chain.stop_tokens])) for row in rows]
        stop_BE = np.full((size, power_of_two(max(4, *map(len, stops)))), -1, np.int32)
        for index, ids in enumerate(stops):
            stop_BE[index, : len(ids)] = ids
        chains = [with_mask(row.chain, row.mask()) if row.matcher else row.chain for row in rows]
        chains += [chains[0]] * (size - len(rows))
        requests = Requests(seed_BW, sample_B, limit_B, text_limit_B, stop_BE, stack_chains(chains))
        history, finished_B = History(history_BS, length_B, prompt_B), np.arange(size) >= len(rows)
        return WindowBatch(branches, history, finished_B, requests)

    def texts(self, rows: list[SequenceState], batch: WindowBatch) -> Texts:
        """The texts of a batch: with new memories, or with those that the rows have from the window before."""
        texts = start_texts(batch.history, batch.requests.chain, batch.finished_B, vocab_size=self.vocab_size)
        kept = [row.memories for row in rows]
        if kept[0] is None:
            return texts
        missing = len(batch.finished_B) - len(rows)
        memories = jax.tree.map(lambda *x: np.concatenate([*x, *[x[0]] * missing]), *kept)
        return texts._replace(memories=memories)

    def check(self, prompts: Sequence[Sequence[int]], max_new_tokens: int, samples: int):
        """Raises PromptError for a request that can't be served."""
        if not prompts or max_new_tokens < 1 or samples < 1:
            values = f"{len(prompts)} prompts, max_new_tokens {max_new_tokens}, samples {samples}"
            raise PromptError(f"{values}: each must be at least 1")
        for index, prompt in enumerate(prompts):
            self.check_ids(f"prompt {index}", prompt)

    def check_chains(self, chains: Sequence[Chain], samples: int):
        """Raises PromptError for chains that one batch can't have, or whose source can't be made here."""
        strategy = chains[0].strategy
        if strategy.searches and samples > strategy.rows:
            raise PromptError(
                f"{samples} samples of a search in {strategy.rows} rows, which finds as many texts; "
                f"ask for {strategy.rows} at most, or search in more rows"
            )
        if len({chain.kinds for chain in chains}) > 1:
            raise PromptError("the chains of one batch differ in their links; ask for those of each kind apart")
        for chain in chains:
            if strategy.searches and any(end.detector() for end in chain.ends):
                raise PromptError(f"{format_chain(chain)}: max_repeats follows one text, and a search writes many")
            if missing := [run for run in chain.source.runs if run not in self.models]:
                raise PromptError(f"{format_chain(chain)}: the model of {missing[0]} is not loaded")
            for own in filter(None, chain.source.texts([], 0)):
                self.check_ids(f"the prompt in {format_chain(chain)}", own)

    def check_ids(self, what: str, ids: Sequence[int]):
        """Raises PromptError where these are no ids that the model can read and then write behind."""
        if not len(ids):
            raise PromptError(f"{what} is empty; it needs one token at least, such as the end-of-text id")
        if isinstance(ids[0], str):
            raise PromptError(f"{what} is text; the decoder reads ids")
        if not 0 <= min(ids) <= max(ids) < self.vocab_size:
            invalid = next(token for token in ids if not 0 <= token < self.vocab_size)
            raise PromptError(f"{what} holds the id {invalid}; ids go from 0 to {self.vocab_size - 1}")
        if len(ids) >= self.context:
            raise PromptTooLong(
                f"{what} has {len(ids)} tokens and the model's context is {self.context}: "
                f"{self.context - 1} at most leave room to write; shorten it"
            )


def pad_windows(windows: Sequence[list[int]], room: Sequence[int], context: int, size: int) -> Windows:
    """The windows of one branch in few shapes: their length padded to a power of two, slots to SLOT_MULTIPLE.

    `room`: the new tokens that each row may add. `size`: rows to pad to.
    """
    longest = max(map(len, windows))
    length = min(max(power_of_two(longest - 1), 16), context) if longest > 1 else 0
    filled = max(len(window) + new for window, new in zip(windows, room, strict=True))
    tokens_BT, count_B, last_B = np.zeros((size, length), np.int32), np.zeros(size, np.int32), np.zeros(size, np.int32)
    for index, window in enumerate(windows):
        tokens_BT[index, : len(window) - 1], count_B[index], last_B[index] = window[:-1], len(window) - 1, window[-1]
    return Windows(tokens_BT, count_B, last_B, slots=min(round_up(max(filled, length), SLOT_MULTIPLE), context))


def completion(draws: Drawn, chain: Chain) -> Completion:
    """What one row drew in a dispatch, whose arrays are [C]."""
    count = int((draws.token >= 0).sum())
    emptied = int(draws.emptied.max(initial=-1))
    columns = (draws.token, draws.log_probability, draws.chain_log_probability, draws.choice_log_probability)
    return Completion(
        *(column[:count].tolist() for column in (*columns, draws.truncated)),
        emptied_by=format_chain(Chain(chain.links[emptied : emptied + 1])) if emptied >= 0 else None,
    )


def rows_of_texts(rows: list[SequenceState]) -> list[list[SequenceState]]:
    """The rows of each text."""
    count = rows[0].chain.strategy.rows
    return [rows[first : first + count] for first in range(0, len(rows), count)]


def trellis(rows: list[SequenceState]) -> Trellis:
    """What the rows of one text have drawn."""
    reasons = [row.finish_reason for row in rows]
    return Trellis(join_draws([row.draws for row in rows]), reasons, rows[0].limit - rows[0].prompt)


def reorder_ids(rows: list[SequenceState]) -> None:
    """Gives every row of a search the ids of the text that it goes on with."""
    for text in rows_of_texts(rows):
        drawn = trellis(text)
        for index, row in enumerate(text):
            path = Path(index, len(row.ids) - row.prompt, row.finish_reason)
            row.ids = [*row.ids[: row.prompt], *drawn.columns(path).token.tolist()]


def stream_ranked(pieces: Iterator[list[Completion]], rows: list[SequenceState], samples: int):
    """Yields nothing new of any text, as often as rows have new pieces, then each text's best samples."""
    texts = rows_of_texts(rows)
    for _ in pieces:
        yield [Completion() for _ in range(len(texts) * samples)]
    yield [completion for text in texts for completion in ranked(text, samples)]


def ranked(rows: list[SequenceState], samples: int) -> list[Completion]:
    """The best texts that finished rows of one text have written; empty ones where the chain leaves no more."""
    chain, drawn = rows[0].chain, trellis(rows)
    memories = [() if row.memories is None else row.memories[-1] for row in rows]
    paths = chain.strategy.rank(drawn, jax.tree.map(lambda *x: np.concatenate(x), *memories))[:samples]
    found = [completion(drawn.columns(path), chain) for path in paths]
    for path, text in zip(paths, found, strict=True):
        text.finish_reason = path.finish_reason
        text.emptied_by = rows[path.row].emptied_by if path.finish_reason == "emptied" else None
    emptied_by = rows[0].emptied_by or format_chain(Chain((), chain.strategy))
    missing = samples - len(found)
    return found + [Completion(finish_reason="emptied", emptied_by=emptied_by) for _ in range(missing)]


def round_up(count: int, multiple: int) -> int:
    """The least multiple that is at least `count`."""
    return -(-count // multiple) * multiple
