"""Train a network of the library with labels only.

    python examples/train_teacher.py --config=configs/cifar100.py:resnet32x4

The folder of the run, `--workdir`, then holds `last.keras`, `best.keras`, the log and the result.
The same command goes on with a run that was killed. `--config.smoke` is a small form on data made
on the spot; `--config.KEY=value` changes any setting; `--distribute` trains on all devices (on
PyTorch, start the program with torchrun).
"""

import train
from training import command_line


def main(config):
    """Train and report."""
    if config.method != "ce":
        raise command_line.SetupError(
            "This trains with labels only, as in --config=configs/cifar100.py:resnet32x4; for "
            f"distillation there is examples/distill.py. Received: {config.cell}"
        )
    train.main(config)


if __name__ == "__main__":
    command_line.define_flags()
    command_line.launch(main)
