"""The tokenizer of a SentencePiece .model file (Kudo & Richardson 2018). data/tokenizers/tokenizer.py builds it."""

from __future__ import annotations

import base64
import re

import numpy as np
import sentencepiece
from sentencepiece.sentencepiece_model_pb2 import ModelProto  # by protobuf, which tensorflow-datasets needs

from data.config import Tokenizer as Config
from data.errors import DataError
from data.sources.files import expand_home
from data.tokenizers.cut_points import Border, last_border
from data.tokenizers.special_tokens import BoundaryToken, SpecialTokens, missing_end_notice, resolve_special_tokens

BUILT_IN_RULES = ("identity", "nfkc", "nfkc_cf", "nmt_nfkc", "nmt_nfkc_cf")  # none reads a letter and a space as one
SPACE_SYMBOL = "\u2581"  # SentencePiece writes a space so; this character itself would come back as a space


class SentencePiece:
    """`space_symbol_ids`: what SPACE_SYMBOL is encoded as, its bytes; None where the model can't keep it."""

    reads_ids = False

    def __init__(self, model: bytes, tokens: SpecialTokens, notes: tuple[str, ...] = ()):
        self.model, self.tokens, self.notes = model, tokens, notes
        self.start_id, self.end_id, self.start_prompts = tokens
        self.processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        self.vocab_size = self.processor.vocab_size()
        self.space_symbol_ids = space_symbol_ids(self.processor)
        parts = ModelProto.FromString(model)
        self.lossless = self.space_symbol_ids is not None and parts.normalizer_spec.name == "identity"
        self.borders, self.puts_space_in_front = provable_borders(parts), parts.normalizer_spec.add_dummy_prefix
        self.drops_spaces = parts.normalizer_spec.remove_extra_whitespaces
        self.without_prefix = self.processor
        if self.puts_space_in_front:
            parts.normalizer_spec.add_dummy_prefix = False
            self.without_prefix = sentencepiece.SentencePieceProcessor(model_proto=parts.SerializeToString())
        self.has_cut_points = bool(self.borders)

    def encode(self, text: str) -> list[int]:
        return self.encode_array(text).tolist()

    def encode_array(self, text: str, continued: bool = False) -> np.ndarray:
        """The library's ids; but SPACE_SYMBOL, which the library turns into a space, becomes its bytes."""
        if self.space_symbol_ids and SPACE_SYMBOL in text:
            first, *others = map(self.encode_array, text.split(SPACE_SYMBOL))
            symbol = np.array(self.space_symbol_ids, np.int32)
            return np.concatenate([first, *(ids for part in others for ids in (symbol, part))])
        if continued and self.puts_space_in_front:  # in the place of the one at the cut
            text = text.removeprefix(" ")
        return self.known_ids(self.processor, text)

    def encode_behind(self, text: str, before: str | BoundaryToken) -> np.ndarray:
        """Behind a start token a text begins, with a space in front where the model puts one there. Spaces at both ends
        of a text, which some models drop, are one space in front of what follows."""
        is_parted = text[:1].isspace() or (isinstance(before, str) and before[-1:].isspace())
        if (is_parted and self.drops_spaces) or before is BoundaryToken.START or not self.puts_space_in_front:
            return self.encode_array(text)
        return self.known_ids(self.without_prefix, text)

    def known_ids(self, processor: sentencepiece.SentencePieceProcessor, text: str) -> np.ndarray:
        """Raises DataError naming the first character that the model does not know."""
        ids = processor.encode_as_numpy(text)
        if (ids == self.processor.unk_id()).any():
            offset, piece = self.first_unknown(text)
            raise DataError(
                f"character {piece[0]!r} (U+{ord(piece[0]):04X}) at offset {offset} is none that the tokenizer knows; "
                "one trained with byte_fallback=true knows every text"
            )
        return ids

    def first_unknown(self, text: str) -> tuple[int, str]:
        """The first piece of a text that the model does not know: its offset in characters, and the piece."""
        pieces = self.processor.encode(text, out_type="proto").pieces
        piece = next(piece for piece in pieces if piece.id == self.processor.unk_id())
        return len(text.encode("utf-8")[: piece.begin].decode("utf-8")), piece.surface

    def last_cut(self, text: str) -> int:
        """A unigram model sums the scores of pieces in float32, from the beginning of a text on. Of two ways to divide
        a word that score nearly the same it may take the other one deep in a text: the ids are those of the parts.
        """
        return last_border(text, self.borders)

    def decode(self, ids: list[int]) -> str:
        return self.processor.decode(ids)

    def first_token_bytes(self, text: str) -> int:
        if self.space_symbol_ids:  # of its bytes the last one stands for the character
            text = text.partition(SPACE_SYMBOL)[0]
        pieces = self.processor.encode(text, out_type="proto").pieces
        return pieces[0].end if pieces else 0

    def token_bytes(self) -> list[bytes | None]:
        return [self.piece_bytes(id_) for id_ in range(self.vocab_size)]

    def piece_bytes(self, id_: int) -> bytes | None:
        processor = self.processor
        if processor.is_control(id_) or processor.is_unknown(id_) or processor.is_unused(id_):
            return None
        piece = processor.id_to_piece(id_)
        return bytes([int(piece[3:5], 16)]) if processor.is_byte(id_) else piece.replace(SPACE_SYMBOL, " ").encode()

    def to_json(self) -> dict:
        return {"kind": "sentencepiece", "model": base64.b64encode(self.model).decode(), **self.tokens._asdict()}


def space_symbol_ids(processor: sentencepiece.SentencePieceProcessor) -> list[int] | None:
    """The byte tokens of SPACE_SYMBOL, where text may be cut around it: no space is added or left out at its ends."""
    ids = [processor.piece_to_id(f"<0x{byte:02X}>") for byte in SPACE_SYMBOL.encode("utf-8")]
    keeps_spaces = processor.normalize(" a  b ") == " a  b ".replace(" ", SPACE_SYMBOL)
    return ids if keeps_spaces and all(map(processor.is_byte, ids)) else None


def provable_borders(model: ModelProto) -> frozenset[Border]:
    """The borders where the ids of a text are those of what stands in front, and then those of what stands behind.

    Where no piece holds the two characters at a border side by side, none goes across it, and each side is divided
    into pieces as it would be by itself.
    """
    rules, trainer = model.normalizer_spec, model.trainer_spec
    pieces = [piece.piece for piece in model.pieces]
    borders = set()
    if trainer.treat_whitespace_as_suffix or not rules.escape_whitespaces or rules.name not in BUILT_IN_RULES:
        return frozenset()
    drops_first_space = rules.remove_extra_whitespaces and not rules.add_dummy_prefix
    if not drops_first_space and not any(re.search(r"\w[ ▁]| \w|^ $", piece) for piece in pieces):
        borders.add(Border.SPACE)
    keeps_lines = rules.name == "identity" and not rules.add_dummy_prefix and not rules.remove_extra_whitespaces
    if keeps_lines and not any(re.search(r"\n\w", piece) for piece in pieces):
        borders.add(Border.LINE)
    return frozenset(borders)


def load(config: Config) -> SentencePiece:
    file = expand_home(config.path)
    if not file.is_file():
        raise DataError(
            f"{file}: no such file; a sentencepiece tokenizer is a .model file, and skald tokenizer trains one"
        )
    try:
        processor = sentencepiece.SentencePieceProcessor(model_proto=file.read_bytes())
    except RuntimeError as error:
        raise DataError(f"{file}: not a SentencePiece model ({str(error).splitlines()[0]})") from None

    def token_to_id(piece: str) -> int | None:
        id_ = processor.piece_to_id(piece)  # the id of the unknown piece where the model has no such piece
        return id_ if processor.id_to_piece(id_) == piece else None

    boundary_ids = [i if i >= 0 else None for i in (processor.bos_id(), processor.eos_id())]
    tokens = resolve_special_tokens(config, file, token_to_id, *boundary_ids)
    return SentencePiece(file.read_bytes(), tokens, tuple(missing_end_notice(file, tokens)))


def from_json(stored: dict) -> SentencePiece:
    tokens = SpecialTokens(*(stored[name] for name in SpecialTokens._fields))
    return SentencePiece(base64.b64decode(stored["model"]), tokens)
