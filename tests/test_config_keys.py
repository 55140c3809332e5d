"""The keys of configs: all of them are explained, and nothing else is."""

import list_keys
import pytest
from backends import BACKEND
from test_configs import EXPERIMENTS
from training import command_line, config_keys

from configs import cifar100, keys, own_data, studies
from keras_sdd import losses, terms

pytestmark = pytest.mark.skipif(BACKEND != "torch", reason="alike on all backends")
CONFIG = "configs/cifar100.py:vgg13,vgg8,sd_nkd"


def test_every_key_of_the_trainers_is_explained_and_none_is_left_over():
    seen = set()
    for module, arg in [*EXPERIMENTS, (own_data, "vgg8"), (own_data, "vgg13,vgg8,kd")]:
        config = module.get_config(arg)
        assert set(keys.explain(config)) == set(config_keys.flatten(config)), arg
        seen |= set(config)
    assert seen == {*keys.EXPERIMENT, *keys.DISTILLATION}


def test_every_key_of_the_studies_is_explained_and_none_is_left_over():
    for name in studies.STUDIES:
        config = studies.get_config(name)
        own = {x for x in config if x != "data"} | {f"data.{x}" for x in config.data}
        assert own == set(keys.STUDY) == set(keys.explain(config)), name


def test_explanations_are_sentences_of_one_line():
    for text in [*(x.text for x in keys.KEYS.values()), *keys.OF_ROWS.values()]:
        assert text[0].isupper() or text[0] == "`", text
        assert text.endswith(".") and len(text) < 90 and "\n" not in text, text
    groups = [set(group) for group in keys.GROUPS.values()]
    assert sum(map(len, groups)) == len(keys.KEYS)  # none is in two


def test_arguments_name_classes_that_are_there():
    for module, arg in EXPERIMENTS:
        for key, (_, text) in keys.explain(module.get_config(arg)).items():
            if text.startswith("Argument of"):
                _, package, name = text.rstrip("`.").split(".")
                assert hasattr({"terms": terms, "losses": losses}[package], name), key


def test_help_lists_the_keys_of_a_config_with_their_values():
    text = command_line.describe_config(CONFIG)
    assert "--config.epochs: Passes over the training images.\n    (default: 240)" in text
    assert "--config.terms.distillation_loss.loss.gamma: Argument of `keras_sdd.losses.NKD`" in text
    assert text.count("(default: ") == len(
        config_keys.flatten(cifar100.get_config(*CONFIG.split(":")[1:]))
    )
    assert "--config=configs/FILE.py:EXPERIMENT" in command_line.describe_config(None)
    with pytest.raises(SystemExit, match="Near: vgg13,vgg8"):
        command_line.describe_config(CONFIG.replace("vgg8", "vgg9"))
    assert "(default: {'consistent only':" in command_line.describe_config(
        "configs/studies.py:ablations"
    )


def test_page_has_every_key():
    page = list_keys.format_page()
    for name, key in keys.KEYS.items():
        (line,) = [x for x in page.splitlines() if x.startswith(f"| `{name}` ") and key.text in x]
        assert key.default is keys.OF_THE_FILE or f"`{key.default!r}`" in line
