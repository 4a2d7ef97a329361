"""hyper-meta benchmark, on a few random tasks of few dimensions."""

import math
from pathlib import Path

import jax
import pytest

from hyper_meta.cli.main import main
from hyper_meta.core.configuration import load_settings
from hyper_meta.core.files import read_json
from hyper_meta.core.settings import BenchmarkSettings
from hyper_meta.workflows import benchmark, benchmark_tables, benchmark_works

CONFIG = str(Path(__file__).parents[2] / "configs" / "benchmark.py")
DIM, HIDDEN, WIDTH, LATENT, BATCH, INNER, NUM_TASKS = 8, 4, 6, 5, 4, 2, 12
SMALL = (
    "data_dir=nowhere",
    "batching.num_layouts=1",
    "batching.num_shapes=1",
    f"network.hidden_dim={HIDDEN}",
    *(f"{name}.batch_size={BATCH}" for name in ("hnet", "mnet", "conditional", "hvae")),
    *(f"{name}.batch_size={BATCH}" for name in ("hyperclip", "hyperldm")),
    *(f"{name}.hidden_dims={WIDTH},{WIDTH}" for name in ("hnet", "conditional", "hvae")),
    *(f"{name}.inner_steps={INNER}" for name in ("hnet", "mnet")),
    f"hnet.latent_dim={LATENT}",
    f"hvae.latent_dim={LATENT}",
    f"hyperclip.hidden_dims={WIDTH}",
    f"hyperldm.hidden_dim={WIDTH}",
    "hyperldm.diffusion_steps=60",
    "hyperldm.sampling_steps=60",
    f"latents.num_steps={INNER}",
)
# One of each kind: the others differ in an argument, and compile for long.
MEASURED = (
    *("hnet_fomaml", "mnet_multitask", "conditional", "hnet_adaptation", "mnet_adaptation"),
    *("hvae", "hyperclip", "hyperldm", "ddpm", "evaluation", "encoding"),
    "product",
)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """What a benchmark writes."""
    out = tmp_path_factory.mktemp("benchmark") / "figures.json"
    overrides = [f"--config.{setting}" for setting in SMALL]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmark_tables, "EMBED_DIM", DIM)
        patch.setattr(benchmark_tables, "NUM_IMAGES", 50)
        patch.setattr(benchmark_tables, "NUM_TASKS", NUM_TASKS)
        patch.setattr(benchmark_tables, "NUM_TEST", 3)
        patch.setattr(benchmark, "PEAK_SIZE", {"cpu": 64})
        patch.setattr(benchmark, "WARM_RUNS", 1)
        command = ["benchmark", "--config", CONFIG, "--out", str(out), *overrides]
        assert main([*command, "--only", *MEASURED]) == 0
    jax.config.update("jax_enable_compilation_cache", True)
    return read_json(out)


def _settings(*overrides):
    return load_settings(CONFIG, Path(), overrides, BenchmarkSettings)


def test_what_is_named_is_measured(measured):
    known = benchmark_works.works(_settings())
    named = [name for name in known if any(part in name for part in MEASURED)]
    assert list(measured["work"]) == named and len(named) == 17
    for name, row in measured["work"].items():
        figures = [value for value in row.values() if not isinstance(value, str)]
        assert all(map(math.isfinite, figures)), name
        assert row["per_second"] > 0 and row["flops"] > 0 and row["bytes"] > 0, name
        assert row["compilations"] > 0 and row["compile_seconds"] > 0, name
    assert measured["machine"]["peak_flops_per_second"] > 0
    assert measured["data"].startswith("random tasks of Meta-VQA's sizes, 1 x as many")


def test_nothing_is_compiled_again(measured):
    again = {name: row["compilations_when_warm"] for name, row in measured["work"].items()}
    assert not any(again.values()), again


def test_operations_are_those_of_the_formula(measured):
    """DDPM of all tasks with a denoiser v1: the question enters once, the time of a step once."""
    for name, rows in (("ddpm", NUM_TASKS), ("ddpm_guided", 2 * NUM_TASKS)):
        step = rows * (LATENT * WIDTH + WIDTH * WIDTH + WIDTH * LATENT) + 100 * WIDTH
        expected = 2 * (rows * DIM * WIDTH + 60 * step)
        assert measured["work"][name]["flops"] == expected


def test_products_are_those_of_a_training_step(measured):
    weights = 2 * DIM * HIDDEN + DIM + HIDDEN
    expected = {"generator": BATCH * WIDTH * weights, "adapter": BATCH * 36 * DIM * HIDDEN}
    for name, size in expected.items():
        for product in (f"product_{name}", f"product_{name}_gradient"):
            assert measured["work"][product]["flops"] == 2 * size


def test_random_tasks_have_the_sizes_of_meta_vqa():
    tables, _ = benchmark_tables.load_tables(_settings("--config.data_dir=nowhere"))
    sizes = tables["train"].support_size + tables["train"].query_size
    assert len(sizes) == 870 and len(tables["test"].support_size) == 373
    assert 78 < sizes.mean() < 90  # 85.6
    assert tables["train"].image_features.shape == (64_665, 384)


def test_unknown_work_is_refused(capsys):
    assert main(["benchmark", "--config", CONFIG, "--only", "nothing"]) == 2
    assert "expected parts of hnet_fomaml" in capsys.readouterr().err
