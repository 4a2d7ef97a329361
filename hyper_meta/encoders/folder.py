"""An encoder as a folder in the Hugging Face format: load, save, and use it.

The folder holds config.json, the weights (model.safetensors, or parts and their index), how images
are prepared (preprocessor_config.json, or processor_config.json) and the tokenizer's files, as
`CLIPModel.save_pretrained` and `CLIPProcessor.save_pretrained` write them. Nothing here needs
PyTorch. Axes: B batch, L tokens, D the config's projection_dim.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Float, Int
from PIL import Image
from safetensors.numpy import save_file
from transformers import CLIPTokenizer

from hyper_meta.core.files import check_empty, whole_folder
from hyper_meta.core.images import to_rgb
from hyper_meta.core.types import Array, SentenceFeatures, UserError
from hyper_meta.encoders.clip_config import CLIPConfig, clip_config_to_dict
from hyper_meta.encoders.families import (
    CONFIG_FILE,
    IMAGE_FILE,
    PROCESSOR_FILE,
    TOKENIZER_FILES,
    ImageTextConfig,
    check_clip_tokenizer,
    family_of,
    load_image_processor,
    read_family,
)
from hyper_meta.encoders.folder_files import write_object
from hyper_meta.encoders.token_rows import check_sentences, pad_rows
from hyper_meta.encoders.weights import tensors_from_params
from hyper_meta.encoders.weights_files import WHOLE_FILE, read_weights, weights_names

# How an image becomes a square: "crop" as preprocessor_config.json says (the shorter side is
# resized, the middle kept), "square" squeezes the whole image, as the paper does.
RESIZES = ("crop", "square")
DTYPES = ("float32", "bfloat16")


@struct.dataclass
class Encoder:
    """A CLIP or a SigLIP ready for use. As a pytree its leaves are `params`; all else is static.

    params: the tree of `CLIP(config)` or `SigLIP(config)`, float32; tokenizer: of its family;
    image_processor: as transformers loads it; dtype: that it computes in; fingerprint: 64 hex
    digits that change whenever any file of the folder, the resizing or the dtype does.
    """

    params: Any
    config: ImageTextConfig = struct.field(pytree_node=False)
    tokenizer: Any = struct.field(pytree_node=False)
    image_processor: Any = struct.field(pytree_node=False)
    dtype: str = struct.field(pytree_node=False)
    fingerprint: str = struct.field(pytree_node=False)


def bundled_encoder_path() -> Path:
    """The folder of the small CLIP that comes with this package."""
    return Path(__file__).parent / "digits_clip"


def load_encoder(
    path: str | os.PathLike, *, resize: str = "crop", dtype: str = "float32"
) -> Encoder:
    """Reads an encoder folder: the bundled one, one of `save_encoder`, or OpenAI's from the Hub.

    resize: one of RESIZES; dtype: one of DTYPES. Raises UserError, naming the folder, where it or
    one of its files is missing, unreadable or contradicts the others.
    """
    for value, known in ((resize, RESIZES), (dtype, DTYPES)):
        if value not in known:
            raise UserError(f"{value!r} given, one of {list(known)} is expected")
    folder = Path(path)
    if not folder.is_dir():
        raise UserError(f"encoder folder {folder} does not exist")
    try:
        family, config, tokenizer = read_family(folder)
        return Encoder(
            config=config,
            tokenizer=tokenizer,
            image_processor=load_image_processor(folder, config, resize),
            params=family.params(_read_tensors(folder), config),
            dtype=dtype,
            fingerprint=_fingerprint(folder, resize, dtype),
        )
    except UserError as error:
        raise UserError(f"encoder folder {folder}: {error}") from error


def save_encoder(
    path: str | os.PathLike,
    *,
    config: CLIPConfig,
    params: Mapping[str, Any],
    tokenizer: CLIPTokenizer,
    image_mean: Sequence[float],
    image_std: Sequence[float],
) -> None:
    """Writes an encoder folder that `load_encoder` and transformers read; all of it or nothing.

    image_mean, image_std: per RGB channel, of pixels in [0, 1]. Raises UserError where `path`
    exists (unless it is an empty folder) or the arguments contradict each other.
    """
    folder = Path(path).absolute()
    check_empty(folder)
    check_clip_tokenizer(tokenizer, config)
    tensors = tensors_from_params(params, config)
    with whole_folder(folder, failure=f"cannot write the encoder {folder}", is_new=True) as partial:
        write_object(partial / CONFIG_FILE, _config_with_tokens(config, tokenizer))
        write_object(partial / IMAGE_FILE, _image_settings(config, image_mean, image_std))
        # The files must not depend on the last call's settings, which transformers sets anew.
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
        tokenizer.save_pretrained(partial)
        # transformers refuses a file that does not say which framework's layout it is in.
        save_file(tensors, partial / WHOLE_FILE, metadata={"format": "pt"})


def tokenize(encoder: Encoder, sentences: Sequence[str]) -> Int[np.ndarray, "B L"]:
    """Token ids of sentences, [B, L] int32, start and end token included.

    A sentence longer than the model's max_position_embeddings (see `num_tokens`) is cut and keeps
    its end token.
    L is the longest one rounded up to a multiple of 8, at most max_position_embeddings (of a SigLIP
    always that); shorter ones are filled with the pad token. Raises UserError for no sentences or
    other than strings.
    """
    check_sentences(sentences)
    family, longest = family_of(encoder.config), encoder.config.max_position_embeddings
    rows = [
        [*ids[: longest - 1], ids[-1]] if len(ids) > longest else ids
        for ids in family.token_ids(encoder.tokenizer, sentences)
    ]
    fill = encoder.tokenizer.pad_token_id
    shortest = longest if family.pads_to_longest else 0
    return pad_rows(rows, longest=longest, fill=fill, shortest=shortest)


def num_tokens(encoder: Encoder, sentences: Sequence[str]) -> Int[np.ndarray, " B"]:
    """How many tokens each sentence has, start and end token included: [B] int. `tokenize` cuts
    those that are more than the model's max_position_embeddings."""
    check_sentences(sentences)
    encoded = family_of(encoder.config).token_ids(encoder.tokenizer, sentences)
    return np.array([len(ids) for ids in encoded])


def preprocess(
    encoder: Encoder, images: Sequence[Image.Image | np.ndarray]
) -> Float[np.ndarray, "B size size 3"]:
    """Resizes, crops and normalises images as the folder's preprocessor_config.json says.

    images: PIL images of any mode, or uint8 arrays [H, W, 3], [H, W, 1] or [H, W]; any sizes.
    Returns [B, image_size, image_size, 3] float32. Raises UserError for no images or other arrays.
    """
    if not len(images):
        raise UserError("no images given")
    pixels = encoder.image_processor(images=[_to_rgb(image) for image in images])["pixel_values"]
    return np.ascontiguousarray(np.stack(pixels).transpose(0, 2, 3, 1), np.float32)


def encode_images(encoder: Encoder, pixels: Float[Array, "B size size 3"]) -> Float[Array, "B D"]:
    """[B, image_size, image_size, 3] float32 of `preprocess` -> [B, D] float32, not normalised.

    Pure, for the caller to jit or pmap: the encoder is a pytree and may be an argument.
    """
    variables = {"params": encoder.params}
    return _network(encoder).apply(variables, pixels, method="encode_image")


def encode_texts(encoder: Encoder, token_ids: Int[Array, "B L"]) -> Float[Array, "B D"]:
    """[B, L] int32 of `tokenize` -> [B, D] float32, not normalised. Pure, as `encode_images`."""
    variables = {"params": encoder.params}
    return _network(encoder).apply(variables, token_ids, method="encode_text")


def encode_questions(
    encoder: Encoder, token_ids: Int[Array, "B L"], *, with_tokens: bool
) -> SentenceFeatures:
    """[B, L] int32 of `tokenize` -> the features of B sentences, float32, Dq = D and W the width of
    the text tower. Pure, as `encode_images`.

    with_tokens: also the states [B, L, W] of their tokens, with a mask that ends at the end token.
    """
    if not with_tokens:
        return SentenceFeatures(encode_texts(encoder, token_ids))
    variables = {"params": encoder.params}
    return _network(encoder).apply(variables, token_ids, method="encode_tokens")


def _network(encoder: Encoder) -> nn.Module:
    return family_of(encoder.config).network(encoder.config, jnp.dtype(encoder.dtype))


def _to_rgb(image: Image.Image | np.ndarray) -> Image.Image:
    if isinstance(image, Image.Image):
        try:
            return to_rgb(image)
        except ValueError as error:
            raise UserError(f"an image cannot be taken: {error}") from error
    array = np.asarray(image)
    if array.dtype != np.uint8 or not (array.ndim == 2 or array.shape[2:] in ((1,), (3,))):
        raise UserError(
            f"an image is an array {array.shape} {array.dtype}; a PIL image or a uint8 array "
            "[H, W, 3], [H, W, 1] or [H, W] expected"
        )
    return Image.fromarray(array[..., 0] if array.shape[2:] == (1,) else array).convert("RGB")


def _read_tensors(folder: Path) -> dict[str, np.ndarray]:
    return read_weights(os.listdir(folder), lambda name: (folder / name).read_bytes())


def _config_with_tokens(config: CLIPConfig, tokenizer: CLIPTokenizer) -> dict[str, Any]:
    # transformers warns of its default start token where the vocabulary is smaller.
    d = clip_config_to_dict(config)
    d["text_config"]["bos_token_id"] = tokenizer.bos_token_id
    d["text_config"]["pad_token_id"] = tokenizer.pad_token_id
    return d


def _image_settings(
    config: CLIPConfig, image_mean: Sequence[float], image_std: Sequence[float]
) -> dict[str, Any]:
    mean, std = [float(v) for v in image_mean], [float(v) for v in image_std]
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise UserError(
            f"image_mean {mean}, image_std {std} given, 3 numbers each, std > 0 expected"
        )
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": config.image_size},
        "resample": int(Image.Resampling.BICUBIC),
        "do_center_crop": True,
        "crop_size": {"height": config.image_size, "width": config.image_size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": mean,
        "image_std": std,
    }


def _fingerprint(folder: Path, resize: str, dtype: str) -> str:
    """What `sha256sum FILES | sha256sum` prints in the folder, the files in alphabetical order; and
    after them a line for whatever is not the default."""
    listing = hashlib.sha256()
    weights = weights_names(os.listdir(folder), lambda name: (folder / name).read_bytes())
    for name in sorted((CONFIG_FILE, IMAGE_FILE, PROCESSOR_FILE, *weights, *TOKENIZER_FILES)):
        if (folder / name).exists():
            with open(folder / name, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            listing.update(f"{digest}  {name}\n".encode())
    for value, known in ((resize, RESIZES), (dtype, DTYPES)):
        if value != known[0]:
            listing.update(f"{value}\n".encode())
    return listing.hexdigest()
