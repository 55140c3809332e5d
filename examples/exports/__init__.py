"""Files of students for devices, and the programs that run them."""

import repository  # noqa: F401, puts `configs` and `keras_sdd` on the path
