"""The tokenizer of a Hugging Face folder, set so that prompts get the ids that transformers' AutoTokenizer gives them.
Of a SentencePiece model alone it gives SentencePiece's, which `skald import` says.

`skald import` calls `find_tokenizer`; a checkpoint keeps the tokenizer, and `verbatim_files` for export.
"""

from __future__ import annotations

from pathlib import Path

from data.config import Tokenizer as Config
from data.tokenizers.huggingface_json import load as load_json
from model.hf.config_reader import HuggingFaceError
from train.huggingface.reading import read_json

SETTINGS, SPECIAL_TOKENS = "tokenizer_config.json", "special_tokens_map.json"
VERBATIM = (SETTINGS, SPECIAL_TOKENS, "added_tokens.json", "chat_template.jinja", "chat_template.json")
GPT2_FILES = ("vocab.json", "merges.txt")


def find_tokenizer(folder: Path, model_config: dict, vocab_size: int) -> Config:
    """The config of a folder's tokenizer. `model_config`: its config.json; `vocab_size`: the ids of the model.

    tokenizer.json comes first, as it says most; a folder without any tokenizer gives the kind `ids`. Raises
    HuggingFaceError, DataError.
    """
    settings = read_settings(folder)
    if (folder / "tokenizer.json").is_file():
        return json_tokenizer(folder / "tokenizer.json", settings, model_config)
    start_prompts = settings.get("add_bos_token") is True  # as in transformers 5, for all classes
    if (folder / "tokenizer.model").is_file():
        return Config("sentencepiece", str(folder / "tokenizer.model"), start_prompts=start_prompts)
    if all((folder / name).is_file() for name in GPT2_FILES):
        if settings.get("add_prefix_space"):
            raise HuggingFaceError(
                f"{folder / SETTINGS}: add_prefix_space=true is not built here for {' and '.join(GPT2_FILES)}; "
                "AutoTokenizer.from_pretrained(…).save_pretrained(…) writes a tokenizer.json, which says the same"
            )
        return Config("gpt2", str(folder), start_prompts=start_prompts)
    start, end = (first_id(model_config, f"{name}_token_id", vocab_size) for name in ("bos", "eos"))
    names = (None if id_ is None else str(id_) for id_ in (start, end))
    return Config("ids", "", *names, start_prompts=False, vocab_size=vocab_size)


def read_settings(folder: Path) -> dict:
    """tokenizer_config.json, with the tokens of special_tokens_map.json that it lacks. Raises HuggingFaceError."""
    files = [folder / name for name in (SPECIAL_TOKENS, SETTINGS) if (folder / name).is_file()]
    return {key: value for file in files for key, value in read_json(file).items() if value is not None}


def json_tokenizer(file: Path, settings: dict, model_config: dict) -> Config:
    """The config of a tokenizer.json. What it puts in front of a text alone decides whether prompts begin with the
    start token: beside a tokenizer.json transformers 5 does not read `add_bos_token`."""
    tokenizer = load_json(Config("json", str(file))).tokenizer
    encoding = tokenizer.encode("a")
    starts = encoding.special_tokens_mask[:1] == [1]
    names = []
    for name in ("bos", "eos"):
        id_ = first_id(model_config, f"{name}_token_id", tokenizer.get_vocab_size())
        text = token_text(settings.get(f"{name}_token")) or (None if id_ is None else tokenizer.id_to_token(id_))
        names.append(text if text and tokenizer.token_to_id(text) is not None else None)
    start = encoding.tokens[0] if starts else names[0]
    return Config("json", str(file), start, names[1], start_prompts=starts)


def token_text(setting) -> str | None:
    """The text of a token as settings name it: a text, or an object with its `content`."""
    text = setting.get("content") if isinstance(setting, dict) else setting
    return text if isinstance(text, str) else None


def first_id(model_config: dict, key: str, vocab_size: int) -> int | None:
    """The first id under a key of config.json, a number or a list, that the vocabulary has."""
    value = model_config.get(key)
    ids = value if isinstance(value, list) else [value]
    return next((id_ for id_ in ids if isinstance(id_, int) and 0 <= id_ < vocab_size), None)


def check_vocabulary(folder: Path, tokenizer_size: int, vocab_size: int) -> None:
    """Raises HuggingFaceError where the tokenizer has ids that the model has no embedding for."""
    if tokenizer_size > vocab_size:
        raise HuggingFaceError(
            f"{folder}: the tokenizer has {tokenizer_size} ids and the model {vocab_size}; they do not belong together "
            "(model.resize_token_embeddings in transformers makes room for added tokens)"
        )


def verbatim_files(folder: Path, kind: str) -> dict[str, str]:
    """The texts of the tokenizer's files, by name, that Skald's own form of a tokenizer does not hold."""
    names = VERBATIM + (GPT2_FILES if kind == "gpt2" else ())
    return {name: read_text(folder / name) for name in names if (folder / name).is_file()}


def read_text(file: Path) -> str:
    """Raises HuggingFaceError where the file is no text."""
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise HuggingFaceError(f"{file}: not text in UTF-8 ({error}); get it anew") from None
