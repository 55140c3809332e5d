"""The parts of `examples/benchmark.py`: what is timed, in which process, and how it is reported.

`methods` has the programs and what they may cost, `programs` and `reference` build them, `turns`
has them take turns in processes that `serve` them, and `report` writes tables and charts.
"""

import repository  # noqa: F401, puts `configs` and `keras_sdd` on the path
