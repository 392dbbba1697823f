# SPDX-License-Identifier: BSD-3-Clause
"""What stands behind nll.torch: tensors as arrays, autograd, and operators for graphs.

A call in eager mode goes straight to the core with the tensors' memory as arrays. What looks at
operators instead of numbers (torch.compile, torch.func, tracing, tensor subclasses) gets operators
of the dispatcher, whose kernels do the same.
"""

import itertools
import warnings
from collections.abc import Callable, Sequence
from math import isfinite
from sys import intern
from typing import Any

import ml_dtypes
import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function, forward_ad

from . import _arguments, _core

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
NUMPY: dict[torch.dtype, np.dtype[Any]] = {
    torch.float16: np.dtype(np.float16),
    torch.bfloat16: BFLOAT16,
    torch.float32: np.dtype(np.float32),
    torch.float64: np.dtype(np.float64),
}
HALF = (torch.float16, torch.bfloat16)
PLAIN = {Tensor, torch.nn.Parameter}  # neither a subclass's tensor nor a fake one
PLAIN_OR_NONE = {*PLAIN, type(None)}

# What a call chooses, in the order in which the core takes it: ignore_index, reduction, axis,
# index_base, empty and, for the cross-entropy, label_smoothing.
Choices = tuple[Any, ...]

Operator = Callable[..., Tensor]


# ---- memory


def check(name: str, tensor: Any) -> None:
    """Raise TypeError for what is no tensor in the CPU's memory."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} is a {type(tensor).__qualname__}; it must be a torch.Tensor")
    if tensor.is_quantized:
        problem = f"quantised ({tensor.dtype}); pass it .dequantize()d"
    elif tensor.is_nested:
        problem = "nested; pass a padded tensor, and mark the padding in target by ignore_index"
    elif tensor.layout is not torch.strided:
        problem = f"sparse or packed ({tensor.layout}); pass it .to_dense()"
    elif tensor.device.type != "cpu":
        problem = f"on device '{tensor.device}'; nll computes on the CPU: pass it .cpu()"
    elif tensor.is_complex():
        problem = f"complex ({tensor.dtype}); losses are of real numbers"
    else:
        return
    raise TypeError(f"{name} is {problem}")


def array_of(name: str, tensor: Any) -> Any:
    """Take a tensor's memory as an array, of ml_dtypes' bfloat16 for PyTorch's."""
    try:
        if tensor.untyped_storage().nbytes() == 0 and tensor.numel() > 0:
            raise ValueError(f"{name} has no memory: its storage was freed, by resize_(0) perhaps")
        if tensor.dtype is torch.bfloat16:
            return tensor.detach().view(torch.uint16).numpy().view(BFLOAT16)
        return (tensor.detach() if tensor.requires_grad else tensor).numpy()
    except (AttributeError, RuntimeError, TypeError) as error:
        check(name, tensor)
        if tensor.is_neg():  # stored with the wrong sign: the imaginary part of a conjugate
            return array_of(name, tensor.resolve_neg())
        problem = f"has dtype {tensor.dtype}, which NumPy does not have"
        if not torch._C._has_storage(tensor):
            problem = "has no memory of its own that NumPy could read"
        raise TypeError(f"{name} {problem}") from error


def tensor_of(result: Any) -> Tensor:
    """Take an array's memory as a tensor; a scalar becomes one without dimensions."""
    array = np.asarray(result)
    if array.dtype.kind == "V":  # bfloat16; the others' is "f"
        return torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def arrays_of(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    sample_weight: Tensor | None,
) -> tuple[Any, Any, Any, Any]:
    return (
        array_of("input", input),
        array_of("target", target),
        None if weight is None else array_of("weight", weight),
        None if sample_weight is None else array_of("sample_weight", sample_weight),
    )


def check_dtype(dtype: torch.dtype | None) -> None:
    """Raise TypeError for what is no dtype of a loss."""
    if dtype is not None and (type(dtype) is not torch.dtype or dtype not in NUMPY):
        allowed = ", ".join(map(str, NUMPY))
        raise TypeError(f"dtype is {dtype!r}; it must be one of {allowed}")


def numpy_dtype(dtype: torch.dtype | None) -> np.dtype[Any] | None:
    check_dtype(dtype)
    return None if dtype is None else NUMPY[dtype]


# ---- the losses


class Loss:
    """A loss: the core's functions, and the operators nll::name and nll::name_backward.

    The functions take input, target, weight, sample_weight and the choices, in this order; so do
    the operators, whose tensors may have no memory yet. `more` is what their schemas have beside
    the choices that all losses share.
    """

    def __init__(
        self,
        name: str,
        more: str = "",
        value_and_grad: Callable[..., Any] | None = None,
    ) -> None:
        self.name = name
        self.value = getattr(_core, name)
        self.backward = getattr(_core, f"{name}_backward")
        self.value_and_grad = value_and_grad  # where one sweep is less work than two

        tensors = "Tensor input, Tensor target, Tensor? weight, Tensor? sample_weight"
        choices = "int? ignore_index, str reduction, int axis, int index_base, str empty" + more
        self.operator = define(
            f"{name}({tensors}, {choices}, ScalarType? dtype) -> Tensor",
            kernel=self.compute_value,
            fake=self.fake_value,
            backward=self.value_backward,
            setup_context=self.save,
        )
        self.backward_operator = define(
            f"{name}_backward(Tensor grad_output, {tensors}, {choices}) -> Tensor",
            kernel=self.compute_gradient,
            fake=self.fake_gradient,
            backward=refuse_second_derivative,
        )

    def compute_value(self, input: Tensor, target: Tensor, *others: Any) -> Tensor:
        weight, sample_weight, *choices, dtype = interned(others)
        arrays = arrays_of(input, target, weight, sample_weight)
        return tensor_of(self.value(*arrays, *choices, numpy_dtype(dtype), False))

    def fake_value(self, input: Tensor, target: Tensor, *others: Any) -> Tensor:
        _, _, _, reduction, *_, dtype = others
        shape = target.shape if reduction == "none" else ()
        return input.new_empty(shape, dtype=dtype or input.dtype)

    def save(self, ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        input, target, weight, sample_weight, *choices, _ = inputs
        ctx.save_for_backward(input, target, weight, sample_weight)
        ctx.choices = choices

    def value_backward(self, ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        gradient = self.backward_operator(grad_output, *ctx.saved_tensors, *ctx.choices)
        return gradient, *(None,) * (len(ctx.choices) + 4)

    def compute_gradient(self, grad_output: Tensor, input: Tensor, *others: Any) -> Tensor:
        target, weight, sample_weight, *choices = interned(others)
        arguments = grad_output, input, target, weight, sample_weight, choices
        if input.is_contiguous():  # then memory comes from NumPy, which asks for huge pages
            return tensor_of(self.gradient(*arguments))
        out = torch.empty_like(input)  # in the strides that the fake has
        self.gradient(*arguments, array_of("out", out))
        return out

    def fake_gradient(self, grad_output: Tensor, input: Tensor, *others: Any) -> Tensor:
        return torch.empty_like(input)

    def gradient(
        self,
        grad_output: Tensor,
        input: Tensor,
        target: Tensor,
        weight: Tensor | None,
        sample_weight: Tensor | None,
        choices: Sequence[Any],
        out: Any = None,
    ) -> Any:
        """Compute the gradient of input, as an array."""
        is_one = choices[1] != "none"
        given = grad_output.item() if is_one else array_of("grad_output", grad_output)
        arrays = arrays_of(input, target, weight, sample_weight)
        return self.backward(given, *arrays, *choices, out)


def define(
    schema: str,
    *,
    kernel: Operator,
    fake: Operator,
    backward: Callable[..., Any],
    setup_context: Callable[..., None] | None = None,
) -> Operator:
    """Define an operator of the namespace nll."""
    name, _, signature = schema.partition("(")
    qualified = f"nll::{name}"
    torch.library.define(qualified, f"({signature}", tags=(torch.Tag.pt2_compliant_tag,))
    torch.library.impl(qualified, "cpu", kernel)
    torch.library.register_fake(qualified, fake)
    torch.library.register_autograd(qualified, backward, setup_context=setup_context)
    operator: Operator = getattr(torch.ops.nll, name).default
    torch.library.register_vmap(qualified, slice_by_slice(operator, fake))
    return operator


def interned(arguments: Sequence[Any]) -> list[Any]:
    """Make words, which the dispatcher has copied, what the core compares by their addresses."""
    return [intern(given) if isinstance(given, str) else given for given in arguments]


def slice_by_slice(operator: Operator, fake: Operator) -> Callable[..., tuple[Tensor, int]]:
    """Make the rule by which vmap computes an operator: one call for each slice."""

    def rule(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Tensor, int]:
        def each(take: Callable[[Tensor, int], Any], given: Any = lambda x: x) -> list[Any]:
            pairs = zip(arguments, in_dims, strict=True)
            return [given(x) if dim is None else take(x, dim) for x, dim in pairs]

        if info.batch_size == 0:
            like = fake(*each(lambda x, dim: x.new_empty(x.shape[:dim] + x.shape[dim + 1 :])))
            return like.new_empty((0, *like.shape)), 0
        slices = zip(*each(Tensor.unbind, itertools.repeat), strict=False)
        return torch.stack([operator(*arguments) for arguments in slices]), 0

    return rule


def refuse_second_derivative(ctx: Any, *grad_outputs: Tensor) -> None:
    raise RuntimeError(
        "nll.torch has no second derivatives: the gradient of a loss cannot be differentiated; "
        "the losses of torch.nn.functional have them"
    )


def refuse_forward_mode(ctx: Any, *grad_inputs: Tensor) -> None:
    raise RuntimeError(
        "nll.torch has no forward-mode derivatives: take gradients in reverse mode, for example by "
        "torch.func.grad or jacrev; the losses of torch.nn.functional have them"
    )


LABEL_SMOOTHING = ", float label_smoothing"
NLL_LOSS = Loss("nll_loss")
CROSS_ENTROPY = Loss("cross_entropy", LABEL_SMOOTHING, _core.cross_entropy_value_and_grad)
LOSSES = {loss.name: loss for loss in (NLL_LOSS, CROSS_ENTROPY)}


# ---- autograd


class Once(Function):  # type: ignore[misc]
    """A gradient as what depends on all that it was made of, and cannot be differentiated more."""

    generate_vmap_rule = True

    @staticmethod
    def forward(gradient: Tensor, *origins: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    backward = staticmethod(refuse_second_derivative)


def once(gradient: Tensor, grad_output: Tensor, origin: Tensor) -> Tensor:
    """Mark the result of a backward pass; that of create_graph=True could be differentiated.

    origin is a tensor through which autograd finds input. Without it, or without grad_output, a
    path that leads there would count as nothing, and a second derivative would be wrong.
    """
    return Once.apply(gradient, grad_output, origin) if torch.is_grad_enabled() else gradient


def has_numbers(grad_output: Tensor) -> bool:
    """Tell whether a gradient of the loss is plain numbers: no graph's, vmap's or dual ones.

    A backward pass of an eager loss may be compiled, and that of vectorised Jacobians runs under
    an older vmap, of which nothing tells but that its tensors have no memory.
    """
    if looks_at_operators():
        return False
    return type(grad_output) in PLAIN and torch._C._has_storage(grad_output)


def scaled(gradient: Tensor, grad_output: Tensor, is_own: bool) -> Tensor:
    """Multiply a gradient by that of the loss; in place if it is nobody else's, nor used again.

    0 becomes +0 whatever the factor is.
    """
    if not has_numbers(grad_output):
        return torch.where(gradient == 0, 0, gradient * grad_output)
    factor = grad_output.item()
    is_last = is_own and not torch._C._autograd._get_current_graph_task_keep_graph()
    if factor == 1:
        return gradient if is_last else gradient.clone()
    zero = gradient.new_zeros(())
    if not isfinite(factor):
        return torch.where(gradient == 0, zero, gradient * factor)
    return torch.add(zero, gradient, alpha=factor, out=gradient if is_last else None)


class GradientAtHand(Function):  # type: ignore[misc]
    """A loss whose gradient is computed already.

    Its second output, which nobody gets, is an empty tensor made of input: `once` finds input by
    it. To save input itself would keep its memory.
    """

    @staticmethod
    def forward(ctx: Any, input: Tensor, results: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        value, gradient = results
        origin = gradient.new_empty(0)
        ctx.save_for_backward(gradient, origin)
        hooks = torch._C._autograd._top_saved_tensors_default_hooks(True)
        ctx.is_own = hooks is None  # what hooks are given, they may keep
        ctx.set_materialize_grads(False)  # no zeros for origin, which costs more than all of this
        return value, origin

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor | None) -> tuple[Tensor | None, None]:
        grad_output = grad_outputs[0]
        if grad_output is None:
            return None, None
        gradient, origin = ctx.saved_tensors
        return once(scaled(gradient, grad_output, ctx.is_own), grad_output, origin), None


# Function.apply without its look at torch.func's transformations, which are not active here.
attach = super(Function, GradientAtHand).apply


class GradientLater(Function):  # type: ignore[misc]
    """A loss whose gradient is computed in backward."""

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        target: Tensor,
        weight: Tensor | None,
        sample_weight: Tensor | None,
        value: tuple[Tensor],
        loss: Loss,
        choices: Choices,
    ) -> Tensor:
        ctx.save_for_backward(input, target, weight, sample_weight)
        ctx.loss, ctx.choices = loss, choices
        return value[0]

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        arguments = (grad_outputs[0], *ctx.saved_tensors)
        if has_numbers(grad_outputs[0]):
            gradient = tensor_of(ctx.loss.gradient(*arguments, ctx.choices))
        elif torch.compiler.is_compiling():
            gradient = ctx.loss.backward_operator(*arguments, *ctx.choices)
        else:
            choices = choices_of_operators(ctx.choices, *arguments[1:3])
            gradient = TransformedGradient.apply(*arguments, ctx.loss, choices)
        gradient = once(gradient, *arguments[:2])
        return gradient, None, None, None, None, None, None


class Transformed(Function):  # type: ignore[misc]
    """A loss under the transformations of torch.func and other modes: by its operators."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        input: Tensor,
        target: Tensor,
        weight: Tensor | None,
        sample_weight: Tensor | None,
        loss: Loss,
        choices: Choices,
        dtype: torch.dtype | None,
    ) -> Tensor:
        return loss.operator(input, target, weight, sample_weight, *choices, dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:4])
        ctx.loss, ctx.choices, _ = inputs[4:]

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        given = (grad_outputs[0], *ctx.saved_tensors)
        gradient = TransformedGradient.apply(*given, ctx.loss, ctx.choices)
        return gradient, None, None, None, None, None, None

    jvp = staticmethod(refuse_forward_mode)


class TransformedGradient(Function):  # type: ignore[misc]
    """The gradient of a loss under the transformations of torch.func and other modes."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        grad_output: Tensor,
        input: Tensor,
        target: Tensor,
        weight: Tensor | None,
        sample_weight: Tensor | None,
        loss: Loss,
        choices: Choices,
    ) -> Tensor:
        tensors = grad_output, input, target, weight, sample_weight
        return loss.backward_operator(*tensors, *choices)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    backward = staticmethod(refuse_second_derivative)
    jvp = staticmethod(refuse_forward_mode)


# ---- the calls


def looks_at_operators() -> bool:
    """Tell whether a compiler, a transformation or a mode wants operators instead of numbers."""
    return bool(
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack()
        or torch._C._is_tracing()
        or forward_ad._current_level >= 0
    )


def is_plain_call(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    sample_weight: Tensor | None,
) -> bool:
    """Tell whether this call is about numbers, not about operators on tensors without memory."""
    return not (
        looks_at_operators()
        or type(input) not in PLAIN
        or type(target) not in PLAIN
        or type(weight) not in PLAIN_OR_NONE
        or type(sample_weight) not in PLAIN_OR_NONE
    )


def compute(
    loss: Loss,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    sample_weight: Tensor | None,
    choices: Choices,
    dtype: torch.dtype | None,
) -> Tensor:
    """Compute a loss, with what its gradient needs if that is wanted."""
    if not is_plain_call(input, target, weight, sample_weight):
        return compute_in_graph(loss, input, target, weight, sample_weight, choices, dtype)
    if weight is not None:
        refuse_gradient_of("weight", weight)
    if sample_weight is not None:
        refuse_gradient_of("sample_weight", sample_weight)
    if target.dtype in NUMPY:
        refuse_probabilities(target)
    if dtype is None and input.dtype in HALF:
        dtype = dtype_under_autocast(input)

    arrays = arrays_of(input, target, weight, sample_weight)
    needs_gradient = input.requires_grad and torch.is_grad_enabled()
    # float16 overflows and underflows, which a scaled loss is there to prevent: its gradient waits
    # for that of the loss.
    is_scalable = dtype is None and choices[1] != "none" and input.dtype is not torch.float16
    if needs_gradient and is_scalable and loss.value_and_grad is not None:
        value, gradient = loss.value_and_grad(*arrays, *choices, 1.0, False, None)
        return attach(input, (tensor_of(value), tensor_of(gradient)))[0]
    value = tensor_of(loss.value(*arrays, *choices, numpy_dtype(dtype), False))
    if needs_gradient:
        tensors = input, target, weight, sample_weight
        return GradientLater.apply(*tensors, (value,), loss, choices)
    return value


def dtype_under_autocast(input: Tensor) -> torch.dtype | None:
    """Tell which dtype a loss has that was not asked for any: None for input's."""
    is_wider = input.dtype in HALF and torch.is_autocast_enabled("cpu")
    return torch.float32 if is_wider else None


def refuse_probabilities(target: Tensor) -> None:
    raise TypeError(
        f"target has dtype {target.dtype}; labels must be integers. Class probabilities are not "
        f"taken here, but by torch.nn.functional.cross_entropy"
    )


def refuse_gradient_of(name: str, weight: Tensor) -> None:
    if weight.requires_grad and torch.is_grad_enabled():
        raise TypeError(f"{name} requires a gradient, but gets none; pass it .detach()ed")


def compute_in_graph(
    loss: Loss,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    sample_weight: Tensor | None,
    choices: Choices,
    dtype: torch.dtype | None,
) -> Tensor:
    """Compute a loss by its operator."""
    check("input", input)
    check("target", target)
    if target.dtype in NUMPY:
        refuse_probabilities(target)
    for name, given in (("weight", weight), ("sample_weight", sample_weight)):
        if given is not None:
            check(name, given)
            refuse_gradient_of(name, given)
    if dtype is None:
        dtype = dtype_under_autocast(input)
    tensors = input, target, weight, sample_weight
    check_dtype(dtype)
    choices = choices_of_operators(choices, input, target)
    if not torch.compiler.is_compiling():
        return Transformed.apply(*tensors, loss, choices, dtype)
    if torch._C._functorch.peek_interpreter_stack() is None:
        return loss.operator(*tensors, *choices, dtype)
    return transformed(loss.name, *tensors, choices, dtype)


def choices_of_operators(choices: Choices, input: Tensor, target: Tensor) -> Choices:
    """Convert choices by the rules of arrays, which the dispatcher does not have.

    In compiled code a float may be a symbol: its range is checked when the program runs.
    """
    ignore_index, reduction, axis, index_base, empty, *label_smoothing = choices
    if not torch.compiler.is_compiling() or [type(given) for given in label_smoothing] != [float]:
        label_smoothing = [_arguments.as_label_smoothing(given) for given in label_smoothing]
    ignored = _arguments.as_ignore_index(ignore_index)
    if ignored is not None and ignored >= 2**63:  # beyond the integers of operators
        if target.dtype is torch.uint64:
            cure = f"pass target.view(torch.int64) and ignore_index={ignored - 2**64}"
            raise ValueError(f"ignore_index is {ignored}, beyond int64: under torch.func, {cure}")
        ignored = None  # no label can be that
    return (
        ignored,
        _arguments.as_reduction(reduction),
        _arguments.as_axis(axis, input.ndim),
        _arguments.as_index_base(index_base),
        _arguments.as_empty(empty),
        *label_smoothing,
    )


@torch.compiler.allow_in_graph  # type: ignore[untyped-decorator]
def transformed(
    name: str,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    sample_weight: Tensor | None,
    choices: Choices,
    dtype: torch.dtype | None,
) -> Tensor:
    """Compute a loss under torch.func's transformations inside torch.compile.

    Dynamo takes this call as it is. It would open Transformed and find the operator alone, whose
    own autograd these transformations cannot take.
    """
    tensors = input, target, weight, sample_weight
    return Transformed.apply(*tensors, LOSSES[name], choices, dtype)


def reduction_of(size_average: bool | None, reduce: bool | None) -> str:
    """Translate the arguments by which PyTorch chose the reduction before it had a word for it."""
    chosen = "none" if reduce is False else "sum" if size_average is False else "mean"
    warnings.warn(
        f"size_average and reduce are deprecated; write reduction={chosen!r}",
        stacklevel=3,
    )
    return chosen
