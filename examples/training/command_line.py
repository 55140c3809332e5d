"""The command line of the examples: a config with overrides, a folder, messages for mistakes."""

import functools
import importlib.util
import logging as standard_logging
import pathlib
import re
import sys
import textwrap

from absl import app, flags, logging
from ml_collections import config_flags

# Config files import each other as `configs`, and the library may be used without installing it.
from configs import keys, recipes
from training import config_keys


class SetupError(Exception):
    """What the person at the keyboard can put right; shown without a traceback."""


def define_flags(trains=True):
    """Define the flags --config, with its overrides --config.KEY, and --workdir.

    Args:
        trains: whether the program trains, and --distribute says on what.
    """
    config_flags.DEFINE_config_file(
        "config", None, "Experiment, as in configs/cifar100.py:resnet32x4,shufflenet_v1,sd_dkd."
    )
    flags.DEFINE_string("workdir", None, "Folder of the run; by default runs/CELL/READING-seedN.")
    if trains:
        text = "Train on all devices; PyTorch is started by torchrun."
        flags.DEFINE_bool("distribute", False, text)


def launch(main):
    """Parse the flags and call `main(config)`."""
    app.run(functools.partial(_call_main, main), flags_parser=_parse_flags)


def _call_main(main, argv):
    if argv[1:]:
        sys.exit(f"Expected flags only, --name=value. Received: {' '.join(argv[1:])}")
    quieten()
    try:
        main(read_config())
    except SetupError as error:
        sys.exit(f"error: {error}")


def quieten():
    """Let through what matters of what libraries log."""
    logging.set_verbosity(logging.WARNING)
    standard_logging.getLogger("keras_sdd").setLevel("INFO")  # what it does with the teacher
    # Several networks, each traced once: TensorFlow takes that for one traced in vain.
    standard_logging.getLogger("tensorflow").setLevel("ERROR")


def _parse_flags(argv):
    if {"--help", "-help", "-h"} & set(argv[1:]):
        app.usage(shorthelp=True, writeto_stdout=True)
        print(flags.FLAGS.module_help(__name__))
        print(describe_config(_find_path(argv)))
        sys.exit()
    try:
        rest = app.parse_flags_with_usage(argv)
        if flags.FLAGS.config is None:
            sys.exit("Pass --config=configs/FILE.py:EXPERIMENT; the files in configs/ say which.")
        flags.FLAGS.config.lock()  # raises what went wrong with the file
    except LookupError as error:  # from the config file
        sys.exit(f"--config: {error}")
    except AttributeError:
        sys.exit(_describe_unknown_keys(argv))
    except OSError as error:
        sys.exit(f"The config file cannot be read: {error.__cause__ or error}")
    return rest


def _describe_unknown_keys(argv):
    """Return a message that names the overridden keys that no config has, and the near ones."""
    path = _find_path(argv)
    known = list(config_keys.flatten(load_config(path)))
    file, _, arg = path.partition(":")
    module = pathlib.Path(file).stem
    listed = f'python -c "from configs import {module}; print({module}.get_config({arg!r}))"'
    received = [x[1] for x in map(re.compile(r"--?config\.([^=]+)").match, argv) if x]
    try:
        for key in received:
            recipes.pick("key of the config", key, known, listed)
    except LookupError as error:
        return f"{error}"
    return f"A key of the config was refused. Received: {', '.join(received)}"


def _find_path(argv):
    """Return what --config is given, or None."""
    found = re.search(r" --?config[= ](\S+)", " ".join(argv))
    return found and found[1]


def describe_config(path):
    """Return the keys of the config of `"FILE:ARG"` with their values, for --help."""
    if path is None:
        return (
            "\nThe keys of a config, --config.KEY=VALUE, are listed with it: pass --help and\n"
            "--config=configs/FILE.py:EXPERIMENT. The files in configs/ say which there are."
        )
    try:
        found = keys.explain(load_config(path))
    except (LookupError, OSError) as error:
        sys.exit(f"--config: {error}")
    lines = [f"\nKeys of --config={path}:\n"]
    for key, (value, text) in found.items():
        lines.append(f"  --config.{key}: {text}\n    (default: {_shorten(value)})")
    return "\n".join(lines)


def _shorten(value):
    return textwrap.shorten(repr(value), 80, placeholder=" ...")


def load_config(path, **presets):
    """Call `get_config` of `"FILE:ARG"`."""
    file, *arg = path.split(":", 1)
    spec = importlib.util.spec_from_file_location("config_file", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(*arg, **presets)


def read_config():
    """Return the config of the flags; a preset (`reading`, `smoke`) yields to other overrides."""
    flag = flags.FLAGS["config"]
    overrides = config_flags.get_override_values(flag)
    presets = {key: overrides[key] for key in ("reading", "smoke") if key in overrides}
    if not presets:
        return flags.FLAGS.config
    try:
        config = load_config(config_flags.get_config_filename(flag), **presets)
    except LookupError as error:
        raise SetupError(error) from error
    config.update_from_flattened_dict(overrides)
    return config


def choose_workdir(config):
    """Return the folder of a run: the flag's, or else the one that the config names."""
    return pathlib.Path(flags.FLAGS.workdir or name_workdir(config))


def name_workdir(config):
    """Return runs/FILE/EXPERIMENT/READING-seedN."""
    file, arg = config.cell.split(":")
    name = f"{config.reading}-seed{config.seed}" + ("-smoke" if config.smoke else "")
    return pathlib.Path("runs", file, arg.replace(",", "-"), name)
