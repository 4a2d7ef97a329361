"""What is reported, in plain NumPy from the definitions and from the files that seeds leave."""

import json

import numpy as np


def read(folders):
    """The scores.json of each seed."""
    return [json.loads((folder / "scores.json").read_text()) for folder in folders]


def percent(score):
    """[T], the accuracy on each task."""
    return 100 * np.array(score["correct"]) / np.array(score["count"])


def chosen_setting(saved, name):
    return next(row["chosen"] for row in saved["rows"] if row["id"] == name)


def of_row(seeds, split, row, setting=None):
    """[T, seeds] in percent, at the setting that each seed chose if none is given."""
    columns = []
    for saved in seeds:
        name = chosen_setting(saved, row) if setting is None else setting
        columns.append(percent(saved[split][row][name]))
    return np.stack(columns, axis=1)


def concepts(tasks):
    """[T] strings: what each task asks."""
    return np.array([task.concept for task in tasks])


def members(tasks, family, group):
    """[T] bool."""
    return np.array(
        [family in ("all", task.family) and group in ("all", task.group) for task in tasks]
    )


def interval(values, concepts, num_resamples):
    """95% percentile interval (Efron 1979) of the mean of values [T], slowly: concepts are drawn,
    and each time all tasks of those drawn are put together. concepts: [T] strings."""
    together = {}
    for value, concept in zip(values, concepts, strict=True):
        together.setdefault(concept, []).append(value)
    together = list(together.values())
    draws = np.random.default_rng(0).integers(len(together), size=(num_resamples, len(together)))
    means = [np.mean(sum((together[number] for number in draw), [])) for draw in draws]
    return np.percentile(means, [2.5, 97.5])


def bounds(by_seed, concepts, num_resamples):
    """Mean and interval, right answers first averaged over seeds; by_seed: [T, seeds]."""
    values = by_seed.mean(axis=1)
    return values.mean(), *interval(values, concepts, num_resamples)


def shown(by_seed, concepts, num_resamples, sign=""):
    """As the tables print it."""
    mean, low, high = bounds(by_seed, concepts, num_resamples)
    return f"{mean:{sign}.1f} [{low:{sign}.1f}, {high:{sign}.1f}]"
