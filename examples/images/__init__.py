"""A folder of images, from files to a page: what `examples/distill_images.py` does, step by step.

`folder` lists and splits the files, `decoding` and `arrays` make arrays of them, `networks` and
`runs` train on these, `results` reads the test images, and `report` writes the page with the
drawings of `figures`.
"""

import repository  # noqa: F401, puts `configs` and `keras_sdd` on the path
