"""Every term of the table against its float64 formula."""

import pytest

from terms.harness import check_term
from terms.table import TERMS


@pytest.mark.parametrize("name", TERMS)
def test_term(name, tmp_path):
    check_term(TERMS[name], tmp_path)
