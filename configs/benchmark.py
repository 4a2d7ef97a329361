"""The work that `hyper-meta benchmark` measures: the paper's networks on tasks of Meta-VQA's sizes.

    hyper-meta benchmark --config configs/benchmark.py --out benchmark.json

Tasks are random ones of the same sizes where the folder config.data_dir is missing, or where more
of them are asked for, as in --config.more.tasks=4.
"""

import meta_vqa
from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = meta_vqa.get_config()
    config.dataset = "precomputed"
    config.encoder = ""
    config.data_dir = "../shared/meta_vqa"
    # The number of tasks, and of answers of each task, as a multiple of Meta-VQA's.
    config.more = ConfigDict({"tasks": 1, "answers": 1})
    return config
