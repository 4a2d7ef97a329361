"""A sentence encoder with random weights, a folder as transformers and sentence-transformers write
it."""

import json

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from safetensors.numpy import save_file

from hyper_meta.encoders.bert import Bert
from hyper_meta.encoders.bert_config import bert_config_from_dict
from hyper_meta.encoders.bert_weights import rows_of_config

SPECIAL = {
    "bert": ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    "mpnet": ("<s>", "<pad>", "</s>", "[UNK]", "<mask>"),
}
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789?!.,é"
WORDS = ("which", "colour", "digit", "how", "many", "are", "there", "the", "is", "seven", "Seven")
TINY = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 40,
}
MODULES = ("Transformer", "Pooling", "Normalize")
POOLING = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}


def vocabulary(kind="bert", *, size=None):
    """Tokens of a WordPiece vocabulary: whole words, and every letter, so that most is spelt."""
    tokens = [*SPECIAL[kind], *WORDS, *LETTERS, *(f"##{letter}" for letter in LETTERS)]
    return [*tokens, *(f"[unused{i}]" for i in range((size or 0) - len(tokens)))]


def random_tensors(config, *, seed=0):
    """{Hugging Face name: array} with the shapes of a config.json."""
    config = bert_config_from_dict(config)
    shapes = jax.eval_shape(Bert(config).init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    flat = flatten_dict(shapes["params"], sep="/")
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, (path, layout) in rows_of_config(config).items():
        values = 0.3 * rng.normal(size=flat[path].shape) + path.endswith("scale")
        tensors[name] = np.array(layout.to_hf(values.astype(np.float32)), order="C")
    return tensors


def write_layout(folder, *, modules=MODULES, pooling=POOLING, longest=24):
    """What sentence-transformers adds to the files of transformers."""
    paths = ["", *(f"{place}_{name}" for place, name in enumerate(modules[1:], start=1))]
    listed = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{name}"}
        for i, (name, path) in enumerate(zip(modules, paths, strict=True))
    ]
    _write(folder / "modules.json", listed)
    (folder / "1_Pooling").mkdir(exist_ok=True)
    _write(folder / "1_Pooling" / "config.json", pooling)
    _write(folder / "sentence_bert_config.json", {"max_seq_length": longest})


def write_sentence_encoder(folder, kind="bert", *, seed=0, **layout):
    """A whole folder, tiny. layout: arguments of `write_layout`."""
    folder.mkdir(parents=True)
    tokens = vocabulary(kind)
    config = {"model_type": kind, **TINY, "vocab_size": len(tokens)}
    _write(folder / "config.json", config)
    save_file(random_tensors(config, seed=seed), folder / "model.safetensors")
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n")
    _write(folder / "tokenizer_config.json", {"do_lower_case": True, "model_max_length": 512})
    write_layout(folder, **layout)
    return folder


def _write(path, content):
    path.write_text(json.dumps(content))
