"""Classifiers of other libraries, as small as they come."""

import repository  # noqa: F401, puts `configs` and `keras_sdd` on the path
