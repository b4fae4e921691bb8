"""Gradients against PyTorch's and JAX's autograd of the textbook formula, where those are right."""

import importlib.util
from typing import Any

import numpy as np
import pytest

import opsgrad as og
from opsgrad.conformance import Row
from opsgrad.conformance.checks import direction, sample

TEXTBOOK = {
    "sigmoid": lambda xp, x: 1 / (1 + xp.exp(-x)),
    "tanh": lambda xp, x: xp.tanh(x),
    "relu": lambda xp, x: xp.where(x > 0, x, 0 * x),
    "leaky_relu": lambda xp, x, negative_slope: xp.where(x > 0, x, negative_slope * x),
    "prelu": lambda xp, x, alpha: xp.where(x > 0, x, alpha * x),
    "softplus": lambda xp, x: xp.log(1 + xp.exp(x)),
    "log_sigmoid": lambda xp, x: -xp.log(1 + xp.exp(-x)),
    "sign": lambda xp, x: xp.sign(x),
    "abs": lambda xp, x: xp.abs(x),
    "softmax": lambda xp, x: probabilities(xp, x),
    "log_softmax": lambda xp, x: xp.log(probabilities(xp, x)),
    "logsumexp": lambda xp, x: xp.log(total(xp, xp.exp(x))),
    "relumax": lambda xp, x, b: (lambda v: v / total(xp, v)[..., None])(
        xp.where(x - top(xp, x) + b > 0, x - top(xp, x) + b, 0 * x)
    ),
    "cross_entropy": lambda xp, p, t: -total(xp, t * xp.log(p)),
    "log_cross_entropy": lambda xp, z, t: -total(xp, t * z),
    "nll_loss": lambda xp, z, k: -total(xp, z * one_hot(xp, z, k)),
    "softmax_cross_entropy": lambda xp, x, t: -total(xp, t * xp.log(probabilities(xp, x))),
    "softmax_cross_entropy_with_integer_labels": lambda xp, x, k: (
        -total(xp, one_hot(xp, x, k) * xp.log(probabilities(xp, x)))
    ),
    "squared_error": lambda xp, p, t: (p - t) ** 2,
    "l2_loss": lambda xp, p, t: (p - t) ** 2 / 2,
    "hinge_loss": lambda xp, s, t, margin: xp.where(margin > t * s, margin - t * s, 0 * s),
    "multiclass_hinge_loss": lambda xp, s, k, margin, kind: multiclass(xp, s, k, margin, kind),
    "lp_norm": lambda xp, x, p: (
        xp.amax(xp.abs(x), -1) if p == np.inf else total(xp, xp.abs(x) ** p) ** (1 / p)
    ),
    "l1_norm": lambda xp, x: total(xp, xp.abs(x)),
    "l2_norm": lambda xp, x: total(xp, x * x) ** 0.5,
    "squared_l2_norm": lambda xp, x: total(xp, x * x),
    "dense": lambda xp, x, w, b: x @ w + b,
}


def total(xp: Any, values: Any) -> Any:
    return xp.sum(values, -1)


def top(xp: Any, x: Any) -> Any:
    return xp.amax(x, -1)[..., None]


def probabilities(xp: Any, x: Any) -> Any:
    return xp.exp(x) / total(xp, xp.exp(x))[..., None]


def one_hot(xp: Any, like: Any, labels: Any) -> Any:
    return (labels[..., None] == xp.arange(like.shape[-1])) * 1.0


def multiclass(xp: Any, scores: Any, labels: Any, margin: float, kind: str) -> Any:
    hot = one_hot(xp, scores, labels)
    missing = scores - total(xp, hot * scores)[..., None] + margin
    missing = xp.where((missing > 0) & (hot == 0), missing, 0 * missing)
    return xp.amax(missing, -1) if kind == "crammer_singer" else total(xp, missing)


def test_every_op_has_its_textbook_formula(row: Row) -> None:
    assert row.name in TEXTBOOK


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
def test_against_torch(row: Row, rng: np.random.Generator) -> None:
    import torch

    for params in row.variants:
        arrays = sample(row, rng, (3, 5))
        tensors = [torch.tensor(a, requires_grad=a.dtype.kind == "f") for a in arrays]
        value = TEXTBOOK[row.name](torch, *tensors, **params)
        y, pull = og.vjp(row.op, *arrays, **params)
        np.testing.assert_allclose(y, value.detach().numpy(), rtol=1e-8, atol=1e-12)
        g = direction(rng, np.asarray(y))
        value.backward(torch.tensor(g))
        for gradient, tensor in zip(pull(g), tensors, strict=True):
            if gradient is not None:
                np.testing.assert_allclose(gradient, tensor.grad.numpy(), rtol=1e-8, atol=1e-12)


@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="jax is not installed")
def test_against_jax(row: Row, rng: np.random.Generator) -> None:
    import jax
    import jax.numpy as jnp

    for params in row.variants:
        arrays = sample(row, rng, (3, 5))
        floating = [k for k, a in enumerate(arrays) if a.dtype.kind == "f"]

        def textbook(*given: Any, arrays: Any = arrays, params: Any = params) -> Any:
            inputs = [jnp.asarray(a) for a in arrays]
            for k, one in zip(floating, given, strict=True):  # noqa: B023
                inputs[k] = one
            return TEXTBOOK[row.name](jnp, *inputs, **params)

        primals = [jnp.asarray(arrays[k]) for k in floating]
        value, pull = jax.vjp(textbook, *primals)
        y, ours = og.vjp(row.op, *arrays, **params)
        np.testing.assert_allclose(y, np.asarray(value), rtol=1e-8, atol=1e-12)
        g = direction(rng, np.asarray(y))
        gradients = [gradient for gradient in ours(g) if gradient is not None]
        for gradient, right in zip(gradients, pull(jnp.asarray(g)), strict=True):
            np.testing.assert_allclose(gradient, np.asarray(right), rtol=1e-8, atol=1e-12)
        tangents = [direction(rng, a) for a in arrays]
        dy = og.jvp(row.op, arrays, tangents, **params)[1]
        directions = [jnp.asarray(tangents[k]) for k in floating]
        right = jax.jvp(textbook, primals, directions)[1]
        np.testing.assert_allclose(dy, np.asarray(right), rtol=1e-8, atol=1e-12)
