"""Step lists as they are read: order, segments, and one line for what is wrong."""

from pathlib import Path

import pytest

from pipeline.core.errors import InputError
from pipeline.core.reporting import RunSummary
from pipeline.evaluation.lists import Step, StepList, read_clips, read_step_lists

ANNOTATIONS = """more,video_id,task_id,step,start,end,text
x,bbb,7,10,8,9.5,"serve, then eat"
x,bbb,7,2,4,5,cut
x,aaa,7,2,0,1.5,chop
x,bbb,7,2,1,2,cut
x,aaa,6,0,3,4,peel
"""
TASKS = "task_id,step,text\n7,10,serve\n7,2,cut\n7,5,fry\n6,0,peel\n9,1,bake\n"


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_steps_follow_their_number_and_have_all_their_segments(tmp_path: Path) -> None:
    found = read_step_lists(written(tmp_path, "a.csv", ANNOTATIONS))
    assert found == [
        StepList("aaa", "6", (Step(0, "peel", ((3.0, 4.0),)),)),
        StepList("aaa", "7", (Step(2, "chop", ((0.0, 1.5),)),)),
        StepList("bbb", "7", (Step(2, "cut", ((1.0, 2.0), (4.0, 5.0))), Step(10, "serve, then eat", ((8.0, 9.5),)))),
    ]
    assert found[2].present == (True, True)


def test_a_tasks_own_list_names_all_steps_and_their_texts(tmp_path: Path) -> None:
    without_text = "\n".join(line.rsplit(",", 1)[0] for line in ANNOTATIONS.replace(", then eat", "").splitlines())
    found = read_step_lists(written(tmp_path, "a.csv", without_text), written(tmp_path, "t.csv", TASKS))
    assert [(one.video_id, one.task_id) for one in found] == [("aaa", "6"), ("aaa", "7"), ("bbb", "7")]
    assert [step.text for step in found[2].steps] == ["cut", "fry", "serve"]
    assert found[1].present == (True, False, False) and found[2].present == (True, False, True)


def test_a_byte_order_mark_is_no_part_of_a_column(tmp_path: Path) -> None:
    marked = ANNOTATIONS.replace("more,", "\ufeff").replace("\nx,", "\n")
    assert len(read_step_lists(written(tmp_path, "a.csv", marked))) == 3


def test_lines_passed_over_are_said(tmp_path: Path) -> None:
    report = RunSummary("evaluate")
    annotations, tasks = (
        written(tmp_path, "a.csv", ANNOTATIONS + "\n"),
        written(tmp_path, "t.csv", TASKS.replace("\n", "\n\n")),
    )
    read_step_lists(annotations, report=report)
    assert report.notes == [f"{annotations}: passed over: 1 (empty line)"]
    read_step_lists(annotations, tasks, report)
    assert report.notes[1:] == [f"{tasks}: passed over: 6 (empty line)", report.notes[0]]
    read_clips(written(tmp_path, "c.csv", "video_id,start,end,text\n\na,0,1,x\n"), "text", report)
    assert report.notes[3:] == [f"{tmp_path / 'c.csv'}: passed over: 1 (empty line)"]


@pytest.mark.parametrize(
    ("column", "label", "named"),
    [
        ("text", "  ", "expected 0 <= start < end in seconds, and a text"),
        ("class", " fry", "class ' fry' begins or ends"),
    ],
)
def test_a_clip_says_what_it_is_of(tmp_path: Path, column: str, label: str, named: str) -> None:
    path = written(tmp_path, "c.csv", f"video_id,start,end,{column}\na,0,1,fry\na,1,2,{label}\n")
    with pytest.raises(InputError, match=f"c.csv line 3: {named}"):
        read_clips(path, column)


HEAD = "video_id,task_id,step,start,end,text\n"


@pytest.mark.parametrize(
    ("annotations", "named"),
    [
        ("video_id,step,start,end,text\n", "line 1: no column task_id; expected video_id,task_id,step,start,end,text"),
        (HEAD + "a,1,1,0,1,x\na,1,one,0,1,x\n", "line 3: step: expected an integer, got 'one'"),
        (HEAD + "a,1,1.5,0,1,x\n", "line 2: step: expected an integer, got '1.5'"),
        (HEAD + f"a,1,{'7' * 5000},0,1,x\n", "line 2: step: expected an integer, got '777"),
        (HEAD + "a,1,1_0,0,1,x\n", "line 2: step: expected an integer, got '1_0'"),
        (HEAD + "a,1,1,0,1_0,x\n", "line 2: expected 0 <= start < end in seconds"),
        (HEAD + "a b,1,1,0,1,x\n", "line 2: 'a b' can't name a video"),
        (HEAD + 'a,1,1,0,1,"x\na,1,2,1,2,y"\na,1,3,2,3,z\n', "line 2: a quote opens a cell here"),
        (
            HEAD + "a,1,1,0,1,chop, then fry\n",
            "line 2: expected 6 fields, as in line 1, got 7; a cell with commas goes",
        ),
        (HEAD + "a,1,1,2,2,x\n", "line 2: expected 0 <= start < end in seconds"),
        (HEAD + "a,1,1,-1,2,x\n", "line 2: expected 0 <= start < end"),
        (HEAD + "a,1,1,0,inf,x\n", "line 2: expected 0 <= start < end"),
        (HEAD + "a,1,1,nan,2,x\n", "line 2: expected 0 <= start < end"),
        (HEAD + "a,1,1,0,1,\n", "line 2: step 1 of a needs one text"),
        (HEAD + "a,1,1,0,1,x\na,1,1,2,3,y\n", "line 3: step 1 of a needs one text, the same on all its lines"),
        (HEAD + "a,1,1,0\n", "line 2: expected 6 fields, as in line 1, got 4"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path: Path, annotations: str, named: str) -> None:
    path = written(tmp_path, "a.csv", annotations)
    with pytest.raises(InputError) as refused:
        read_step_lists(path)
    assert str(refused.value).startswith(str(path)) and named in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("tasks", "named"),
    [
        ("task_id,text\n", "t.csv line 1: no column step; expected task_id,step,text"),
        (TASKS + "7,2,cut\n", "t.csv line 7: step 2 of task 7 needs one line, with a text"),
        (TASKS + "7,3,\n", "t.csv line 7: step 3 of task 7 needs one line"),
        (TASKS.replace("7,10,", "7,11,"), "t.csv names no step 10 of task 7"),
        (TASKS.replace("6,0,", "8,0,"), "t.csv names no step 0 of task 6"),
    ],
)
def test_a_list_of_steps_that_doesnt_fit_is_refused(tmp_path: Path, tasks: str, named: str) -> None:
    with pytest.raises(InputError) as refused:
        read_step_lists(written(tmp_path, "a.csv", ANNOTATIONS), written(tmp_path, "t.csv", tasks))
    assert named in str(refused.value) and "\n" not in str(refused.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file; expected a csv with video_id,task_id,step,start,end,text"):
        read_step_lists(tmp_path / "none.csv")
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00video_id")
    for path, problem in ((tmp_path, "can't be read"), (tmp_path / "bytes.csv", "UTF-16, not UTF-8; save it as UTF-8")):
        with pytest.raises(InputError, match=problem):
            read_step_lists(path)
