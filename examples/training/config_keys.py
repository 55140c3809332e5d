"""The keys of configs, with dots where one lies within another, as `terms.sp_loss.weight`."""

import json


def flatten(values, prefix=""):
    """Return a config, or what was read of one, as one dict of such keys."""
    flat = {}
    for key, value in values.items():
        nested = hasattr(value, "items")
        flat |= flatten(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return flat


def find_changes(written, config, free):
    """Return the keys in which what was read of a config differs from another, `free` ones aside.

    Args:
        written: the contents of a config.json.
        config: the other config.
        free: keys that may differ.
    """
    old, new = flatten(written), flatten(json.loads(config.to_json()))
    keys = (old.keys() | new.keys()) - set(free)
    return sorted(key for key in keys if old.get(key) != new.get(key))
