"""Training runs: command line and config, data, networks and devices, records and measures.

`experiment.train` trains what a config says in a folder of its own, from which a killed run goes
on. The trainers, studies and folders of images are made of these modules.
"""

import repository  # noqa: F401, puts `configs` and `keras_sdd` on the path
