"""The textbook's formulas, each written out by hand and held against the public functions.

Nothing here knows how an op is computed. Closed forms must agree to 1e-12, central differences
in float64 to 1e-8.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import opsgrad as og

Floats = npt.NDArray[np.float64]

CLOSED_FORM = 1e-12
DIFFERENCE = 1e-8
# The step that balances truncation and rounding in a central difference of float64 numbers.
STEP = 6e-6


def random(*shape: int, seed: int = 0) -> Floats:
    """Draw numbers of the size that logits and weights have."""
    return np.random.default_rng([seed, *shape]).normal(size=shape)


def positive(*shape: int, seed: int = 0) -> Floats:
    """Draw numbers between 0.1 and 1."""
    return np.random.default_rng([seed, *shape]).uniform(0.1, 1.0, size=shape)


def softmax_by_hand(x: Floats) -> Floats:
    """Return the softmax along the last axis as the textbook writes it."""
    powers = np.exp(x)
    total: Floats = powers.sum(axis=-1, keepdims=True)
    return powers / total


def one_hot(labels: npt.NDArray[np.int64], classes: int) -> Floats:
    """Return a one at each label."""
    return np.eye(classes)[labels]


def agree(actual: Any, expected: Any, tolerance: float = CLOSED_FORM) -> None:
    """Compare shapes and numbers, relative to the largest magnitude expected."""
    actual, expected = np.asarray(actual), np.asarray(expected, dtype=np.float64)
    assert actual.shape == expected.shape
    assert actual.dtype == np.float64
    scale = np.max(np.abs(expected), initial=0.0)
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance * scale)


def central_differences(function: Callable[[Floats], Any], x: Floats) -> Floats:
    """Return the gradient of a scalar `function` at `x`."""
    gradient = np.empty_like(x)
    for place in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[place] += STEP
        down[place] -= STEP
        gradient[place] = (float(function(up)) - float(function(down))) / (2 * STEP)
    return gradient


def gradient_of(op: Any, *arrays: Any, cotangent: Any = None, **params: Any) -> tuple[Any, ...]:
    """Pull `cotangent`, or ones, back through `op`."""
    y, pull = og.vjp(op, *arrays, **params)
    gradients: tuple[Any, ...] = pull(np.ones(np.shape(y)) if cotangent is None else cotangent)
    return gradients


# Set 00: relumax


@pytest.mark.parametrize("b", [0.5, 1.0, 3.0])
def test_relumax_is_the_rectified_distance_from_the_maximum_normalised(b: float) -> None:
    z = random(6, 7)
    rectified = np.maximum(z - z.max(axis=-1, keepdims=True) + b, 0.0)
    agree(og.relumax(z, b=b), rectified / rectified.sum(axis=-1, keepdims=True))


def test_relumax_default_b_is_one() -> None:
    agree(og.relumax(np.array([2.0, 1.5, 0.0])), np.array([1.0, 0.5, 0.0]) / 1.5)


def test_relumax_is_translation_invariant() -> None:
    z = np.array([[0.5, 1.0, -1.0, 0.75]])
    agree(og.relumax(z + 8.0), og.relumax(z))


def test_relumax_jacobian_of_four_entries_of_which_the_second_is_the_maximum() -> None:
    z = np.array([0.5, 1.0, -1.0, 0.75])
    total = 0.5 + 1.0 + 0.75
    p1, p2, p4 = 0.5 / total, 1.0 / total, 0.75 / total
    expected = (
        np.array(
            [
                [1 - p1, 2 * p1 - 1, 0, -p1],
                [-p2, 2 * p2, 0, -p2],
                [0, 0, 0, 0],
                [-p4, 2 * p4 - 1, 0, 1 - p4],
            ]
        )
        / total
    )
    agree(og.jacobian(og.relumax, z).dense(), expected)
    for i, unit in enumerate(np.eye(4)):
        agree(gradient_of(og.relumax, z, cotangent=unit)[0], expected[i])
        agree(og.jvp(og.relumax, (z,), (unit,))[1], expected[:, i])


def relumax_jacobian_by_cases(z: Floats, b: float) -> Floats:
    """Write the Jacobian case by case: column inactive, active, or that of the maximum."""
    alpha = z - z.max() + b
    active, top = alpha > 0, int(np.argmax(z))
    total, count = alpha[active].sum(), active.sum()
    p = np.where(active, alpha, 0.0) / total
    jacobian = np.zeros((z.size, z.size))
    for i in np.flatnonzero(active):
        for j in np.flatnonzero(active):
            if j != top:
                jacobian[i, j] = ((i == j) - p[i]) / total
            elif i == top:
                jacobian[i, j] = -p[i] * (1 - count) / total
            else:
                jacobian[i, j] = (-1 - p[i] * (1 - count)) / total
    return jacobian


@pytest.mark.parametrize("b", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("seed", range(5))
def test_relumax_jacobian_case_by_case(b: float, seed: int) -> None:
    z = random(6, seed=seed)
    agree(og.jacobian(og.relumax, z, b=b).dense(), relumax_jacobian_by_cases(z, b))


@pytest.mark.parametrize("b", [0.5, 1.0, 3.0])
def test_relumax_jacobian_rows_and_columns_sum_to_zero(b: float) -> None:
    jacobian = og.jacobian(og.relumax, random(6, 7), b=b).dense()
    assert np.abs(jacobian).max() > 0.1
    np.testing.assert_allclose(jacobian.sum(axis=-1), 0.0, atol=1e-14)
    np.testing.assert_allclose(jacobian.sum(axis=-2), 0.0, atol=1e-14)


def test_relumax_gradient_against_central_differences() -> None:
    z, g = np.array([0.5, 1.0, -1.0, 0.75, 0.2]), random(5)
    numeric = central_differences(lambda z: og.relumax(z) @ g, z)
    agree(gradient_of(og.relumax, z, cotangent=g)[0], numeric, DIFFERENCE)


# Set 01: softmax, cross-entropy, and the way through logarithms


def test_softmax_is_the_exponential_normalised() -> None:
    x = random(6, 7)
    agree(og.softmax(x), softmax_by_hand(x))
    agree(og.softmax(x, axis=0), softmax_by_hand(x.T).T)


def test_softmax_is_translation_invariant() -> None:
    x = random(6, 7)
    agree(og.softmax(x + 100.0), og.softmax(x), 1e-12)
    agree(og.softmax(x - 10.0), og.softmax(x), 1e-12)


def test_softmax_jacobian_is_diagonal_minus_outer_product() -> None:
    x = random(3, 5)
    expected = [np.diag(y) - np.outer(y, y) for y in softmax_by_hand(x)]
    agree(og.jacobian(og.softmax, x).dense(), expected)


def test_softmax_jacobian_times_vectors() -> None:
    x, v = random(3, 5), random(3, 5, seed=1)
    y = softmax_by_hand(x)
    expected = y * (v - (v * y).sum(axis=-1, keepdims=True))
    jacobian = og.jacobian(og.softmax, x)
    agree(jacobian @ v, expected)
    agree(jacobian.T @ v, expected)


def test_softmax_vjp_is_y_times_v_minus_the_mean_of_v() -> None:
    x, v = random(3, 5), random(3, 5, seed=1)
    y = softmax_by_hand(x)
    expected = y * (v - (v * y).sum(axis=-1, keepdims=True))
    agree(gradient_of(og.softmax, x, cotangent=v)[0], expected)
    agree(og.jvp(og.softmax, (x,), (v,))[1], expected)


def test_cross_entropy_is_minus_sum_of_t_log_z_with_gradient_minus_t_over_z() -> None:
    z, t = softmax_by_hand(random(4, 5)), positive(4, 5)
    agree(og.cross_entropy(z, t), -(t * np.log(z)).sum(axis=-1))
    by_probabilities, by_targets = gradient_of(og.cross_entropy, z, t)
    agree(by_probabilities, -t / z)
    agree(by_targets, -np.log(z))


def test_cross_entropy_gradient_grows_without_bound_but_not_through_logits() -> None:
    target = np.array([1.0, 0.0])
    for exponent in (1, 10, 100, 300):
        probs = np.array([10.0**-exponent, 1.0])
        agree(gradient_of(og.cross_entropy, probs, target)[0], [-(10.0**exponent), 0.0])
        logits = np.array([-exponent * np.log(10.0), 0.0])
        by_logits = gradient_of(og.softmax_cross_entropy, logits, target)[0]
        assert np.all(np.abs(by_logits) <= 1.0)
        agree(by_logits, softmax_by_hand(logits) - target)


def test_the_two_routes_of_the_gradient_meet_where_both_are_well_behaved() -> None:
    x, t = random(4, 5), positive(4, 5)
    probs, through_softmax = og.vjp(og.softmax, x)
    (by_probs, _) = gradient_of(og.cross_entropy, probs, t)
    log_probs, through_log_softmax = og.vjp(og.log_softmax, x)
    (by_log_probs, _) = gradient_of(og.log_cross_entropy, log_probs, t)
    expected = gradient_of(og.softmax_cross_entropy, x, t)[0]
    agree(through_softmax(by_probs)[0], expected)
    agree(through_log_softmax(by_log_probs)[0], expected)


def test_tanh_derivative_is_one_minus_tanh_squared() -> None:
    x = random(20)
    agree(og.tanh(x), np.tanh(x))
    agree(gradient_of(og.tanh, x)[0], 1 - np.tanh(x) ** 2)


def test_log_softmax_is_the_logarithm_of_softmax() -> None:
    x = random(4, 5)
    agree(og.log_softmax(x), np.log(softmax_by_hand(x)))


def test_log_softmax_jacobian_is_identity_minus_softmax_in_every_row() -> None:
    x = random(3, 5)
    expected = np.eye(5) - softmax_by_hand(x)[:, np.newaxis, :]
    agree(og.jacobian(og.log_softmax, x).dense(), expected)


def test_log_softmax_vjp_is_v_minus_softmax_times_the_whole_sum_of_v() -> None:
    x, v = random(3, 5), random(3, 5, seed=1)
    expected = v - softmax_by_hand(x) * v.sum(axis=-1, keepdims=True)
    agree(gradient_of(og.log_softmax, x, cotangent=v)[0], expected)
    # The sum includes j = i: for a unit vector the i-th component is 1 - y_i, not 1.
    unit = np.array([0.0, 1.0, 0.0, 0.0, 0.0])
    y = softmax_by_hand(x[0])
    agree(gradient_of(og.log_softmax, x[0], cotangent=unit)[0], unit - y)


def test_log_cross_entropy_is_minus_sum_of_t_z_with_gradient_minus_t() -> None:
    z, t = np.log(softmax_by_hand(random(4, 5))), positive(4, 5)
    agree(og.log_cross_entropy(z, t), -(t * z).sum(axis=-1))
    by_log_probabilities, by_targets = gradient_of(og.log_cross_entropy, z, t)
    agree(by_log_probabilities, -t)
    agree(by_targets, -z)


def test_nll_loss_picks_the_label_with_gradient_minus_one_hot() -> None:
    z, labels = np.log(softmax_by_hand(random(4, 5))), np.array([0, 4, 2, 2])
    agree(og.nll_loss(z, labels), -z[np.arange(4), labels])
    by_log_probabilities, by_labels = gradient_of(og.nll_loss, z, labels)
    agree(by_log_probabilities, -one_hot(labels, 5))
    assert by_labels is None


def test_zero_weights_and_biases_give_zero_gradients_to_the_layers_below() -> None:
    x, targets = random(4, 3), one_hot(np.array([0, 1, 1, 0]), 2)
    params = ((random(3, 5), random(5)), (), (np.zeros((5, 2)), np.zeros(2)))
    logits, pull = og.vjp(og.chain(og.dense, og.sigmoid, og.dense), x, params)
    _, by_logits = og.value_and_grad(og.softmax_cross_entropy)(logits, targets)
    by_x, ((by_w1, by_b1), _, (by_w2, by_b2)) = pull(by_logits)
    for below, shape in ((by_x, (4, 3)), (by_w1, (3, 5)), (by_b1, (5,))):
        np.testing.assert_array_equal(below, np.zeros(shape))
    hidden = 1 / (1 + np.exp(-(x @ params[0][0] + params[0][1])))
    agree(by_w2, hidden.T @ (0.5 - targets))
    np.testing.assert_allclose(by_b2, [0.0, 0.0], atol=1e-15)


def test_all_zero_weights_leave_only_the_last_biases_learning() -> None:
    x, labels = random(4, 3), np.array([0, 1, 1, 1])
    params = ((np.zeros((3, 5)), np.zeros(5)), (), (np.zeros((5, 2)), np.zeros(2)))
    logits, pull = og.vjp(og.chain(og.dense, og.relu, og.dense), x, params)
    loss = og.softmax_cross_entropy_with_integer_labels
    _, by_logits = og.value_and_grad(loss)(logits, labels)
    _, ((by_w1, by_b1), _, (by_w2, by_b2)) = pull(by_logits)
    for by_weights in (by_w1, by_b1, by_w2):
        assert not np.any(by_weights)
    agree(by_b2, [1.0, -1.0])


# Sets 02 and 03: the sigmoid's identities, softmax and cross-entropy together


def test_sigmoid_derivative_is_sigmoid_times_one_minus_sigmoid() -> None:
    x = random(20)
    s = 1 / (1 + np.exp(-x))
    agree(og.sigmoid(x), s)
    agree(gradient_of(og.sigmoid, x)[0], s * (1 - s))
    agree(og.jacobian(og.sigmoid, x).dense(), np.diag(s * (1 - s)))


def test_sigmoid_is_half_of_tanh_of_half_plus_one() -> None:
    x = random(20)
    agree(og.sigmoid(x), 0.5 * (np.tanh(x / 2) + 1))


def test_sigmoid_of_minus_x_is_the_complement() -> None:
    x = random(20)
    agree(og.sigmoid(-x), 1 - og.sigmoid(x))


def test_log_sigmoid_is_minus_softplus_of_minus_x() -> None:
    x = random(20)
    agree(og.log_sigmoid(x), -np.log1p(np.exp(-x)))
    agree(og.log_sigmoid(x), -og.softplus(-x))
    agree(gradient_of(og.log_sigmoid, x)[0], 1 / (1 + np.exp(x)))


def test_softplus_derivative_is_the_sigmoid() -> None:
    x = random(20)
    agree(og.softplus(x), np.log1p(np.exp(x)))
    agree(gradient_of(og.softplus, x)[0], 1 / (1 + np.exp(-x)))


def test_softmax_cross_entropy_gradient_is_prediction_minus_target() -> None:
    x, targets = random(4, 5), one_hot(np.array([0, 4, 2, 2]), 5)
    y = softmax_by_hand(x)
    agree(og.softmax_cross_entropy(x, targets), -(targets * np.log(y)).sum(axis=-1))
    agree(gradient_of(og.softmax_cross_entropy, x, targets)[0], y - targets)


def test_softmax_cross_entropy_gradient_for_targets_that_do_not_sum_to_one() -> None:
    x, targets = random(4, 5), positive(4, 5)
    y = softmax_by_hand(x)
    by_logits, by_targets = gradient_of(og.softmax_cross_entropy, x, targets)
    agree(by_logits, y * targets.sum(axis=-1, keepdims=True) - targets)
    agree(by_targets, -np.log(y))


def test_integer_labels_gradient_is_prediction_minus_one_hot() -> None:
    x, labels = random(4, 5), np.array([0, 4, 2, 2])
    y = softmax_by_hand(x)
    loss = og.softmax_cross_entropy_with_integer_labels
    agree(loss(x, labels), -np.log(y[np.arange(4), labels]))
    by_logits, by_labels = gradient_of(loss, x, labels)
    agree(by_logits, y - one_hot(labels, 5))
    assert by_labels is None


def test_integer_labels_loss_is_logsumexp_minus_the_label_logit() -> None:
    x, labels = random(4, 5), np.array([0, 4, 2, 2])
    expected = np.log(np.exp(x).sum(axis=-1)) - x[np.arange(4), labels]
    agree(og.softmax_cross_entropy_with_integer_labels(x, labels), expected)


def test_logsumexp_gradient_is_the_softmax() -> None:
    x, g = random(4, 5), random(4, seed=1)
    agree(og.logsumexp(x), np.log(np.exp(x).sum(axis=-1)))
    expected = g[:, np.newaxis] * softmax_by_hand(x)
    agree(gradient_of(og.logsumexp, x, cotangent=g)[0], expected)
    agree(og.jacobian(og.logsumexp, x).dense(), softmax_by_hand(x))


class SigmoidNetwork:
    """Set 02: h = sigmoid(x W1 + b1), y = softmax(h W2 + b2), loss -sum t log y."""

    def __init__(self) -> None:
        self.x = random(6, 3)
        self.w1, self.b1 = random(3, 4, seed=1), random(4, seed=2)
        self.w2, self.b2 = random(4, 5, seed=3), random(5, seed=4)
        self.targets = positive(6, 5, seed=5)
        self.targets /= self.targets.sum(axis=-1, keepdims=True)

    def arrays(self) -> tuple[Floats, ...]:
        return self.x, self.w1, self.b1, self.w2, self.b2

    def loss(self, *arrays: Floats) -> float:
        x, w1, b1, w2, b2 = arrays
        hidden = 1 / (1 + np.exp(-(x @ w1 + b1)))
        return float(-(self.targets * np.log(softmax_by_hand(hidden @ w2 + b2))).sum())

    def gradients(self) -> tuple[Floats, ...]:
        hidden = 1 / (1 + np.exp(-(self.x @ self.w1 + self.b1)))
        delta2 = softmax_by_hand(hidden @ self.w2 + self.b2) - self.targets
        delta1 = (delta2 @ self.w2.T) * hidden * (1 - hidden)
        return (
            delta1 @ self.w1.T,
            self.x.T @ delta1,
            delta1.sum(axis=0),
            hidden.T @ delta2,
            delta2.sum(axis=0),
        )

    def gradients_on_logits(self) -> tuple[Any, ...]:
        net = og.chain(og.dense, og.sigmoid, og.dense)
        params = ((self.w1, self.b1), (), (self.w2, self.b2))
        logits, pull = og.vjp(net, self.x, params)
        _, by_logits = og.value_and_grad(og.softmax_cross_entropy)(logits, self.targets)
        by_x, ((by_w1, by_b1), nothing, (by_w2, by_b2)) = pull(by_logits)
        assert nothing == ()
        return by_x, by_w1, by_b1, by_w2, by_b2

    def gradients_on_probabilities(self) -> tuple[Any, ...]:
        net = og.chain(og.dense, og.sigmoid, og.dense, partial(og.softmax, axis=-1))
        params = ((self.w1, self.b1), (), (self.w2, self.b2), ())
        probs, pull = og.vjp(net, self.x, params)
        _, by_probs = og.value_and_grad(og.cross_entropy)(probs, self.targets)
        by_x, ((by_w1, by_b1), _, (by_w2, by_b2), _) = pull(by_probs)
        return by_x, by_w1, by_b1, by_w2, by_b2


def test_sigmoid_network_loss_is_the_formula() -> None:
    network = SigmoidNetwork()
    net = og.chain(og.dense, og.sigmoid, og.dense)
    logits = net(network.x, ((network.w1, network.b1), (), (network.w2, network.b2)))
    loss = og.softmax_cross_entropy(logits, network.targets, reduction="sum")
    agree(loss, network.loss(*network.arrays()))


@pytest.mark.parametrize("route", ["gradients_on_logits", "gradients_on_probabilities"])
def test_sigmoid_network_gradients_in_matrix_form(route: str) -> None:
    network = SigmoidNetwork()
    gradients = getattr(network, route)()
    for gradient, expected in zip(gradients, network.gradients(), strict=True):
        agree(gradient, expected)


def test_sigmoid_network_gradients_against_central_differences() -> None:
    network = SigmoidNetwork()
    arrays = network.arrays()
    for place, gradient in enumerate(network.gradients_on_logits()):

        def loss(moved: Floats, place: int = place) -> float:
            return network.loss(*arrays[:place], moved, *arrays[place + 1 :])

        agree(gradient, central_differences(loss, arrays[place]), DIFFERENCE)


def test_sigmoid_network_of_one_example_has_outer_product_gradients() -> None:
    network = SigmoidNetwork()
    net = og.chain(og.dense, og.sigmoid, og.dense)
    params = ((network.w1, network.b1), (), (network.w2, network.b2))
    x, target = network.x[0], network.targets[0]
    logits, pull = og.vjp(net, x, params)
    by_x, ((by_w1, by_b1), _, (by_w2, by_b2)) = pull(softmax_by_hand(logits) - target)
    hidden = 1 / (1 + np.exp(-(x @ network.w1 + network.b1)))
    delta2 = softmax_by_hand(hidden @ network.w2 + network.b2) - target
    delta1 = (network.w2 @ delta2) * hidden * (1 - hidden)
    agree(by_w2, np.outer(hidden, delta2))
    agree(by_b2, delta2)
    agree(by_w1, np.outer(x, delta1))
    agree(by_b1, delta1)
    agree(by_x, network.w1 @ delta1)


# Set 03: rectifiers, regression, margins, norms, the affine map


@pytest.mark.parametrize("slope", [0.0, 0.01, 0.25, 2.0])
def test_leaky_relu_and_its_derivative(slope: float) -> None:
    x = np.array([-3.0, -0.5, 0.5, 3.0])
    agree(og.leaky_relu(x, negative_slope=slope), [-3 * slope, -0.5 * slope, 0.5, 3.0])
    expected = [slope, slope, 1.0, 1.0]
    agree(gradient_of(og.leaky_relu, x, negative_slope=slope)[0], expected)


def test_leaky_relu_default_slope_is_a_hundredth() -> None:
    agree(og.leaky_relu(np.array([-1.0, 1.0])), [-0.01, 1.0])


def test_parametric_relu_and_its_derivatives_by_x_and_by_alpha() -> None:
    x = np.array([[-3.0, -0.5, 0.5, 3.0], [1.0, -1.0, -2.0, 2.0]])
    alpha = np.array([0.25, 0.5, 0.75, 1.5])
    negative = x < 0
    agree(og.prelu(x, alpha), np.where(negative, alpha * x, x))
    g = random(2, 4)
    by_x, by_alpha = gradient_of(og.prelu, x, alpha, cotangent=g)
    agree(by_x, g * np.where(negative, alpha, 1.0))
    agree(by_alpha, (g * np.where(negative, x, 0.0)).sum(axis=0))


def test_parametric_relu_with_one_alpha_for_all() -> None:
    x, alpha = np.array([-3.0, -0.5, 0.5, 3.0]), np.array(0.25)
    by_x, by_alpha = gradient_of(og.prelu, x, alpha)
    agree(by_x, [0.25, 0.25, 1.0, 1.0])
    agree(by_alpha, -3.5)


def test_parametric_relu_jacobian_by_alpha() -> None:
    x, alpha = np.array([[-3.0, 0.5], [1.0, -2.0]]), np.array([0.25, 0.5])
    expected = np.zeros((2, 2, 2))
    expected[0, 0, 0] = -3.0
    expected[1, 1, 1] = -2.0
    agree(og.jacobian(og.prelu, x, alpha, argnum=1).dense(), expected)


def test_squared_error_and_its_derivatives() -> None:
    pred, target = random(4, 5), random(4, 5, seed=1)
    agree(og.squared_error(pred, target), (pred - target) ** 2)
    by_pred, by_target = gradient_of(og.squared_error, pred, target)
    agree(by_pred, 2 * (pred - target))
    agree(by_target, -2 * (pred - target))


def test_mean_l2_loss_has_gradient_prediction_minus_target_over_n() -> None:
    pred, target = random(10), random(10, seed=1)
    loss, by_pred = og.value_and_grad(og.l2_loss)(pred, target, reduction="mean")
    agree(loss, 0.5 * ((target - pred) ** 2).sum() / 10)
    agree(by_pred, (pred - target) / 10)


def test_l2_loss_is_half_the_squared_error() -> None:
    pred, target = random(4, 5), random(4, 5, seed=1)
    agree(og.l2_loss(pred, target), 0.5 * (pred - target) ** 2)
    agree(og.l2_loss(pred, target, reduction="sum"), 0.5 * ((pred - target) ** 2).sum())


@pytest.mark.parametrize("margin", [0.5, 1.0, 2.0])
def test_hinge_loss_and_its_derivatives(margin: float) -> None:
    scores = random(40)
    targets = np.where(random(40, seed=1) < 0, -1.0, 1.0)
    loss = np.array([max(0.0, margin - t * s) for s, t in zip(scores, targets, strict=True)])
    agree(og.hinge_loss(scores, targets, margin=margin), loss)
    by_scores, by_targets = gradient_of(og.hinge_loss, scores, targets, margin=margin)
    assert 0 < np.count_nonzero(loss) < 40
    agree(by_scores, np.where(loss > 0, -targets, 0.0))
    agree(by_targets, np.where(loss > 0, -scores, 0.0))


@pytest.mark.parametrize("margin", [0.5, 1.0, 2.0])
def test_crammer_singer_hinge_loss_by_brute_force(margin: float) -> None:
    scores, labels = random(8, 5), np.array([0, 1, 2, 3, 4, 0, 1, 2])
    value, gradient = np.zeros(8), np.zeros((8, 5))
    for row, label in enumerate(labels):
        others = [j for j in range(5) if j != label]
        worst = max(others, key=lambda j: scores[row, j])
        value[row] = max(0.0, scores[row, worst] - scores[row, label] + margin)
        if value[row] > 0:
            gradient[row, worst], gradient[row, label] = 1.0, -1.0
    assert np.count_nonzero(value) > 0
    agree(og.multiclass_hinge_loss(scores, labels, margin=margin), value)
    by_scores, by_labels = gradient_of(og.multiclass_hinge_loss, scores, labels, margin=margin)
    agree(by_scores, gradient)
    assert by_labels is None


@pytest.mark.parametrize("margin", [0.5, 1.0, 2.0])
def test_weston_watkins_hinge_loss_by_brute_force(margin: float) -> None:
    scores, labels = random(8, 5), np.array([0, 1, 2, 3, 4, 0, 1, 2])
    value, gradient = np.zeros(8), np.zeros((8, 5))
    for row, label in enumerate(labels):
        for j in range(5):
            violation = scores[row, j] - scores[row, label] + margin
            if j != label and violation > 0:
                value[row] += violation
                gradient[row, j] += 1.0
                gradient[row, label] -= 1.0
    params: dict[str, Any] = {"margin": margin, "kind": "weston_watkins"}
    agree(og.multiclass_hinge_loss(scores, labels, **params), value)
    agree(gradient_of(og.multiclass_hinge_loss, scores, labels, **params)[0], gradient)


@pytest.mark.parametrize("p", [0.3, 0.5, 1.0, 1.5, 2.0, 3.0, 10.0])
def test_lp_norm_and_its_gradient(p: float) -> None:
    x = random(4, 5)
    norm = (np.abs(x) ** p).sum(axis=-1) ** (1 / p)
    agree(og.lp_norm(x, p=p), norm)
    expected = x * np.abs(x) ** (p - 2) / norm[:, np.newaxis] ** (p - 1)
    agree(gradient_of(og.lp_norm, x, p=p)[0], expected)
    agree(og.jacobian(og.lp_norm, x, p=p).dense(), expected)


@pytest.mark.parametrize("p", [0.5, 1.0, 1.5, 2.0, 3.0])
def test_lp_norm_gradient_against_central_differences(p: float) -> None:
    x = np.array([1.0, -2.0, 0.5, 3.0])
    numeric = central_differences(lambda x: og.lp_norm(x, p=p), x)
    agree(gradient_of(og.lp_norm, x, p=p)[0], numeric, DIFFERENCE)


def test_lp_norm_at_infinity_is_the_largest_magnitude() -> None:
    x = np.array([[1.0, -3.0, 2.0], [4.0, 0.0, -1.0]])
    agree(og.lp_norm(x, p=np.inf), [3.0, 4.0])
    agree(gradient_of(og.lp_norm, x, p=np.inf)[0], [[0.0, -1.0, 0.0], [1.0, 0.0, 0.0]])


def test_lp_norm_below_one_is_the_same_formula() -> None:
    agree(og.lp_norm(np.array([4.0, -9.0]), p=0.5), 25.0)
    assert og.lp_norm(np.array([1.0, 1.0]), p=0.5) > og.l1_norm(np.array([1.0, 1.0]))


def test_lp_norm_gradient_where_the_norm_is_beyond_the_range_of_a_ratio() -> None:
    x = np.full(100, 2.0**99, dtype=np.float32)
    x[0] = 2.0**-24  # norm / x[0] would overflow, its root does not
    norm = 99.0**2 * 2.0**99
    (gradient,) = gradient_of(og.lp_norm, x, p=0.5)
    np.testing.assert_allclose(gradient, np.sqrt(norm / x.astype(float)), rtol=1e-6)


def test_affine_map_and_its_derivatives() -> None:
    x, w, b = random(6, 3), random(3, 4, seed=1), random(4, seed=2)
    g = random(6, 4, seed=3)
    agree(og.dense(x, w, b), x @ w + b)
    by_x, by_w, by_b = gradient_of(og.dense, x, w, b, cotangent=g)
    agree(by_x, g @ w.T)
    agree(by_w, x.T @ g)
    agree(by_b, g.sum(axis=0))


def test_affine_map_of_one_row_without_biases() -> None:
    x, w, g = random(3), random(3, 4, seed=1), random(4, seed=2)
    agree(og.dense(x, w), x @ w)
    by_x, by_w = gradient_of(og.dense, x, w, cotangent=g)
    agree(by_x, w @ g)
    agree(by_w, np.outer(x, g))


def test_affine_map_jacobians() -> None:
    x, w, b = random(3), random(3, 4, seed=1), random(4, seed=2)
    agree(og.jacobian(og.dense, x, w, b).dense(), w.T)
    by_w = np.einsum("i,jk->jik", x, np.eye(4))
    agree(og.jacobian(og.dense, x, w, b, argnum=1).dense(), by_w)
    agree(og.jacobian(og.dense, x, w, b, argnum=2).dense(), np.eye(4))


def test_affine_map_derivative_along_all_arguments() -> None:
    x, w, b = random(6, 3), random(3, 4, seed=1), random(4, seed=2)
    dx, dw, db = random(6, 3, seed=3), random(3, 4, seed=4), random(4, seed=5)
    agree(og.jvp(og.dense, (x, w, b), (dx, dw, db))[1], dx @ w + x @ dw + db)


# Set 04: sign, magnitude, rectifier, norms, and the network with a rectifier


def test_sign_and_its_derivative() -> None:
    x = np.array([-2.0, -0.1, 0.0, 0.1, 2.0])
    agree(og.sign(x), [-1.0, -1.0, 0.0, 1.0, 1.0])
    agree(gradient_of(og.sign, x)[0], np.zeros(5))


def test_magnitude_has_the_sign_for_its_derivative_and_zero_at_zero() -> None:
    x = np.array([-2.0, -0.1, 0.0, 0.1, 2.0])
    agree(og.abs(x), [2.0, 0.1, 0.0, 0.1, 2.0])
    agree(gradient_of(og.abs, x)[0], [-1.0, -1.0, 0.0, 1.0, 1.0])


def test_rectifier_has_derivative_one_right_of_zero_and_zero_elsewhere() -> None:
    x = np.array([-2.0, -0.1, 0.0, 0.1, 2.0])
    agree(og.relu(x), [0.0, 0.0, 0.0, 0.1, 2.0])
    agree(gradient_of(og.relu, x)[0], [0.0, 0.0, 0.0, 1.0, 1.0])


def test_squared_l2_norm_has_gradient_two_x() -> None:
    x, g = random(4, 5), random(4, seed=1)
    agree(og.squared_l2_norm(x), (x**2).sum(axis=-1))
    expected = 2 * x * g[:, np.newaxis]
    agree(gradient_of(og.squared_l2_norm, x, cotangent=g)[0], expected)


def test_l1_norm_has_the_sign_for_its_gradient() -> None:
    x, g = random(4, 5), random(4, seed=1)
    agree(og.l1_norm(x), np.abs(x).sum(axis=-1))
    agree(gradient_of(og.l1_norm, x, cotangent=g)[0], np.sign(x) * g[:, np.newaxis])


def test_l1_norm_has_a_gradient_where_the_sum_overflows() -> None:
    x = np.array([[1e308, -1e308, 0.0], [np.inf, 1.0, 2.0], [1.0, -2.0, np.nan]])
    with np.errstate(all="ignore"):
        gradient = gradient_of(og.l1_norm, x, cotangent=np.ones(3))[0]
    np.testing.assert_array_equal(gradient, [[1.0, -1.0, 0.0], [np.nan] * 3, [np.nan] * 3])


def test_l2_norm_has_the_unit_vector_for_its_gradient() -> None:
    x, g = random(4, 5), random(4, 1, seed=1)
    norm = np.sqrt((x**2).sum(axis=-1, keepdims=True))
    agree(og.l2_norm(x, keepdims=True), norm)
    agree(gradient_of(og.l2_norm, x, cotangent=g, keepdims=True)[0], g * x / norm)


class RectifierNetwork:
    """Set 04: h = relu(x W1 + b1), o = h W2 + b2, loss log sum e^o - o_label, mean over the set."""

    def __init__(self) -> None:
        self.x, self.labels = random(8, 3), np.array([0, 1, 2, 3, 4, 0, 1, 2])
        self.w1, self.b1 = random(3, 6, seed=1), random(6, seed=2)
        self.w2, self.b2 = random(6, 5, seed=3), random(5, seed=4)

    def params(self) -> tuple[Floats, ...]:
        return self.w1, self.b1, self.w2, self.b2

    def risk(self, *params: Floats) -> float:
        w1, b1, w2, b2 = params
        logits = np.maximum(self.x @ w1 + b1, 0.0) @ w2 + b2
        at_labels = logits[np.arange(8), self.labels]
        return float((np.log(np.exp(logits).sum(axis=-1)) - at_labels).mean())

    def gradients(self) -> tuple[Floats, ...]:
        before = self.x @ self.w1 + self.b1
        hidden = np.maximum(before, 0.0)
        predictions = softmax_by_hand(hidden @ self.w2 + self.b2)
        by_logits = (predictions - one_hot(self.labels, 5)) / 8
        by_before = (by_logits @ self.w2.T) * (before > 0)
        return (
            self.x.T @ by_before,
            by_before.sum(axis=0),
            hidden.T @ by_logits,
            by_logits.sum(axis=0),
        )

    def risk_and_gradients(self, params: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
        w1, b1, w2, b2 = params
        net = og.chain(og.dense, og.relu, og.dense)
        logits, pull = og.vjp(net, self.x, ((w1, b1), (), (w2, b2)))
        loss = og.value_and_grad(og.softmax_cross_entropy_with_integer_labels)
        risk, by_logits = loss(logits, self.labels, reduction="mean")
        _, (first, _, second) = pull(by_logits)
        return risk, (*first, *second)


def test_rectifier_network_empirical_risk_and_gradients_in_matrix_form() -> None:
    network = RectifierNetwork()
    risk, gradients = network.risk_and_gradients(network.params())
    agree(risk, network.risk(*network.params()))
    for gradient, expected in zip(gradients, network.gradients(), strict=True):
        agree(gradient, expected)


def test_rectifier_network_gradients_against_central_differences() -> None:
    network = RectifierNetwork()
    params = network.params()
    _, gradients = network.risk_and_gradients(params)
    for place, gradient in enumerate(gradients):

        def risk(moved: Floats, place: int = place) -> float:
            return network.risk(*params[:place], moved, *params[place + 1 :])

        agree(gradient, central_differences(risk, params[place]), DIFFERENCE)


def test_rectifier_network_has_as_many_parameters_as_counted() -> None:
    network = RectifierNetwork()
    inputs, hidden, classes = 3, 6, 5
    _, gradients = network.risk_and_gradients(network.params())
    count = hidden * inputs + hidden + classes * hidden + classes
    assert sum(gradient.size for gradient in gradients) == count == 59


def test_gradient_descent_lowers_the_empirical_risk() -> None:
    network = RectifierNetwork()
    params = network.params()
    risks = []
    for _ in range(50):
        risk, gradients = network.risk_and_gradients(params)
        risks.append(float(risk))
        params = tuple(w - 0.05 * g for w, g in zip(params, gradients, strict=True))
    assert all(later < earlier for earlier, later in pairwise(risks))
    assert risks[-1] < 0.7 * risks[0]


def test_zero_logits_cost_the_logarithm_of_the_number_of_classes() -> None:
    labels = np.array([0, 1, 2, 3])
    loss = og.softmax_cross_entropy_with_integer_labels(np.zeros((4, 5)), labels)
    agree(loss, np.full(4, np.log(5.0)))
