"""What `hyper-meta benchmark` measures: the paper's sizes on Meta-VQA's tasks.

    hyper-meta benchmark --config configs/benchmark.py --out benchmark.json

Without the folder config.data_dir the tasks are random ones of the same sizes.
"""

import meta_vqa
from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = meta_vqa.get_config()
    config.dataset = "precomputed"
    config.data_dir = "../shared/meta_vqa"
    return config
