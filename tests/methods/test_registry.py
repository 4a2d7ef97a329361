import pytest
from toy_setup import tiny_config

from hyper_meta.core.types import UserError
from hyper_meta.methods.names import NAMES
from hyper_meta.methods.registry import METHODS, in_order


def test_what_is_needed_comes_first_and_once():
    config = tiny_config()
    names = in_order(["questions", "hvae_hyperclip", "references", "questions"], config)
    assert len(names) == len(set(names))
    for name in names:
        for need in METHODS[name].needs(config):
            assert names.index(need) < names.index(name)
    assert set(names) == {
        *("questions", "hnet_hyperldm", "hnet", "hnet_maml"),
        *("hvae_hyperclip", "hvae", "mnet_weights", "mnet_maml"),
        "references",
    }


def test_the_order_is_that_of_the_table_whatever_is_asked():
    config = tiny_config()
    assert in_order(METHODS, config) == in_order(reversed(METHODS), config) == list(METHODS)
    assert in_order([], config) == []


def test_a_base_that_the_config_names_is_needed():
    config = tiny_config()
    config.latents.base = "hnet_multitask"
    assert in_order(["hnet_hyperldm"], config) == ["hnet_multitask", "hnet", "hnet_hyperldm"]


@pytest.mark.parametrize("name", ["hnet_reptile", "", "HNet"])
def test_an_unknown_name_is_refused_with_the_known_ones(name):
    with pytest.raises(UserError, match=rf"method '{name}' given, one of .*'hnet_maml'"):
        in_order(["references", name], tiny_config())


def test_the_names_are_those_of_the_registry():
    assert list(METHODS) == list(NAMES)
    for name, method in METHODS.items():
        assert set(method.needs(tiny_config())) <= set(NAMES), name


def test_every_method_says_what_it_is_in_one_line_of_its_own():
    summaries = [method.summary for method in METHODS.values()]
    assert all(0 < len(line) <= 80 and "\n" not in line for line in summaries)
    assert len(set(summaries)) == len(METHODS)
