# SPDX-License-Identifier: BSD-3-Clause
"""The list of mutants fits the sources. That tests kill them takes longer: `python tests/mutants.py` shows it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from mutants import ROOT, Mutant, load

pytestmark = pytest.mark.skipif(not (ROOT / "cpp").is_dir(), reason="installed without the sources")
MUTANTS = load()


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_changes_one_place_of_its_file(mutant):
    text = (ROOT / mutant.file).read_text("utf-8")
    assert mutant.apply(text) != text


def test_mutants_say_what_is_wrong_or_why_nothing_is():
    assert [mutant.name for mutant in MUTANTS if bool(mutant.breaks) == bool(mutant.equivalent)] == []


def test_their_tests_exist():
    for test in {test for mutant in MUTANTS for test in mutant.by}:
        program = test.removeprefix("library:").partition("@")[0]
        assert Path(ROOT, test.split()[0] if test.startswith("tests/") else f"tests/cpp/{program}.cpp").is_file()


def test_they_have_tests():
    assert [mutant.name for mutant in MUTANTS if not mutant.by] == []


def test_names_are_unique():
    counted = Counter(mutant.name for mutant in MUTANTS)
    assert [name for name, count in counted.items() if count > 1] == []


def test_text_that_has_changed_is_refused():
    mutant = Mutant(name="any", file="any", old="old", new="new", by=[])
    assert mutant.apply("an old text") == "an new text"
    for text in ("a text", "old and old"):
        with pytest.raises(ValueError, match="has its old text"):
            mutant.apply(text)
