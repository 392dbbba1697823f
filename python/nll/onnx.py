# SPDX-License-Identifier: BSD-3-Clause
"""ONNX's two losses, computed by nll: operators, a backend, and a function for ModECI MDF.

It needs onnx: ``python -m pip install "nll[onnx]"``.

`OPERATORS` are ``NegativeLogLikelihoodLoss`` and ``SoftmaxCrossEntropyLoss`` for ONNX's reference
evaluator. They take the place of its own, in all versions of both (operator sets 12, 13 and 22):

>>> import numpy as np
>>> import onnx.parser
>>> from onnx.reference import ReferenceEvaluator
>>> import nll.onnx
>>> model = onnx.parser.parse_model('''
... <ir_version: 8, opset_import: ["": 13]>
... graph (float[N, C] logits, int64[N] target) => (float loss, float[N, C] log_prob) {
...     loss, log_prob = SoftmaxCrossEntropyLoss <ignore_index = -1> (logits, target)
... }''')
>>> logits, target = np.zeros((3, 4), np.float32), np.array([3, -1, 0])
>>> evaluator = ReferenceEvaluator(model, new_ops=nll.onnx.OPERATORS)
>>> evaluator.run(["loss"], {"logits": logits, "target": target})
[array(1.3862944, dtype=float32)]

`Backend` runs whole models so, through the interface that all ONNX backends share. Functions that a
model defines itself are inlined, since the evaluator alone would use its own operators inside them:

>>> loss, log_prob = nll.onnx.Backend.run_model(model, [logits, target])
>>> log_prob[0]
array([-1.3862944, -1.3862944, -1.3862944, -1.3862944], dtype=float32)

The rules are ONNX's where nll's are wider: nothing is ignored unless ``ignore_index`` is given,
input has a batch axis, and each version has its types (bfloat16 from version 22 of
``NegativeLogLikelihoodLoss`` and 13 of ``SoftmaxCrossEntropyLoss``), weight that of input. Anything
else is an error: labels out of range, too, and words that are no reduction.

MDF's execution engine looks its ONNX functions up by name when a graph is evaluated, and runs them
through ONNX Runtime. `negativeloglikelihoodloss` takes the place of the one of that name::

    import modeci_mdf.functions.onnx

    modeci_mdf.functions.onnx.negativeloglikelihoodloss = nll.onnx.negativeloglikelihoodloss

It computes in the dtype that it is given, which the engine makes float64, where the other one
computes in float32. The engine evaluates arguments as Python expressions, so a graph names a
reduction as ``"numpy.str_('sum')"``.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ._arguments import as_array
from ._typing import Array, Losses, Reduction
from .functional import cross_entropy, log_softmax, nll_loss

try:
    import onnx
    from onnx import helper, inliner
    from onnx.backend import base
    from onnx.reference import ReferenceEvaluator
    from onnx.reference.op_run import OpRun
except ModuleNotFoundError as _error:
    if "onnx" not in str(_error.name):
        raise  # something that onnx itself needs
    _needs = 'nll.onnx needs onnx: python -m pip install "nll[onnx]"'
    raise ModuleNotFoundError(_needs, name="onnx") from _error

__all__ = [
    "OPERATORS",
    "Backend",
    "NegativeLogLikelihoodLoss",
    "PreparedModel",
    "SoftmaxCrossEntropyLoss",
    "negativeloglikelihoodloss",
]


class LossOperator(OpRun):
    """What both operators share: the rules of ONNX that are narrower than those of nll.

    Parameters
    ----------
    onnx_node : onnx.NodeProto
        The node of the graph.
    run_params : dict
        What the evaluator says about its run; ``"opsets"`` tells the operator's version.
    schema : onnx.defs.OpSchema, optional
        Where the default values of attributes stand; the newest version's unless given.
    """

    op_domain = ""

    def __init__(
        self,
        onnx_node: onnx.NodeProto,
        run_params: dict[str, Any],
        schema: Any = None,
    ) -> None:
        super().__init__(onnx_node, run_params, schema)
        opset = run_params["opsets"][self.op_domain]
        version = onnx.defs.get_schema(onnx_node.op_type, opset, self.op_domain)
        self.version = f"{version.name} {version.since_version}"
        dtypes = {
            constraint.type_param_str: [as_dtype(name) for name in constraint.allowed_type_strs]
            for constraint in version.type_constraints
        }
        self.parameters = [(i.name, i.type_str, dtypes[i.type_str]) for i in version.inputs]

    def as_arrays(self, *inputs: Any) -> list[Any]:
        """Check the types and the rank of a node's inputs.

        Parameters
        ----------
        *inputs : array_like or None
            Input, target and weight; None for one that is left out.

        Returns
        -------
        list
            The same as arrays, each None still None.

        Raises
        ------
        TypeError
            If this version of the operator does not take an input's dtype, or weight has another
            one than input.
        ValueError
            If input has no batch axis.
        """
        arrays: list[Any] = []
        bound: dict[str, tuple[str, np.dtype[Any]]] = {}
        for (name, variable, allowed), value in zip(self.parameters, inputs, strict=False):
            if value is None:
                arrays.append(None)
                continue
            array = value if type(value) is np.ndarray else as_array(name, value)
            if array.dtype not in allowed:
                listed = ", ".join(map(str, allowed[:-1])) + f" or {allowed[-1]}"
                found = f"{name} has dtype {array.dtype}"
                raise TypeError(f"{found}; in {self.version} it must be {listed}")
            first, dtype = bound.setdefault(variable, (name, array.dtype))
            if array.dtype != dtype:
                found = f"{name} has dtype {array.dtype}"
                raise TypeError(f"{found}, but {first} has {dtype}; ONNX wants them the same")
            arrays.append(array)
        if arrays[0].ndim < 2:
            rule = "ONNX's is (N, C) or (N, C, d1, ..., dk)"
            raise ValueError(f"{self.parameters[0][0]} has shape {arrays[0].shape}; {rule}")
        return arrays


def as_dtype(name: str) -> np.dtype[Any]:
    """Tell the dtype of a tensor type as ONNX's schemas write it.

    Parameters
    ----------
    name : str
        Such as ``"tensor(float16)"``.

    Returns
    -------
    numpy.dtype
        Such as float16.
    """
    word = name.removeprefix("tensor(").removesuffix(")").upper()
    dtype: np.dtype[Any] = helper.tensor_dtype_to_np_dtype(onnx.TensorProto.DataType.Value(word))
    return dtype


class NegativeLogLikelihoodLoss(LossOperator):
    """ONNX's operator of that name, versions 12, 13 and 22, for its reference evaluator.

    Its inputs are input, target and, optionally, weight, as `nll.nll_loss` takes them. Attributes
    are ``ignore_index`` (nothing is ignored without) and ``reduction`` (``"mean"`` without).
    """

    def _run(
        self,
        input: Any,
        target: Any,
        weight: Any = None,
        ignore_index: int | None = None,
        reduction: Reduction = "mean",
    ) -> tuple[Array]:
        arrays = self.as_arrays(input, target, weight)
        loss = nll_loss(*arrays, ignore_index=ignore_index, reduction=reduction)
        return (np.asarray(loss),)


class SoftmaxCrossEntropyLoss(LossOperator):
    """ONNX's operator of that name, versions 12 and 13, for its reference evaluator.

    Its inputs are logits, target and, optionally, weight, as `nll.cross_entropy` takes them.
    Attributes are ``ignore_index`` (nothing is ignored without) and ``reduction`` (``"mean"``
    without). The second output, where the node names it, is the log-softmax.

    Notes
    -----
    With the second output, the loss is the exact loss of those log-probabilities as they are
    returned, which is ONNX's definition, so that the exponentials are taken once. Rounding them
    first may change its last place.
    """

    def _run(
        self,
        input: Any,
        target: Any,
        weight: Any = None,
        ignore_index: int | None = None,
        reduction: Reduction = "mean",
    ) -> tuple[Array] | tuple[Array, Array]:
        arrays = self.as_arrays(input, target, weight)
        if not any(self.onnx_node.output[1:]):
            loss = cross_entropy(*arrays, ignore_index=ignore_index, reduction=reduction)
            return (np.asarray(loss),)
        log_prob = log_softmax(arrays[0])
        loss = nll_loss(log_prob, *arrays[1:], ignore_index=ignore_index, reduction=reduction)
        return np.asarray(loss), log_prob


OPERATORS: list[type[OpRun]] = [NegativeLogLikelihoodLoss, SoftmaxCrossEntropyLoss]


class PreparedModel(base.BackendRep):
    """A model that is ready to run, as `Backend.prepare` returns it.

    Parameters
    ----------
    evaluator : onnx.reference.ReferenceEvaluator
        What computes it.
    """

    def __init__(self, evaluator: ReferenceEvaluator) -> None:
        self.evaluator = evaluator
        self.accepted: list[str] = list(evaluator.input_names)
        initialized = {initializer.name for initializer in evaluator.inits_}
        self.required = [name for name in self.accepted if name not in initialized]

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Compute the outputs of the model.

        Parameters
        ----------
        inputs : sequence or mapping of arrays
            In the order of the graph's inputs, without those that have an initializer; or by name,
            these included.
        **kwargs : dict
            As all backends take them; nothing here asks for one.

        Returns
        -------
        tuple
            Each output of the graph, in its order.

        Raises
        ------
        ValueError
            If they are not those that the graph takes.
        """
        if isinstance(inputs, Mapping):
            feeds = dict(inputs)
        else:
            arrays = [inputs] if isinstance(inputs, np.ndarray) else list(inputs)
            if len(arrays) != len(self.required):
                raise ValueError(f"{len(arrays)} inputs; the graph takes {self.required}")
            feeds = dict(zip(self.required, arrays, strict=True))
        if not set(self.required) <= set(feeds) <= set(self.accepted):
            raise ValueError(f"inputs {list(feeds)}; the graph takes {self.required}")
        return tuple(self.evaluator.run(None, feeds))


class Backend(base.Backend):
    """ONNX's reference evaluator with the losses of nll, as one of ONNX's backends.

    It runs on the CPU whatever the evaluator runs.

    Examples
    --------
    >>> import numpy as np
    >>> import onnx.helper
    >>> import nll.onnx
    >>> node = onnx.helper.make_node("NegativeLogLikelihoodLoss", ["input", "target"], ["loss"])
    >>> input = np.array([[-0.5, -1.0], [-0.25, -2.0]], np.float32)
    >>> nll.onnx.Backend.run_node(node, [input, np.array([0, 1])])
    (array(1.25, dtype=float32),)
    """

    @classmethod
    def prepare(
        cls,
        model: onnx.ModelProto | bytes | str | os.PathLike[str],
        device: str = "CPU",
        **kwargs: Any,
    ) -> PreparedModel:
        """Check a model, and make it ready to run many times.

        Parameters
        ----------
        model : onnx.ModelProto, bytes or path
            The model, its serialised bytes, or the file that holds them.
        device : str
            "CPU".
        **kwargs : dict
            As all backends take them; nothing here asks for one.

        Returns
        -------
        PreparedModel
            Its ``run`` takes the inputs.

        Raises
        ------
        ValueError
            If the device is another one.
        onnx.checker.ValidationError
            If the model is not valid.
        """
        check_device(device)
        super().prepare(model, device, **kwargs)
        if isinstance(model, bytes):
            model = onnx.load_from_string(model)
        elif not isinstance(model, onnx.ModelProto):
            model = onnx.load(model)
        if model.functions:
            model = inliner.inline_local_functions(model)
        return PreparedModel(ReferenceEvaluator(model, new_ops=OPERATORS))

    @classmethod
    def run_node(
        cls,
        node: onnx.NodeProto,
        inputs: Any,
        device: str = "CPU",
        outputs_info: Sequence[tuple[np.dtype[Any], tuple[int, ...]]] | None = None,
        **kwargs: Any,
    ) -> tuple[Any, ...]:
        """Compute one node.

        Parameters
        ----------
        node : onnx.NodeProto
            The node.
        inputs : sequence of arrays
            Its inputs, without those that it leaves out.
        device : str
            "CPU".
        outputs_info : sequence, optional
            As all backends take it; nothing here asks for it.
        **kwargs : dict
            ``opset_version``, the operator set of the node: the newest unless given, or if None.

        Returns
        -------
        tuple
            Each output of the node.

        Raises
        ------
        ValueError
            If the device is another one, or there are fewer or more inputs than the node has.
        onnx.checker.ValidationError
            If the node is not valid.
        """
        check_device(device)
        opset = kwargs.pop("opset_version", None)
        if opset is None:
            opset = onnx.defs.onnx_opset_version()
        super().run_node(node, inputs, device, outputs_info, opset_version=opset, **kwargs)
        untyped = helper.make_empty_tensor_value_info
        arguments = [untyped(name) for name in node.input if name]
        results = [untyped(name) for name in node.output if name]
        graph = helper.make_graph([node], node.op_type, arguments, results)
        evaluator = ReferenceEvaluator(graph, opsets={node.domain: opset}, new_ops=OPERATORS)
        return PreparedModel(evaluator).run(inputs)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Tell whether models run on a device.

        Parameters
        ----------
        device : str
            Such as "CPU" or "CUDA:1".

        Returns
        -------
        bool
            Whether it is the CPU.
        """
        return device.partition(":")[0] == "CPU"


def check_device(device: str) -> None:
    """Refuse a device that is not the CPU.

    Parameters
    ----------
    device : str
        Such as "CPU" or "CUDA:1".

    Raises
    ------
    ValueError
        If it is another one.
    """
    if not Backend.supports_device(device):
        raise ValueError(f"device is {device!r}; nll computes on the CPU")


def negativeloglikelihoodloss(
    input: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    ignore_index: int | None = None,
    reduction: Reduction = "mean",
) -> Losses:
    """Compute the negative log likelihood loss as ModECI MDF's function of that name does.

    Parameters
    ----------
    input : array_like, shape (N, C, d1, ..., dk)
        Log-probabilities.
    target : array_like of integers, shape (N, d1, ..., dk)
        Labels.
    weight : array_like, shape (C,), optional
        Weight of each class. 1 unless given.
    ignore_index : int, optional
        Label of samples to leave out. None are unless given.
    reduction : {"mean", "sum", "none"}
        "none" returns the loss of each sample.

    Returns
    -------
    NumPy scalar, or ndarray of target's shape for "none"
        The loss, in input's dtype.

    Raises
    ------
    TypeError, ValueError, IndexError
        As `nll.nll_loss` does.

    Examples
    --------
    >>> import nll.onnx
    >>> nll.onnx.negativeloglikelihoodloss([[-0.5, -1.0], [-0.25, -2.0]], [0, 1])
    np.float64(1.25)
    """
    arrays: tuple[Any, ...] = (input, target, weight)
    return nll_loss(*arrays, ignore_index=ignore_index, reduction=reduction)
