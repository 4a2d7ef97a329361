"""The quickstart: the whole pipeline on embedded data in a few minutes on two cores.

    hyper-meta run --config configs/quickstart.py --workdir runs/quickstart
"""

from ml_collections import ConfigDict

import digits_vqa


def get_config() -> ConfigDict:
    config = digits_vqa.get_config()
    config.num_seeds = 1
    return config
