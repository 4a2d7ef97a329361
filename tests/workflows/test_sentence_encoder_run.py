"""The quickstart with questions that a sentence encoder reads: prepared, trained, scored, asked."""

import json

import numpy as np
import pytest
from small_quickstart import CONFIG, SMALL
from toy_sentence_encoder import TINY, write_sentence_encoder

from hyper_meta.cli.main import main
from hyper_meta.generation.generate import generate
from hyper_meta.generation.model import load_model


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, digits_vqa_dir, programs):
    workdir = tmp_path_factory.mktemp("sentence_encoder") / "run"
    encoder = write_sentence_encoder(workdir.parent / "toy")
    settings = (
        *SMALL,
        *(
            f"question_encoder={encoder}",
            "question_tokens=True",
            "evaluate.shots=",
            "methods=conditional",
        ),
        *(f"data_dir={digits_vqa_dir}", f"compilation_cache={programs}"),
    )
    overrides = [f"--config.{setting}" for setting in settings]
    command = ["evaluate", "--config", str(CONFIG), "--workdir", str(workdir), *overrides]
    assert main(command) == 0
    return workdir


def test_the_run_is_of_that_encoder(workdir):
    data = json.loads((workdir / "data.json").read_text())
    assert data["question_tokens"] and data["question_encoder"] != data["encoder"]
    assert (workdir / "seed_0" / "scores.json").exists()


def test_new_sentences_are_read_by_it(workdir):
    model = load_model(workdir)
    assert model.question_encoder.config.hidden_size == TINY["hidden_size"]
    asked = "Which colour does the seven have?"
    one, again, other = (
        generate(model, task).weights for task in (asked, asked, "How many digits are there?")
    )
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).max() > 1e-5
