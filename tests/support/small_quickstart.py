"""The quickstart of configs/, small: what it is given, and what it leaves as it goes on."""

from pathlib import Path

CONFIG = Path(__file__).parents[2] / "configs" / "quickstart.py"
TRAINED = ("hnet", "conditional", "generators", "language", "hyperclip", "hyperldm")
TRAINED += ("hyperldm_tokens",)
# Overrides that make a run short.
SMALL = (
    *(f"{section}.num_steps=2" for section in TRAINED),
    *(f"{section}.chunk_steps=1" for section in TRAINED),
    "network.hidden_dim=4",
    *(f"{section}.hidden_dims=8" for section in ("hnet", "conditional", "hyperclip")),
    *(f"{section}.hidden_dims=8" for section in ("generators", "language")),
    "hnet.inner_steps=1",
    "language.inner_steps=1",
    "generators.num_members=2",
    "reader.width=16",
    "reader.num_blocks=1",
    "reader.num_heads=2",
    "latents.num_steps=1",
    "latents.repeats=2",
    "hyperclip.guidance.steps=2,4",
    "hyperclip.guidance.learning_rates=0.01",
    "hyperclip.guidance.pull=0.0",
    *(f"{section}.sampling_steps=3" for section in ("hyperldm", "hyperldm_tokens")),
    *(f"{section}.num_samples=2" for section in ("hyperldm", "hyperldm_tokens")),
    "evaluate.guidance_scales=0.5,2",
    "evaluate.few_shot_steps=0,2",
    "evaluate.shot_steps=0,2",
    "evaluate.shots=1,2",
    "evaluate.num_resamples=100",
    "batching.num_layouts=1",
    "batching.num_shapes=1",
    "checkpoint_every=1",
)
STAGES = ("hnet_multitask", "conditional", "generators", "hnet_language")
STAGES += ("language_hyperclip", "language_hyperldm_tokens")
# Files and folders in the order in which a run leaves them.
MARKS = (
    "config.json",
    *(f"seed_0/{stage}/0000000{step}" for stage in STAGES[:4] for step in (1, 2)),
    "seed_0/language_latents",
    *(f"seed_0/{stage}/0000000{step}" for stage in STAGES[4:] for step in (1, 2)),
    *("seed_0/rows/6.json", "seed_0/guides", "seed_0/shown.npz", "seed_0/scores.json"),
)


def command(workdir, *, data_dir, programs):
    """The arguments of the small quickstart in a work directory, with its data and programs."""
    settings = (*SMALL, f"data_dir={data_dir}", f"compilation_cache={programs}")
    overrides = [f"--config.{setting}" for setting in settings]
    return ["run", "--config", str(CONFIG), "--workdir", str(workdir), *overrides]
