"""Models of these tests get their kernels from NumPy."""

import builders
import pytest


@pytest.fixture(autouse=True, scope="module")
def quick_builds():
    with builders.drawn_by_numpy():
        yield
