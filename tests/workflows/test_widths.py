"""A run on questions that another encoder read than images and answers, token by token."""

import json
from pathlib import Path

import numpy as np
import pytest
from toy_folder import DIM, NUM_TASKS, QUESTION_DIM, TOKEN_DIM, write_folder

from hyper_meta.cli.main import main
from hyper_meta.core.configuration import load_settings
from hyper_meta.core.settings import changed
from hyper_meta.core.types import UserError
from hyper_meta.preparation.prepare import load_data

CONFIG = str(Path(__file__).parents[2] / "configs" / "quickstart.py")
METHODS = ("references", "conditional", "film", "ridge", "hnet_hyperclip", "hnet_hyperldm")
METHODS += ("nearest_latent", "questions")
SETTINGS = (
    *("film.num_steps=2", "film.chunk_steps=1", "conditional.inner_steps=1"),
    *("hyperclip.batch_size=4", "network.hidden_dim=3", "hnet.latent_dim=4", "evaluate.shots="),
    *("dataset=precomputed", "encoder=", f"methods={','.join(METHODS)}"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("widths") / "data")


def test_features_of_three_widths_are_joined(folder):
    given = ["--config.dataset=precomputed", "--config.encoder=", f"--config.data_dir={folder}"]
    given.append("--config.question_tokens=False")
    config = load_settings(CONFIG, Path(), given)
    table = load_data(config).tables["train"]
    assert table.image_features.shape[1] == table.answer_features.shape[1] == DIM
    assert table.questions.pooled.shape[1] == QUESTION_DIM
    assert table.questions.tokens.shape[2] == TOKEN_DIM
    (folder / "question_tokens.npz").rename(folder / "elsewhere.npz")
    try:
        assert load_data(config).tables["train"].questions.tokens is None
        wanting = changed(config, {"question_tokens": True})
        with pytest.raises(UserError, match="has no token states of questions: add question_tok"):
            load_data(wanting)
    finally:
        (folder / "elsewhere.npz").rename(folder / "question_tokens.npz")


def test_every_way_to_read_a_question_takes_any_width(folder, small_settings, programs, tmp_path):
    settings = (*small_settings, *SETTINGS, f"data_dir={folder}", f"compilation_cache={programs}")
    command = ["evaluate", "--config", CONFIG, "--workdir", str(tmp_path / "run")]
    assert main([*command, *(f"--config.{setting}" for setting in settings)]) == 0
    scores = json.loads((tmp_path / "run" / "seed_0" / "scores.json").read_text())
    kinds = [row["kind"] for row in scores["rows"]]
    assert kinds.count("language") >= 6 and kinds.count("control") >= 5
    for split in ("test", "validation"):
        for by_setting in scores[split].values():
            for values in by_setting.values():
                assert np.isfinite(values["correct"]).all()
                assert len(values["count"]) == {"test": NUM_TASKS["test"], "validation": 2}[split]
