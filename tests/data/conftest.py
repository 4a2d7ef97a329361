import json

import numpy as np
import pytest
from published import META_VQA

from hyper_meta.data import datasets
from hyper_meta.data.digits_vqa.digits_vqa_dataset_builder import draw_scenes


@pytest.fixture(scope="session")
def digits_vqa(digits_vqa_dir):
    """{split: tasks}"""
    return datasets.load_tasks("digits_vqa", digits_vqa_dir)


@pytest.fixture(scope="session")
def digits_scenes():
    """{split: Scenes} that Digits-VQA is made from."""
    return draw_scenes()


@pytest.fixture(scope="session")
def meta_vqa_sizes():
    """{split: [T, 3] support examples, query examples and answers} of the published Meta-VQA."""
    if not META_VQA.exists():
        pytest.skip("the published Meta-VQA split is not beside this repository")
    sizes = {}
    for split in ("train", "test"):
        tasks = json.loads((META_VQA / f"meta_{split}.json").read_text()).values()
        rows = [[len(task[part]) for part in ("train", "test", "answers")] for task in tasks]
        sizes[split] = np.array(rows)
    return sizes
