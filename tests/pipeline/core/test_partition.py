"""Parts of a list: every plan in exactly one, SLURM's arrays understood."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import InputError
from pipeline.core.partition import Part, find_part


@given(st.integers(1, 40), st.integers(0, 10**6))
def test_every_plan_is_one_parts(count: int, number: int) -> None:
    assert sum(Part(index, count).owns(number) for index in range(1, count + 1)) == 1


def test_one_process_has_all() -> None:
    assert find_part("", {}) == Part(1, 1) and all(Part().owns(number) for number in range(9))
    assert find_part("2/8", {"SLURM_ARRAY_TASK_ID": "5"}) == Part(2, 8)


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "1/0", "a/b", "1/3 ", "-1/3", "1/3/5", "9999999/9999999"])
def test_nonsense_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"expected I/N"):
        find_part(text, {})


@pytest.mark.parametrize(("first", "last", "step"), [(0, 7, 1), (1, 8, 1), (10, 40, 5), (3, 3, 1)])
def test_slurms_array_is_the_default(first: int, last: int, step: int) -> None:
    tasks = range(first, last + 1, step)
    found = [
        find_part(
            "",
            {
                "SLURM_ARRAY_TASK_ID": str(task),
                "SLURM_ARRAY_TASK_MIN": str(first),
                "SLURM_ARRAY_TASK_MAX": str(tasks[-1]),
                "SLURM_ARRAY_TASK_STEP": str(step),
                "SLURM_ARRAY_TASK_COUNT": str(len(tasks)),
            },
        )
        for task in tasks
    ]
    assert found == [Part(index, len(tasks)) for index in range(1, len(tasks) + 1)]


@pytest.mark.parametrize(
    ("task", "count", "step"), [("7", "3", "1"), ("x", "3", "1"), ("2", "3", "0"), ("4", "9", "2")]
)
def test_an_array_with_gaps_is_told(task: str, count: str, step: str) -> None:
    names = {"ID": task, "MIN": "1", "COUNT": count, "STEP": step}
    with pytest.raises(InputError, match="--part I/N"):
        find_part("", {f"SLURM_ARRAY_TASK_{name}": value for name, value in names.items()})
