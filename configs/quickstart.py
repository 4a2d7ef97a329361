"""The quickstart: the whole pipeline on embedded data in a few minutes on two cores.

    hyper-meta run --config configs/quickstart.py --workdir runs/quickstart
"""

import digits_vqa
from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = digits_vqa.get_config()
    config.num_seeds = 1
    config.generator.num_steps = 440
    config.generator.chunk_steps = 55
    config.conditional.num_steps = 550
    config.conditional.chunk_steps = 55
    config.latents.repeats = 4
    config.hyperldm.num_steps = 2000
    return config
