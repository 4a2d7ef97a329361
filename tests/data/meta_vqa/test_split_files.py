import numpy as np
import pytest
from published import META_VQA

from hyper_meta.data.meta_vqa.split_files import families, read_tasks


def test_families_are_kinds_of_twenty_questions_or_more():
    many = [f"How  MANY cats are {i}?" for i in range(20)]
    few = [f"what color is {i}?" for i in range(19)]
    where = ["Where? ", *(f"where {'?' * i}" for i in range(1, 20))]
    assert len(set(where)) == 20
    expected = dict.fromkeys(many, "how many") | dict.fromkeys(few, "other")
    expected |= dict.fromkeys(where, "where")
    assert families([*many, *few, *where]) == expected


COUNTS = {"train": (870, 51_491, 23_021), "test": (373, 20_424, 9_176)}


@pytest.fixture(scope="module")
def published():
    if not META_VQA.exists():
        pytest.skip("the published Meta-VQA split is not beside this repository")
    names = ("meta_train", "meta_test", "prompt_meta")
    return read_tasks(*(META_VQA / f"{name}.json" for name in names))


@pytest.mark.parametrize("split", COUNTS)
def test_the_published_split_has_the_published_counts(published, split):
    tasks = published[split]
    sizes = [sum(len(getattr(task, part)) for task in tasks) for part in ("support", "query")]
    assert (len(tasks), *sizes) == COUNTS[split]


def test_the_published_split_is_what_the_method_says(published):
    """The rest of method.md section 6's figures."""
    tasks = [*published["train"], *published["test"]]
    items = [item for task in tasks for item in (*task.support, *task.query)]
    assert len(items) == 104_112
    assert len({image for image, _ in items}) == 64_665
    assert len({answer for task in tasks for answer in task.answers}) == 1850
    # method.md section 6 gives the support sizes of the training tasks.
    support = np.array([len(task.support) for task in published["train"]])
    answers = np.array([len(task.answers) for task in tasks])
    assert (np.median(support), support.max()) == (29, 1242)
    assert round(100 * (support < 206).mean()) == 95
    assert (np.median(answers), answers.max()) == (7, 203)
    assert round(100 * (answers < 42).mean()) == 99


def test_chance_and_the_most_common_answer_on_published_test_tasks(published):
    common, chance = [], []
    for task in published["test"]:
        support = np.bincount([answer for _, answer in task.support])
        query = np.array([answer for _, answer in task.query])
        common.append((query == support.argmax()).mean())
        chance.append(1 / len(task.answers))
    assert round(100 * np.mean(common)) == 34
    assert round(100 * np.mean(chance)) == 16


def test_test_tasks_share_images_with_training_tasks(published):
    images = {
        split: {image for task in tasks for image, _ in (*task.support, *task.query)}
        for split, tasks in published.items()
    }
    share = len(images["test"] & images["train"]) / len(images["test"])
    assert round(100 * share) == 46
