"""The dual encoder against transformers' PyTorch CLIPModel, and the weight table."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from hyper_meta.core.types import UserError
from hyper_meta.encoders.clip import CLIP
from hyper_meta.encoders.clip_config import clip_config_from_dict, clip_config_to_dict
from hyper_meta.encoders.weights import param_shapes, params_from_tensors, tensors_from_params

SMALL_TEXT = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "vocab_size": 300,
    "max_position_embeddings": 20,
}
SMALL_VISION = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 24,
    "patch_size": 6,
}
CONFIGS = {
    "quick_gelu": {
        "model_type": "clip",
        "projection_dim": 40,
        "text_config": SMALL_TEXT | {"eos_token_id": 298},
        "vision_config": SMALL_VISION,
    },
    "gelu, legacy end token": {
        "model_type": "clip",
        "projection_dim": 40,
        "logit_scale_init_value": 1.5,
        "text_config": SMALL_TEXT
        | {"eos_token_id": 2, "hidden_act": "gelu", "layer_norm_eps": 1e-6},
        "vision_config": SMALL_VISION | {"hidden_act": "gelu"},
    },
    "base-patch32 widths": {
        "model_type": "clip",
        "text_config": {"num_hidden_layers": 2, "vocab_size": 1000, "eos_token_id": 999},
        "vision_config": {"num_hidden_layers": 2},
    },
}


@pytest.mark.parametrize("config_dict", CONFIGS.values(), ids=CONFIGS)
def test_the_shapes_are_those_of_the_network(config_dict):
    config = clip_config_from_dict(config_dict)
    pixels = jnp.zeros((1, config.image_size, config.image_size, 3))
    traced = jax.eval_shape(CLIP(config).init, jax.random.key(0), pixels, jnp.zeros((1, 1), int))
    expected = {path: leaf.shape for path, leaf in flatten_dict(traced["params"], sep="/").items()}
    assert param_shapes(config) == expected


def hugging_face_model(config_dict):
    """transformers' CLIPModel with its own random weights, biases and norms perturbed too."""
    torch = pytest.importorskip("torch")
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(0)
    token_ids = {"bos_token_id": 0, "pad_token_id": 1}
    text = config_dict["text_config"] | token_ids
    model = CLIPModel(CLIPConfig(**config_dict | {"text_config": text})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    return model


def hugging_face_embed(model, pixels, token_ids):
    """(image [B, D], text [B, D], logit_scale []) of the PyTorch model, as numpy."""
    import torch

    with torch.no_grad():
        image = model.get_image_features(torch.tensor(pixels).permute(0, 3, 1, 2)).pooler_output
        text = model.get_text_features(torch.tensor(token_ids, dtype=torch.long)).pooler_output
        return image.numpy(), text.numpy(), model.logit_scale.exp().numpy()


def hugging_face_states(model, token_ids):
    """[B, L, W], the last_hidden_state of the PyTorch model's text tower, as numpy."""
    import torch

    with torch.no_grad():
        return model.text_model(torch.tensor(token_ids, dtype=torch.long)).last_hidden_state.numpy()


def numpy_state(model) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def random_inputs(config, *, batch: int = 4, length: int = 13):
    """Pixels and token ids; the end token comes early and again as padding, or at the end."""
    rng = np.random.default_rng(0)
    pixels = rng.normal(size=(batch, config.image_size, config.image_size, 3)).astype(np.float32)
    # Under the legacy rule the highest id ends the sentence.
    end = config.vocab_size - 1 if config.eos_token_id == 2 else config.eos_token_id
    token_ids = rng.integers(3, end, size=(batch, length)).astype(np.int32)
    token_ids[: batch // 2, 5:] = end
    token_ids[batch // 2 :, -1] = end
    return pixels, token_ids


@pytest.mark.parametrize("name", CONFIGS)
def test_equals_hugging_face_pytorch(name):
    model = hugging_face_model(CONFIGS[name])
    config = clip_config_from_dict(CONFIGS[name])
    params = params_from_tensors(numpy_state(model), config)
    pixels, token_ids = random_inputs(config)
    expected = hugging_face_embed(model, pixels, token_ids)
    actual = jax.jit(CLIP(config).apply)({"params": params}, pixels, token_ids)
    for side, ours, theirs in zip(("image", "text", "logit_scale"), actual, expected, strict=True):
        difference = np.abs(np.asarray(ours) - theirs).max()
        print(f"{name}: {side} max abs difference {difference:.2e} of {np.abs(theirs).max():.2f}")
        assert difference < 1e-5, side


@pytest.mark.parametrize("name", CONFIGS)
def test_token_states_equal_hugging_face_pytorch(name):
    """Those of every token up to the end token; the embedding is that of encode_text."""
    model = hugging_face_model(CONFIGS[name])
    config = clip_config_from_dict(CONFIGS[name])
    variables = {"params": params_from_tensors(numpy_state(model), config)}
    _, token_ids = random_inputs(config)
    features, pooled = (
        jax.jit(functools.partial(CLIP(config).apply, method=method))(variables, token_ids)
        for method in (CLIP.encode_tokens, CLIP.encode_text)
    )
    expected = hugging_face_states(model, token_ids)
    # The end token is the sixth of the first two sentences, the last of the others.
    np.testing.assert_array_equal(features.mask.sum(axis=1), [6, 6, 13, 13])
    assert (np.diff(features.mask.astype(int), axis=1) <= 0).all()
    difference = np.abs(np.asarray(features.tokens) - expected)[features.mask].max()
    assert not features.tokens[~features.mask].any()
    print(f"{name}: token states max abs difference {difference:.2e}")
    assert difference < 1e-5
    np.testing.assert_allclose(features.pooled, pooled, atol=1e-5)


def test_initialises_as_hugging_face():
    torch = pytest.importorskip("torch")
    from transformers import CLIPConfig, CLIPModel

    wide = {
        "model_type": "clip",
        "projection_dim": 256,
        "text_config": SMALL_TEXT | {"hidden_size": 256, "num_hidden_layers": 1},
        "vision_config": SMALL_VISION | {"hidden_size": 512, "num_hidden_layers": 1},
    }
    torch.manual_seed(0)
    theirs = numpy_state(CLIPModel(CLIPConfig(**wide)))
    config = clip_config_from_dict(wide)
    rng = jax.random.key(0, impl="rbg")  # compiles faster than the default
    params = jax.jit(CLIP(config).init)(rng, *random_inputs(config))["params"]
    for name, ours in tensors_from_params(params, config).items():
        np.testing.assert_allclose(ours.std(), theirs[name].std(), rtol=0.15, err_msg=name)
        np.testing.assert_allclose(ours.mean(), theirs[name].mean(), atol=0.01, err_msg=name)


def test_reads_the_config_as_transformers_does():
    pytest.importorskip("torch")
    from transformers import CLIPConfig

    assert clip_config_from_dict(CLIPConfig().to_dict()) == clip_config_from_dict(
        {"model_type": "clip"}
    )
    legacy = {
        "model_type": "clip",
        "text_config": {"hidden_size": 999},
        "text_config_dict": {"hidden_size": 256, "eos_token_id": 2},
        "vision_config_dict": None,
    }
    theirs = CLIPConfig(**legacy).to_dict()
    assert clip_config_from_dict(legacy) == clip_config_from_dict(theirs)


@pytest.mark.parametrize("name", CONFIGS)
def test_config_round_trip(name):
    config = clip_config_from_dict(CONFIGS[name])
    assert clip_config_from_dict(clip_config_to_dict(config)) == config


@pytest.mark.parametrize(
    ("d", "message"),
    [
        ({"model_type": "siglip"}, "'siglip' given, 'clip' expected"),
        (
            {"model_type": "clip", "text_config": {"hidden_act": "relu"}},
            r"\['gelu', 'quick_gelu', 'gelu_pytorch_tanh'\]",
        ),
        ({"model_type": "clip", "vision_config": {"image_size": [224, 196]}}, "image_size"),
        ({"model_type": "clip", "vision_config": {"patch_size": 31}}, "multiple of patch_size"),
        ({"model_type": "clip", "vision_config": {"num_channels": 1}}, "num_channels 1"),
        ({"model_type": "clip", "text_config": {"num_attention_heads": 7}}, "num_attention_heads"),
        ({"model_type": "clip", "text_config": {"eos_token_id": [1, 2]}}, "eos_token_id"),
        ({"model_type": "clip", "text_config": "base"}, "text_config is a str"),
    ],
)
def test_refuses_what_it_does_not_compute(d, message):
    with pytest.raises(UserError, match=message):
        clip_config_from_dict(d)


def test_padding_does_not_change_a_sentence(config, params):
    _, token_ids = random_inputs(config, length=8)
    end = config.eos_token_id
    longer = np.pad(token_ids, ((0, 0), (0, 12)), constant_values=end)
    other = np.pad(token_ids, ((0, 0), (0, 5)), constant_values=7)
    embed = jax.jit(functools.partial(CLIP(config).apply, method=CLIP.encode_text))
    variables = {"params": params}
    np.testing.assert_allclose(embed(variables, longer), embed(variables, token_ids), atol=1e-6)
    np.testing.assert_allclose(embed(variables, other), embed(variables, token_ids), atol=1e-6)


def test_bfloat16_computes_about_the_same_in_float32_out(config, params):
    _, token_ids = random_inputs(config)
    exact, rough = (
        jax.jit(functools.partial(CLIP(config, dtype).apply, method=CLIP.encode_text))(
            {"params": params}, token_ids
        )
        for dtype in (jnp.float32, jnp.bfloat16)
    )
    assert rough.dtype == jnp.float32
    assert 0 < np.abs(exact - rough).max() < 0.05 * np.abs(exact).max()


def test_refuses_wrong_input_shapes(config, params):
    pixels, token_ids = random_inputs(config)
    apply = functools.partial(jax.eval_shape, CLIP(config).apply, {"params": params})
    with pytest.raises(UserError, match="pixels have shape"):
        apply(pixels[:, :8], token_ids)
    with pytest.raises(UserError, match="L <= 20"):
        apply(pixels, np.tile(token_ids, (1, 2)))


def test_tensors_round_trip(config, params):
    tensors = tensors_from_params(params, config)
    again = params_from_tensors(tensors, config)
    assert jax.tree.structure(again) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, again, params)
    assert all(t.dtype == np.float32 and t.flags.c_contiguous for t in tensors.values())


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_tensors_become_float32(config, params, dtype):
    halves = {k: v.astype(dtype) for k, v in tensors_from_params(params, config).items()}
    halves["text_model.embeddings.position_ids"] = np.arange(20)[None]
    loaded = params_from_tensors(halves, config)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(loaded))
    exact = halves["visual_projection.weight"].astype(np.float32).T
    np.testing.assert_array_equal(loaded["visual_projection"]["kernel"], exact)


def test_names_the_tensor_that_is_wrong(config, params):
    tensors = tensors_from_params(params, config)
    name = "vision_model.encoder.layers.1.mlp.fc1.weight"
    without = {k: v for k, v in tensors.items() if k != name}
    with pytest.raises(UserError, match=f"missing: {name}"):
        params_from_tensors(without, config)
    with pytest.raises(UserError, match="unexpected: extra.weight"):
        params_from_tensors(tensors | {"extra.weight": np.zeros(3, np.float32)}, config)
    with pytest.raises(UserError, match=rf"{name} \(32, 64\), not \(64, 32\)"):
        params_from_tensors(tensors | {name: tensors[name].T}, config)
    with pytest.raises(UserError, match=f"floating point: {name} int32"):
        params_from_tensors(tensors | {name: tensors[name].astype(np.int32)}, config)


def test_refuses_the_parameters_of_another_config(config, params):
    deeper = dataclasses.replace(config, text=dataclasses.replace(config.text, num_hidden_layers=3))
    with pytest.raises(UserError, match="not those of a CLIP"):
        tensors_from_params(params, deeper)
