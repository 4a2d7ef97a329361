"""A grid of runs: what is planned, what is refused, what is trained again, and the table."""

import dataclasses
import functools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import sweep_config

from hyper_meta.cli.main import main
from hyper_meta.core.configuration import execute_file
from hyper_meta.core.errors import UserError
from hyper_meta.core.settings import RunSettings, as_dict, rules_of
from hyper_meta.core.settings.watching import watched
from hyper_meta.eval.results import RESULTS_FORMAT
from hyper_meta.methods.reads import Reads, note, while_training
from hyper_meta.methods.registry import in_order
from hyper_meta.preparation.fingerprint import claim_data
from hyper_meta.train import loop
from hyper_meta.workflows import run as pipeline
from hyper_meta.workflows import sweep
from hyper_meta.workflows.grid import MAX_NAME, parse_grid, plan
from hyper_meta.workflows.sweep import NOTE

CONFIG = Path(sweep_config.__file__)
META_VQA = sweep_config.QUICKSTART.with_name("meta_vqa_simulated.py")
FIGURES = ("hyperldm.drop_rate=0.1", "hyperldm.drop_rate=0.2", "hyperldm.drop_rate=0.3")
ROWS = ("hnet_hyperldm", "conditional")
TITLES = ("HNet + HyperLDM", "conditional hypernetwork")
# The folders that some methods leave, and every section that has a say in them.
PARTS = {
    "hnet_maml": ("network", "hnet"),
    "hnet_latents": ("network", "hnet", "latents"),
    "hnet_hyperldm": ("network", "hnet", "latents", "hyperldm"),
    "conditional": ("network", "conditional"),
    "hnet_hyperclip_rate_0.001": ("network", "hnet", "latents", "hyperclip"),
}
# What the training of methods reads, besides the seed, the network and the batching.
READ = {
    "hnet_multitask": ("hnet",),
    "hnet_maml": ("hnet",),
    "hnet": ("latents",),
    "hnet_hyperldm": ("hyperldm", "evaluate.guidance_scales"),
    "conditional": ("conditional",),
    "hnet_hyperclip": ("hyperclip",),
}


def cells(mean):
    return {"all": {"all": {"mean": mean, "low": mean - 2.5, "high": mean + 1.5}}}


def write_results(workdir, config, *, validation, test):
    """A results.json with what a sweep reads; figures by row."""
    seeds = [f"seed_{config.seed + n}" for n in range(config.num_seeds)]
    scales = dict(zip(seeds, ("1.5", "4"), strict=False))
    nothing = dict.fromkeys(seeds, "")
    rows = [
        {"id": ROWS[0], "title": TITLES[0], "varies": "guidance scale", "chosen": scales},
        {"id": ROWS[1], "title": TITLES[1], "varies": None, "chosen": nothing},
    ]
    results = {
        "format": RESULTS_FORMAT,
        "seeds": seeds,
        "rows": rows,
        "best": {"language": max(ROWS, key=validation.get)},
        "summaries": {
            "validation": {row: cells(validation[row]) for row in ROWS},
            "test": {row: cells(test[row]) for row in ROWS},
        },
    }
    (workdir / "results.json").write_text(json.dumps(results))


class Fake:
    """Stands for the pipeline: trains folders that tell what they depend on, unless they are
    there."""

    def __init__(self):
        self.trained = {}  # by combination, in the order they were run
        self.fails_at = None

    def __call__(self, config, workdir, until, before_training):
        assert until == "report"
        pipeline.claim(config, workdir)
        claim_data(data_of(config), workdir)
        before_training()
        made = self.trained.setdefault(workdir.name, [])
        for number in range(config.seed, config.seed + config.num_seeds):
            seed = workdir / f"seed_{number}"
            read_settings_of_methods(dataclasses.replace(config, seed=number), seed)
            for part, sections in PARTS.items():
                if not (seed / part).exists():
                    made.append(part)
                    (seed / part / "arrays").mkdir(parents=True)
                    (seed / part / "arrays" / "0").write_text(content(config, number, sections))
                if (workdir.name, part) == self.fails_at:
                    raise UserError("diverged")
            (seed / "scores.json").write_text("{}")
        gain = 100 * config.hyperldm.drop_rate
        validation = {ROWS[0]: 50 + gain, ROWS[1]: 61.0}
        test = {ROWS[0]: 70 - gain, ROWS[1]: 55.0}
        write_results(workdir, config, validation=validation, test=test)


def data_of(config):
    """A fingerprint that changes with everything that the data depend on."""
    return {
        "dataset": f"{config.dataset} {config.data_dir}",
        "encoder": f"{config.encoder} {config.image_resize} {config.encoder_dtype}",
        "question_encoder": (
            f"{config.question_encoder} {config.question_layer} {config.question_prefix}"
        ),
        "validation_share": config.validation_share,
        "tasks": f"{config.skip_corrupt_images}",
        "question_tokens": config.question_tokens,
    }


def read_settings_of_methods(config, folder):
    reads = Reads(folder)
    view = watched(config, functools.partial(note, reads))
    for name in in_order(config.methods, config):
        with while_training(reads, name):
            if name in READ:
                for read in ("seed", "network", "batching", *READ[name]):
                    value = functools.reduce(getattr, read.split("."), view)
                    if dataclasses.is_dataclass(value):
                        as_dict(value)


def content(config, seed, sections):
    values = {section: as_dict(getattr(config, section)) for section in sections}
    return json.dumps([seed, config.dataset, values])


@pytest.fixture
def fake(monkeypatch):
    made = Fake()
    monkeypatch.setattr(pipeline, "run", made)
    monkeypatch.setattr(sweep, "data_now", data_of)
    return made


def arguments(workdir, *grids, rows=()):
    argv = ["sweep", "--config", str(CONFIG), "--workdir", str(workdir)]
    for grid in grids:
        argv += ["--grid", grid]
    for row in rows:
        argv += ["--row", row]
    return argv


def test_every_combination_in_order():
    grids = ["hyperldm.drop_rate=0.1, 0.2", "hyperldm.hidden_dim=8,16", "seed=3"]
    combinations = plan(CONFIG, grids, ["--config.hnet.latent_dim=5"])
    names = [
        f"hyperldm.drop_rate={rate},hyperldm.hidden_dim={dim},seed=3"
        for rate, dim in ((0.1, 8), (0.1, 16), (0.2, 8), (0.2, 16))
    ]
    assert [combination.name for combination in combinations] == names
    for combination in combinations:
        config = combination.config
        assert combination.settings == {
            "hyperldm.drop_rate": config.hyperldm.drop_rate,
            "hyperldm.hidden_dim": config.hyperldm.hidden_dim,
            "seed": 3,
        }
        assert (config.seed, config.hnet.latent_dim) == (3, 5)


def test_tuples_are_separated_by_semicolons():
    methods = "methods='references';'film','hnet_hyperldm'"
    grids = ["hyperldm.learning_rates=0.001;0.0003,0.001", methods]
    combinations = plan(CONFIG, grids, [])
    assert [c.config.hyperldm.learning_rates for c in combinations[::2]] == [
        (0.001,),
        (0.0003, 0.001),
    ]
    assert combinations[3].config.methods == ("film", "hnet_hyperldm")
    assert combinations[3].name == (
        "hyperldm.learning_rates=0.0003+0.001,methods=film+hnet_hyperldm"
    )


def test_values_have_the_type_of_the_setting():
    config = execute_file(CONFIG)
    values = parse_grid(config, "hyperldm.guidance_scale=1,2.5")[1]
    assert list(map(repr, values.values())) == ["1.0", "2.5"]
    values = parse_grid(config, "hyperclip.standardise=true,false")[1]
    assert list(values.values()) == [True, False]


def test_names_are_folders_of_their_own():
    folders = ["a/b", "a_b", "../a", "a+b", "a b", ".", "x" * 300, "x" * 301]
    names = [c.name for c in plan(CONFIG, ["encoder=" + ",".join(folders)], [])]
    assert len(set(names)) == len(folders) and names[1] == "encoder=a_b"
    for name in names:
        assert Path(name).name == name and len(name.encode()) <= MAX_NAME
        assert not set(name) & set(' \\/:*?"<>|')


@pytest.mark.parametrize(
    ("grids", "extra", "message"),
    [
        (["hyperldm.drop_rat=1"], [], "unknown setting, did you mean hyperldm.drop_rate?"),
        (["hyperldm=1"], [], "--grid hyperldm=1: hyperldm is a group of settings"),
        (["seed=0,one"], [], "--grid seed=one: a whole number such as 0 is expected"),
        (["seed"], [], "--grid seed lacks a value: NAME=VALUE,VALUE is expected"),
        (["seed="], [], "--grid seed= lacks a value"),
        (["seed=0,,1"], [], "--grid seed=0,,1 lacks a value"),
        (["evaluate.shots=1,2;"], [], "lacks a value: NAME=1,2;3,4 (alternatives of a tuple)"),
        (["evaluate.shots=1,2.5"], [], "a tuple of int such as"),
        (["hyperldm.drop_rate=0.1,0.10"], [], "has the value 0.10 twice"),
        (["seed=0", "seed=1"], [], "--grid seed is given twice"),
        (["seed=0"], ["--config.seed=1"], "seed is given by --grid and by --config.seed"),
        (["seed=0"], ["--config.sed=1"], "--config.sed=1: unknown setting"),
        (["seed=0"], ["--seed=1"], "unknown argument --seed=1"),
        (
            ["hyperldm.num_steps=250,300"],
            ["--config.hyperldm.chunk_steps=125"],
            "hyperldm.num_steps=300: hyperldm.num_steps=300 is no multiple of",
        ),
        (["hyperldm.batch_size=1,0"], [], "hyperldm.batch_size=0 is too small, 1 is least"),
        (["hyperldm.denoiser=v2,v9"], [], "hyperldm.denoiser='v9' given, one of ['v1', 'v2']"),
        (["methods=references;hnet"], ["--config.methods=x"], "methods is given by --grid and"),
        (["methods=references;nothing"], [], "method 'nothing' given"),
    ],
)
def test_mistakes_are_found_before_anything_runs(grids, extra, message, fake, tmp_path, capsys):
    assert main([*arguments(tmp_path / "w", *grids), *extra]) == 2
    line = capsys.readouterr().err
    assert message in line and line.count("\n") == 1
    assert not fake.trained and not list(tmp_path.iterdir())


def test_numbers_that_only_fit_together(tmp_path):
    """A step count that the file's chunks do not divide, with a grid of chunks that do."""
    extra = ["--config.hyperldm.num_steps=12"]
    sizes = [
        c.config.hyperldm.chunk_steps for c in plan(CONFIG, ["hyperldm.chunk_steps=3,4"], extra)
    ]
    assert sizes == [3, 4]
    with pytest.raises(UserError, match="^hyperldm.chunk_steps=5: hyperldm.num_steps=12 is no"):
        plan(CONFIG, ["hyperldm.chunk_steps=3,5"], extra)


def test_a_config_of_an_encoder_is_refused():
    with pytest.raises(UserError, match="encoder.py is not of a run"):
        plan(META_VQA.with_name("encoder.py"), ["seed=0"], [])


def test_a_work_directory_of_something_else_is_refused(fake, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    assert main(arguments(tmp_path / "run", "seed=0,1")) == 2
    assert "is not empty and holds no sweep" in capsys.readouterr().err
    assert main(arguments(tmp_path / "w", "seed=0,1")) == 0
    capsys.readouterr()
    before = list(fake.trained)
    argv = arguments(tmp_path / "w", "seed=5,1")
    assert main([*argv, "--config.hnet.latent_dim=7"]) == 2
    assert "seed=1 holds a run with hnet.latent_dim=" in capsys.readouterr().err
    # Nothing was begun with the wrong setting, in whose place the right one would be refused.
    assert main(argv) == 0
    assert list(fake.trained) == [*before, "seed=5"]


def test_a_table_by_validation(fake, tmp_path, capsys):
    argv = [*arguments(tmp_path / "w", "hyperldm.drop_rate=0.1,0.3,0.2"), "--config.num_seeds=2"]
    assert main([*argv, "--row", ROWS[0]]) == 0
    out = capsys.readouterr().out
    for number, name in enumerate((FIGURES[0], FIGURES[2], FIGURES[1]), 1):
        assert f"{number} of 3: {name}\n" in out
    expected = [
        [FIGURES[2], TITLES[0], "80.0", "40.0 [37.5, 41.5]"],
        [FIGURES[1], TITLES[0], "70.0", "50.0 [47.5, 51.5]"],
        [FIGURES[0], TITLES[0], "60.0", "60.0 [57.5, 61.5]"],
    ]
    chosen = "guidance scale 1.5 (seed_0), 4 (seed_1)"
    # The last table that is printed, and that of the file: test accuracy plays no part.
    written = (tmp_path / "w" / "sweep.md").read_text()
    table = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in written.splitlines()
        if line.startswith("|")
    ]
    assert table[2:] == [[*cells, chosen] for cells in expected]
    assert "3 of 3 combinations are finished" in written and NOTE in written
    printed = [line.split("  ") for line in out.splitlines() if line.endswith(chosen)]
    assert [[cell.strip() for cell in line if cell.strip()] for line in printed] == table[2:]
    assert NOTE in out and "validation" in NOTE
    saved = json.loads((tmp_path / "w" / "sweep.json").read_text())["lines"]
    assert saved[0] == {
        "combination": FIGURES[2],
        "settings": {"hyperldm.drop_rate": 0.3},
        "row": ROWS[0],
        "title": TITLES[0],
        "validation": 80.0,
        "test": {"mean": 40.0, "low": 37.5, "high": 41.5},
        "varies": "guidance scale",
        "chosen": {"seed_0": "1.5", "seed_1": "4"},
    }


def test_rows(fake, tmp_path, capsys):
    """Left out, the best from language of each run by validation: 61 beats 60, and not 70."""
    argv = arguments(tmp_path / "w", "hyperldm.drop_rate=0.1,0.2")

    def lines(*rows):
        assert main(arguments(tmp_path / "w", "hyperldm.drop_rate=0.1,0.2", rows=rows)) == 0
        saved = json.loads((tmp_path / "w" / "sweep.json").read_text())["lines"]
        return [(line["combination"], line["row"], line["validation"]) for line in saved]

    assert lines() == [(FIGURES[1], ROWS[0], 70.0), (FIGURES[0], ROWS[1], 61.0)]
    assert "guidance scale 1.5\n" in capsys.readouterr().out
    assert lines(*ROWS) == lines(*TITLES)
    assert lines(*ROWS) == [
        (FIGURES[1], ROWS[0], 70.0),
        (FIGURES[0], ROWS[1], 61.0),
        (FIGURES[1], ROWS[1], 61.0),
        (FIGURES[0], ROWS[0], 60.0),
    ]
    capsys.readouterr()
    assert main([*argv, "--row", "HNet"]) == 2
    assert f"'HNet' is no row of {FIGURES[0]}, which are: {ROWS[0]}; " in capsys.readouterr().err


def test_a_row_that_is_not_there_is_told_after_the_first(fake, tmp_path, capsys):
    argv = arguments(tmp_path / "w", "hyperldm.drop_rate=0.1,0.2", rows=["HNet"])
    assert main(argv) == 2
    assert "'HNet' is no row of" in capsys.readouterr().err
    assert list(fake.trained) == [FIGURES[0]]


def test_results_without_a_language_row_or_damaged(fake, tmp_path, capsys):
    argv = arguments(tmp_path / "w", "hyperldm.drop_rate=0.1")
    assert main(argv) == 0
    path = tmp_path / "w" / FIGURES[0] / "results.json"
    results = json.loads(path.read_text())
    path.write_text(json.dumps(results | {"best": {}}))
    assert main(argv) == 2
    assert f"answers from the sentence alone: name a --row, one of: {ROWS[0]}" in (
        capsys.readouterr().err
    )
    path.write_text(json.dumps({key: results[key] for key in results if key != "format"}))
    assert main(argv) == 2
    assert f"{path} is of another version of hyper-meta: remove it" in capsys.readouterr().err
    path.write_text(json.dumps(results | {"summaries": {}}))
    assert main(argv) == 2
    assert "does not hold what it should (KeyError('validation')): remove it" in (
        capsys.readouterr().err
    )
    path.unlink()
    assert main(argv) == 0


def test_the_same_command_goes_on(fake, tmp_path, capsys):
    argv = arguments(tmp_path / "w", "hyperldm.drop_rate=0.1,0.2,0.3")
    fake.fails_at = FIGURES[1], "hnet_maml"
    assert main(argv) == 2
    assert capsys.readouterr().err == f"hyper-meta: {FIGURES[1]}: diverged\n"
    saved = json.loads((tmp_path / "w" / "sweep.json").read_text())
    assert saved["combinations"] == list(FIGURES)
    assert [line["combination"] for line in saved["lines"]] == [FIGURES[0]]
    assert "1 of 3 combinations are finished" in (tmp_path / "w" / "sweep.md").read_text()
    fake.fails_at = None
    first = fake.trained.pop(FIGURES[0])
    assert first == list(PARTS)
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert f"1 of 3: {FIGURES[0]} (finished)\n2 of 3: {FIGURES[1]}\n3 of 3" in out
    assert FIGURES[0] not in fake.trained
    # More values in the same place: only what is new runs; more seeds: only they.
    fake.trained.clear()
    assert main(arguments(tmp_path / "w", "hyperldm.drop_rate=0.05,0.2")) == 0
    assert fake.trained == {"hyperldm.drop_rate=0.05": ["hnet_hyperldm"]}
    fake.trained.clear()
    argv = arguments(tmp_path / "w", "hyperldm.drop_rate=0.1,0.2")
    assert main([*argv, "--config.num_seeds=2"]) == 0
    assert fake.trained == {FIGURES[0]: list(PARTS), FIGURES[1]: ["hnet_hyperldm"]}


def test_combinations_of_former_grids_stay_in_the_table(fake, tmp_path, capsys):
    workdir = tmp_path / "w"

    def names(*grids):
        assert main(arguments(workdir, *grids, rows=[ROWS[0]])) == 0
        record = json.loads((workdir / "sweep.json").read_text())
        lines = [line["combination"] for line in record["lines"]]
        assert sorted(lines) == sorted(record["combinations"])
        written = (workdir / "sweep.md").read_text()
        assert f"{len(lines)} of {len(lines)} combinations are finished" in written
        assert all(f"| {name} |" in written for name in lines)
        return lines

    assert names("hyperldm.drop_rate=0.1,0.3") == [FIGURES[2], FIGURES[0]]
    assert names("hyperldm.drop_rate=0.2") == [FIGURES[2], FIGURES[1], FIGURES[0]]
    assert names("hyperldm.drop_rate=0.3,0.1") == [FIGURES[2], FIGURES[1], FIGURES[0]]
    # What is removed is no more in it.
    shutil.rmtree(workdir / FIGURES[2])
    assert names("hyperldm.drop_rate=0.2") == [FIGURES[1], FIGURES[0]]
    (workdir / "sweep.json").write_text('{"lines": 3}')
    assert main(arguments(workdir, "hyperldm.drop_rate=0.2")) == 2
    assert "does not hold what it should" in capsys.readouterr().err


def test_a_table_is_of_one_data_set(fake, tmp_path, monkeypatch, capsys):
    """More values of a grid, where the files of the data set are the same and where they changed,
    which are read once for all that have the same."""
    grids, read = ["hyperldm.drop_rate=0.1,0.2", "image_resize=crop,square"], []
    assert main(arguments(tmp_path / "w", *grids)) == 0

    def data_now(config):
        read.append(config.image_resize)
        return data_of(config) | changed

    monkeypatch.setattr(sweep, "data_now", data_now)
    changed, grids[0] = {}, "hyperldm.drop_rate=0.1,0.2,0.3"
    assert main(arguments(tmp_path / "w", *grids)) == 0
    assert read == ["crop", "square"]
    changed, grids[0] = {"dataset": "another"}, "hyperldm.drop_rate=0.1,0.4"
    fake.trained.clear()
    capsys.readouterr()
    assert main(arguments(tmp_path / "w", *grids)) == 2
    line = capsys.readouterr().err
    assert "holds a run with another data set (dataset " in line and line.count("\n") == 1
    assert not fake.trained


@pytest.mark.parametrize(
    ("grid", "again"),
    [
        ("hyperldm.drop_rate=0.1,0.2", ["hnet_hyperldm"]),
        # HyperLDM is validated at them.
        ("evaluate.guidance_scales=0.5,1;0.5,2", ["hnet_hyperldm"]),
        ("evaluate.num_resamples=50,60", []),
        ("conditional.batch_size=8,16", ["conditional"]),
        ("hyperclip.guidance.cosine=true,false", ["hnet_hyperclip_rate_0.001"]),
        ("latents.pull=0.1,0.2", ["hnet_latents", "hnet_hyperldm", "hnet_hyperclip_rate_0.001"]),
        ("hnet.latent_dim=4,8", [part for part in PARTS if part != "conditional"]),
        ("network.hidden_dim=4,8", list(PARTS)),
        ("batching.feature_noise=0.1,0.2", list(PARTS)),
        ("data_dir=a,b", list(PARTS)),
        ("image_resize=crop,square", list(PARTS)),
        ("encoder_dtype=float32,bfloat16", list(PARTS)),
        ("encoder=bundled,other", list(PARTS)),
        ("validation_share=0.1,0.2", list(PARTS)),
        ("skip_corrupt_images=yes,no", list(PARTS)),
        ("question_tokens=yes,no", list(PARTS)),
        ("question_encoder=one,other", list(PARTS)),
        ("hyperldm.few_shot_guidance=1;2", ["hnet_hyperldm"]),
        ("mnet.batch_size=4,8", []),
        ("hvae.weights.repeats=4,8", []),
        ("dataset=digits_vqa,precomputed", list(PARTS)),
        ("seed=0,1", list(PARTS)),
    ],
)
def test_only_what_a_setting_touches_is_trained_again(grid, again, fake, tmp_path):
    assert main(arguments(tmp_path / "w", grid)) == 0
    assert list(fake.trained.values()) == [list(PARTS), again]
    for combination in plan(CONFIG, [grid], []):
        seed = combination.config.seed
        for part, sections in PARTS.items():
            path = tmp_path / "w" / combination.name / f"seed_{seed}" / part / "arrays" / "0"
            assert path.read_text() == content(combination.config, seed, sections)


def test_seeds_that_two_combinations_share_are_trained_once(fake, tmp_path):
    argv = arguments(tmp_path / "w", "seed=0,1")
    assert main([*argv, "--config.num_seeds=2"]) == 0
    assert fake.trained == {"seed=0": [*PARTS, *PARTS], "seed=1": list(PARTS)}


def test_nothing_is_taken_from_a_seed_without_scores(fake, tmp_path):
    argv = arguments(tmp_path / "w", "hyperldm.drop_rate=0.1,0.2")
    assert main(argv) == 0
    fake.trained.clear()
    shutil.rmtree(tmp_path / "w" / FIGURES[1])
    (tmp_path / "w" / FIGURES[0] / "seed_0" / "scores.json").unlink()
    assert main(argv) == 0
    assert fake.trained == {FIGURES[1]: list(PARTS)}


def test_files_are_copied_where_they_cannot_be_linked(fake, tmp_path, monkeypatch):
    def refuse(source, target):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", refuse)
    assert main(arguments(tmp_path / "w", "hyperldm.drop_rate=0.1,0.2")) == 0
    assert fake.trained[FIGURES[1]] == ["hnet_hyperldm"]
    one, other = (tmp_path / "w" / name / "seed_0/hnet_maml/arrays/0" for name in FIGURES[:2])
    assert one.read_bytes() == other.read_bytes() and not one.samefile(other)


def test_a_link_that_fails_leaves_nothing(fake, tmp_path, monkeypatch, capsys):
    def fill_up(source, target, **_):
        raise OSError(28, "No space left on device")

    argv = arguments(tmp_path / "w", "hyperldm.drop_rate=0.1,0.2")
    with monkeypatch.context() as patch:
        patch.setattr("os.link", fill_up)
        patch.setattr("shutil.copy2", fill_up)
        assert main(argv) == 2
    assert "cannot copy" in capsys.readouterr().err
    left = [path for path in (tmp_path / "w" / FIGURES[1]).rglob("*")]
    left = {path.name for path in left if path.parent.name != "reads"}
    assert left <= {"config.json", "data.json", "seed_0", "reads"}
    assert main(argv) == 0
    assert fake.trained[FIGURES[1]] == ["hnet_hyperldm"]


def test_help_teaches_by_example(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["sweep", "--help"])
    assert stopped.value.code == 0
    out = capsys.readouterr().out
    assert (
        "  hyper-meta sweep --config" in out and "--grid hyperldm_tokens.drop_rate=0.1,0.2" in out
    )


# Of the full configuration, what a run of seconds needs.
TINY = f"""
from pathlib import Path

from hyper_meta.core.configuration import execute_file

def get_config():
    config = execute_file(Path({str(META_VQA)!r}))
    config.num_seeds, config.methods, config.question_tokens = 1, ("hnet_hyperldm",), False
    config.network.hidden_dim, config.batching.num_layouts, config.batching.num_shapes = 3, 1, 1
    config.hnet.update(latent_dim=4, hidden_dims=(5,), inner_steps=1, inner_learning_rate=1.0)
    config.hnet.update(num_steps=4, chunk_steps=4, batch_size=4)
    config.latents.update(base="hnet_maml", nearest="hnet", repeats=2, num_steps=2)
    config.evaluate.few_shot_guides = config.evaluate.control_guides = ()
    config.hyperldm.update(hidden_dim=8, num_blocks=1, sampling_steps=3, num_samples=2)
    config.hyperldm.update(num_steps=60, chunk_steps=60, batch_size=8, few_shot_guidance=())
    config.evaluate.update(guidance_scales=(0.5, 2.0), few_shot_steps=(1,), few_shot_rates=(1.0,))
    config.evaluate.shot_steps = (1,)
    config.evaluate.update(shots=(), num_resamples=50)
    return config
"""
NUM_DIMS = 6


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """A data set of random features: 12 training and 4 test tasks of 2 answers."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    names = {
        "image": [f"image {number}" for number in range(14)],
        "question": [f"What is thing {number}?" for number in range(16)],
        "answer": ["it is red", "it is blue"],
    }
    tasks = {}
    for question in names["question"]:
        items = [[image, str(rng.choice(["red", "blue"]))] for image in names["image"]]
        tasks[question] = {"train": items[:6], "test": items[6:], "answers": ["red", "blue"]}
    content = {
        "meta_train": {question: tasks[question] for question in names["question"][:12]},
        "meta_test": {question: tasks[question] for question in names["question"][12:]},
        "prompt_meta": dict.fromkeys(tasks, "it is {}"),
    }
    for name, value in content.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    arrays = {
        f"{kind}_features": rng.normal(size=(len(texts), NUM_DIMS)).astype(np.float32)
        for kind, texts in names.items()
    }
    keys = ("image_ids", "questions", "answer_prompts")
    arrays |= {key: np.array(texts) for key, texts in zip(keys, names.values(), strict=True)}
    np.savez(folder / "features.npz", **arrays)
    return folder


@pytest.fixture
def trained(monkeypatch):
    """The stages that make at least one step, by name."""
    names, compiled = [], loop._compile
    monkeypatch.setattr(
        loop, "_compile", lambda stage, key: names.append(stage.name) or compiled(stage, key)
    )
    return names


def test_what_is_reused_ends_as_from_scratch(data_dir, programs, trained, tmp_path):
    """A real sweep over a setting of HyperLDM, against a run of its second value alone."""
    (tmp_path / "tiny.py").write_text(TINY)
    given = ["--config", str(tmp_path / "tiny.py"), f"--config.data_dir={data_dir}"]
    given.append(f"--config.compilation_cache={programs}")
    sweep = ["--workdir", str(tmp_path / "w"), "--grid", "hyperldm.drop_rate=0.1,0.5"]
    assert main(["sweep", *given, *sweep]) == 0
    assert trained == ["hnet_maml", "hnet_hyperldm", "hnet_hyperldm"]
    alone = tmp_path / "alone"
    run = ["run", *given, "--workdir", str(alone), "--config.hyperldm.drop_rate=0.5"]
    assert main(run) == 0
    first, second = (tmp_path / "w" / f"hyperldm.drop_rate={rate}" for rate in (0.1, 0.5))
    for part in ("hnet_maml", "hnet_latents"):
        files = [path for path in (second / "seed_0" / part).rglob("*") if path.is_file()]
        assert files
        for path in files:
            assert path.samefile(first / path.relative_to(second))
    read = {
        name: json.loads((second / "seed_0" / "reads" / f"{name}.json").read_text())
        for name in ("hnet_maml", "hnet", "hnet_hyperldm")
    }
    for name, content in read.items():
        # Linked where it was linked, and the same where it was trained alone.
        assert content == json.loads((alone / "seed_0" / "reads" / f"{name}.json").read_text())
        assert set(content) <= set(rules_of(RunSettings)) and content["seed"] == 0
    # Read while programs are compiled, while the stage is built, and by nobody else.
    assert read["hnet_hyperldm"]["hyperldm.drop_rate"] == 0.5
    assert read["hnet_hyperldm"]["evaluate.guidance_scales"] == [0.5, 2.0]
    assert read["hnet_maml"]["hnet.inner_steps"] == 1 and read["hnet"]["latents.repeats"] == 2
    assert not [key for key in read["hnet_maml"] if key.startswith(("hyperldm", "latents"))]
    stages = ("hnet_maml", "hnet_hyperldm")
    names = ["results.json", "seed_0/scores.json", *(f"seed_0/curves/{s}.json" for s in stages)]
    for name in names:
        assert (second / name).read_bytes() == (alone / name).read_bytes()
    shown = [np.load(run / "seed_0" / "shown.npz") for run in (second, alone, first)]
    for name in shown[0].files:
        np.testing.assert_array_equal(shown[0][name], shown[1][name])
    # What is compared depends on the setting.
    assert not np.array_equal(shown[0]["latents"], shown[2]["latents"])
    assert (first / names[-1]).read_bytes() != (second / names[-1]).read_bytes()


def test_a_run_does_not_go_on_with_another_folders_data(data_dir, programs, tmp_path, capsys):
    (tmp_path / "tiny.py").write_text(TINY)
    same, other = tmp_path / "same", tmp_path / "other"
    shutil.copytree(data_dir, same)
    shutil.copytree(data_dir, other)
    arrays = dict(np.load(other / "features.npz"))
    arrays["image_features"] = arrays["image_features"] + 1
    np.savez(other / "features.npz", **arrays)
    argv = ["train", "--config", str(tmp_path / "tiny.py"), "--workdir", str(tmp_path / "w")]
    argv += [f"--config.compilation_cache={programs}", "--method", "references"]
    assert main([*argv, f"--config.data_dir={data_dir}"]) == 0
    assert main([*argv, f"--config.data_dir={same}"]) == 0
    capsys.readouterr()
    assert main([*argv, f"--config.data_dir={other}"]) == 2
    line = capsys.readouterr().err
    assert "holds a run with another data set (dataset " in line and line.count("\n") == 1
