"""What `hyper-meta benchmark` measures: the paper's sizes on Meta-VQA's tasks.

    hyper-meta benchmark --config configs/benchmark.py --out benchmark.json

Without the folder config.data_dir the tasks are random ones of the same sizes; so they are where
more of them are asked for, as in --config.more.tasks=4.
"""

import meta_vqa
from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = meta_vqa.get_config()
    config.dataset = "precomputed"
    config.data_dir = "../shared/meta_vqa"
    # How many times as many tasks, and answers of each, as Meta-VQA has.
    config.more = ConfigDict({"tasks": 1, "answers": 1})
    return config
