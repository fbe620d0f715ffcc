"""The tokenizer of a SentencePiece .model file (Kudo & Richardson 2018). data/tokenizers/tokenizer.py builds it."""

from __future__ import annotations

import base64

import numpy as np
import sentencepiece

from data.config import Tokenizer as Config
from data.errors import DataError
from data.sources.files import expand_home
from data.tokenizers.special_tokens import SpecialTokens, missing_end_notice, resolve_special_tokens

SPACE_SYMBOL = "\u2581"  # SentencePiece writes a space so; this character itself would come back as a space


class SentencePiece:
    """`space_symbol_ids`: what SPACE_SYMBOL is encoded as, its bytes; None where the model can't keep it."""

    lossless = has_cut_points = False
    reads_ids = False

    def __init__(self, model: bytes, tokens: SpecialTokens, notes: tuple[str, ...] = ()):
        self.model, self.tokens, self.notes = model, tokens, notes
        self.start_id, self.end_id, self.start_prompts = tokens
        self.processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        self.vocab_size = self.processor.vocab_size()
        self.space_symbol_ids = space_symbol_ids(self.processor)

    def encode(self, text: str) -> list[int]:
        """The library's ids; but SPACE_SYMBOL, which the library turns into a space, becomes its bytes."""
        if self.space_symbol_ids and SPACE_SYMBOL in text:
            first, *others = map(self.encode, text.split(SPACE_SYMBOL))
            return [*first, *(i for part in others for i in (*self.space_symbol_ids, *part))]
        ids = self.processor.encode(text)
        if self.processor.unk_id() in ids:
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

    def encode_array(self, text: str, continued: bool = False) -> np.ndarray:
        del continued  # nothing is known of how this model treats a text's beginning
        return np.array(self.encode(text), np.int32)

    def last_cut(self, text: str) -> int:
        del text
        return 0

    def decode(self, ids: list[int]) -> str:
        return self.processor.decode(ids)

    def first_token_bytes(self, text: str) -> int:
        if self.space_symbol_ids:  # of its bytes the last one stands for the character
            text = text.partition(SPACE_SYMBOL)[0]
        pieces = self.processor.encode(text, out_type="proto").pieces
        return pieces[0].end if pieces else 0

    def to_json(self) -> dict:
        return {"kind": "sentencepiece", "model": base64.b64encode(self.model).decode(), **self.tokens._asdict()}


def space_symbol_ids(processor: sentencepiece.SentencePieceProcessor) -> list[int] | None:
    """The byte tokens of SPACE_SYMBOL, where text may be cut around it: no space is added or left out at its ends."""
    ids = [processor.piece_to_id(f"<0x{byte:02X}>") for byte in SPACE_SYMBOL.encode("utf-8")]
    keeps_spaces = processor.normalize(" a  b ") == " a  b ".replace(" ", SPACE_SYMBOL)
    return ids if keeps_spaces and all(map(processor.is_byte, ids)) else None


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
