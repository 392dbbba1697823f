# SPDX-License-Identifier: BSD-3-Clause
"""nll.torch beside PyTorch: its own samples, autograd, compiled graphs, transformations, modes, training."""

from __future__ import annotations

import contextlib
import copy
import doctest
import inspect
import pickle
import random
import sys
import warnings
from functools import partial

import numpy as np
import pytest

torch = pytest.importorskip("torch")
ml_dtypes = pytest.importorskip("ml_dtypes")

import torch.nn.functional as F  # noqa: E402

import nll  # noqa: E402
import nll.torch  # noqa: E402
from nll import _torch as bridge  # noqa: E402
from support.oracle import assert_same_bits  # noqa: E402
from support.samples import random_logits, random_target, random_weight  # noqa: E402

LOSSES = ["nll_loss", "cross_entropy"]
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
MODULES = {"nll_loss": "NLLLoss", "cross_entropy": "CrossEntropyLoss"}
assert_close = partial(torch.testing.assert_close, equal_nan=True)


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@pytest.fixture(params=LOSSES)
def name(request):
    """Of a loss."""
    return request.param


@pytest.fixture
def ours(name):
    return getattr(nll.torch, name)


@pytest.fixture
def theirs(name):
    return getattr(F, name)


@pytest.fixture(params=DTYPES, ids=name_of)
def dtype(request):
    """Of the input."""
    return request.param


@pytest.fixture
def random_tensors(rng):
    """Make input, target and weight."""

    def make(shape=(6, 4, 5), dtype=torch.float64):
        input = tensor_of(random_logits(rng, shape, np.float32)).to(dtype)
        target = tensor_of(random_target(rng, (*shape[:1], *shape[2:]), shape[1], ignored=-100))
        return input, target, tensor_of(abs(random_weight(rng, shape[1], np.float32)) + 0.125).to(dtype)

    return make


def tensor_of(array):
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def array_of(tensor):
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def leaf(tensor):
    """A tensor of the same values that requires a gradient."""
    return tensor.detach().clone().requires_grad_()


def gradient(function, input, *arguments, grad_output=None, **keywords):
    """The gradient of input, for gradients of 1 unless others are given."""
    input = leaf(input)
    loss = function(input, *arguments, **keywords)
    return torch.autograd.grad(loss, input, torch.ones_like(loss) if grad_output is None else grad_output)[0]


# ---- the numbers


class TestBits:
    """The results are those of nll for the same numbers."""

    def test_loss(self, name, ours, random_tensors, dtype, reduction):
        input, target, weight = random_tensors(dtype=dtype)
        expected = getattr(nll, name)(array_of(input), array_of(target), array_of(weight), reduction=reduction)
        assert_same_bits(array_of(ours(input, target, weight, reduction=reduction)), np.asarray(expected))

    def test_loss_with_a_graph(self, name, ours, random_tensors, dtype, reduction):
        input, target, weight = random_tensors(dtype=dtype)
        loss = ours(leaf(input), target, weight, reduction=reduction)
        assert loss.requires_grad
        assert_same_bits(array_of(loss), array_of(ours(input, target, weight, reduction=reduction)))

    def test_gradient(self, name, ours, random_tensors, dtype, reduction):
        input, target, weight = random_tensors(dtype=dtype)
        arrays = array_of(input), array_of(target), array_of(weight)
        given = np.ones(target.shape) if reduction == "none" else 1.0
        expected = getattr(nll, f"{name}_backward")(given, *arrays, reduction=reduction)
        assert_same_bits(array_of(gradient(ours, input, target, weight, reduction=reduction)), expected)

    def test_choices(self, name, ours, random_tensors):
        input, target, _ = random_tensors()
        choices = {"axis": -1, "index_base": 1, "ignore_index": None, "empty": "zero"}
        input, target = input.movedim(1, -1), target.clamp(min=0) + 1
        expected = getattr(nll, name)(array_of(input), array_of(target), **choices)
        assert_same_bits(array_of(ours(input, target, **choices)), np.asarray(expected))

    def test_label_smoothing(self, random_tensors):
        input, target, weight = random_tensors()
        expected = nll.cross_entropy(array_of(input), array_of(target), array_of(weight), label_smoothing=0.1)
        assert_same_bits(
            array_of(nll.torch.cross_entropy(input, target, weight, label_smoothing=0.1)), np.asarray(expected)
        )

    def test_dtype_of_the_loss(self, ours, dtype):
        input, target = torch.full((8, 2), -30000.0, dtype=torch.float16), torch.zeros(8, dtype=torch.uint8)
        assert ours(input, target, reduction="sum", dtype=dtype).dtype is dtype

    def test_dtype_keeps_a_large_sum(self):
        input, target = torch.full((8, 2), -30000.0, dtype=torch.float16), torch.zeros(8, dtype=torch.uint8)
        assert nll.torch.nll_loss(input, target, reduction="sum", dtype=torch.float32) == 8 * 30000.0
        assert nll.torch.nll_loss(input, target, reduction="sum").isinf()

    @pytest.mark.parametrize("target_dtype", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"])
    def test_target_dtypes(self, ours, random_tensors, target_dtype):
        input, target, _ = random_tensors()
        narrow = target.clamp(min=0).to(getattr(torch, target_dtype))
        assert ours(input, narrow) == ours(input, target.clamp(min=0))

    @pytest.mark.parametrize("weight_dtype", [*DTYPES, torch.int64], ids=name_of)
    def test_weight_dtypes(self, ours, random_tensors, weight_dtype):
        input, target, _ = random_tensors(dtype=torch.float32)
        weight = torch.arange(1, 5).to(weight_dtype)
        assert ours(input, target, weight) == ours(input, target, weight.double())

    def test_one_sample_without_a_batch(self, ours, theirs):
        input, target = torch.tensor([0.5, -1.0, 2.0]), torch.tensor(2)
        assert_close(ours(input, target), theirs(input, target))
        assert_close(gradient(ours, input, target), gradient(theirs, input, target))

    def test_bfloat16_mean_with_ignored_samples(self):
        """PyTorch: 0.0167."""
        input, target = torch.full((16384, 1), -1.0, dtype=torch.bfloat16), torch.zeros(16384, dtype=torch.int64)
        target[::16] = -100
        assert nll.torch.nll_loss(input, target) == 1

    def test_gradient_of_a_confident_prediction(self):
        """PyTorch: 0."""
        input, target = torch.tensor([[20.0, 0.0, 0.0]]), torch.tensor([0])
        assert_close(gradient(nll.torch.cross_entropy, input, target)[0, 0].item(), -4.122307e-09, rtol=1e-6, atol=0.0)


LAYOUTS = {
    "contiguous": lambda tensor: tensor.contiguous(),
    "channels-last": lambda tensor: tensor.movedim(1, -1).contiguous().movedim(-1, 1),
    "every-second": lambda tensor: tensor.repeat_interleave(2, -1)[..., ::2],
    "expanded": lambda tensor: tensor[..., :1].expand(tensor.shape),
}


class TestMemory:
    """The core reads and writes the tensors' own memory."""

    @pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
    def test_no_copy(self, monkeypatch, name, ours, random_tensors, dtype, layout):
        input, target, weight = random_tensors(dtype=dtype)
        input, target = layout(input), layout(target)
        loss, seen = getattr(bridge, name.upper()), []

        def spy(*arguments):
            seen.extend(arguments[:3])
            return value(*arguments)

        value = loss.value
        monkeypatch.setattr(loss, "value", spy)
        ours(input, target, weight)
        for tensor, array in zip((input, target, weight), seen, strict=True):
            assert array.ctypes.data == tensor.data_ptr()
            assert array.strides == tuple(tensor.element_size() * stride for stride in tensor.stride())

    @pytest.mark.parametrize("layout", ["contiguous", "channels-last"])
    def test_gradient_has_the_strides_of_input(self, ours, random_tensors, dtype, layout):
        input, target, _ = random_tensors(dtype=dtype)
        input = LAYOUTS[layout](input).requires_grad_()
        ours(input, target).backward()
        assert input.grad.stride() == input.stride()

    def test_negated_view(self, ours, random_tensors):
        """PyTorch keeps the imaginary part of a conjugate with the wrong sign."""
        input, target, _ = random_tensors()
        negated = torch.complex(input, -input).conj().imag
        assert negated.is_neg()
        assert ours(negated, target) == ours(input, target)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=name_of)
    @pytest.mark.parametrize("name_of_freed", ["input", "target", "weight", "sample_weight"])
    @pytest.mark.parametrize("part", [slice(None), slice(1, None)], ids=["whole", "part"])
    def test_freed_memory_is_not_read(self, ours, random_tensors, dtype, name_of_freed, part):
        """What shards a model over processes frees a parameter so, and it keeps its shape."""
        input, target, weight = random_tensors((6, 4), dtype)
        tensors = {"input": input, "target": target, "weight": weight, "sample_weight": torch.ones(6)}
        whole = torch.cat([tensors[name_of_freed][:1], tensors[name_of_freed]])
        tensors[name_of_freed] = whole[1:] if part.start else tensors[name_of_freed].clone()
        tensors[name_of_freed].untyped_storage().resize_(0)
        with pytest.raises(ValueError, match=f"{name_of_freed} has no memory"):
            ours(**tensors)


@pytest.fixture(scope="module")
def databases():
    """PyTorch's lists of its operators and of its modules, with the samples by which it tests them."""
    pytest.importorskip("expecttest", reason="torch.testing._internal imports it")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.testing._internal.common_methods_invocations import op_db
        from torch.testing._internal.common_modules import module_db
    return op_db, module_db


class TestPyTorchSamples:
    """The samples by which PyTorch tests its own losses, those whose target is labels."""

    @pytest.fixture(autouse=True)
    def seed(self):
        torch.manual_seed(0)
        random.seed(0)

    @pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True to a scalar")
    def test_operators(self, databases, name, ours, theirs, dtype):
        info = next(info for info in databases[0] if info.name == f"nn.functional.{name}")
        samples = [s for s in info.sample_inputs("cpu", dtype) if not s.args[0].is_floating_point()]
        assert len(samples) == {"nll_loss": 61, "cross_entropy": 11}[name]
        # PyTorch adds up halves in half precision; so it gets the same numbers in single precision.
        wide = torch.float32 if dtype.itemsize == 2 else dtype
        for sample in samples:
            as_wide = sample.transform(lambda x: x.to(wide) if torch.is_tensor(x) and x.is_floating_point() else x)
            arguments, keywords = (sample.input, *sample.args), sample.kwargs
            assert_close(ours(*arguments, **keywords), theirs(as_wide.input, *as_wide.args, **as_wide.kwargs).to(dtype))
            expected = gradient(theirs, as_wide.input, *as_wide.args, **as_wide.kwargs).to(dtype)
            assert_close(gradient(ours, *arguments, **keywords), expected)

    @pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True to a scalar")
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=name_of)
    def test_modules(self, databases, name, dtype):
        theirs = getattr(torch.nn, MODULES[name])
        info = next(info for info in databases[1] if info.module_cls is theirs)
        samples = info.module_inputs_func(info, device="cpu", dtype=dtype, requires_grad=True, training=True)
        samples = [s for s in samples if not s.forward_input.args[1].is_floating_point()]
        assert len(samples) == {"nll_loss": 28, "cross_entropy": 69}[name]
        for sample in samples:
            construction, arguments = sample.constructor_input, sample.forward_input.args
            ours = getattr(nll.torch, MODULES[name])(*construction.args, **construction.kwargs)
            module = theirs(*construction.args, **construction.kwargs)
            assert_close(ours(*arguments), module(*arguments))
            assert_close(gradient(ours, *arguments), gradient(module, *arguments))
            if sample.reference_fn is not None:
                assert_close(ours(*arguments), sample.reference_fn(ours, *arguments))

    def test_errors_of_modules(self, databases):
        info = next(info for info in databases[1] if info.module_cls is torch.nn.CrossEntropyLoss)
        errors = info.module_error_inputs_func(
            info, device="cpu", dtype=torch.float32, requires_grad=False, training=True
        )
        for error in errors:
            construction, forward = error.module_error_input.constructor_input, error.module_error_input.forward_input
            module = nll.torch.CrossEntropyLoss(*construction.args, **construction.kwargs)
            with pytest.raises((TypeError, ValueError)):
                module(*forward.args, **forward.kwargs)


# ---- autograd


class TestSampleWeight:
    """A weight of each sample goes wherever that of a class goes."""

    @pytest.fixture(params=["of-target's-shape", "broadcast"])
    def sample_weight(self, request):
        return torch.rand((6, 5) if request.param == "of-target's-shape" else (6, 1))

    def test_loss_and_gradient(self, name, ours, random_tensors, sample_weight, dtype, reduction):
        input, target, weight = random_tensors(dtype=dtype)
        arrays = array_of(input), array_of(target), array_of(weight)
        choices = {"sample_weight": sample_weight.numpy(), "reduction": reduction}
        keywords = {"sample_weight": sample_weight, "reduction": reduction}
        expected = getattr(nll, name)(*arrays, **choices)
        assert_same_bits(array_of(ours(input, target, weight, **keywords)), np.asarray(expected))
        given = np.ones(target.shape) if reduction == "none" else 1.0
        expected = getattr(nll, f"{name}_backward")(given, *arrays, **choices)
        assert_same_bits(array_of(gradient(ours, input, target, weight, **keywords)), expected)

    def test_modules_take_it_with_the_call(self, name, ours, random_tensors, sample_weight):
        input, target, _ = random_tensors()
        module = getattr(nll.torch, MODULES[name])(reduction="sum")
        assert module(input, target, sample_weight) == ours(input, target, sample_weight=sample_weight, reduction="sum")

    def test_compiled(self, ours, random_tensors, sample_weight):
        input, target, _ = random_tensors(dtype=torch.float32)
        compiled = torch.compile(ours, backend="aot_eager", fullgraph=True)
        keywords = {"sample_weight": sample_weight}
        assert_close(compiled(input, target, **keywords), ours(input, target, **keywords))
        assert_close(gradient(compiled, input, target, **keywords), gradient(ours, input, target, **keywords))

    def test_vmap_and_grad(self, ours, random_tensors):
        input, target, _ = random_tensors((6, 4))
        weights = torch.rand(3, 6)
        each = torch.func.vmap(torch.func.grad(lambda x, w: ours(x, target, sample_weight=w)), (None, 0))
        expected = [gradient(ours, input, target, sample_weight=w) for w in weights]
        assert_close(each(input, weights), torch.stack(expected))

    def test_it_gets_no_gradient(self, ours, random_tensors):
        input, target, _ = random_tensors()
        with pytest.raises(TypeError, match="sample_weight requires a gradient"):
            ours(input, target, sample_weight=torch.ones(6, 5, requires_grad=True))


def gradient_with_a_graph(loss, input):
    return torch.autograd.grad(loss, input, create_graph=True)[0]


def of_the_gradient(loss, input):
    input = leaf(input)
    return torch.autograd.grad(gradient_with_a_graph(loss(input), input).square().sum(), input)


def of_what_the_logits_are_made_of(loss, input):
    input = leaf(input)
    return torch.autograd.grad(gradient_with_a_graph(loss(input * input), input).sum(), input)


def of_a_factor_of_the_loss(loss, input):
    input, factor = leaf(input), torch.tensor(2.0, dtype=input.dtype, requires_grad=True)
    return torch.autograd.grad(gradient_with_a_graph(factor * loss(input), input).square().sum(), factor)


def penalty(loss, input):
    input = leaf(input)
    value = loss(2 * input)
    (value + gradient_with_a_graph(value, input).norm()).backward()


def with_ones(product):
    return lambda loss, input: product(loss, input, torch.ones_like(input))


SECOND_DERIVATIVES = {
    "gradient": of_the_gradient,
    "logits": of_what_the_logits_are_made_of,
    "factor": of_a_factor_of_the_loss,
    "penalty": penalty,
    "hessian": torch.autograd.functional.hessian,
    "hvp": with_ones(torch.autograd.functional.hvp),
    "vhp": with_ones(torch.autograd.functional.vhp),
    "jvp": with_ones(torch.autograd.functional.jvp),
    "vectorised": partial(torch.autograd.functional.hessian, vectorize=True),
}


class TestAutograd:
    def test_gradcheck(self, ours, random_tensors, reduction):
        input, target, weight = random_tensors((3, 4, 2))
        assert torch.autograd.gradcheck(lambda x: ours(x, target, weight, reduction=reduction), leaf(input))

    def test_gradcheck_of_label_smoothing(self, random_tensors, reduction):
        input, target, weight = random_tensors((3, 4, 2))
        loss = partial(nll.torch.cross_entropy, reduction=reduction, label_smoothing=0.2)
        assert torch.autograd.gradcheck(lambda x: loss(x, target, weight), leaf(input))

    def test_backward_of_cross_entropy_does_not_call_the_core(self, monkeypatch, random_tensors):
        input, target, _ = random_tensors(dtype=torch.float32)
        input = input.requires_grad_()
        loss = nll.torch.cross_entropy(input, target)
        monkeypatch.setattr(bridge.CROSS_ENTROPY, "backward", None)
        loss.backward()
        assert_same_bits(array_of(input.grad), nll.cross_entropy_backward(1.0, array_of(input), array_of(target)))

    @pytest.mark.parametrize("factor", [1.0, 0.5, -3.0])
    def test_gradient_at_hand_is_scaled_in_its_own_memory(self, random_tensors, factor):
        input, target, _ = random_tensors(dtype=torch.float32)
        input = input.requires_grad_()
        loss = nll.torch.cross_entropy(input, target)
        address = loss.grad_fn.saved_tensors[0].data_ptr()
        loss.backward(torch.tensor(factor))
        assert input.grad.data_ptr() == address

    @pytest.mark.parametrize("factor", [1.0, 0.375, -3.0, float("inf"), float("nan")])
    @pytest.mark.parametrize("keep", [False, True], ids=["once", "retain-graph"])
    def test_gradient_of_ignored_samples_is_positive_zero(self, ours, random_tensors, dtype, reduction, factor, keep):
        input, target, _ = random_tensors(dtype=dtype)
        input = input.requires_grad_()
        loss = ours(input, target, reduction=reduction)
        loss.backward(torch.full_like(loss, factor), retain_graph=keep)
        ignored = input.grad.movedim(1, -1)[target == -100]
        assert_same_bits(array_of(ignored), array_of(torch.zeros_like(ignored)))

    @pytest.mark.parametrize("factor", [0.375, -3.0, 1e-3])
    def test_scaled_gradient(self, name, ours, random_tensors, dtype, factor):
        input, target, weight = random_tensors(dtype=dtype)
        grad_output = torch.tensor(factor, dtype=dtype)
        arrays = array_of(input), array_of(target), array_of(weight)
        expected = getattr(nll, f"{name}_backward")(grad_output.item(), *arrays)
        assert_close(gradient(ours, input, target, weight, grad_output=grad_output), tensor_of(expected))

    def test_float16_keeps_gradients_that_only_a_scaled_loss_can_hold(self):
        input = torch.zeros(1, 4096, dtype=torch.float16)
        input[0, 0] = 11.0
        target = torch.zeros(1, dtype=torch.int64)
        scaled = gradient(nll.torch.cross_entropy, input, target, grad_output=torch.tensor(4096.0).half())
        expected = nll.cross_entropy_backward(4096.0, array_of(input), array_of(target))
        assert_same_bits(array_of(scaled), expected)
        assert scaled.count_nonzero() > gradient(nll.torch.cross_entropy, input * 1.6, target).count_nonzero()

    def test_gradient_of_each_sample(self, name, ours, random_tensors, dtype):
        input, target, _ = random_tensors(dtype=dtype)
        grad_output = torch.linspace(-1, 1, target.numel()).reshape(target.shape).to(dtype)
        expected = getattr(nll, f"{name}_backward")(
            array_of(grad_output), array_of(input), array_of(target), reduction="none"
        )
        given = gradient(ours, input, target, reduction="none", grad_output=grad_output)
        assert_same_bits(array_of(given), expected)

    def test_two_backward_passes_accumulate(self, ours, random_tensors):
        input, target, _ = random_tensors()
        once = gradient(ours, input, target)
        input = input.requires_grad_()
        loss = ours(input, target)
        loss.backward(retain_graph=True)
        loss.backward()
        assert_close(input.grad, 2 * once)

    def test_gradient_of_a_kept_graph_is_the_callers_own(self, ours, random_tensors):
        input, target, _ = random_tensors()
        input = input.requires_grad_()
        loss = ours(input, target)
        (first,) = torch.autograd.grad(loss, input, retain_graph=True)
        kept = first.clone()
        first.zero_()
        assert_close(torch.autograd.grad(loss, input)[0], kept)

    def test_a_graph_is_used_once(self, ours, random_tensors):
        input, target, _ = random_tensors()
        loss = ours(leaf(input), target)
        loss.backward()
        with pytest.raises(RuntimeError, match="second time"):
            loss.backward()

    def test_gradient_through_the_model(self, ours, theirs, random_tensors):
        input, target, _ = random_tensors((6, 4))
        assert_close(
            gradient(lambda x: 3 * ours(torch.log_softmax(x @ x.T[:, :4], 1), target), input),
            gradient(lambda x: 3 * theirs(torch.log_softmax(x @ x.T[:, :4], 1), target), input),
        )

    def test_changed_target_is_noticed(self, random_tensors):
        input, target, _ = random_tensors()
        loss = nll.torch.nll_loss(leaf(input), target)
        target.zero_()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()

    def test_checkpoint(self, ours, random_tensors):
        from torch.utils.checkpoint import checkpoint

        input, target, _ = random_tensors()
        expected = gradient(lambda x: ours(x * 2, target), input)
        given = gradient(lambda x: checkpoint(lambda x: ours(x * 2, target), x, use_reentrant=False), input)
        assert_close(given, expected)

    def test_saved_tensors_hooks(self, ours, random_tensors):
        input, target, _ = random_tensors()
        with torch.autograd.graph.save_on_cpu():
            given = gradient(ours, input, target)
        assert_close(given, gradient(ours, input, target))

    @pytest.mark.parametrize("factor", [1.0, -3.0])
    def test_what_hooks_keep_does_not_change(self, random_tensors, factor):
        input, target, _ = random_tensors()
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
            loss = nll.torch.cross_entropy(leaf(input), target)
        copies = [tensor.clone() for tensor in kept]
        input = leaf(input)
        loss.backward(torch.tensor(factor, dtype=input.dtype))
        assert all(map(torch.equal, kept, copies))

    def test_gradient_with_a_graph_of_its_own(self, ours, random_tensors, dtype, reduction):
        """create_graph=True changes no number, and the gradient may be used as any tensor."""
        input, target, _ = random_tensors(dtype=dtype)
        x = leaf(input)
        loss = ours(x, target, reduction=reduction)
        (given,) = torch.autograd.grad(loss.sum(), x, create_graph=True)
        assert given.requires_grad
        assert_same_bits(array_of(given), array_of(gradient(ours, input, target, reduction=reduction)))
        (again,) = torch.autograd.grad(loss.sum(), x)
        assert_same_bits(array_of(again), array_of(given))

    def test_loss_may_change_in_place(self, ours, random_tensors, reduction):
        """A step of several batches divides it so."""
        input, target, _ = random_tensors()

        def divided(input):
            loss = ours(input, target, reduction=reduction)
            loss /= 4
            return loss.sum()

        expected = gradient(lambda x: ours(x, target, reduction=reduction).sum() / 4, input)
        assert_close(gradient(divided, input), expected)

    @pytest.mark.parametrize("way", ["is_grads_batched", "vmap"])
    def test_batched_gradients(self, ours, random_tensors, dtype, reduction, way):
        """Of many gradients of one loss: what vectorised Jacobians call backward with."""
        input, target, _ = random_tensors(dtype=dtype)
        x = leaf(input)
        loss = ours(x, target, reduction=reduction)
        given = torch.linspace(-1, 1, 3 * loss.numel()).reshape(3, *loss.shape).to(dtype)

        def pull(grad_output, **choices):
            return torch.autograd.grad(loss, x, grad_output, retain_graph=True, **choices)[0]

        batched = torch.vmap(pull)(given) if way == "vmap" else pull(given, is_grads_batched=True)
        assert_close(batched, torch.stack([pull(each) for each in given]))

    def test_vectorised_jacobian(self, ours, theirs, random_tensors, reduction):
        input, target, _ = random_tensors((3, 4))
        given, expected = (
            torch.autograd.functional.jacobian(lambda x: loss(x, target, reduction=reduction), input, vectorize=True)  # noqa: B023
            for loss in (ours, theirs)
        )
        assert_close(given, expected)

    def test_gradcheck_of_batched_gradients(self, ours, random_tensors, reduction):
        input, target, _ = random_tensors((3, 4, 2))
        loss = partial(ours, target=target, reduction=reduction)
        assert torch.autograd.gradcheck(loss, leaf(input), check_batched_grad=True)

    @pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
    def test_tangent_of_a_gradient_does_not_drop_out(self, name, ours, random_tensors, reduction):
        """Forward over reverse mode: a gradient at hand is a factor of it."""
        input, target, _ = random_tensors()
        x = leaf(input)
        loss = ours(x, target, reduction=reduction)
        ones = torch.ones_like(loss)
        at_hand = name == "cross_entropy" and reduction != "none"
        refused = pytest.raises(RuntimeError, match="no forward-mode derivatives")
        with torch.autograd.forward_ad.dual_level(), contextlib.nullcontext() if at_hand else refused:
            (given,) = torch.autograd.grad(loss, x, torch.autograd.forward_ad.make_dual(ones, ones))
            tangent = torch.autograd.forward_ad.unpack_dual(given).tangent
            assert_close(tangent, gradient(F.cross_entropy, input, target, reduction=reduction))

    @pytest.mark.parametrize("way", SECOND_DERIVATIVES.values(), ids=SECOND_DERIVATIVES.keys())
    def test_second_derivative_is_refused(self, ours, random_tensors, reduction, way):
        """Whatever the gradient is made of: a graph that left out a part would give wrong numbers."""
        input, target, _ = random_tensors((3, 4))
        with pytest.raises(RuntimeError, match="no second derivatives"):
            way(lambda x: ours(x, target, reduction=reduction).sum(), input)

    def test_second_derivative_of_what_hooks_save_is_refused(self, ours, random_tensors):
        input, target, _ = random_tensors((3, 4))
        with torch.autograd.graph.save_on_cpu(), pytest.raises(RuntimeError, match="no second derivatives"):
            of_what_the_logits_are_made_of(lambda x: ours(x, target), input)

    def test_gradient_at_hand_does_not_keep_the_logits(self, random_tensors):
        input, target, _ = random_tensors()
        logits = 1 * leaf(input)
        saved = nll.torch.cross_entropy(logits, target).grad_fn.saved_tensors
        memory = logits.untyped_storage().data_ptr()
        assert all(tensor.untyped_storage().data_ptr() != memory for tensor in saved)
        assert sum(tensor.nbytes for tensor in saved) == logits.nbytes

    @pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
    def test_forward_mode_is_refused(self, ours, random_tensors):
        input, target, _ = random_tensors()
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(input, input)
            with pytest.raises(RuntimeError, match="no forward-mode derivatives"):
                ours(dual, target)


class TestModes:
    def test_no_grad(self, ours, random_tensors):
        input, target, _ = random_tensors()
        with torch.no_grad():
            assert not ours(leaf(input), target).requires_grad

    def test_inference_mode(self, ours, random_tensors):
        input, target, _ = random_tensors()
        expected = ours(input, target)
        with torch.inference_mode():
            loss = ours(input.clone(), target)
        assert loss.is_inference()
        assert loss.clone() == expected

    @pytest.mark.parametrize("half", [torch.float16, torch.bfloat16], ids=name_of)
    def test_autocast(self, ours, theirs, random_tensors, reduction, half):
        """Losses of halves are in single precision, without a copy of input."""
        input, target, _ = random_tensors(dtype=half)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss, expected = (function(input, target, reduction=reduction) for function in (ours, theirs))
            given, expected_gradient = (
                gradient(function, input, target, reduction=reduction) for function in (ours, theirs)
            )
        assert loss.dtype is expected.dtype is torch.float32
        assert_close(loss, expected)
        assert given.dtype is half
        assert_close(given, expected_gradient)

    def test_autocast_leaves_double_alone(self, ours, random_tensors):
        input, target, _ = random_tensors()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert ours(input, target).dtype is torch.float64

    def test_deterministic_algorithms(self, ours, random_tensors):
        input, target, _ = random_tensors()
        torch.use_deterministic_algorithms(True)
        try:
            gradient(ours, input, target)
        finally:
            torch.use_deterministic_algorithms(False)

    def test_modes_of_functions_see_the_call(self, name, ours, random_tensors):
        input, target, _ = random_tensors()
        seen = []

        class Log(torch.overrides.TorchFunctionMode):
            def __torch_function__(self, function, types, args=(), kwargs=None):
                seen.append(function)
                return function(*args, **(kwargs or {}))

        with Log():
            loss = ours(input, target)
        assert ours in seen
        assert loss == ours(input, target)

    def test_subclass(self, ours, random_tensors):
        class Named(torch.Tensor):
            pass

        input, target, _ = random_tensors()
        named = input.as_subclass(Named).requires_grad_()
        loss = ours(named, target)
        loss.backward()
        assert isinstance(loss, Named)
        assert_close(named.grad.as_subclass(torch.Tensor), gradient(ours, input, target))

    def test_fake_tensors(self, ours, random_tensors, reduction):
        from torch._subclasses import FakeTensorMode

        input, target, _ = random_tensors()
        with FakeTensorMode() as mode:
            loss = ours(*map(mode.from_tensor, (input, target)), reduction=reduction)
        assert loss.shape == ours(input, target, reduction=reduction).shape


# ---- graphs


@pytest.fixture
def inductor():
    """PyTorch's compiler, whose first import warns of what is deprecated in PyTorch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch._inductor.compile_fx
    torch._dynamo.reset()
    yield torch.compile
    torch._dynamo.reset()


class TestCompile:
    @pytest.mark.parametrize(
        ("name", "backend"), [("nll_loss", "aot_eager"), ("cross_entropy", "aot_eager"), ("cross_entropy", "inductor")]
    )
    def test_model_without_graph_breaks(self, inductor, theirs, ours, random_tensors, backend):
        """Of batches of several sizes, so that their number becomes a symbol."""
        model = torch.nn.Linear(4, 4)

        def loss_of(loss, input, target):
            return 2 * loss(model(input), target)

        compiled = inductor(partial(loss_of, ours), fullgraph=True, backend=backend)
        for samples in (6, 7, 9):
            input, target, _ = random_tensors((samples, 4), torch.float32)
            given, expected = compiled(input, target), loss_of(theirs, input, target)
            assert_close(given, expected)
            parameters = list(model.parameters())
            assert_close(torch.autograd.grad(given, parameters), torch.autograd.grad(expected, parameters))

    def test_choices(self, inductor, name, ours, random_tensors, dtype, reduction):
        input, target, weight = random_tensors(dtype=dtype)
        loss = partial(ours, reduction=reduction, axis=-1, empty="zero", dtype=torch.float64)
        arguments = input.movedim(1, -1), target, weight
        compiled = inductor(loss, fullgraph=True, backend="aot_eager")
        assert_same_bits(array_of(compiled(*arguments)), array_of(loss(*arguments)))
        assert_same_bits(array_of(gradient(compiled, *arguments)), array_of(gradient(loss, *arguments)))

    def test_module(self, inductor, name, random_tensors):
        input, target, weight = random_tensors()
        module = getattr(nll.torch, MODULES[name])(weight)
        compiled = inductor(module, fullgraph=True, backend="aot_eager")
        assert compiled(input, target) == module(input, target)

    def test_autocast(self, inductor, ours, random_tensors):
        input, target, _ = random_tensors(dtype=torch.bfloat16)
        compiled = inductor(ours, fullgraph=True, backend="aot_eager")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = compiled(input, target)
        assert loss.dtype is torch.float32

    def test_transformations_inside(self, inductor, ours, theirs, random_tensors):
        input, target, _ = random_tensors()

        def gradients(loss, input, target):
            return torch.vmap(torch.func.grad(lambda x, t: loss(x, t, reduction="sum")))(input, target)

        compiled = inductor(partial(gradients, ours), fullgraph=True, backend="aot_eager")
        arguments = input[..., 0], target[:, 0]
        assert_close(compiled(*arguments), gradients(theirs, *arguments))

    def test_bad_label(self, inductor, ours, random_tensors):
        input, target, _ = random_tensors()
        target[1, 3] = 4
        compiled = inductor(ours, fullgraph=True, backend="aot_eager")
        with pytest.raises(IndexError, match=r"target\[1, 3\] is 4, outside \[0, 4\)"):
            compiled(input, target)

    def test_second_derivative_is_refused(self, inductor, ours, random_tensors):
        input, target, _ = random_tensors()
        compiled = inductor(lambda x: ours(x * 2, target), fullgraph=True, backend="aot_eager")
        with pytest.raises(RuntimeError):
            gradient(lambda x: torch.autograd.grad(compiled(x), x, create_graph=True)[0].square().sum(), input)

    @pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # as of PyTorch's losses
    def test_compiled_backward_of_an_eager_loss(self, inductor, ours, random_tensors, reduction):
        from torch._dynamo import compiled_autograd

        input, target, _ = random_tensors()
        expected = gradient(lambda x: (-0.5 * ours(x, target, reduction=reduction)).sum(), input)
        input = input.requires_grad_()
        with compiled_autograd._enable(inductor(backend="eager", fullgraph=True)):
            (-0.5 * ours(input, target, reduction=reduction)).sum().backward()
        assert_close(input.grad, expected)

    @pytest.mark.parametrize("strict", [True, False], ids=["strict", "not-strict"])
    def test_export(self, inductor, name, random_tensors, strict):
        input, target, weight = random_tensors()
        module = getattr(nll.torch, MODULES[name])(weight)
        program = torch.export.export(module, (input, target), strict=strict)
        called = {node.target for node in program.graph.nodes}
        assert getattr(torch.ops.nll, name).default in called
        assert program.module()(input, target) == module(input, target)

    def test_make_fx(self, ours, random_tensors):
        from torch.fx.experimental.proxy_tensor import make_fx

        input, target, _ = random_tensors()
        traced = make_fx(partial(gradient, ours), tracing_mode="fake")(input, target)
        assert_close(traced(2 * input, target), gradient(ours, 2 * input, target))


class TestOperators:
    """torch.library's own check of schema, autograd, fake kernels and their shapes, strides and dtypes."""

    @pytest.fixture(params=["contiguous", "channels-last", "expanded"])
    def tensors(self, request, random_tensors):
        input, target, weight = random_tensors(dtype=torch.bfloat16)
        return LAYOUTS[request.param](input), target, weight, torch.rand(target.shape)

    @pytest.fixture
    def choices(self, name, reduction):
        return (-100, reduction, 1, 0, "nan", *((0.1,) if name == "cross_entropy" else ()))

    def test_loss(self, inductor, name, tensors, choices):
        input, *others = tensors
        operator = getattr(torch.ops.nll, name).default
        torch.library.opcheck(operator, (input.detach().requires_grad_(), *others, *choices, torch.float32))

    def test_gradient(self, inductor, name, tensors, choices, reduction):
        grad_output = torch.rand(tensors[1].shape if reduction == "none" else ()).bfloat16()
        operator = getattr(torch.ops.nll, f"{name}_backward").default
        torch.library.opcheck(operator, (grad_output, *tensors, *choices))


class TestTransformations:
    """torch.func beside PyTorch's losses."""

    @pytest.fixture
    def batches(self, random_tensors):
        tensors = [random_tensors((6, 4)) for _ in range(3)]
        return torch.stack([input for input, *_ in tensors]), torch.stack([target for _, target, _ in tensors])

    def test_grad(self, ours, theirs, batches, reduction):
        given, expected = (
            torch.func.grad_and_value(lambda x: loss(x, batches[1][0], reduction=reduction).sum())(batches[0][0])  # noqa: B023
            for loss in (ours, theirs)
        )
        assert_close(given, expected)

    def test_vmap(self, ours, theirs, batches, reduction):
        given = torch.vmap(partial(ours, reduction=reduction))(*batches)
        expected = torch.stack([theirs(*batch, reduction=reduction) for batch in zip(*batches, strict=True)])
        assert_close(given, expected)

    @pytest.mark.parametrize("in_dims", [(1, None), (None, 1), (2, 0)], ids=str)
    def test_vmap_over_other_axes(self, ours, batches, in_dims):
        input, target = batches
        moved = (
            input[0] if in_dims[0] is None else input.movedim(0, in_dims[0]),
            target[0] if in_dims[1] is None else target.movedim(0, in_dims[1]),
        )
        expected = torch.stack(
            [ours(input[0 if in_dims[0] is None else i], target[0 if in_dims[1] is None else i]) for i in range(3)]
        )
        assert_close(torch.vmap(ours, in_dims)(*moved), expected)

    def test_vmap_over_nothing(self, ours, batches, reduction):
        input, target = batches
        losses = torch.vmap(partial(ours, reduction=reduction))(input[:0], target[:0])
        assert losses.shape == ((0, 6) if reduction == "none" else (0,))

    def test_gradient_of_each_sample(self, ours, theirs, batches):
        input, target = batches[0][0], batches[1][0]
        of_each = [
            torch.vmap(torch.func.grad(partial(loss, reduction="sum")))(input, target) for loss in (ours, theirs)
        ]
        assert_close(*of_each)

    def test_backward_through_vmap(self, ours, theirs, batches):
        def loss_of(loss, input):
            return torch.vmap(partial(loss, reduction="sum"))(input, batches[1]).sum()

        assert_close(gradient(partial(loss_of, ours), batches[0]), gradient(partial(loss_of, theirs), batches[0]))

    def test_jacrev(self, ours, theirs, batches):
        given, expected = (
            torch.func.jacrev(lambda x: loss(x, batches[1][0], reduction="none"))(batches[0][0])  # noqa: B023
            for loss in (ours, theirs)
        )
        assert_close(given, expected)

    def test_second_derivative_is_refused(self, ours, batches):
        with pytest.raises(RuntimeError, match="no second derivatives"):
            torch.func.grad(lambda x: torch.func.grad(ours)(x, batches[1][0]).square().sum())(batches[0][0])

    @pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
    def test_forward_mode_is_refused(self, ours, batches):
        with pytest.raises(RuntimeError, match="no forward-mode derivatives"):
            torch.func.jvp(lambda x: ours(x, batches[1][0]), (batches[0][0],), (batches[0][0],))


# ---- what is refused


def test_complex_weights_are_refused_within_transforms(ours, random_tensors):
    input, target, weight = random_tensors()
    with pytest.raises(TypeError, match=r"weight is complex \(torch.complex128\); losses are of real numbers"):
        torch.func.grad(lambda input: ours(input, target, weight=weight + 0j))(input)


REFUSED_CHOICES = [
    {"reduction": 5},
    {"reduction": "avg"},
    {"empty": None},
    {"ignore_index": 1.0},
    {"ignore_index": True},
    {"ignore_index": 2**64},
    {"index_base": "1"},
    {"index_base": 2**63},
    {"index_base": False},
    {"axis": True},
    {"axis": 7},
    {"dtype": np.float32},
    {"dtype": []},
    {"dtype": torch.int32},
]


@pytest.mark.parametrize("choices", REFUSED_CHOICES, ids=str)
def test_choices_are_refused_in_compiled_code_as_without(inductor, ours, random_tensors, choices):
    input, target, _ = random_tensors()
    with pytest.raises((TypeError, ValueError)) as expected:
        ours(input, target, **choices)
    with pytest.raises(type(expected.value)) as found:
        inductor(lambda x: ours(x, target, **choices), backend="eager")(input)
    assert str(found.value) == str(expected.value)


@pytest.mark.parametrize("label_smoothing", [True, "0.1", None], ids=repr)
def test_label_smoothing_is_refused_in_compiled_code_as_without(inductor, random_tensors, label_smoothing):
    input, target, _ = random_tensors()
    ours = partial(nll.torch.cross_entropy, target=target, label_smoothing=label_smoothing)
    with pytest.raises(TypeError) as expected:
        ours(input)
    with pytest.raises(TypeError) as found:
        inductor(lambda x: ours(x), backend="eager")(input)
    assert str(found.value) == str(expected.value)


def test_choices_may_be_symbols_in_compiled_code(inductor, random_tensors):
    """The compiler makes them of numbers that are another in the next call."""
    input, target, _ = random_tensors()
    compiled = inductor(nll.torch.cross_entropy, backend="aot_eager", fullgraph=True)
    for i in range(4):
        choices = {"ignore_index": -100 - i, "index_base": -i, "label_smoothing": 0.1 * i}
        labels = target - i  # those to be ignored, too
        assert_close(compiled(input, labels, **choices), nll.torch.cross_entropy(input, labels, **choices))


@pytest.mark.parametrize("choices", REFUSED_CHOICES, ids=str)
def test_choices_are_refused_within_transforms_as_without(ours, random_tensors, choices):
    input, target, _ = random_tensors()
    with pytest.raises((TypeError, ValueError)) as expected:
        ours(input, target, **choices)
    with pytest.raises(type(expected.value)) as found:
        torch.func.grad(lambda x: ours(x, target, **choices))(input)
    assert str(found.value) == str(expected.value)


@pytest.mark.parametrize("label_smoothing", [2, "0.1", None], ids=repr)
def test_label_smoothing_is_refused_within_transforms_as_without(random_tensors, label_smoothing):
    input, target, _ = random_tensors()
    ours = partial(nll.torch.cross_entropy, target=target, label_smoothing=label_smoothing)
    with pytest.raises((TypeError, ValueError)) as expected:
        ours(input)
    with pytest.raises(type(expected.value)) as found:
        torch.func.grad(ours)(input)
    assert str(found.value) == str(expected.value)


def test_an_ignored_label_beyond_int64_is_taken_within_transforms(ours, random_tensors):
    """No label of target's dtype can be that."""
    input, target, _ = random_tensors()
    loss = partial(ours, target=target.clamp(0), ignore_index=2**64 - 1)
    assert_close(torch.func.grad(loss)(input), gradient(loss, input))


def test_an_ignored_label_that_operators_do_not_have_is_refused_with_a_cure(ours, random_tensors):
    input, target, _ = random_tensors()
    target, ignored = target.clamp(-1).view(torch.uint64), 2**64 - 1
    with pytest.raises(ValueError, match=r"pass target\.view\(torch\.int64\) and ignore_index=-1"):
        torch.func.grad(lambda x: ours(x, target, ignore_index=ignored))(input)
    cured = torch.func.grad(lambda x: ours(x, target.view(torch.int64), ignore_index=-1))(input)
    assert_close(cured, gradient(ours, input, target, ignore_index=ignored))


REFUSED_INPUTS = {
    "device": (lambda x: x.to("meta"), r"input is on device 'meta'; nll computes on the CPU"),
    "sparse": (lambda x: x.to_sparse(), r"input is sparse or packed \(torch.sparse_coo\)"),
    "mkldnn": (lambda x: x.float().to_mkldnn(), r"input is sparse or packed \(torch._mkldnn\)"),
    "complex": (lambda x: x + 0j, r"input has dtype complex128"),
    "integer": (lambda x: x.long(), r"input has dtype int64"),
    "float8": (lambda x: x.to(torch.float8_e5m2), r"input has dtype torch.float8_e5m2, which NumPy does not have"),
    "array": (lambda x: x.numpy(), r"input is a ndarray; it must be a torch.Tensor"),
    "list": (lambda x: x.tolist(), r"input is a list; it must be a torch.Tensor"),
    "none": (lambda x: None, r"input is a NoneType; it must be a torch.Tensor"),
}


REFUSED_TARGETS = {
    "probabilities": (lambda t: t.double(), "Class probabilities are not taken here"),
    "bool": (lambda t: t > 0, "labels must be integers"),
    "device": (lambda t: t.to("meta"), "target is on device 'meta'"),
    "sparse": (lambda t: t.to_sparse(), "target is sparse"),
    "list": (lambda t: t.tolist(), "target is a list"),
    "none": (lambda t: None, "target is a NoneType; it must be a torch.Tensor"),
}


class TestRefused:
    @pytest.mark.parametrize("case", REFUSED_INPUTS.values(), ids=REFUSED_INPUTS.keys())
    def test_input(self, ours, random_tensors, case):
        make, message = case
        input, target, _ = random_tensors((6, 4))
        with pytest.raises(TypeError, match=message):
            ours(make(input), target)

    @pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
    def test_quantised(self, ours, random_tensors):
        input, target, _ = random_tensors((6, 4), torch.float32)
        with pytest.raises(TypeError, match=r"input is quantised \(torch.quint8\)"):
            ours(torch.quantize_per_tensor(input, 0.1, 0, torch.quint8), target)

    @pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
    def test_nested(self, ours, random_tensors):
        input, target, _ = random_tensors((6, 4))
        with pytest.raises(TypeError, match="input is nested"):
            ours(torch.nested.nested_tensor([input[0], input[1, :2]]), target)

    @pytest.mark.parametrize("case", REFUSED_TARGETS.values(), ids=REFUSED_TARGETS.keys())
    def test_target(self, ours, random_tensors, case):
        make, message = case
        input, target, _ = random_tensors((6, 4))
        with pytest.raises(TypeError, match=message):
            ours(input, make(target))

    def test_tensor_without_memory(self, ours, random_tensors):
        """PyTorch's older vmap, which no operator takes part in, is not a matter of dtypes."""
        input, target, _ = random_tensors((3, 6, 4))
        with pytest.raises(TypeError, match="input has no memory of its own that NumPy could read"):
            torch._vmap_internals._vmap(lambda x: ours(x, target[:, 0]))(input)

    def test_weight_on_a_device(self, ours, random_tensors):
        input, target, weight = random_tensors()
        with pytest.raises(TypeError, match="weight is on device 'meta'"):
            ours(input, target, weight.to("meta"))

    def test_weight_that_requires_a_gradient(self, ours, random_tensors):
        input, target, weight = random_tensors()
        with pytest.raises(TypeError, match="weight requires a gradient"):
            ours(input, target, weight.requires_grad_())

    def test_label(self, ours, random_tensors):
        input, target, _ = random_tensors()
        target[1, 3] = 4
        with pytest.raises(IndexError, match=r"target\[1, 3\] is 4, outside \[0, 4\) \(ignore_index is -100\)"):
            ours(leaf(input), target)

    def test_shape(self, ours, random_tensors):
        input, target, _ = random_tensors()
        with pytest.raises(ValueError, match=r"target has shape \(3, 5\)"):
            ours(input, target[:3])

    def test_reduction(self, ours, random_tensors):
        input, target, _ = random_tensors()
        with pytest.raises(ValueError, match="reduction is 'avg'"):
            ours(input, target, reduction="avg")

    def test_dtype_of_the_loss(self, ours, random_tensors):
        input, target, _ = random_tensors()
        with pytest.raises(TypeError, match=r"dtype is torch.int32; it must be one of torch.float16"):
            ours(input, target, dtype=torch.int32)

    def test_graph_of_what_is_refused(self, ours, random_tensors):
        """Fake tensors have devices, too."""
        from torch._subclasses import FakeTensorMode

        _, target, _ = random_tensors()
        with FakeTensorMode() as mode, pytest.raises(TypeError, match="input is on device 'cuda:0'"):
            ours(torch.empty(6, 4, 5, device="cuda"), mode.from_tensor(target))


# ---- modules, older words


class TestModules:
    def test_is_a_module_of_pytorch(self, name):
        assert isinstance(getattr(nll.torch, MODULES[name])(), getattr(torch.nn, MODULES[name]))

    def test_state(self, name):
        """weight is a buffer, and the states of both classes are each other's."""
        module, theirs = (
            getattr(nll.torch, MODULES[name])(torch.ones(3)),
            getattr(torch.nn, MODULES[name])(torch.zeros(3)),
        )
        module.load_state_dict(theirs.state_dict())
        assert module.weight.tolist() == [0, 0, 0]

    @pytest.mark.parametrize(
        "twin", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))], ids=["copy", "pickle"]
    )
    def test_copies(self, name, random_tensors, twin):
        input, target, weight = random_tensors()
        module = getattr(nll.torch, MODULES[name])(weight, reduction="sum", axis=-1, empty="zero", dtype=torch.float32)
        assert twin(module)(input.movedim(1, -1), target) == module(input.movedim(1, -1), target)

    @pytest.mark.parametrize(
        "older", [(False, None), (None, False), (True, None), (False, False), (True, True)], ids=str
    )
    def test_older_words_for_the_reduction(self, ours, theirs, random_tensors, older):
        input, target, _ = random_tensors()
        given, expected = [], []
        for loss, results in ((ours, given), (theirs, expected)):
            with pytest.warns(UserWarning, match="reduction='(none|mean|sum)'"):
                results.append(loss(input, target, size_average=older[0], reduce=older[1]))
        assert_close(given, expected)

    def test_signature(self, name, ours, theirs):
        """PyTorch's arguments come first, by the same names, in the same order."""
        expected = inspect.signature(theirs).parameters
        given = inspect.signature(ours).parameters
        assert list(given)[: len(expected)] == list(expected)
        assert [given[key].default for key in expected] == [parameter.default for parameter in expected.values()]


@pytest.mark.parametrize("missing", ["torch", "ml_dtypes"])
def test_missing_package(run_python, missing):
    done = run_python(f"""
import sys
sys.modules[{missing!r}] = None
try:
    import nll.torch
except ModuleNotFoundError as error:
    print(error)
""")
    assert 'nll.torch needs PyTorch and ml_dtypes: python -m pip install "nll[torch]"' in done.stdout


def test_nll_does_not_import_pytorch(run_python):
    assert run_python("import sys, nll; print('torch' in sys.modules)").stdout == "False\n"


# ---- in one process, in training


def test_threads_are_shared(run_python):
    """After PyTorch's large operations, nll's start no thread of their own, and obey PyTorch's number."""
    if sys.platform != "linux":
        pytest.skip("reads Linux's count of a process's threads")
    code = """
import os, torch, nll, nll.torch

def threads():
    return len(os.listdir("/proc/self/task"))

torch.set_num_threads(2)
logits, target = torch.randn(1024, 256, requires_grad=True), torch.randint(256, (1024,))
torch.nn.functional.cross_entropy(logits, target).backward()
before = threads()
for _ in range(3):
    nll.torch.cross_entropy(logits, target).backward()
    torch.nn.functional.cross_entropy(logits, target).backward()
print(threads() - before, nll.get_num_threads() <= 2)
torch.set_num_threads(1)
print(nll.get_num_threads())
"""
    done = run_python(code)
    assert done.stdout.split() == ["0", "True", "1"]


def test_digits():
    """A classifier of real handwritten digits learns the same, step by step, when only the line of the loss changes."""
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    input = torch.from_numpy(digits.data.astype(np.float32) / 16)
    target = torch.from_numpy(digits.target)

    def curve(loss_of):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        losses = []
        for _ in range(4):
            for batch in torch.randperm(len(target)).split(128):
                optimizer.zero_grad()
                loss = loss_of(model(input[batch]), target[batch])
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
        return losses

    given, expected = curve(nll.torch.cross_entropy), curve(F.cross_entropy)
    assert given[-1] < 0.5 < 2 < given[0]
    assert given == pytest.approx(expected, rel=1e-5)


def test_docstring_examples():
    assert doctest.testmod(nll.torch).failed == 0
