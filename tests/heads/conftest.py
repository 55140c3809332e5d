"""Models of these tests get their kernels from NumPy."""

import library_classifiers
import pytest


@pytest.fixture(autouse=True, scope="module")
def quick_builds():
    with library_classifiers.drawn_by_numpy():
        yield
