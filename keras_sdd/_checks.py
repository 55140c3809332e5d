"""Checks of arguments, worded alike everywhere."""

import difflib
import math
import numbers
import operator
import os
import re


def check_scales(scales):
    """Return `scales` as a tuple of different positive integers.

    Raises:
        ValueError: if it is empty, or an entry is not a positive integer or comes twice.
    """
    try:
        values = () if isinstance(scales, str) else tuple(scales)
    except TypeError:
        values = ()
    whole = all(isinstance(m, numbers.Integral) and not isinstance(m, bool) for m in values)
    if not values or not whole or min(values) < 1 or len(set(values)) < len(values):
        raise ValueError(
            "`scales` must be one or more different positive integers, for example (1, 2, 4). "
            f"Received: scales={scales!r}"
        )
    return tuple(int(m) for m in values)


def check_word(name, value, words):
    """Return `value` if it is one of `words`.

    Raises:
        ValueError: otherwise, naming the argument and the choice.
    """
    if not isinstance(value, str) or value not in words:
        choice = " or ".join(repr(word) for word in words)
        raise ValueError(f"`{name}` must be {choice}. Received: {name}={value!r}")
    return value


def check_number(name, value, positive=False):
    """Return `value` as a float if it is finite and at least 0 (above 0 if `positive`).

    Raises:
        ValueError: otherwise, naming the argument.
    """
    try:
        number = math.nan if isinstance(value, (bool, str)) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number) or number < 0 or (positive and number == 0):
        bound = "greater than 0" if positive else "0 or greater"
        raise ValueError(f"`{name}` must be a finite number {bound}. Received: {name}={value!r}")
    return number


def check_numbers(name, values, count=None, positive=False):
    """Return `values` as a tuple of floats, each as `check_number` wants it.

    Raises:
        ValueError: if it is no sequence of `count` such numbers, of one or more if None.
    """
    try:
        entries = () if isinstance(values, (str, dict)) else tuple(values)
    except TypeError:
        entries = ()
    if not entries or count not in (None, len(entries)):
        wanted = "one or more" if count is None else count
        raise ValueError(f"`{name}` must be {wanted} numbers. Received: {name}={values!r}")
    return tuple(check_number(name, value, positive) for value in entries)


def check_integers(least, **values):
    """Check that the values are integers, `least` or greater.

    Raises:
        ValueError: for the first that is not, naming the argument.
    """
    for name, value in values.items():
        whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
        if not whole or value < least:
            raise ValueError(
                f"`{name}` must be an integer, {least} or greater. Received: {name}={value!r}"
            )


def check_input_shape(input_shape):
    """Return the shape of an image as a tuple of three positive integers.

    Raises:
        ValueError: if it is none.
    """
    try:
        shape = tuple(operator.index(x) for x in input_shape)
    except TypeError:
        shape = ()
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(
            "`input_shape` must be that of an image of the data set, for example (224, 224, 3). "
            f"Received: input_shape={input_shape!r}"
        )
    return shape


def check_marker(name, value):
    """Return `value` if it is None or an integer, of any sign.

    Raises:
        ValueError: otherwise, naming the argument.
    """
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if value is not None and not whole:
        raise ValueError(f"`{name}` must be an integer or None. Received: {name}={value!r}")
    return None if value is None else int(value)


def check_known(kind, name, value, known, listed_in):
    """Return `value` if it is one of the names `known`, all of which are in `listed_in`.

    Raises:
        ValueError: otherwise, with the near names of that `kind`.
    """
    if not isinstance(value, str) or value not in known:
        near = ", ".join(find_near(value, sorted(known))) or "none"
        raise ValueError(
            f"Unknown {kind}. Near names: {near}; all are in {listed_in}. "
            f"Received: {name}={value!r}"
        )
    return value


def find_near(value, known, cutoff=0.4):
    """Return up to five of the names `known` that `value` may stand for; all where those are few.

    Args:
        value: what was received.
        known: strings.
        cutoff: how alike they must be, from 0 (not at all) to 1 (equal), unless it is short for
            one, as "lr" is for "learning_rate".
    """
    value, known = str(value), list(known)
    shortened = sorted((name for name in known if _is_short_for(value, name)), key=len)
    alike = difflib.get_close_matches(value, known, n=5, cutoff=cutoff)
    ends = difflib.get_close_matches(_end(value), set(map(_end, known)), cutoff=0.8)
    ending_so = [name for name in known if _end(name) in ends]
    near = list(dict.fromkeys([*alike, *shortened, *ending_so]))[:5]
    return near or (known if len(known) <= 5 else [])


def _end(name):
    """The last part of `"terms.sp_loss.weight"` or `"cifar100/resnet8"`."""
    return re.split("[./]", name)[-1]


def _is_short_for(value, name):
    """Whether `value` is made of beginnings of successive words of a name's last part."""
    short = re.sub("[^a-z0-9]", "", _end(value.lower()))
    words = re.findall("[a-z]+|[0-9]+", _end(name.lower()))
    return bool(short) and any(_begins(short, words[i:]) for i in range(len(words)))


def _begins(short, words):
    if not short or not words:
        return not short
    common = len(os.path.commonprefix([short, words[0]]))
    return any(_begins(short[n:], words[1:]) for n in range(common, 0, -1))


def describe(value):
    """Return what a message says of `value`: of arrays the shape, of long sequences the first."""
    if hasattr(value, "shape"):
        return f"{type(value).__name__} of shape {value.shape}"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key!r}: {describe(x)}' for key, x in value.items())}}}"
    if not isinstance(value, (list, tuple)):
        return repr(value)
    if len(value) > 5:
        return f"{type(value).__name__} of {len(value)}, the first {describe(value[0])}"
    return f"{type(value).__name__} ({', '.join(map(describe, value))})"
