"""The quickstart with methods without tokens, whose parts the tests of sweeps know."""

from pathlib import Path

from hyper_meta.core.configuration import execute_file

QUICKSTART = Path(__file__).parents[2] / "configs" / "quickstart.py"


def get_config():
    config = execute_file(QUICKSTART)
    config.methods = (
        *("references", "hnet_multitask", "hnet_maml", "conditional"),
        *("hnet_hyperclip", "hnet_hyperldm", "nearest_latent", "questions"),
    )
    config.latents.nearest = "hnet"
    config.evaluate.few_shot_guides = config.evaluate.control_guides = ("hnet_hyperldm",)
    config.evaluate.guidance_scales = (0.5, 1.0, 1.5, 2.0, 4.0)
    return config
