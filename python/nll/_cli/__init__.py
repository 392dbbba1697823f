# SPDX-License-Identifier: BSD-3-Clause
"""The command line: read predictions block by block, score them, say what came out.

`commands` has the options, `sources` reads arrays of any size, `blocks` divides the samples,
`scoring` goes through them, `tally` adds up, `document` is the JSON object, `table` and `plot` are
for people, `outputs` are the files that are written. No formula of a loss is here: losses and their
sums come from the core.
"""
