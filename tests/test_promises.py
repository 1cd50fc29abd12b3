"""Every promise of README, CONTRIBUTING and SECURITY stands here with the test that holds it.

A sentence that is no longer written there, or a test that is gone, fails by the promise's name.
"""

import ast
import re
import socket
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from sweeping import Lab

README, CONTRIBUTING, SECURITY = "README.md", "CONTRIBUTING.md", "SECURITY.md"

# the page, its words, the tests that hold them
PROMISES = [
    (README, "After the install nothing uses the network",
     ["test_promises.py::test_nothing_uses_the_network"]),
    (README, "Kill it at any moment and run the same command again",
     ["test_sweep_kill.py::test_killed_at_five_moments_the_sweep_ends_the_same",
      "test_campaigns.py::test_killed_in_the_first_second_of_its_stores_a_project_goes_on",
      "test_campaigns.py::test_a_disk_that_is_full_while_the_stores_are_made_bricks_nothing",
      "test_first_user.py::test_a_store_that_was_not_finished_is_not_there",
      "test_campaigns.py::test_ctrl_c_in_the_first_half_minute_prints_one_sentence"]),
    (README, "finished runs are read back",
     ["test_sweep_run.py::test_the_same_sweep_again_trains_nothing"]),
    (README, "a killed one goes on from its checkpoint",
     ["test_resume.py::test_a_run_that_broke_between_validations_continues_to_the_same_bits"]),
    (README, "nothing runs twice",
     ["test_sweep_kill.py::test_the_same_sweep_started_twice_is_run_once",
      "test_sweep_run.py::test_mlflow_holds_one_closed_run_per_identity"]),
    (README, "Sweeps that share a cell share its run",
     ["test_sweep_run.py::test_sweeps_that_share_cells_share_their_runs",
      "test_sweep_kill.py::test_two_sweeps_at_once_share_their_cells"]),
    (README, "variants of equal budget, tuned alike, repeated over seeds",
     ["test_shipped.py::test_every_sweep_plans_rows_of_equal_budget",
      "test_study.py::test_every_cell_starts_from_the_same_values",
      "test_study.py::test_tuning_never_sees_a_seed_that_judges"]),
    (README, "`results/index.html` opens from disk",
     ["test_report.py::test_a_page_is_whole_and_needs_no_network"]),
    (README, "results/ anew, without torch",
     ["test_report.py::test_a_second_report_gives_the_same_bytes_without_torch"]),
    (README, "`python -m hymba_lab.sweep FILE` and its like are the same commands",
     ["test_front_door.py::test_a_command_is_a_module_as_well"]),
    (README, "lists every command",
     ["test_front_door.py::test_the_door_lists_every_command_and_completes_it"]),
    (README, "Schema, error messages, parameter, FLOP and cache figures follow from the class",
     ["test_shipped.py::test_the_readmes_fusion_works_as_written"]),
    (README, "with command, commit and hardware",
     ["test_tables.py::test_provenance_tells_where_the_numbers_come_from",
      "test_first_user.py::test_a_plugin_that_no_commit_holds_makes_a_run_dirty"]),
    (CONTRIBUTING, "a room imports from floors below its own",
     ["test_house.py::test_no_import_runs_back_up"]),
    (CONTRIBUTING, "exported runs keep their identity",
     ["test_identities.py::test_an_exported_run_has_the_identity_of_its_sweep_today"]),
    (CONTRIBUTING, "An error of the user** is a `UserError` in one message",
     ["test_bad_input.py::test_a_wrong_input_is_said_in_one_message",
      "test_mutations.py::test_a_few_mutated_files_end_in_one_message",
      "test_mutations.py::test_a_thousand_mutated_files_end_in_one_message",
      "test_campaigns.py::test_a_damaged_file_ends_in_the_same_table_or_in_one_sentence"]),
    (CONTRIBUTING, "What was not measured is missing, never 0",
     ["test_tables.py::test_what_did_not_finish_is_missing_and_told",
      "test_report.py::test_what_failed_is_missing_never_zero"]),
    (CONTRIBUTING, "`runs/<identity>/result.json` is the truth; MLflow and Optuna mirror it",
     ["test_sweep_run.py::test_lost_stores_are_filled_from_the_folders",
      "test_sweep_run.py::test_a_store_that_fails_during_training_is_filled_afterwards"]),
    (CONTRIBUTING, "old and new runs then never meet in one table",
     ["test_report_bad_input.py::test_runs_that_do_not_belong_together_are_refused"]),
    (CONTRIBUTING, "bit-for-bit resume",
     ["test_resume.py::test_a_stopped_run_continues_to_the_same_bits"]),
    (SECURITY, "the command ends with one message and exit code 2 before anything is imported",
     ["test_trust.py::test_a_stranger_is_refused_before_it_runs",
      "test_trust.py::test_the_command_says_it_in_one_message"]),
    (SECURITY, "nothing is unpickled",
     ["test_resume.py::test_a_checkpoint_cannot_run_code",
      "test_generate_bad_input.py::test_a_folder_that_cannot_be_loaded"]),
    (SECURITY, "it runs with `--run-code` only",
     ["test_evaluation.py::test_an_evaluation_that_cannot_run"]),
]  # fmt: skip


@cache
def words(page: str) -> str:
    return " ".join((ROOT / page).read_text(encoding="utf-8").split())


@cache
def functions_of(file: str) -> set[str]:
    tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize(
    ("page", "promise", "held_by"), PROMISES, ids=[promise for _, promise, _ in PROMISES]
)
def test_a_promise_is_written_and_held(page: str, promise: str, held_by: list[str]) -> None:
    assert promise in words(page), f"{page} no longer promises it: take it out here, too"
    for test in held_by:
        file, name = test.split("::")
        assert name in functions_of(file), f"{test} is gone: {promise!r} has no test"


def test_what_sounds_like_a_promise_is_in_the_list() -> None:
    """`never`, `always`, `at any` and `nothing` promise: their sentences stand above, or below."""
    others = (
        "Nothing here shows what a censored row cannot do", "Nothing was run on a GPU yet",
        "It reproduces no number of the paper", 'it is never "equal"', "never retyped",
        "already", "nothing in memory",
    )  # fmt: skip
    known = [promise for page, promise, _ in PROMISES if page in (README, CONTRIBUTING)]
    lost = [
        sentence
        for page in (README, CONTRIBUTING)
        for sentence in re.split(r"(?<=[.;:])\s", prose(page))
        if re.search(r"\b(never|always|at any|[Nn]othing)\b", sentence)
        and not any(promise in sentence or sentence in promise for promise in [*known, *others])
        and not any(part in promise for promise in known for part in [sentence.rstrip(".;:")])
    ]
    assert lost == []


def prose(page: str) -> str:
    """A page without its blocks of code."""
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    return " ".join(text.split())


@pytest.mark.slow
def test_nothing_uses_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep with its stores, from the file to the table: no name is looked up, nobody called."""
    asked: list[Any] = []

    def refuse(*arguments: Any, **options: Any) -> Any:
        asked.append(arguments)
        raise OSError("no network")

    lab = Lab(tmp_path).with_store()
    lab.edit(seeds=[0])
    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    for name in ("getaddrinfo", "gethostbyname", "create_connection"):
        monkeypatch.setattr(socket, name, refuse)
    ended = lab.run()
    assert (ended.code, ended.err) == (0, "")
    assert asked == []
