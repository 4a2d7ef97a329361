"""Compiled programs that are kept between processes."""

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from hyper_meta.core.compilation import keep_programs, keep_quick_programs
from hyper_meta.core.errors import UserError


@pytest.fixture
def cached_in(programs):
    """folder -> compiles a program with config.compilation_cache set to that folder."""

    def compile_one(folder, keep=keep_programs):
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        keep(str(folder))
        compilation_cache.reset_cache()
        jax.jit(lambda x: x + 1.5)(1.0)

    shortest = jax.config.jax_persistent_cache_min_compile_time_secs
    yield compile_one
    jax.config.update("jax_persistent_cache_min_compile_time_secs", shortest)
    jax.config.update("jax_compilation_cache_dir", str(programs))
    compilation_cache.reset_cache()


@pytest.mark.filterwarnings("error")
def test_compiled_programs_are_kept_where_the_config_says(tmp_path, cached_in):
    cached_in(tmp_path / "new")
    assert list((tmp_path / "new").glob("*-cache"))


@pytest.mark.filterwarnings("error")
def test_what_a_killed_process_kept_of_a_program_is_in_nobodys_way(tmp_path, cached_in):
    half = tmp_path / "jit_killed-cache"
    half.write_bytes(b"half")
    cached_in(tmp_path)
    kept = list(tmp_path.glob("*-cache"))
    assert kept and half not in kept
    cached_in(tmp_path)
    assert list(tmp_path.glob("*-cache")) == kept


def test_quick_programs_are_kept_in_a_folder_of_their_own(tmp_path, cached_in):
    cached_in(tmp_path, keep_quick_programs)
    assert list((tmp_path / "quick").glob("*-cache")) and not list(tmp_path.glob("*-cache"))
    assert jax.config.jax_persistent_cache_min_compile_time_secs == 0


def test_where_no_folder_can_be_a_run_is_refused_and_a_quick_command_is_not(tmp_path, programs):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="compiled programs cannot be kept in"):
        keep_programs(str(tmp_path / "file" / "programs"))
    keep_quick_programs(str(tmp_path / "file"))
    keep_quick_programs("")
    assert jax.config.jax_compilation_cache_dir == str(programs)
