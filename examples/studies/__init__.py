"""Studies: many runs that are compared with each other.

`arms` says which runs a study has, `workers` does them side by side, `tuning` chooses settings and
`report` tells what came of it. The program is `examples/study.py`.
"""

import repository  # noqa: F401, puts `configs` and `keras_sdd` on the path
