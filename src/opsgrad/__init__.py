"""Neural-network ops, written once against the array API, each with an explicit backward rule."""

from opsgrad._chain import chain
from opsgrad._errors import (
    ArgumentError,
    AxisError,
    BackendUnavailableError,
    DeviceError,
    DTypeError,
    LabelError,
    MixedBackendsError,
    OpsgradError,
    ParameterError,
    RuleError,
    ShapeError,
    UnknownBackendError,
)
from opsgrad._op import op
from opsgrad._transforms import jacobian, jvp, value_and_grad, vjp
from opsgrad._tuning import set_num_threads, warmup
from opsgrad._which import which_backend
from opsgrad.backends import Backend, backends, to_numpy, use_backend
from opsgrad.ops.activations import (
    abs,
    leaky_relu,
    log_sigmoid,
    prelu,
    relu,
    sigmoid,
    sign,
    softplus,
    tanh,
)
from opsgrad.ops.dense import dense
from opsgrad.ops.losses import (
    cross_entropy,
    hinge_loss,
    l2_loss,
    log_cross_entropy,
    multiclass_hinge_loss,
    nll_loss,
    softmax_cross_entropy,
    softmax_cross_entropy_with_integer_labels,
    squared_error,
)
from opsgrad.ops.norms import l1_norm, l2_norm, lp_norm, squared_l2_norm
from opsgrad.ops.relumax import relumax
from opsgrad.ops.softmax import log_softmax, logsumexp, softmax

__version__ = "0.1.0"

__all__ = [
    "ArgumentError",
    "AxisError",
    "Backend",
    "BackendUnavailableError",
    "DTypeError",
    "DeviceError",
    "LabelError",
    "MixedBackendsError",
    "OpsgradError",
    "ParameterError",
    "RuleError",
    "ShapeError",
    "UnknownBackendError",
    "abs",
    "backends",
    "chain",
    "cross_entropy",
    "dense",
    "hinge_loss",
    "jacobian",
    "jvp",
    "l1_norm",
    "l2_loss",
    "l2_norm",
    "leaky_relu",
    "log_cross_entropy",
    "log_sigmoid",
    "log_softmax",
    "logsumexp",
    "lp_norm",
    "multiclass_hinge_loss",
    "nll_loss",
    "op",
    "prelu",
    "relu",
    "relumax",
    "set_num_threads",
    "sigmoid",
    "sign",
    "softmax",
    "softmax_cross_entropy",
    "softmax_cross_entropy_with_integer_labels",
    "softplus",
    "squared_error",
    "squared_l2_norm",
    "tanh",
    "to_numpy",
    "use_backend",
    "value_and_grad",
    "vjp",
    "warmup",
    "which_backend",
]
