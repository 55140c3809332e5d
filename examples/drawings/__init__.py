"""Drawings of what networks see, and the numbers in them.

`cells` draws the cells of an image, `students` two students beside their teacher, with the
`numbers` of both; `run_pairs` reads the runs that `examples/figures.py` holds against each other.
"""

import repository  # noqa: F401, puts `configs` and `keras_sdd` on the path
