"""What is chosen on validation tasks and what is then scored on test tasks, with made-up rows."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from ml_collections import ConfigDict

from hyper_meta.core.scores import Scores
from hyper_meta.eval.seeds import SCORES_FORMAT
from hyper_meta.methods.interface import Row
from hyper_meta.methods.trained import Trained
from hyper_meta.workflows.evaluate import evaluate, score_row, without_language

TOTAL = {"validation": np.array([4.0, 10.0]), "test": np.array([5.0, 2.0, 1.0])}
# Right answers of each setting by split: on test tasks "b" would be chosen.
RIGHT = {
    "a": {"validation": [2, 5], "test": [1, 0, 0]},
    "b": {"validation": [1, 9], "test": [5, 2, 1]},
    "c": {"validation": [4, 2], "test": [3, 1, 0]},
}
SETTINGS = {f"setting {name}": name for name in RIGHT}


def make_row(calls, **options):
    """A row that notes what it is asked for."""

    def score(split, value, shots):
        calls.append((split, value, shots))
        return Scores(np.array(RIGHT[value][split], float), TOTAL[split])

    return Row("an_id", "a title", "language", score, SETTINGS, "some setting", **options)


@pytest.mark.parametrize("curve", [False, True])
def test_the_test_tasks_have_no_say_in_what_is_chosen(curve):
    """The mean over tasks decides: "c" has 0.6, "b" 0.575 and more right answers, "a" 0.5."""
    calls = []
    scored = score_row(make_row(calls, curve=curve), (1, 2))
    assert scored["row"] == {
        "id": "an_id",
        "title": "a title",
        "kind": "language",
        "varies": "some setting",
        "chosen": "setting c",
        "maps_question_directly": False,
    }
    shown = set(SETTINGS) if curve else {"setting c"}
    assert set(scored["validation"]) == set(SETTINGS) and set(scored["test"]) == shown
    for split in ("validation", "test"):
        for setting, scores in scored[split].items():
            right = RIGHT[SETTINGS[setting]][split]
            assert scores == {"correct": right, "count": TOTAL[split].tolist()}
    assert scored["shots"] == {}
    assert {value for split, value, _ in calls if split == "test"} == {SETTINGS[s] for s in shown}
    assert all(shots is None for *_, shots in calls)


def test_each_number_of_shots_has_its_own_best_setting():
    """Among those that the setting chosen with all examples allows: "b" is best with all and
    allows "a", never "c". On validation tasks "a" gains by every shot and "b" loses, on test tasks
    it is reversed; "c" would be the best with few.
    """
    calls, asked = [], []

    def score(split, value, shots):
        calls.append((split, value, shots))
        if value == "c":
            right = 0 if shots is None else 10
        else:
            gain = {"a": 1, "b": -1}[value] * (shots or 0)
            right = 5 - gain if split == "test" else {"a": 5, "b": 6}[value] + gain
        return Scores(np.array([right], float), np.array([10.0]))

    def allowed(chosen):
        asked.append(chosen)
        return {"A": "a", "B": "b"}

    settings = {"A": "a", "B": "b", "C": "c"}
    scored = score_row(
        Row("an_id", "", "few-shot", score, settings, "setting", shots=allowed), (0, 1, 2)
    )
    assert scored["row"]["chosen"] == "B" and set(asked) == {"B"}
    chosen = {shots: by["chosen"] for shots, by in scored["shots"].items()}
    assert chosen == {"0": "B", "1": "A", "2": "A"}
    assert [by["correct"] for by in scored["shots"].values()] == [[5], [4], [3]]
    assert {(v, k) for split, v, k in calls if split == "test"} == {
        *(("b", None), ("b", 0), ("a", 1), ("a", 2))
    }


def test_a_row_without_settings():
    def score(split, value, shots):
        assert value is None
        return Scores(np.ones(2), np.full(2, 4.0))

    row = Row("an_id", "a title", "reference", score, maps_question_directly=True)
    scored = score_row(row, (1,))
    assert scored["row"] == {
        "id": "an_id",
        "title": "a title",
        "kind": "reference",
        "varies": None,
        "chosen": "",
        "maps_question_directly": True,
    }
    assert scored["test"] == scored["validation"] == {"": {"correct": [1, 1], "count": [4, 4]}}


def test_an_interrupted_evaluation_goes_on_with_the_row_it_was_at(tmp_path):
    """And ends with the same bytes."""
    calls = []

    def rows(stopped_at=None):
        def make(number):
            def score(split, value, shots):
                calls.append(number)
                if number == stopped_at:
                    raise KeyboardInterrupt
                return Scores(np.array([number / 3, 0.1]), np.array([1.0, 7.0]))

            return Row(f"row_{number}", "one title", "reference", score)

        return [make(number) for number in range(4)]

    def saved(name, **stops):
        (tmp_path / name).mkdir(exist_ok=True)
        config = ConfigDict({"evaluate": {"shots": (1,)}})
        setup = SimpleNamespace(folder=tmp_path / name, config=config, choices={})
        evaluate(setup, rows(**stops), Trained(), [], {})
        return (tmp_path / name / "scores.json").read_bytes()

    whole = saved("whole")
    scores = json.loads(whole)
    assert scores["format"] == SCORES_FORMAT and set(scores["test"]) == {
        f"row_{number}" for number in range(4)
    }
    with pytest.raises(KeyboardInterrupt):
        saved("stopped", stopped_at=2)
    calls.clear()
    assert saved("stopped") == whole
    assert set(calls) == {2, 3}
    assert [path.name for path in (tmp_path / "stopped").iterdir()] == ["scores.json"]


def _part(name, kind, correct, chosen="b"):
    """What `score_row` returns of a row with two settings, of which the other is always right."""
    record = {"id": name, "kind": kind, "chosen": chosen}
    scores = {"correct": correct, "count": [10, 20]}
    right = {"correct": [10, 20], "count": [10, 20]}
    return {"row": record, "validation": {"a": right, "b": scores}}


def test_no_language_is_the_multitask_network_or_the_next_best_thing():
    parts = {
        part["row"]["id"]: part
        for part in (
            _part("clip", "reference", [2, 8]),
            _part("majority", "reference", [3, 8]),
            _part("hnet_maml", "unconditional", [4, 8]),
            _part("mnet_maml", "unconditional", [3, 12]),
            _part("hnet_multitask", "unconditional", [1, 8]),
            _part("ridge", "language", [9, 18]),
        )
    }
    assert without_language(parts) == ("hnet_multitask", pytest.approx(0.25))
    del parts["hnet_multitask"]
    assert without_language(parts) == ("mnet_maml", pytest.approx(0.45))
    del parts["mnet_maml"], parts["hnet_maml"]
    assert without_language(parts) == ("majority", pytest.approx(0.35))
    assert without_language({"ridge": parts["ridge"]}) is None
