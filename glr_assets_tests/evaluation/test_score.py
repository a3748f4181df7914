from __future__ import annotations

import io
import re
from pathlib import Path

import pytest

from glr_assets.errors import MetricError
from glr_assets.evaluation.metrics import Prediction
from glr_assets.evaluation.score import (
    read_recognition_solution,
    read_recognition_submission,
    read_retrieval_solution,
    read_retrieval_submission,
    score_recognition,
    score_retrieval,
)

RECOGNITION_SOLUTION = (
    "id,landmarks,Usage\n"
    "00000000000000a1,0 12,Public\n"
    "00000000000000a2,,Public\n"
    "00000000000000a3,100,Ignored\n"
    "00000000000000a4,1,Private\n"
    "00000000000000a5,7,Private\n"
    "1e5,,Ignored\n"
)
RECOGNITION_SUBMISSION = (
    "id,landmarks\n"
    "00000000000000a2,12 0.90000000\n"
    "00000000000000a1,12 0.5 \n"
    "\n"
    "00000000000000a5,\n"
    "00000000000000a4,1 0.25\n"
    "00000000000000a3,5 0.99\n"
    "1e5,5 1\n"
)
RETRIEVAL_SOLUTION = (
    "id,images,Usage\nq1,None,Ignored\nq2,i1 i2,Public\nq3,i3,Private\nq4,i4,Private\nq5,None,Private\nq6,,Private\n"
)
RETRIEVAL_SUBMISSION = "id,images\nq2,i9 i1 i1 i2\nq3,i3 \nq1,i7\nq4,\n"


def file(text: str, name: str = "file.csv") -> io.BytesIO:
    opened = io.BytesIO(text.encode())
    opened.name = name  # type: ignore[attr-defined]
    return opened


class TestRecognition:
    def test_worked_example(self) -> None:
        scores = score_recognition(file(RECOGNITION_SUBMISSION), file(RECOGNITION_SOLUTION))
        # By confidence: a2 (no landmark), a1 right (1/2), a4 right (2/3); a5 unanswered: M = 3.
        assert scores.gap == pytest.approx((1 / 2 + 2 / 3) / 3)
        assert scores.gap_landmarks_only == pytest.approx((1 + 1) / 3)
        assert scores.top1 == pytest.approx(2 / 3)
        assert scores.gap_public == pytest.approx(1 / 2)
        assert scores.gap_private == pytest.approx(1 / 2)
        assert (scores.queries, scores.landmark_queries, scores.predicted) == (4, 3, 3)

    def test_paths_and_open_files_score_alike(self, tmp_path: Path) -> None:
        (tmp_path / "submission.csv").write_text(RECOGNITION_SUBMISSION)
        (tmp_path / "solution.csv").write_text(RECOGNITION_SOLUTION)
        by_path = score_recognition(tmp_path / "submission.csv", str(tmp_path / "solution.csv"))
        with (tmp_path / "submission.csv").open("rb") as opened:
            assert score_recognition(opened, file(RECOGNITION_SOLUTION)) == by_path

    def test_a_usage_without_landmarks_has_no_gap(self) -> None:
        scores = score_recognition(
            file("id,landmarks\na,1 0.5\n"), file("id,landmarks,Usage\na,1,Private\nb,,Public\n")
        )
        assert (scores.gap, scores.gap_public, scores.gap_private) == (1.0, None, 1.0)

    def test_a_header_alone_predicts_nothing(self) -> None:
        scores = score_recognition(file("id,landmarks\n"), file(RECOGNITION_SOLUTION))
        assert (scores.gap, scores.top1, scores.predicted) == (0.0, 0.0, 0)

    def test_reads_what_spreadsheets_write(self) -> None:
        text = '\ufeff"landmarks","note","id"\r\n"3 1.5e-1","a, ""b""\nc","007"\r\n'
        assert read_recognition_submission(file(text)) == [Prediction("007", 3, 0.15)]

    def test_ids_stay_text_and_files_may_be_read_without_a_solution(self) -> None:
        text = "id,landmarks\n1e5,3 0.5\n100000,3 .25\n0007,-1 -2\n"
        assert [(p.id, p.landmark_id, p.confidence) for p in read_recognition_submission(file(text))] == [
            ("1e5", 3, 0.5),
            ("100000", 3, 0.25),
            ("0007", -1, -2.0),
        ]

    def test_blank_predictions_of_unknown_queries_are_none(self) -> None:
        scores = score_recognition(file("id,landmarks\nzz,\nyy, \n"), file(RECOGNITION_SOLUTION))
        assert scores.predicted == 0

    def test_solution(self) -> None:
        solution = read_recognition_solution(file(RECOGNITION_SOLUTION))
        assert solution.landmarks == {
            "00000000000000a1": frozenset({0, 12}),
            "00000000000000a2": frozenset(),
            "00000000000000a4": frozenset({1}),
            "00000000000000a5": frozenset({7}),
        }
        assert solution.ignored == {"00000000000000a3", "1e5"}
        assert solution.usage["00000000000000a1"] == "Public"

    @pytest.mark.parametrize(
        ("submission", "message"),
        [
            (b"", "file.csv: empty"),
            (b"id,landmark\na,1 0.5\n", "file.csv, line 1: expected a header with the columns id,landmarks"),
            (b"id,id,landmarks\na,a,1 0.5\n", "found 'id,id,landmarks'"),
            (b"a,1 0.5\n", "line 1: expected a header"),
            (b"id,landmarks\na\n", "line 2, id 'a': expected 2 fields as in the header, found 1"),
            (b"id,landmarks\na,1 0.5,x\n", "line 2, id 'a': expected 2 fields as in the header, found 3"),
            (b"id,landmarks\na,1 0.5 2 0.4\n", "line 2, id 'a': expected '<landmark> <confidence>'"),
            (b"id,landmarks\na,1\n", "found '1'"),
            (b"id,landmarks\na,x 0.5\n", "id 'a': expected an integer landmark id, found 'x'"),
            (b"id,landmarks\na,1.0 0.5\n", "expected an integer landmark id, found '1.0'"),
            (b"id,landmarks\na,1_0 0.5\n", "expected an integer landmark id, found '1_0'"),
            (b"id,landmarks\na,1 high\n", "expected a finite number as confidence, found 'high'"),
            (b"id,landmarks\na,1 nan\n", "expected a finite number as confidence, found 'nan'"),
            (b"id,landmarks\na,1 -inf\n", "expected a finite number as confidence, found '-inf'"),
            (b"id,landmarks\na,1 1e999\n", "expected a finite number as confidence, found '1e999'"),
            (b"id,landmarks\na,1 1_0\n", "expected a finite number as confidence, found '1_0'"),
            (b"id,landmarks\na,1 0.5\n\na,2 0.5\n", "line 4: id 'a' stood on line 2 already"),
            (b"id,landmarks\na,\na,1 0.5\n", "line 3: id 'a' stood on line 2 already"),
            (b"id,landmarks\n,1 0.5\n", "line 2: expected an id"),
            (b"id,landmarks\nzz,1 0.5\n", "file.csv, line 2: id 'zz' is not in the solution"),
            (b"id,landmarks\na,1 0.5\n\xff,1 0.5\n", "line 3: the byte 0xff is not UTF-8"),
            (b'id,landmarks\n"a"b,1 0.5\n', "line 2: not CSV"),
            (b'id,landmarks\n"a,1 0.5\n', "line 2: not CSV"),
            (b'id,landmarks\na,"1 0.5\nb,2 0.5\nc,"3 0.5\n', "line 2: not CSV"),
            (b'id,landmarks\na,"1 0.5\nb,2 0.5"\nc,3 0.5\n', "line 2: landmarks holds a line break"),
            (b'id,landmarks,note\na,1 0.5,"x\nb,2 .5,y"\n', "line 2: note holds what looks like another row"),
            (b"id,landmarks\na,1 0.5\0\n", "line 2: holds a NUL"),
            ("id,landmarks\na,1 0.5\n".encode("utf-16"), "UTF-16"),
        ],
    )
    def test_faults_of_a_submission_are_named_in_one_line(self, submission: bytes, message: str) -> None:
        opened = io.BytesIO(submission)
        opened.name = "file.csv"  # type: ignore[attr-defined]
        with pytest.raises(MetricError, match=re.escape(message)) as raised:
            score_recognition(opened, file("id,landmarks,Usage\na,1,Public\n", "truth.csv"))
        assert str(raised.value).startswith("file.csv")
        assert "\n" not in str(raised.value)

    @pytest.mark.parametrize(
        ("solution", "message"),
        [
            ("id,landmarks\na,1\n", "columns id,landmarks,Usage"),
            ("id,landmarks,Usage\na,1,public\n", "expected Usage Public, Private or Ignored, found 'public'"),
            ("id,landmarks,Usage\na,1;2,Public\n", "expected an integer landmark id, found '1;2'"),
            ("id,landmarks,Usage\na,,Public\nb,1,Ignored\n", "no query that counts has a landmark"),
            ("id,landmarks,Usage\na,1,Public\na,1,Ignored\n", "id 'a' stood on line 2 already"),
        ],
    )
    def test_faults_of_a_solution_are_named(self, solution: str, message: str) -> None:
        with pytest.raises(MetricError, match=f"^truth.csv.*{re.escape(message)}"):
            score_recognition(file(RECOGNITION_SUBMISSION), file(solution, "truth.csv"))

    def test_a_file_that_cannot_be_read_is_named(self, tmp_path: Path) -> None:
        for path in (tmp_path / "absent.csv", tmp_path):
            with pytest.raises(MetricError, match=re.escape(f"{path}: cannot be read")):
                score_recognition(path, file(RECOGNITION_SOLUTION))

    def test_long_values_are_cut_in_messages(self) -> None:
        with pytest.raises(MetricError) as raised:
            read_recognition_submission(file(f"id,landmarks\na,{'9 ' * 5000}\n"))
        assert len(str(raised.value)) < 300


class TestRetrieval:
    def test_worked_example(self) -> None:
        scores = score_retrieval(file(RETRIEVAL_SUBMISSION), file(RETRIEVAL_SOLUTION))
        # q2: i1 at rank 2, i2 at rank 4 of 2; q3 right; q4 blank; q6 has no relevant image; q1, q5 ignored.
        of_q2 = (1 / 2 + 2 / 4) / 2
        assert scores.map100 == pytest.approx((of_q2 + 1 + 0 + 0) / 4)
        assert scores.map100_public == pytest.approx(of_q2)
        assert scores.map100_private == pytest.approx(1 / 3)
        assert (scores.queries, scores.predicted) == (4, 2)

    def test_only_a_hundred_answers_count(self) -> None:
        wrong = " ".join(f"w{n}" for n in range(100))
        solution = "id,images,Usage\nq,i1,Private\n"
        assert score_retrieval(file(f"id,images\nq,{wrong} i1\n"), file(solution)).map100 == 0
        found = score_retrieval(file(f"id,images\nq,{wrong[4:]} i1\n"), file(solution))
        assert found.map100 == pytest.approx(1 / 100)
        assert found.map100_public is None

    def test_more_relevant_images_than_a_default_csv_field_holds(self) -> None:
        images = " ".join(f"{n:016x}" for n in range(10_000))
        solution = read_retrieval_solution(file(f"id,images,Usage\nq,{images},Private\n"))
        assert len(solution.images["q"]) == 10_000

    def test_answers_to_ignored_queries_are_not_kept(self) -> None:
        solution = read_retrieval_solution(file(RETRIEVAL_SOLUTION))
        assert read_retrieval_submission(file(RETRIEVAL_SUBMISSION), solution).keys() == {"q2", "q3"}
        assert read_retrieval_submission(file(RETRIEVAL_SUBMISSION)).keys() == {"q1", "q2", "q3"}

    @pytest.mark.parametrize(
        ("submission", "message"),
        [
            ("", "empty"),
            ("id,landmarks\nq2,i1\n", "columns id,images"),
            ("id,images\nq2,i1\nq2,i2\n", "line 3: id 'q2' stood on line 2 already"),
            ("id,images\nzz,i1\n", "line 2: id 'zz' is not in the solution"),
        ],
    )
    def test_faults_of_a_submission_are_named(self, submission: str, message: str) -> None:
        with pytest.raises(MetricError, match=f"^file.csv.*{re.escape(message)}"):
            score_retrieval(file(submission), file(RETRIEVAL_SOLUTION))

    def test_a_solution_with_every_query_ignored_is_refused(self) -> None:
        with pytest.raises(MetricError, match="every query is ignored"):
            score_retrieval(file(RETRIEVAL_SUBMISSION), file("id,images,Usage\nq1,None,Ignored\n"))
