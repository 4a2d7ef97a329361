"""What is said of features before they are used."""

import numpy as np
from toy_features import split_features

from hyper_meta.data.tasks import Task
from hyper_meta.preparation.stores import tell_alike


def test_answers_that_an_encoder_cannot_tell_apart_are_told(capsys):
    tasks = [Task(f"{name}?", ("yes", "no", "Yes"), "it is {}", "", "", (), ()) for name in "ab"]
    sentences = [*(task.sentence for task in tasks), "it is yes", "it is no", "it is Yes"]
    features = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    given = {"image_ids": [], "image_features": np.zeros((0, 3), np.float32)}
    given |= {"sentences": sentences, "sentence_features": features}
    tell_alike(tasks, split_features(tasks, **given))
    assert capsys.readouterr().err == ""
    features[4] = features[2]
    tell_alike(tasks, split_features(tasks, **given))
    said = capsys.readouterr().err
    assert "2 of 2 tasks have answers that are the same to the encoder" in said
    assert said.endswith("the first are 'yes' and 'Yes' of 'a?'\n")
