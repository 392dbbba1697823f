# SPDX-License-Identifier: BSD-3-Clause
"""Benchmarks of nll beside its peers: ``python -m bench`` from the root of the repository."""
