"""Folders that are written whole, and places that are refused before a long computation."""

import os

import pytest

from hyper_meta.core.errors import UserError
from hyper_meta.core.files import check_empty, whole_folder


def test_what_came_into_a_new_folder_meanwhile_stays(tmp_path):
    place = tmp_path / "new"
    with pytest.raises(UserError, match="cannot write"):
        with whole_folder(place, failure="cannot write it", is_new=True) as partial:
            (partial / "ours").write_text("")
            place.mkdir()
            (place / "precious").write_text("theirs")
    assert (place / "precious").read_text() == "theirs" and len(list(tmp_path.iterdir())) == 1


def test_an_empty_folder_is_filled(tmp_path):
    place = tmp_path / "new"
    place.mkdir()
    check_empty(place)
    with whole_folder(place, failure="cannot write it", is_new=True) as partial:
        (partial / "ours").write_text("")
    assert [path.name for path in place.iterdir()] == ["ours"]


def test_places_that_are_refused(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    monkeypatch.chdir(tmp_path / "empty")
    for place in (tmp_path / "link", tmp_path / "empty"):
        with pytest.raises(UserError, match="is a link, or the folder where you are"):
            check_empty(place)
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    with pytest.raises(UserError, match=f"{tmp_path} may not be written, choose another place"):
        check_empty(tmp_path / "new" / "deep")
