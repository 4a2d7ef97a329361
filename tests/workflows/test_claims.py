"""What may change between the commands on one work directory."""

import json
from pathlib import Path

import pytest

from hyper_meta.core.configuration import load_settings, stored_settings
from hyper_meta.core.types import UserError
from hyper_meta.workflows.run import claim

QUICKSTART = str(Path(__file__).parents[2] / "configs" / "quickstart.py")
SHOTS, SCALES = "--config.evaluate.shots=1,3", "--config.evaluate.guidance_scales=0.7"
METHODS = "--config.methods=references,conditional"


def settings(*overrides):
    return load_settings(QUICKSTART, Path(), overrides)


@pytest.fixture
def trained(tmp_path):
    """A work directory in which a stage was trained that read the guidance scales."""
    claim(settings(), tmp_path)
    seed = tmp_path / "seed_0"
    for name in ("hnet_multitask/00000010", "reads", "guides/conditional"):
        (seed / name).mkdir(parents=True)
    (seed / "hnet_multitask/00000010/notes.json").write_text("{}")
    (seed / "reads/hnet_multitask.json").write_text('{"evaluate.guidance_scales": [1, 2, 4]}')
    (seed / "guides/conditional/notes.json").write_text("{}")
    return tmp_path


@pytest.mark.parametrize("change", [SHOTS, METHODS, "--config.evaluate.num_resamples=50"])
def test_before_it_is_scored_what_no_training_read_may_change(change, trained):
    claim(settings(change), trained)
    assert stored_settings(trained) == settings(change)
    assert (trained / "seed_0/hnet_multitask/00000010/notes.json").exists()
    # A guide was saved with the setting that was chosen before.
    kept = change.startswith("--config.evaluate.num_resamples")
    assert (trained / "seed_0/guides").exists() == kept


@pytest.mark.parametrize("change", [SCALES, "--config.hnet.inner_learning_rate=0.5"])
def test_what_a_training_read_may_not(change, trained):
    with pytest.raises(UserError, match="holds a run with .* choose another --workdir"):
        claim(settings(change), trained)
    assert stored_settings(trained) == settings()


@pytest.mark.parametrize("left", ["scores.json", "rows/3.json"])
@pytest.mark.parametrize("change", [SHOTS, METHODS])
def test_what_is_scored_says_how_to_score_anew(change, left, trained):
    path = trained / "seed_0" / left
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({}))
    with pytest.raises(UserError, match="to score anew, remove scores.json and rows in"):
        claim(settings(change), trained)
    claim(settings("--config.evaluate.num_resamples=50"), trained)
    path.unlink()
    claim(settings(change), trained)
