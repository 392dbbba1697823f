# SPDX-License-Identifier: BSD-3-Clause
"""Commands that must succeed, and a CMake build that goes on beside the tests.

`python -m support.build` configures, builds and installs.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
ROOT = TESTS.parent


def run(*command: object, cwd: Path | None = None, timeout: float = 1200, **environment: str) -> str:
    """Run a command and return what it printed; fail with that if it fails."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout[-4000:]}"
    return done.stdout


class BackgroundBuild:
    """The library and its C++ tests, being built and installed at the lowest priority."""

    def __init__(self, directory: Path) -> None:
        self.build = directory / "build"
        self.prefix = directory / "prefix"
        self.log = directory / "log.txt"
        politely = ["nice", "-n", "19"] if shutil.which("nice") else []
        command = [*politely, sys.executable, "-m", "support.build", str(self.build), str(self.prefix)]
        own_group = {"process_group": 0} if hasattr(os, "killpg") else {}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, cwd=TESTS, stdout=log, stderr=log, **own_group)

    def finish(self) -> None:
        """Wait for its end, and fail with what it printed if it failed."""
        assert self.process.wait() == 0, self.log.read_text()[-4000:]

    def stop(self) -> None:
        """End it where nobody waits for it any more."""
        if self.process.poll() is None:
            if hasattr(os, "killpg"):
                os.killpg(self.process.pid, signal.SIGTERM)
            else:
                self.process.terminate()
            self.process.wait()


def main(build: str, prefix: str) -> None:
    options = ["-DNLL_TESTS=ON", "-DCMAKE_COMPILE_WARNING_AS_ERROR=ON", f"-DCMAKE_INSTALL_PREFIX={prefix}"]
    for command in (
        ["cmake", "-S", str(ROOT), "-B", build, "-G", "Ninja", *options],
        ["cmake", "--build", build],
        ["cmake", "--install", build],
    ):
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
