import numpy as np
from toy_setup import make_setup

from hyper_meta.data.tasks import Task
from hyper_meta.methods.references import METHOD, majority_scores
from hyper_meta.methods.trained import Trained


def test_the_most_common_answer_of_the_support_set():
    """Of equals the first; the query set has no say."""

    def task(support, query):
        items = [tuple(("image", label) for label in labels) for labels in (support, query)]
        return Task("?", ("a", "b", "c"), "{}", "", "", *items)

    tasks = [task([1, 2, 1], [1, 1, 0]), task([2, 0], [0, 2, 2, 2]), task([2], [0])]
    scores = majority_scores(tasks)
    np.testing.assert_array_equal(scores.correct, [2, 1, 0])
    np.testing.assert_array_equal(scores.count, [3, 4, 1])


def test_clip_is_the_nearest_answer(tmp_path):
    setup = make_setup(tmp_path)
    _, clip = METHOD.rows(setup, Trained())
    for split in ("validation", "test"):
        table, expected = setup.tables[split], []
        for number, task in enumerate(setup.tasks[split]):
            first = table.item_offset[number] + len(task.support)
            images = table.image_features[table.item_image[first : first + len(task.query)]]
            start = table.answer_offset[number]
            answers = table.answer_features[start : start + len(task.answers)]
            cosine = images @ answers.T / np.linalg.norm(answers, axis=1)
            labels = [label for _, label in task.query]
            expected.append((cosine.argmax(axis=1) == labels).sum())
        scores = clip.score(split, None, None)
        np.testing.assert_array_equal(scores.correct, expected)
        np.testing.assert_array_equal(
            scores.count, [len(task.query) for task in setup.tasks[split]]
        )
