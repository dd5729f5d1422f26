"""The list of small faults fits the code, so that `make mutants` can run."""

from .mutants import ROOT, read_mutants


def test_each_fault_fits_the_code_and_names_tests_that_are_there() -> None:
    mutants = read_mutants()
    assert len(mutants) >= 150
    assert [test for mutant in mutants for test in mutant.tests if not (ROOT / test.split("::")[0]).is_file()] == []
