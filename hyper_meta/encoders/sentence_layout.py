"""What the files of a sentence encoder say about the way from a sentence to its vector: the layout
of the sentence-transformers library, and plain folders of transformers.

Files are {name in the folder: content}.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hyper_meta.core.types import UserError
from hyper_meta.encoders.config_fields import integer
from hyper_meta.encoders.pooling import POOLINGS
from hyper_meta.encoders.weights_files import PATTERNS as WEIGHTS

CONFIG_FILE = "config.json"
MODULES_FILE = "modules.json"
TRANSFORMER_FILE = "sentence_bert_config.json"
PROMPTS_FILE = "config_sentence_transformers.json"
TOKENIZER_FILE, TOKENIZER_CONFIG_FILE = "tokenizer.json", "tokenizer_config.json"
VOCAB_FILE = "vocab.txt"
# All that is read, as patterns; the last is of the modules after the transformer.
PATTERNS = (
    *(CONFIG_FILE, MODULES_FILE, TRANSFORMER_FILE, PROMPTS_FILE, *WEIGHTS),
    *(TOKENIZER_FILE, TOKENIZER_CONFIG_FILE, VOCAB_FILE),
    "[0-9]_*/config.json",
)
MODULES = ("Transformer", "Pooling", "Normalize")
# Of 1_Pooling/config.json until version 6 of the library, by the names of POOLINGS.
_FLAGS = {
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}

Files = Mapping[str, bytes]


@dataclass(frozen=True)
class Layout:
    """How a sentence encoder is used.

    poolings: keys of POOLINGS; normalises: whether the pooled vector is brought to length 1;
    is_assumed: whether nothing says how to pool, so that it is the mean; longest: the most tokens
    of a sentence, None where nothing says so; lowers: whether sentences are lower-cased before
    anything else; prompt: put before every sentence unless told otherwise; pools_prompt: whether
    its tokens are pooled too.
    """

    poolings: tuple[str, ...]
    normalises: bool
    is_assumed: bool
    longest: int | None
    lowers: bool
    prompt: str
    pools_prompt: bool


def read_layout(files: Files) -> Layout:
    """The layout of a folder. Raises UserError for a file that is damaged, and for modules that
    are not computed here."""
    pooling: dict[str, Any] = {"pooling_mode": "mean"}
    normalises = False
    is_assumed = MODULES_FILE not in files
    if not is_assumed:
        paths = _module_paths(files)
        pooling = json_of(files, f"{paths['Pooling']}/config.json")
        normalises = "Normalize" in paths
        if normalises:
            _check_normalize(files, f"{paths['Normalize']}/config.json")
    transformer = _optional(files, TRANSFORMER_FILE)
    _check_states(transformer)
    return Layout(
        poolings=_poolings(pooling),
        normalises=normalises,
        is_assumed=is_assumed,
        longest=_longest(transformer, _optional(files, TOKENIZER_CONFIG_FILE)),
        lowers=bool(transformer.get("do_lower_case")),
        prompt=_default_prompt(_optional(files, PROMPTS_FILE)),
        pools_prompt=pooling.get("include_prompt", True) is not False,
    )


def json_of(files: Files, name: str) -> Any:
    """The object that a file holds. Raises UserError where it is missing or holds none."""
    content = parse(files, name)
    if not isinstance(content, dict):
        raise UserError(f"{name} holds a {type(content).__name__}, an object was expected")
    return content


def parse(files: Files, name: str) -> Any:
    """The content of a JSON file. Raises UserError where it is missing or no JSON."""
    if name not in files:
        raise UserError(f"{name} is missing")
    try:
        return json.loads(files[name])
    except ValueError as error:
        raise UserError(f"{name} is not JSON: {error}") from error


def _optional(files: Files, name: str) -> dict[str, Any]:
    return json_of(files, name) if name in files else {}


def _module_paths(files: Files) -> dict[str, str]:
    """{one of MODULES: its folder}. Raises UserError for other modules or another order."""
    listed = parse(files, MODULES_FILE)
    try:
        paths = {str(part["type"]).rpartition(".")[2]: str(part["path"]) for part in listed}
    except (TypeError, KeyError) as error:
        raise UserError(f"{MODULES_FILE} is no list of modules with type and path") from error
    if tuple(paths) not in (MODULES[:2], MODULES) or len(paths) != len(listed):
        raise UserError(
            f"{MODULES_FILE} has the modules {', '.join(paths)}: a {MODULES[0]}, a {MODULES[1]} "
            f"and at most a {MODULES[2]} are computed here"
        )
    if paths["Transformer"]:
        raise UserError(
            f"{MODULES_FILE} has its transformer in {paths['Transformer']}, it is expected beside "
            f"{MODULES_FILE}: save it again with a newer sentence-transformers"
        )
    return paths


def _poolings(config: Mapping[str, Any]) -> tuple[str, ...]:
    modes = config.get("pooling_mode")
    if modes is None:
        modes = [mode for mode, flag in _FLAGS.items() if config.get(flag)] or ["mean"]
    modes = (modes,) if isinstance(modes, str) else tuple(modes)
    if not modes or not set(modes) <= set(POOLINGS):
        raise UserError(f"pooling_mode {modes} given, some of {list(POOLINGS)} expected")
    return modes


def _check_normalize(files: Files, name: str) -> None:
    normalised = _optional(files, name).get("module_input_name", "sentence_embedding")
    if normalised != "sentence_embedding":
        raise UserError(f"{name} normalises {normalised!r}, 'sentence_embedding' expected")


def _check_states(transformer: Mapping[str, Any]) -> None:
    """Raises UserError where something else than the last hidden state is pooled."""
    try:
        output = transformer["modality_config"]["text"]["method_output_name"]
    except (KeyError, TypeError):
        return
    if output != "last_hidden_state":
        raise UserError(f"{TRANSFORMER_FILE} takes {output!r}, 'last_hidden_state' expected")


def _longest(transformer: Mapping[str, Any], tokenizer: Mapping[str, Any]) -> int | None:
    for section, key in ((transformer, "max_seq_length"), (tokenizer, "model_max_length")):
        if section.get(key) is not None:
            # A tokenizer without a limit has a float such as 1e30.
            return integer({key: int(section[key])}, key, minimum=3)
    return None


def _default_prompt(config: Mapping[str, Any]) -> str:
    name = config.get("default_prompt_name")
    return (config.get("prompts") or {}).get(name, "") if name else ""
