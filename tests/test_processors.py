# SPDX-License-Identifier: BSD-3-Clause
"""The C++ library built for 64-bit Arm by GCC and clang, and run under qemu: whole losses and gradients, bit for bit.

GCC 12's vectoriser once made the gradient wrong there, and nowhere else.
"""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = ["calls_nll", "calls_headers", "canonical_nll"]
NEEDED = {"gcc": ["aarch64-linux-gnu-g++", "qemu-aarch64"], "clang": ["clang++", "ld.lld", "qemu-aarch64"]}


@pytest.mark.skipif(not (ROOT / "cpp").is_dir(), reason="installed without the sources")
@pytest.mark.parametrize("compiler", NEEDED)
def test_arm64(compiler: str, tmp_path: Path) -> None:
    if missing := [program for program in NEEDED[compiler] if shutil.which(program) is None]:
        pytest.skip(f"not installed here: {', '.join(missing)}")
    toolchain = ROOT / f"tests/cpp/toolchains/{compiler}.cmake"
    options = [
        "-DNLL_TESTS=ON",
        "-DNLL_OPENMP=OFF",
        "-DCMAKE_BUILD_TYPE=Release",
        f"-DCMAKE_TOOLCHAIN_FILE={toolchain}",
    ]
    printed = ""
    for command in [
        ["cmake", "-S", ROOT, "-B", tmp_path, "-G", "Ninja", *options],
        ["cmake", "--build", tmp_path, "--target", *PROGRAMS],
        ["ctest", "--test-dir", tmp_path, "--output-on-failure", "-R", f"^({'|'.join(PROGRAMS)})$"],
    ]:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        printed = done.stdout
        assert done.returncode == 0, printed[-4000:]
    assert re.search(rf"100% tests passed.* out of {len(PROGRAMS)}\b", printed), printed
