# SPDX-License-Identifier: BSD-3-Clause
"""The recipes beside the examples: each runs as a user would run it, and checks its own result."""

from __future__ import annotations

import math
import re
import runpy
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import nll
from support.samples import random_logits

RECIPES = Path(__file__).parents[1] / "python/examples/recipes"

if not RECIPES.is_dir():
    pytest.skip("the recipes are not here", allow_module_level=True)


def run(*command: str) -> str:
    """What a command prints; it fails if the command does."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run_recipe(name: str, *arguments: str) -> str:
    return run(sys.executable, str(RECIPES / name), *arguments)


def samples_of(rank: int) -> tuple[np.ndarray, np.ndarray]:
    """Those of the recipes for several ranks."""
    rng = np.random.default_rng(rank)
    count = 100 + 50 * rank
    return rng.normal(size=(count, 10)).astype(np.float32), rng.integers(0, 10, count)


@pytest.fixture
def loss_of_three_ranks() -> str:
    logits, labels = (np.concatenate(arrays) for arrays in zip(*map(samples_of, range(3)), strict=True))
    return f"{nll.cross_entropy(logits, labels):.7f} over 450 samples of 3 ranks\n"


def test_gradient_accumulation():
    printed = run_recipe("gradient_accumulation.py")
    accumulated, at_once, mean_of_means = map(float, re.findall(r"\d\.\d+", printed))
    assert accumulated == at_once
    assert abs(mean_of_means - at_once) > 0.01


def test_gradient_accumulation_of_the_readme():
    """Its masks are of bool, as those of the snippet before it."""
    readme = RECIPES.parents[2] / "README.md"
    if not readme.is_file():
        pytest.skip("installed without the sources")
    snippet = re.search(r"Gradient accumulation.*?```python\n(.*?)```", readme.read_text("utf-8"), re.DOTALL)
    assert snippet is not None
    rng = np.random.default_rng(1)
    logits, tokens = rng.normal(size=(4, 7, 5)), rng.integers(0, 5, (4, 7))
    mask, gradients = rng.random((4, 7)) < 0.6, []
    batches = [(logits[i : i + 2], tokens[i : i + 2], mask[i : i + 2]) for i in (0, 2)]
    exec(snippet[1] + "    gradients.append(grad)", {"nll": nll, "np": np, "batches": batches, "gradients": gradients})
    expected = nll.cross_entropy_backward(1.0, logits, np.where(mask, tokens, -100), axis=-1)
    np.testing.assert_allclose(np.concatenate(gradients), expected, rtol=1e-14)


def test_torch_distributed(torch, loss_of_three_ranks):
    if not torch.distributed.is_available():
        pytest.skip("this PyTorch was built without torch.distributed")
    assert run_recipe("torch_distributed.py") == loss_of_three_ranks


def test_mpi(loss_of_three_ranks):
    pytest.importorskip("mpi4py")
    mpiexec = shutil.which("mpiexec", path=Path(sys.executable).parent) or shutil.which("mpiexec")
    if mpiexec is None:
        pytest.skip("no MPI is installed")
    assert run(mpiexec, "-n", "3", sys.executable, str(RECIPES / "mpi.py")) == loss_of_three_ranks


@pytest.mark.parametrize("processes", ["1", "3"])
def test_processes(processes):
    assert re.fullmatch(r"2\.\d{7} ± 0\.\d{7} over 1000 samples\n", run_recipe("processes.py", processes))


def test_data_loader(torch):
    """The batches' sizes do not matter."""
    lines = run_recipe("data_loader.py").splitlines()
    assert len(lines) == 2
    assert lines[0] == lines[1]


class TestSparkAndRay:
    """The functions that Spark and Ray call, without them; and with them where they are installed."""

    @pytest.fixture
    def recipe(self):
        return runpy.run_path(str(RECIPES / "spark_and_ray.py"))

    @pytest.fixture
    def logits(self, rng):
        return random_logits(rng, (20, 5), np.float32)

    @pytest.fixture
    def labels(self, rng):
        return rng.integers(0, 5, 20)

    def test_batches_of_arrow(self, recipe, logits, labels):
        pa = pytest.importorskip("pyarrow")
        batches = [
            pa.RecordBatch.from_pydict({"logits": list(logits[part]), "label": labels[part]})
            for part in (slice(0, 3), slice(3, 9), slice(9, 20))
        ]
        states = [*recipe["states_of"](batches[:2]), *recipe["states_of"](batches[2:])]
        total = recipe["merged"]([state.column("state")[0].as_py() for state in states])
        assert total.compute() == nll.cross_entropy(logits, labels)

    def test_batches_of_arrays(self, recipe, logits, labels):
        batches = [{"logits": logits[part], "label": labels[part]} for part in (slice(0, 3), slice(3, 20))]
        total = recipe["merged"]([recipe["state_of"](batch)["state"][0] for batch in batches])
        assert total.compute() == nll.cross_entropy(logits, labels)
        assert math.isfinite(total.standard_error)

    @pytest.mark.parametrize(("engine", "package"), [("spark", "pyspark"), ("ray", "ray")])
    def test_engine(self, engine, package):
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
        if engine == "spark" and shutil.which("java") is None:
            pytest.skip("no Java is installed")
        assert re.search(r"1\.\d{7} ± 0\.\d{7} over 50 samples\n$", run_recipe("spark_and_ray.py", engine))
