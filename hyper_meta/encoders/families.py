"""The families of image-text encoders that are read: CLIP, and SigLIP with SigLIP 2."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np
from PIL import Image
from transformers import CLIPImageProcessorPil, CLIPTokenizer, SiglipImageProcessorPil

from hyper_meta.core.types import UserError
from hyper_meta.encoders.clip import CLIP
from hyper_meta.encoders.clip_config import LEGACY_EOS_TOKEN_ID, CLIPConfig, clip_config_from_dict
from hyper_meta.encoders.folder_files import one_line, read_object, require_file
from hyper_meta.encoders.siglip import SigLIP
from hyper_meta.encoders.siglip_config import SigLIPConfig, siglip_config_from_dict
from hyper_meta.encoders.siglip_tokenizer import SigLIPTokenizer, load_siglip_tokenizer
from hyper_meta.encoders.siglip_weights import siglip_params_from_tensors
from hyper_meta.encoders.weights import params_from_tensors

LARGEST_IMAGE = 8192  # pixels on a side
ImageTextConfig = CLIPConfig | SigLIPConfig

CONFIG_FILE = "config.json"
IMAGE_FILE = "preprocessor_config.json"
PROCESSOR_FILE = "processor_config.json"  # of transformers 5, which has the same as a section
# Which of these a folder has depends on the version of transformers that wrote it.
TOKENIZER_FILES = (
    "added_tokens.json",
    "merges.txt",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
)


class Family(NamedTuple):
    """How the models of one architecture are read.

    read: (folder, content of config.json) -> (config, tokenizer); params: (tensors, config) ->
    parameters; network: its flax module; image_processor: transformers' class; token_ids:
    (tokenizer, sentences) -> their ids, uncut; pads_to_longest: whether a sentence has always as
    many tokens as the model reads, since it was trained so.
    """

    read: Callable[[Path, dict[str, Any]], tuple[ImageTextConfig, Any]]
    params: Callable[..., dict[str, Any]]
    network: type[nn.Module]
    image_processor: type
    token_ids: Callable[[Any, Sequence[str]], list[list[int]]]
    pads_to_longest: bool


def read_family(folder: Path) -> tuple[Family, ImageTextConfig, Any]:
    """(family, config, tokenizer) of an encoder folder. Raises UserError where they cannot be read,
    or its model_type is of no family."""
    content = read_object(folder, CONFIG_FILE)
    kind = content.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        more = ", whose resolution varies" if kind == "siglip2" else ""
        raise UserError(f"config.json: model_type {kind!r} given{more}: {READ} are read")
    return FAMILIES[kind], *FAMILIES[kind].read(folder, content)


def family_of(config: ImageTextConfig) -> Family:
    """That of a config."""
    return FAMILIES["clip" if isinstance(config, CLIPConfig) else "siglip"]


def _read_clip(folder: Path, content: dict[str, Any]) -> tuple[CLIPConfig, CLIPTokenizer]:
    config = clip_config_from_dict(content)
    return config, _clip_tokenizer(folder, config)


def _read_siglip(folder: Path, content: dict[str, Any]) -> tuple[SigLIPConfig, SigLIPTokenizer]:
    tokenizer = load_siglip_tokenizer(folder)
    config = siglip_config_from_dict(content, eos_token_id=tokenizer.eos_token_id)
    if tokenizer.size > config.vocab_size:
        raise UserError(
            f"the tokenizer has {tokenizer.size} tokens, more than vocab_size {config.vocab_size}"
        )
    return config, tokenizer


def _clip_ids(tokenizer: CLIPTokenizer, sentences: Sequence[str]) -> list[list[int]]:
    # Without its warning that the model reads fewer: `folder.tokenize` cuts.
    return tokenizer(list(sentences), truncation=False, verbose=False)["input_ids"]


def _clip_tokenizer(folder: Path, config: CLIPConfig) -> CLIPTokenizer:
    if not (folder / "tokenizer.json").exists():
        # The older form of the same content.
        for name in ("vocab.json", "merges.txt"):
            require_file(folder, name)
    for name in TOKENIZER_FILES:
        if name.endswith(".json") and (folder / name).exists():
            read_object(folder, name)
    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the tokenizers library raises Exception itself
        raise UserError(f"the tokenizer files cannot be read: {one_line(error)}") from error
    # How it was loaded is no property of a tokenizer, yet save_pretrained would write it.
    for key in ("is_local", "local_files_only"):
        tokenizer.init_kwargs.pop(key, None)
    check_clip_tokenizer(tokenizer, config)
    return tokenizer


def check_clip_tokenizer(tokenizer: CLIPTokenizer, config: CLIPConfig) -> None:
    """Raises UserError for a tokenizer of another model."""
    if len(tokenizer) > config.vocab_size:
        raise UserError(
            f"the tokenizer has {len(tokenizer)} tokens, more than vocab_size {config.vocab_size}"
        )
    if tokenizer.pad_token_id is None:
        raise UserError("the tokenizer has no pad token")
    legacy = config.eos_token_id == LEGACY_EOS_TOKEN_ID
    expected = len(tokenizer) - 1 if legacy else config.eos_token_id
    if tokenizer.eos_token_id != expected:
        raise UserError(
            f"the tokenizer's end token is {tokenizer.eos_token_id}, the model's {expected}"
        )


def load_image_processor(folder: Path, config: ImageTextConfig, resize: str) -> Any:
    """What prepares images for a model, checked on one. Raises UserError where it does not fit."""
    (name, settings), size = _image_settings_of(folder), config.image_size
    if size > LARGEST_IMAGE:
        raise UserError(f"image_size {size} given, at most {LARGEST_IMAGE} is read")
    if resize == "square":
        settings |= {"size": {"height": size, "width": size}, "do_center_crop": False}
    try:
        processor: Any = family_of(config).image_processor.from_dict(settings)
        trial = processor(images=[Image.new("RGB", (2 * size, size + 1))])["pixel_values"][0]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{name} cannot be used: {one_line(error)}") from error
    if trial.shape != (3, size, size):
        raise UserError(
            f"{name} makes images of {trial.shape[1]} x {trial.shape[2]} pixels, "
            f"{CONFIG_FILE} expects {size} x {size}"
        )
    if not np.isfinite(trial).all():
        raise UserError(f"{name} makes pixels that are no finite numbers")
    return processor


def _image_settings_of(folder: Path) -> tuple[str, dict[str, Any]]:
    """How images are prepared, and the file that says so: transformers' own choice of the two."""
    if (folder / PROCESSOR_FILE).exists():
        section = read_object(folder, PROCESSOR_FILE).get("image_processor")
        if isinstance(section, dict):
            return PROCESSOR_FILE, section
    return IMAGE_FILE, read_object(folder, IMAGE_FILE)


READ = (
    "'clip' (CLIP) and 'siglip' (SigLIP, and SigLIP 2 of a fixed resolution, such as "
    "google/siglip2-base-patch16-224)"
)
FAMILIES = {
    "clip": Family(_read_clip, params_from_tensors, CLIP, CLIPImageProcessorPil, _clip_ids, False),
    "siglip": Family(
        _read_siglip,
        siglip_params_from_tensors,
        SigLIP,
        SiglipImageProcessorPil,
        lambda tokenizer, sentences: tokenizer.encode(list(sentences)),
        True,
    ),
}
