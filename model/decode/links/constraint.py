"""Constrained decoding: the constraints that a person's chain names, and the link that applies what one allows next.

A constraint needs a tokenizer or an index, and a state that follows the text, which no program on a device has. So
before a dispatch constraint.py puts an AllowedTokens in its place, with the mask of a matcher on the host.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from model.decode.links.link import Memoryless
from model.decode.parameters import Number, Schema, Text, TokenMask, parameter, parameterized

WORD = 32  # tokens in one word of a mask


class Constraint(Memoryless):
    """What the text may be, as a matcher on the host follows it."""


class Grammar(Constraint):
    """A set of texts, of which the new text becomes one (Willard & Louf 2023; Geng et al. 2023). A chain has one."""


@parameterized
class Regex(Grammar):
    r"""The whole new text matches a regular expression in Python's syntax; \d, \w and \s are those of ASCII."""

    pattern: str = parameter(Text('a regular expression, as regex="[0-9]{4}-[0-9]{2}" (a backslash in quotes is \\\\)'))


@parameterized
class JsonSchema(Grammar):
    """The whole new text is a JSON value that a JSON schema allows (Draft 2020-12)."""

    schema: dict | bool | str = parameter(
        Schema('a schema or the name of a file with one, as json_schema={"type": "object"} or json_schema=person.json')
    )


@parameterized
class Json(Grammar):
    """The whole new text is a JSON value."""


@parameterized
class MaxCopiedTokens(Constraint):
    """No span of more than so many tokens that ends in the new text stands in the training text of the run.

    Where the last `tokens` of the text, prompt included, stand there, the tokens that come behind them somewhere are
    ruled out; those that end a text are not. What the prompt holds itself is not looked at. The span is of tokens,
    within one document: the same words in other tokens, or with another capital, are another span.
    """

    tokens: int = parameter(
        Number("a whole number of tokens from 1 to 1024, as max_copied_tokens=12", least=1, most=1024, whole=True)
    )


@parameterized
class AllowedTokens(Memoryless):
    """Keeps the tokens of a mask: what a constraint allows next. Tokens behind the mask's end are not allowed.

    `mask`: uint32 [W], in a batch [B, W]; bit t % 32 of word t // 32 is token t's.
    """

    mask: np.ndarray = parameter(TokenMask("a mask, which a matcher makes"))

    def filter(self, state, logits_BV, key_B):
        return jnp.where(unpack(self.mask, logits_BV.shape[1]), logits_BV, -jnp.inf)


def unpack(mask_BW: jax.Array, size: int) -> jax.Array:
    """uint32 words [B, W] -> bool [B, size]."""
    bits_BWb = (mask_BW[:, :, None] >> jnp.arange(WORD, dtype=jnp.uint32)) & 1
    bits_BV = bits_BWb.reshape(len(mask_BW), -1)[:, :size] == 1
    return jnp.pad(bits_BV, ((0, 0), (0, size - bits_BV.shape[1])))


def pack(allowed_V: np.ndarray) -> np.ndarray:
    """bool [V] -> uint32 words [ceil(V / 32)]."""
    padded_V = np.pad(allowed_V, (0, -len(allowed_V) % WORD))
    return np.packbits(padded_V, bitorder="little").view("<u4").astype(np.uint32)
