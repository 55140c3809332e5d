"""Scenes: several items in an image, so that its regions have other classes than the whole."""

import repository  # noqa: F401, puts `configs` and `keras_sdd` on the path
