"""Which settings a training reads: noted once, kept as they are read, and compared."""

import dataclasses
import functools
import json
from pathlib import Path

import pytest

from hyper_meta.core.configuration import load_settings
from hyper_meta.core.errors import UserError
from hyper_meta.core.settings import RunSettings, as_dict, changed
from hyper_meta.core.settings.watching import watched
from hyper_meta.methods.interface import Setup, remember
from hyper_meta.methods.reads import Reads, are_equal, note, reads_path, take_over, while_training

QUICKSTART = str(Path(__file__).parents[2] / "configs" / "quickstart.py")


@pytest.fixture(scope="module")
def settings():
    return load_settings(QUICKSTART, Path("w"), [])


@pytest.fixture
def reads(tmp_path):
    return Reads(tmp_path / "seed_0")


@pytest.fixture
def setup(settings, reads):
    return Setup(
        watched(settings, functools.partial(note, reads)), reads.folder, {}, {}, reads=reads
    )


def read(settings, name):
    return functools.reduce(getattr, name.split("."), settings)


def kept(reads, method):
    return json.loads(reads_path(reads.folder, method).read_text())


def test_a_watched_record_is_the_record_and_tells_every_leaf(settings):
    told = []
    view = watched(settings, lambda name, value: told.append((name, value)))
    assert isinstance(view, RunSettings) and told == []
    assert view.hyperclip.guidance.steps == settings.hyperclip.guidance.steps
    assert view.seed == 0
    section = view.hnet
    assert told == [("hyperclip.guidance.steps", (30, 100, 300)), ("seed", 0)]
    assert section.latent_dim == 128 and told[-1] == ("hnet.latent_dim", 128)
    with pytest.raises(dataclasses.FrozenInstanceError):
        view.seed = 1
    told.clear()
    assert as_dict(view.network) == as_dict(settings.network)
    assert {name for name, _ in told} == {f"network.{name}" for name in as_dict(settings.network)}


def test_a_copy_of_a_watched_record_has_told_what_it_keeps(settings):
    told = set()
    view = watched(settings, lambda name, value: told.add(name))
    copy = dataclasses.replace(view.latents, repeats=1)
    assert copy.repeats == 1 and copy.pull == settings.latents.pull
    # All but the one that it has another value of.
    expected = {f"latents.{name}" for name in as_dict(settings.latents)}
    assert told == expected - {"latents.repeats"}


def test_what_is_read_is_kept_before_the_training_goes_on(setup, reads):
    read(setup.config, "hvae.beta")  # of no training
    with while_training(reads, "hnet_maml"):
        read(setup.config, "hnet.hidden_dims")
        assert kept(reads, "hnet_maml") == {"hnet.hidden_dims": [128, 128, 128]}
        read(setup.config, "seed")
        assert kept(reads, "hnet_maml") == {"hnet.hidden_dims": [128, 128, 128], "seed": 0}
    with while_training(reads, "references"):
        pass
    read(setup.config, "latents.pull")
    assert kept(reads, "references") == {}
    assert kept(reads, "hnet_maml") == {"hnet.hidden_dims": [128, 128, 128], "seed": 0}


def test_a_training_that_goes_on_keeps_what_was_read_before(settings, setup, reads):
    """A stage that is restored whole is not compiled, and reads less."""
    with pytest.raises(KeyboardInterrupt), while_training(reads, "hnet_maml"):
        read(setup.config, "hnet.hidden_dims")
        raise KeyboardInterrupt
    later = Reads(reads.folder)
    view = watched(settings, functools.partial(note, later))
    with while_training(later, "hnet_maml"):
        read(view, "seed")
    assert kept(reads, "hnet_maml") == {"hnet.hidden_dims": [128, 128, 128], "seed": 0}


def test_who_takes_what_another_training_made_depends_on_all_that_it_read(setup, reads):
    def make():
        return setup.config.batching.num_shapes

    with while_training(reads, "hnet"):
        remember(setup, setup.cache.chosen, "made", make)
        read(setup.config, "latents.pull")
    with while_training(reads, "hvae"):
        remember(setup, setup.cache.chosen, "made", make)
        read(setup.config, "hvae.beta")
    expected = {"batching.num_shapes": 2, "latents.pull": 0.0}
    assert kept(reads, "hnet") == expected
    assert kept(reads, "hvae") == {**expected, "hvae.beta": 1.0}


def test_equal_where_all_that_was_read_is_equal(settings, setup, reads):
    with while_training(reads, "hnet_maml"):
        read(setup.config, "hnet.latent_dim")
        read(setup.config, "hnet.hidden_dims")
    with while_training(reads, "hnet"):
        read(setup.config, "latents.pull")

    def values(**changes):
        as_json = json.loads(json.dumps(as_dict(changed(settings, changes))))
        return {f"{a}.{b}": x for a in ("hnet", "latents") for b, x in as_json[a].items()}

    both = ["hnet_maml", "hnet"]
    assert are_equal(reads.folder, both, values())
    assert are_equal(reads.folder, both, values(**{"hnet.batch_size": 8, "latents.repeats": 9}))
    assert not are_equal(reads.folder, both, values(**{"hnet.latent_dim": 8}))
    assert not are_equal(reads.folder, both, values(**{"hnet.hidden_dims": (8,)}))
    pulled = values(**{"latents.pull": 0.5})
    assert not are_equal(reads.folder, both, pulled)
    assert are_equal(reads.folder, ["hnet_maml"], pulled)
    assert not are_equal(reads.folder, [*both, "hnet_hyperldm"], values())
    unknown = {name: value for name, value in values().items() if name != "latents.pull"}
    assert not are_equal(reads.folder, both, unknown)


def test_what_is_taken_over_joins_what_is_there(reads, tmp_path):
    reads_path(reads.folder, "hnet").parent.mkdir(parents=True)
    reads_path(reads.folder, "hnet").write_text('{"seed": 0, "latents.pull": 0.0}')
    other = tmp_path / "other"
    take_over(reads.folder, other, "hnet")
    assert kept(Reads(other), "hnet") == {"seed": 0, "latents.pull": 0.0}
    reads_path(other, "hnet").write_text('{"hnet.latent_dim": 4}')
    take_over(reads.folder, other, "hnet")
    assert kept(Reads(other), "hnet") == {"seed": 0, "latents.pull": 0.0, "hnet.latent_dim": 4}
    reads_path(other, "hnet").write_text("[]")
    with pytest.raises(UserError, match="is damaged, it holds no settings"):
        are_equal(other, ["hnet"], {})
