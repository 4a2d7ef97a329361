"""Pre-training of the encoder. As a script: writes the sums of `contrastive_sums` to a file."""

import sys

import jax
import numpy as np
import optax
import pytest
from devices import run_on_eight_devices
from ml_collections import ConfigDict

from hyper_meta.core import parallel
from hyper_meta.core.losses import info_nce
from hyper_meta.data.digits_vqa.scenes import handwriting_table
from hyper_meta.encoders.clip import CLIP
from hyper_meta.encoders.clip_config import CLIPConfig, TowerConfig
from hyper_meta.train.stages import encoder as pretrain
from hyper_meta.train.state import create_state

BATCH, DIM, SCALE = 16, 5, 3.0


def _batch():
    """(images, texts) [B, D] and targets [B, B] whose rows sum to one, some with several ones."""
    rng = np.random.default_rng(0)
    images, texts = rng.normal(size=(2, BATCH, DIM)).astype(np.float32)
    truth = (rng.random((BATCH, BATCH)) < 0.15) | np.eye(BATCH, dtype=bool)
    targets = tuple(np.float32(t / t.sum(axis=1, keepdims=True)) for t in (truth, truth.T))
    return images, texts, targets


def loss_and_gradient(targets):
    """Mean loss of a pair and its gradient in both (linear) encoders, over all devices."""
    images, texts, _ = _batch()

    def step(state, data, x, key):
        _, (images, texts, *targets) = x

        def loss_fn(params):
            encoded = images @ params["images"], texts @ params["texts"]
            loss, count = pretrain.contrastive_sums(*encoded, params["scale"], *targets)
            return loss, (count, {})

        results = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
        grads, metrics = parallel.global_mean(*results)
        return state.apply_gradients(grads=grads), metrics

    params = _encoders()
    state = create_state(None, params, tx=optax.sgd(1.0), ema_decay=None, statistics={})
    batch = jax.tree.map(lambda leaf: leaf[None], (images, texts, *targets))
    run = parallel.compile_chunk(step)
    state, metrics = run(
        parallel.replicate(state), parallel.replicate({}), (None, batch), jax.random.key(0)
    )
    total, count = parallel.first(metrics)["loss"]
    after = parallel.first(state.params)
    gradient = {name: params[name] - after[name] for name in params}
    return {"loss": total / count, "count": count, **gradient}


def _encoders():
    rng = np.random.default_rng(1)
    images, texts = rng.normal(size=(2, DIM, DIM)).astype(np.float32)
    return {"images": images, "texts": texts, "scale": np.float32(SCALE)}


@pytest.fixture(scope="module")
def eight(tmp_path_factory):
    """The results of eight devices."""
    path = tmp_path_factory.mktemp("eight") / "sums.npz"
    run_on_eight_devices(__file__, path)
    with np.load(path) as results:
        assert results["num_devices"] == 8
        return dict(results)


def _check(result, loss, gradient):
    assert result["count"] == BATCH
    np.testing.assert_allclose(result["loss"], loss, rtol=1e-5)
    for name, expected in gradient.items():
        np.testing.assert_allclose(result[name], expected, rtol=1e-3, atol=1e-5, err_msg=name)


def _eye():
    return (np.eye(BATCH, dtype=np.float32),) * 2


def test_with_one_true_pair_a_row_the_loss_is_info_nce_on_any_number_of_devices(eight):
    images, texts, _ = _batch()

    def expected(params):
        return info_nce(images @ params["images"], texts @ params["texts"], params["scale"])

    loss, gradient = jax.jit(jax.value_and_grad(expected))(_encoders())
    _check(loss_and_gradient(_eye()), loss, gradient)
    _check({name[4:]: x for name, x in eight.items() if name[:4] == "eye "}, loss, gradient)


def test_with_several_true_pairs_the_loss_is_their_mean_cross_entropy(eight):
    images, texts, targets = _batch()
    encoders = _encoders()
    encoded = images @ encoders["images"], texts @ encoders["texts"]
    images, texts = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in encoded)
    logits = SCALE * images @ texts.T
    losses = []
    for rows, target in zip((logits, logits.T), targets, strict=True):
        log_softmax = rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))
        losses.append(-(target * log_softmax).sum(axis=1).mean())
    one = loss_and_gradient(targets)
    _check(one, np.mean(losses), {})
    gradient = {name: one[name] for name in encoders}
    several = {name[8:]: x for name, x in eight.items() if name.startswith("several ")}
    _check(several, np.mean(losses), gradient)


NUM_STEPS, SIMPLE_STEPS, UNPAIRED_STEPS = 20, 10, 12


@pytest.fixture
def stage():
    tower = TowerConfig(8, 8, 1, 2, hidden_act="quick_gelu", layer_norm_eps=1e-5)
    config = CLIPConfig(
        text=tower,
        vision=tower,
        projection_dim=4,
        vocab_size=50,
        max_position_embeddings=8,
        eos_token_id=49,
        image_size=48,
        patch_size=24,
        logit_scale_init_value=2.0,
    )
    settings = ConfigDict({"num_steps": NUM_STEPS, "chunk_steps": 5, "batch_size": 12, "seed": 3})
    settings.update(learning_rate=1e-3, weight_decay=0.1)
    settings.simple_share = SIMPLE_STEPS / NUM_STEPS
    settings.unpaired_share = UNPAIRED_STEPS / NUM_STEPS
    return pretrain.pretraining_stage(
        settings,
        CLIP(config),
        tokenize=lambda sentences: np.array([[len(s)] for s in sentences], np.int32),
        preprocess=lambda images: images / 255,
    )


def test_batches_depend_on_the_step_alone(stage):
    whole = stage.schedule(8, 12)
    for start, stop in ((8, 9), (9, 12)):
        expected = jax.tree.map(lambda leaf: leaf[start - 8 : stop - 8], whole)  # noqa: B023
        jax.tree.map(np.testing.assert_array_equal, stage.schedule(start, stop), expected)
    (images, _, image_targets, text_targets), (asked, told, pair_targets) = whole[1]
    assert images.shape == (4, 12, 48, 48, 3) and images.dtype == np.uint8
    for targets in (image_targets, text_targets):
        np.testing.assert_allclose(targets.sum(axis=-1), 1, rtol=1e-6)
        assert (targets.diagonal(axis1=1, axis2=2) > 0).all()
    np.testing.assert_array_equal(image_targets > 0, text_targets.swapaxes(1, 2) > 0)
    assert asked.shape[:2] == told.shape[:2] == (4, 3)
    np.testing.assert_allclose(pair_targets.sum(axis=-1), 1, rtol=1e-6)


def test_pairs_count_only_after_the_unpaired_steps(stage):
    train = parallel.compile_chunk(stage.step)
    state, key = stage.init(jax.random.key(0)), jax.random.key(1)
    batch = stage.schedule(0, 1)

    def losses(step):
        at_step = parallel.replicate(state.replace(step=step))
        _, sums = train(at_step, parallel.replicate(None), batch, key)
        sums = parallel.first(sums)
        return [float(total / count) for total, count in (sums["loss"], sums["pair_loss"])]

    before, pair_loss = losses(UNPAIRED_STEPS - 1)
    after, _ = losses(UNPAIRED_STEPS)
    assert pair_loss > 0.1
    np.testing.assert_allclose(after - before, pretrain.PAIR_WEIGHT * pair_loss, rtol=1e-4)


def test_only_training_handwriting_is_seen_and_scenes_grow_from_one_digit(stage, monkeypatch):
    seen, sample = [], pretrain.sample_scenes

    def record(*args, **options):
        seen.append(sample(*args, **options))
        return seen[-1]

    monkeypatch.setattr(pretrain, "sample_scenes", record)
    stage.schedule(0, NUM_STEPS)
    assert len(seen) == NUM_STEPS
    mine = handwriting_table()[2]["train"]
    assert all(np.isin(scenes.handwriting, mine).all() for scenes in seen)
    digits = [(scenes.digit >= 0).sum(axis=1) for scenes in seen]
    assert (digits[0] == 1).all()
    assert set(np.concatenate(digits[SIMPLE_STEPS:])) == {1, 2, 3, 4}


if __name__ == "__main__":
    results = {"eye": loss_and_gradient(_eye()), "several": loss_and_gradient(_batch()[2])}
    flat = {f"{kind} {name}": x for kind, r in results.items() for name, x in r.items()}
    np.savez(sys.argv[1], num_devices=jax.local_device_count(), **flat)
