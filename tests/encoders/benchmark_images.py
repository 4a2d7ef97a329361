"""Images per second, from JPEG bytes to features: this project against Hugging Face PyTorch.

    python tests/encoders/benchmark_images.py --checkpoint openai/clip-vit-base-patch32

Both get the same photographs' worth of JPEG files (noise, 640 x 480) and the same random weights of
the checkpoint's architecture, take turns, and are timed warm; the median of the rounds counts.
"""

import argparse
import io
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from test_clip import hugging_face_model
from test_real_configurations import CHECKPOINTS, config_dict
from transformers import CLIPImageProcessorPil

from hyper_meta.encoders.clip_config import clip_config_from_dict
from hyper_meta.encoders.folder import Encoder, encode_images
from hyper_meta.encoders.weights import params_from_tensors
from hyper_meta.preparation import encoding

HF_BATCH = 32


def jpegs(number):
    """(name, bytes) of smooth noise: like photographs, they decode in a few milliseconds."""
    rng = np.random.default_rng(0)
    files = []
    for row in range(number):
        small = Image.fromarray(rng.integers(0, 256, (60, 80, 3), np.uint8))
        out = io.BytesIO()
        small.resize((640, 480), Image.Resampling.BICUBIC).save(out, "jpeg", quality=90)
        files.append((f"image {row}", out.getvalue()))
    return files


def our_seconds(encoder, run, files):
    """Everything but the text, parts on the disk included."""
    with tempfile.TemporaryDirectory() as folder:
        images = encoding.Images(len(files), lambda start: iter(files[start:]))
        start = time.perf_counter()
        parts = list(
            encoding.encode_parts(
                encoder, images, run=run, folder=Path(folder), source={}, skip_corrupt=False
            )
        )
        return time.perf_counter() - start, np.concatenate([part.features for part in parts])


def their_seconds(model, processor, files):
    start = time.perf_counter()
    outs = []
    for first in range(0, len(files), HF_BATCH):
        part = [Image.open(io.BytesIO(content)) for _, content in files[first : first + HF_BATCH]]
        pixels = processor(images=part, return_tensors="pt")["pixel_values"]
        with torch.inference_mode():
            outs.append(model.get_image_features(pixels).pooler_output.numpy())
    return time.perf_counter() - start, np.concatenate(outs)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", default="openai/clip-vit-base-patch32", choices=CHECKPOINTS)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--depth", type=int, help="layers, in place of all")
    arguments = parser.parse_args()
    d = config_dict(arguments.checkpoint, depth=arguments.depth)
    model, config = hugging_face_model(d), clip_config_from_dict(d)
    size = config.image_size
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": size}, crop_size={"height": size, "width": size}
    )
    tensors = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    encoder = Encoder(
        params=params_from_tensors(tensors, config),
        config=config,
        tokenizer=None,
        image_processor=processor,
        dtype="float32",
        fingerprint="",
    )
    files = jpegs(arguments.images)
    run = encoding.compile_encoding(encoder, encode_images)
    ours, theirs = [], []
    for _ in range(arguments.rounds + 1):
        seconds, features = our_seconds(encoder, run, files)
        ours.append(seconds)
        seconds, expected = their_seconds(model, processor, files)
        theirs.append(seconds)
    apart = np.abs(features - expected).max()
    rates = [arguments.images / statistics.median(part[1:]) for part in (ours, theirs)]
    print(
        f"{arguments.checkpoint}, {arguments.images} images, {torch.get_num_threads()} threads: "
        f"{rates[0]:.2f} images/s, PyTorch {torch.__version__} {rates[1]:.2f}: "
        f"{rates[0] / rates[1]:.2f} times, features differ by {apart:.0e}"
    )


if __name__ == "__main__":
    main()
