"""The repository's root, on the path from here on: `configs` and `keras_sdd` are found there.

Every folder of the examples imports this first, so the library may be used without installing it.
"""

import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(1, str(ROOT))  # after the folder of the program
