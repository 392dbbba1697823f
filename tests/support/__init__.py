# SPDX-License-Identifier: BSD-3-Clause
"""What the tests share: oracles, the losses under test, and arrays to test them with."""
