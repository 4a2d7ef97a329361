import jax
import numpy as np
import pytest
from adapters import make_adapter
from ml_collections import ConfigDict
from toy_setup import DIM, LATENT, NUM_TASKS, make_setup, tiny_config

from hyper_meta.core.settings import changed
from hyper_meta.core.types import Examples, TaskBatch
from hyper_meta.meta.inner_loop import InnerLoop, adapt_task, task_correct
from hyper_meta.methods import few_shot
from hyper_meta.methods.few_shot import adaptation_curves, choose_rate, few_shot_row
from hyper_meta.methods.interface import RowName
from hyper_meta.models.sentences import take
from hyper_meta.train.stages.meta_learning import generator_module, hnet_learner

BLEND = 0.6


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    config = tiny_config()
    config.network.blend = BLEND
    return make_setup(tmp_path_factory.mktemp("few_shot"), config)


@pytest.fixture(scope="module")
def params():
    start = np.random.default_rng(0).normal(size=LATENT).astype(np.float32)
    module = generator_module(tiny_config(), make_adapter(DIM, 3))
    return {"e0": start, "generator": module.init(jax.random.key(0), start)["params"]}


def whole_task(setup, split, number) -> TaskBatch:
    """One task of a split, unpadded and without the axis T."""
    table, task = setup.tables[split], setup.tasks[split][number]
    first = table.item_offset[number]

    def examples(items, first):
        rows = table.item_image[first : first + len(items)]
        labels = np.array([label for _, label in items], np.int32)
        return Examples(table.image_features[rows], labels, np.ones(len(items), bool))

    start = table.answer_offset[number]
    return TaskBatch(
        question=take(table.questions, number),
        answers=table.answer_features[start : start + len(task.answers)],
        answer_mask=np.ones(len(task.answers), bool),
        support=examples(task.support, first),
        query=examples(task.query, first + len(task.support)),
        mask=np.ones((), bool),
    )


def right_by_hand(setup, params, split, steps, rate, starts=None):
    learner, loop = hnet_learner(setup.config, setup.network), InnerLoop(steps, rate)
    right = []
    for number in range(NUM_TASKS[split]):
        task = whole_task(setup, split, number)
        start = None if starts is None else starts[number]
        point = adapt_task(learner, params, task, loop, start=start)
        weights = learner.weights(params, task.question, point)
        judged = (weights, task.query, task.answers, task.answer_mask)
        right.append(task_correct(setup.network, *judged)[0])
    return right


@pytest.mark.parametrize("from_elsewhere", [False, True])
def test_a_row_is_the_learner_adapted_on_the_whole_support_set(setup, params, from_elsewhere):
    points = {
        split: np.random.default_rng(1).normal(size=(num, LATENT)).astype(np.float32)
        for split, num in NUM_TASKS.items()
    }
    row = few_shot_row(
        setup,
        RowName("an_id", "title"),
        hnet_learner(setup.config, setup.network),
        params,
        key="hnet",
        shots=True,
        starts=points.get if from_elsewhere else None,
    )
    assert (row.id, row.title, row.kind) == ("an_id", "title", "few-shot")
    # With few examples only the number of steps is chosen anew.
    assert row.shots("0 steps, rate 0.5") == {
        "0 steps, rate 0.5": (0, 0.5),
        "2 steps, rate 0.5": (2, 0.5),
    }
    assert row.settings["2 steps, rate 0.5"] == (2, 0.5) and len(row.settings) == 4
    starts = points["test"] if from_elsewhere else None
    for steps, rate in ((0, 0.1), (2, 0.5)):
        scores = row.score("test", (steps, rate), None)
        expected = right_by_hand(setup, params, "test", steps, rate, starts)
        np.testing.assert_array_equal(scores.correct, expected)
        count = [len(task.query) for task in setup.tasks["test"]]
        np.testing.assert_array_equal(scores.count, count)


def test_shots_are_counted_up_to_all_and_drawn_anew_in_every_seed(setup, params, monkeypatch):
    """In place of a program, a record of what it is given."""
    seen = []

    def compile_scores(setup, key, task_fn):
        def run(params, extra, split):
            seen.append((key, extra))
            return np.zeros((NUM_TASKS[split], 3)), np.ones((NUM_TASKS[split], 1))

        return run

    monkeypatch.setattr(few_shot, "compile_scores", compile_scores)
    learner, keys = hnet_learner(setup.config, setup.network), {}
    for seed in (0, 1):
        fresh = make_setup(setup.folder, changed(setup.config, {"seed": seed}))
        curve = adaptation_curves(fresh, learner, params, steps=(0, 2), key="hnet")
        for shots in (1, 2, None):
            curve("test", 0.5, shots)
        assert [extra["shots"].tolist() for _, extra in seen] == [
            [1] * 5,
            [2] * 5,
            [np.iinfo(np.int32).max] * 5,
        ]
        assert all((extra["learning_rate"] == np.float32(0.5)).all() for _, extra in seen)
        assert seen[0][0] == seen[1][0] != seen[2][0]  # one program for all numbers of shots
        first, *others = [extra["key"] for _, extra in seen]
        assert len(np.unique(first, axis=0)) == 5
        for other in others:
            np.testing.assert_array_equal(other, first)
        keys[seed] = first
        seen.clear()
    assert not (keys[0] == keys[1]).all(axis=1).any()


@pytest.mark.parametrize("rates", [(0.1, 2.0, 0.5), (0.5, 0.5, 0.1)])
def test_the_rate_is_chosen_by_validation_tasks_after_all_steps(rates, setup, params, monkeypatch):
    """On test tasks, after less steps and with less shots, another would be the best."""
    right = {("validation", 0.1): [3, 2], ("validation", 2.0): [0, 4], ("validation", 0.5): [5, 3]}

    def curves(setup, learner, params, *, steps, key):
        assert steps == (1,) and key == "some"
        return lambda split, rate, shots: (
            np.array([right[split, rate]], float) * (shots is None),
            np.full((1, 1), 9.0),
        )

    monkeypatch.setattr(few_shot, "adaptation_curves", curves)
    settings = ConfigDict({"learning_rates": rates, "num_steps": 1})
    chosen = choose_rate(setup, None, params, settings, key="some")
    assert chosen == max(rates, key=lambda rate: right["validation", rate][-1])


def test_a_single_rate_needs_no_choice(setup):
    settings = ConfigDict({"learning_rates": (0.3,), "num_steps": 1})
    assert choose_rate(setup, None, None, settings, key="some") == 0.3


def test_a_curve_is_computed_once(setup, params):
    learner = hnet_learner(setup.config, setup.network)
    curve = adaptation_curves(setup, learner, params, steps=(0, 2), key="hnet")
    assert curve("test", 0.5, 1) is curve("test", 0.5, 1)
