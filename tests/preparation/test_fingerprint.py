"""The fingerprint of data and encoder that a work directory keeps."""

import pytest

from hyper_meta.core.errors import UserError
from hyper_meta.core.files import write_json
from hyper_meta.preparation.fingerprint import FILE, PARTS, check_data, claim_data

FINGERPRINT = dict.fromkeys(PARTS, "0123456789abcdef")


def test_the_first_claim_keeps_it_and_later_ones_check_it(tmp_path):
    claim_data(FINGERPRINT, tmp_path)
    claim_data(FINGERPRINT, tmp_path)
    check_data(FINGERPRINT, tmp_path)


@pytest.mark.parametrize("part", PARTS)
def test_what_differs_is_named(part, tmp_path):
    claim_data(FINGERPRINT, tmp_path)
    before = (tmp_path / FILE).read_bytes()
    for check in (claim_data, check_data):
        with pytest.raises(UserError) as caught:
            check(FINGERPRINT | {part: "fedcba9876543210"}, tmp_path)
        words = f"another {PARTS[part]} ({part} 0123456789ab, now fedcba987654)"
        assert words in str(caught.value) and "\n" not in str(caught.value)
    assert (tmp_path / FILE).read_bytes() == before


@pytest.mark.parametrize("content", [[], {}, {"dataset": "a"}])
def test_a_damaged_file_is_refused(content, tmp_path):
    write_json(tmp_path / FILE, content)
    with pytest.raises(UserError, match="is damaged"):
        check_data(FINGERPRINT, tmp_path)


def test_a_run_without_one_is_refused_where_it_is_only_read(tmp_path):
    with pytest.raises(UserError, match="cannot read"):
        check_data(FINGERPRINT, tmp_path)
