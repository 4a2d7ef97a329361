import itertools
import sys
from dataclasses import astuple
from pathlib import Path

import jax
import numpy as np
import pytest
from toy_features import split_features

import hyper_meta
from hyper_meta.core.configuration import execute_file
from hyper_meta.data.batching import (
    Batches,
    BatchShape,
    cap_sizes,
    choose_layouts,
    choose_shapes,
    merge_shapes,
    pack,
    scheduled_batches,
    smallest_fit,
    wasted_share,
    whole_pass,
)
from hyper_meta.data.table import build_table, task_shapes


def _partitions(items, most):
    """All ways to put items into at most `most` groups."""
    if not items:
        yield []
        return
    first, *rest = items
    for groups in _partitions(rest, most):
        if len(groups) < most:
            yield [[first], *groups]
        for i in range(len(groups)):
            yield [*groups[:i], [first, *groups[i]], *groups[i + 1 :]]


def _work(sizes, shapes):
    """Padded examples when each task takes the first shape that fits."""
    limits = np.array([astuple(shape) for shape in shapes])[:, :2].sum(axis=1)
    return limits[smallest_fit(sizes, shapes)].sum()


@pytest.mark.parametrize("max_shapes", [1, 2, 3, 9])
@pytest.mark.parametrize("seed", range(3))
def test_shapes_waste_as_little_as_any_grouping(max_shapes, seed):
    rng = np.random.default_rng(seed)
    support = rng.integers(2, 40, size=7)
    sizes = np.stack([support, support // 2, rng.integers(2, 9, size=7)], axis=1)
    shapes = choose_shapes(sizes, max_shapes)
    best = min(
        sum(len(group) * sizes[group, :2].max(axis=0).sum() for group in groups)
        for groups in _partitions(list(range(7)), max_shapes)
    )
    assert _work(sizes, shapes) == best
    assert len(shapes) <= max_shapes


def test_shapes_ascend_and_the_last_fits_all():
    sizes = np.random.default_rng(0).integers(1, 100, size=(50, 3))
    shapes = choose_shapes(sizes, 4)
    limits = np.array([astuple(shape) for shape in shapes])
    assert (np.diff(limits, axis=0) >= 0).all()
    np.testing.assert_array_equal(limits[-1], sizes.max(axis=0))
    fit = smallest_fit(sizes, shapes)
    assert (sizes <= limits[fit]).all()
    assert all((sizes[task] > limits[f - 1]).any() for task, f in enumerate(fit) if f)


def test_equal_tasks_need_one_shape():
    assert choose_shapes(np.tile([[5, 3, 2]], (6, 1)), 4) == [BatchShape(5, 3, 2)]


def _sizes(num_tasks, largest=40):
    rng = np.random.default_rng(num_tasks)
    support = rng.integers(2, largest, size=num_tasks)
    return np.stack([support, support // 2, rng.integers(2, 9, size=num_tasks)], axis=1)


def _cuts(num, max_parts):
    """Every way to cut range(num) into at most max_parts consecutive runs."""
    for number in range(min(max_parts, num)):
        for inner in itertools.combinations(range(1, num), number):
            yield list(itertools.pairwise([0, *inner, num]))


@pytest.mark.parametrize("num_groups", [1, 2, 4])
@pytest.mark.parametrize("max_layouts", [1, 2, 3, 9])
@pytest.mark.parametrize("num_tasks", [20, 18, 3])
def test_layouts_waste_as_little_as_any_cut(num_tasks, max_layouts, num_groups):
    """Against every cut of the tasks, in order of size, into runs of whole batches of 4."""
    sizes = _sizes(num_tasks)
    layouts = choose_layouts(sizes, 4, max_layouts=max_layouts, num_groups=num_groups)
    assert len(layouts) <= max_layouts
    ordered = sizes[np.argsort(-sizes[:, :2].sum(axis=1), kind="stable")]

    def work(start, stop):
        rows = (stop - start) * 4 // num_groups
        first = 4 * start + rows * np.arange(num_groups)
        widest = [ordered[i : i + rows, :2].max(axis=0, initial=1).sum() for i in first]
        return rows * sum(widest)

    best = min(sum(work(*run) for run in cut) for cut in _cuts(-(-num_tasks // 4), max_layouts))
    batches = pack(np.random.default_rng(0), layouts, 4)
    wasted = wasted_share([batches], sizes, [layout.shapes for layout in layouts])
    assert sizes[:, :2].sum() / (1 - wasted) == pytest.approx(best)


def test_layouts_of_many_tasks_cost_little_to_choose():
    sizes = _sizes(5000, largest=1000)
    layouts = choose_layouts(sizes, 4, max_layouts=3, num_groups=2)
    batches = pack(np.random.default_rng(0), layouts, 4)
    np.testing.assert_array_equal(np.sort(batches.ids[batches.mask]), np.arange(5000))
    assert wasted_share([batches], sizes, [x.shapes for x in layouts]) < 0.25


@pytest.mark.parametrize("num_groups", [1, 2, 4])
@pytest.mark.parametrize("num_tasks", [10, 8, 3, 25])
def test_every_task_is_in_one_batch_of_a_pass_and_fits_it(num_tasks, num_groups):
    sizes = _sizes(num_tasks)
    layouts = choose_layouts(sizes, 4, max_layouts=2, num_groups=num_groups)
    batches = pack(np.random.default_rng(1), layouts, 4)
    assert batches.ids.shape == (-(-num_tasks // 4), 4)
    np.testing.assert_array_equal(np.sort(batches.ids[batches.mask]), np.arange(num_tasks))
    limits = np.array([[astuple(shape) for shape in x.shapes] for x in layouts])
    limits = np.tile(limits, (1, 4 // num_groups, 1))[batches.shape]
    assert (sizes[batches.ids] <= limits)[batches.mask].all()


@pytest.mark.parametrize("num_tasks, expected", [(8, [1, 2, 3, 4]), (2, [3, 4]), (1, [4])])
def test_a_device_with_few_tasks_pads_them_to_the_wider_shapes(num_tasks, expected):
    """The i-th of four shapes is that of every fourth task; devices get tasks in turn."""
    shapes = [BatchShape(size, 5 - size, 1) for size in (1, 2, 3, 4)]
    merged = merge_shapes(shapes, num_tasks)
    assert [shape.support for shape in merged] == expected
    for task in range(8):
        fits = merged[task % num_tasks % len(merged)]
        assert all(np.less_equal(astuple(shapes[task % 4]), astuple(fits)))


def test_scheduled_batches_depend_on_the_step_alone():
    layouts = choose_layouts(_sizes(11), 4, max_layouts=2, num_groups=2)
    whole = scheduled_batches(5, 0, 20, layouts=layouts, batch_size=4)
    for edges in ([0, 20], [0, 1, 2, 9, 20], [3, 6], [7, 8, 19]):
        for start, stop in zip(edges, edges[1:], strict=False):
            part = scheduled_batches(5, start, stop, layouts=layouts, batch_size=4)
            expected = jax.tree.map(lambda leaf: leaf[start:stop], whole)  # noqa: B023
            jax.tree.map(np.testing.assert_array_equal, part, expected)
    other = scheduled_batches(6, 0, 20, layouts=layouts, batch_size=4)
    assert not np.array_equal(other.ids, whole.ids)
    # Three batches a pass: every task comes up once in each, in another order each time.
    passes = [whole.ids[i : i + 3][whole.mask[i : i + 3]] for i in range(0, 18, 3)]
    assert all(sorted(ids) == list(range(11)) for ids in passes)
    assert len({tuple(ids) for ids in passes}) == 6


@pytest.mark.parametrize("multiple", [1, 3, 8])
@pytest.mark.parametrize("max_examples", [1, 60, 10_000])
def test_a_whole_pass_covers_each_task_once_on_any_number_of_devices(multiple, max_examples):
    sizes = np.random.default_rng(0).integers(1, 30, size=(25, 3))
    shapes = [*choose_shapes(sizes, 3), BatchShape(99, 99, 99)]
    passes = whole_pass(sizes, shapes, max_examples=max_examples, multiple=multiple)
    covered = [batch.ids[batch.mask] for batch in passes]
    np.testing.assert_array_equal(np.sort(np.concatenate(covered)), np.arange(25))
    for shape, batch, ids in zip(shapes, passes, covered, strict=True):
        assert (sizes[ids] <= astuple(shape)).all()
        assert batch.ids.shape[1] % multiple == 0
        tasks_before_rounding = batch.ids.shape[1] - multiple + 1
        work = tasks_before_rounding * (shape.support + shape.query)
        assert work <= max_examples or tasks_before_rounding <= 1
    assert len(passes[-1].ids) == 0


def test_wasted_share_by_hand():
    sizes = np.array([[4, 2, 9], [3, 1, 9], [10, 5, 9]])
    small, large = BatchShape(4, 2, 9), BatchShape(8, 6, 9)
    batches = Batches(
        shape=np.array([0, 1]),
        ids=np.array([[0, 1], [2, 0]]),
        mask=np.array([[True, True], [True, False]]),
        window=np.zeros((2, 2), int),
    )
    # Computed 2 (4 + 2) + 2 (8 + 6) = 40; useful 4 + 2, 3 + 1, and of the last task 8 + 5.
    assert wasted_share([batches], sizes, [[small], [large]]) == pytest.approx(1 - 23 / 40)
    # In two groups: computed 2 (4 + 2) + (8 + 6) + (4 + 2) = 32.
    layouts = [[small, small], [large, small]]
    assert wasted_share([batches], sizes, layouts) == pytest.approx(1 - 23 / 32)


def _batching():
    """The config's way to batch training tasks: (settings, tasks a batch)."""
    repository = Path(hyper_meta.__file__).parents[1]
    config = execute_file(repository / "configs" / "digits_vqa.py")
    return config.batching, config.hnet.batch_size


def _wasted_in_training(sizes):
    batching, batch_size = _batching()
    sizes = cap_sizes(sizes, batching.max_support, batching.max_query)
    layouts = choose_layouts(
        sizes, batch_size, max_layouts=batching.num_layouts, num_groups=batching.num_groups
    )
    steps = -(-len(sizes) // batch_size)
    batches = scheduled_batches(0, 0, steps, layouts=layouts, batch_size=batch_size)
    return wasted_share([batches], sizes, [layout.shapes for layout in layouts])


def _wasted_in_evaluation(sizes):
    batching, _ = _batching()
    shapes = choose_shapes(sizes, batching.num_shapes)
    passes = whole_pass(sizes, shapes, max_examples=batching.max_examples, multiple=1)
    return wasted_share(passes, sizes, [[shape] for shape in shapes])


def _report(name, split, sizes):
    shares = _wasted_in_training(sizes), _wasted_in_evaluation(sizes)
    training, evaluation = (f"{100 * share:.1f}%" for share in shares)
    sys.stderr.write(f"\n{name} {split}: wasted in training {training}, evaluation {evaluation}\n")
    assert max(shares) < 0.5


@pytest.mark.parametrize("split", ["train", "test"])
def test_padding_wastes_less_than_half_on_meta_vqa(split, meta_vqa_sizes):
    _report("Meta-VQA", split, meta_vqa_sizes[split])


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_padding_wastes_less_than_half_on_digits_vqa(split, digits_vqa):
    tasks = digits_vqa[split]
    sizes = np.array([[len(t.support), len(t.query), len(t.answers)] for t in tasks])
    images = sorted({image for t in tasks for image, _ in (*t.support, *t.query)})
    sentences = sorted({s for t in tasks for s in (t.sentence, *t.prompts())})
    features = split_features(
        tasks,
        image_ids=images,
        image_features=np.zeros((len(images), 1), np.float32),
        sentences=sentences,
        sentence_features=np.zeros((len(sentences), 1), np.float32),
    )
    np.testing.assert_array_equal(task_shapes(build_table(tasks, features)), sizes)
    _report("Digits-VQA", split, sizes)
