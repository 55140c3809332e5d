"""Every logit loss of the table against its float64 formula."""

import pytest
from backends import BACKEND

from losses.harness import check_gradient, check_saving, check_scale_decoupled, check_values
from losses.table import LOSSES

every_loss = pytest.mark.parametrize("name", LOSSES)


@every_loss
def test_values(name):
    check_values(LOSSES[name])


@every_loss
def test_gradient_with_many_classes(name):
    check_gradient(LOSSES[name], (4, 1000))


@every_loss
def test_gradient_with_few_classes_and_a_batch_of_one(name):
    check_gradient(LOSSES[name], (1, LOSSES[name].least))


@pytest.mark.skipif(BACKEND == "jax", reason="the same sum on every backend; JAX compiles it")
@every_loss
def test_scale_decoupled(name):
    check_scale_decoupled(LOSSES[name])


@every_loss
def test_saving(name):
    check_saving(LOSSES[name])
