"""Reports of finished runs: rows, the tables of papers, and verdicts on differences.

`results` reads runs, `tables` has the cells of tables beside them, `verdicts` the statistics, and
`comparisons` the lines and figures of methods that are compared.
"""

import repository  # noqa: F401, puts `configs` and `keras_sdd` on the path
