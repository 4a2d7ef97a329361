import json

import numpy as np
import pytest
from toy_scores import CONDITIONAL, CONDITIONAL_MAML, HYPERLDM, ROWS, TITLES

from hyper_meta.core.errors import UserError
from hyper_meta.eval.rows import NEAREST
from hyper_meta.eval.seeds import read_seed, read_seeds


@pytest.fixture
def folder(tmp_path, make_workdir):
    return make_workdir(tmp_path, scales=("15",))[0]


def _change(folder, change):
    saved = json.loads((folder / "scores.json").read_text())
    change(saved)
    (folder / "scores.json").write_text(json.dumps(saved))


def test_a_run_is_what_its_files_say(folder, tasks):
    saved = json.loads((folder / "scores.json").read_text())
    run = read_seed(folder, tasks)
    assert run.name == "seed_0"
    assert [(row.id, row.kind, row.varies) for row in run.rows] == [row[:3] for row in ROWS]
    assert [row.title for row in run.rows] == [TITLES[row[0]] for row in ROWS]
    direct = [row.id for row in run.rows if row.maps_question_directly]
    assert direct == [CONDITIONAL, CONDITIONAL_MAML]
    for split in ("validation", "test"):
        expected = saved[split][HYPERLDM]["15"]
        np.testing.assert_array_equal(run.chosen(split)[HYPERLDM].correct, expected["correct"])
        np.testing.assert_array_equal(run.chosen(split)[HYPERLDM].count, expected["count"])
    setting, scores = run.shots[HYPERLDM]["1"]
    assert setting == "1 steps"
    np.testing.assert_array_equal(scores.correct, saved["shots"][HYPERLDM]["1"]["correct"])


def test_curves_are_in_the_given_order_and_then_the_alphabetical(folder, tasks):
    names = ["conditional", "film", "hnet", "hyperclip", "hyperldm"]
    assert list(read_seed(folder, tasks).curves) == names
    _change(folder, lambda saved: saved.update(order=["hnet", "hyperldm", "not trained"]))
    assert list(read_seed(folder, tasks).curves) == [
        "hnet",
        "hyperldm",
        "conditional",
        "film",
        "hyperclip",
    ]


def test_what_is_optional_may_be_missing(folder, tasks):
    (folder / "shown.npz").unlink()
    for path in (folder / "curves").iterdir():
        path.unlink()
    _change(folder, lambda saved: saved["shots"].clear())
    (folder / "novelty.json").unlink()
    (folder / "trust.json").unlink()
    run = read_seed(folder, tasks)
    assert run.shown is None and run.curves == {} == run.shots == run.novelty == run.trust


def test_a_generator_without_latents_leaves_only_answers(folder, tasks):
    with np.load(folder / "shown.npz") as saved:
        answers = saved["answers"]
    np.savez(folder / "shown.npz", answers=answers)
    shown = read_seed(folder, tasks).shown
    assert list(shown) == ["answers"]
    np.testing.assert_array_equal(shown["answers"], answers)


def test_missing_scores_name_the_stage_to_run(folder, tasks):
    (folder / "scores.json").unlink()
    with pytest.raises(UserError, match="run the stage evaluate"):
        read_seed(folder, tasks)


def test_scores_of_other_tasks_are_refused(folder, tasks):
    with pytest.raises(UserError, match="of other tasks"):
        read_seed(folder, {**tasks, "test": tasks["test"][1:]})
    with pytest.raises(UserError, match="30 train tasks, the data set holds 29"):
        read_seed(folder, {**tasks, "train": tasks["train"][1:]})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda saved: saved["test"].pop(NEAREST), "does not hold what it should"),
        (lambda saved: saved["rows"][0].pop("kind"), "does not hold what it should"),
        (lambda saved: saved.pop("shots"), "does not hold what it should"),
        (lambda saved: saved.update(rows=[]), "no rows"),
        (lambda saved: saved["rows"][0].pop("title"), "does not hold what it should"),
        (lambda saved: saved["rows"].append(saved["rows"][0]), "two rows of one id"),
        (lambda saved: saved["rows"][0].update(title="HNet, multitask"), "two rows of one title"),
        (lambda saved: saved["shots"].update(other={}), "has shots of other, no row of it"),
        (lambda saved: saved.pop("format"), "is of another version of hyper-meta: remove the sc"),
        (lambda saved: saved.update(format=1), "is of another version of hyper-meta"),
        (lambda saved: saved["rows"][0].update(kind="magic"), "known are reference, uncond"),
        (lambda saved: saved["rows"][-1].update(chosen="7"), "at the setting '7' that it chose"),
        (
            lambda saved: saved["test"][HYPERLDM].pop("15"),
            "has no test scores of 'hnet_hyperldm' at",
        ),
        (lambda saved: saved["shots"][HYPERLDM]["1"]["count"].pop(), "of other tasks"),
    ],
)
def test_scores_that_lack_something_are_refused(change, message, folder, tasks):
    _change(folder, change)
    with pytest.raises(UserError, match=message):
        read_seed(folder, tasks)


def test_damaged_files_are_refused(folder, tasks):
    shown = folder / "shown.npz"
    shown.write_bytes(shown.read_bytes()[:100])
    with pytest.raises(UserError, match="damaged"):
        read_seed(folder, tasks)
    (folder / "scores.json").write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        read_seed(folder, tasks)


def test_seeds_of_other_rows_are_refused(tmp_path, make_workdir, tasks):
    folders = make_workdir(tmp_path, scales=("1", "15"))
    assert [run.name for run in read_seeds(folders, tasks)] == ["seed_0", "seed_1"]
    _change(folders[1], lambda saved: saved["rows"].pop())
    with pytest.raises(UserError, match=f"seed_1 has scored other rows .*{ROWS[-1][0]}"):
        read_seeds(folders, tasks)
