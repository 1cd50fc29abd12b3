"""What the doctor says, and what runs record of the implementations they used."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hymba_lab.commands import doctor
from hymba_lab.ops import backends, kernels
from hymba_lab.ops.status import chosen
from hymba_lab.runs.tracking import record_tags


def told(capsys: pytest.CaptureFixture[str]) -> str:
    assert doctor.main([]) == 0
    return capsys.readouterr().out


def test_every_operation_is_named_with_what_it_runs_on(capsys: pytest.CaptureFixture[str]) -> None:
    text = told(capsys)
    for status in backends().values():
        assert f"{status['title']}: {status['meanings'][status['chosen']]}" in text
    assert f"torch {torch.__version__}" in text and "mlflow 3" in text
    assert f"torch {torch.get_num_threads()}, OMP_NUM_THREADS" in text


def test_every_reason_is_told_and_has_a_meaning() -> None:
    found = doctor.examine()
    text = "\n".join(doctor.lines(found))
    for status in found["operations"].values():
        assert set(status["meanings"]) == {*status["available"], *status["unavailable"]}
        for name, reason in status["unavailable"].items():
            assert f"not {status['meanings'][name]}: {reason}" in text


def test_json_holds_the_same_findings(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main(["--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == doctor.examine()


def test_without_kernel_and_compiler_it_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HYMBA_LAB_SCAN", raising=False)
    monkeypatch.setattr(kernels, "variant", lambda: "absent")
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    text = told(capsys)
    assert "selective scan: plain torch" in text
    assert "install g++ or clang" in text and "apt-get install g++" in text


@pytest.mark.parametrize(
    ("place", "said"), [("/env/a%41b/mlflow", True), ("/env/ab/mlflow", False)]
)
def test_a_percent_in_the_place_of_mlflow_is_told(place: str, said: bool) -> None:
    found = doctor.examine()
    found["machine"]["mlflow"] = place
    text = "\n".join(doctor.advice(found))
    assert ("`mlflow ui` cannot open its tables" in text and place in text) == said


@pytest.mark.parametrize("build", ["v3", "plain"])
def test_the_build_of_the_kernel_is_named(build: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "variant", lambda: build)
    if kernels.missing() is not None:
        pytest.skip("the kernel is not built")
    assert any(f"(build {build})" in line for line in doctor.lines(doctor.examine()))


@pytest.mark.parametrize(("chosen", "said"), [("triton", False), ("cuda", False), ("torch", True)])
def test_a_gpu_is_told_of_its_scan_only_where_it_has_none(chosen: str, said: bool) -> None:
    """The kernel of the CPU serves no GPU, and none of the others is needed beside a fast one."""
    found = doctor.examine()
    found["machine"] |= {"cuda": "A card", "compiler": None}
    elsewhere = {
        name: f"{name} is not here" for name in ("triton", "cuda", "cpp") if name != chosen
    }
    found["operations"]["selective_scan"] |= {"chosen": chosen, "unavailable": elsewhere}
    about = [line for line in doctor.advice(found) if "scan" in line or "compiler" in line]
    assert about == (["the GPU has no fast scan: triton is not here"] if said else [])


def test_a_slow_scan_that_was_asked_for_on_a_gpu_is_no_advice() -> None:
    found = doctor.examine()
    found["machine"]["cuda"] = "A card"
    found["operations"]["selective_scan"] |= {"chosen": "torch", "unavailable": {"cpp": "no"}}
    assert not any("scan" in line for line in doctor.advice(found))


def test_too_many_threads_and_spinning_are_told() -> None:
    found = doctor.examine()
    found["threads"] = {"torch": 64, "OMP_NUM_THREADS": "64", "OMP_WAIT_POLICY": None}
    found["machine"] |= {"usable_cores": 2, "bf16_instructions": False, "cuda": None}
    advice = "\n".join(doctor.advice(found))
    assert "OMP_NUM_THREADS=2" in advice and "OMP_WAIT_POLICY=passive" in advice
    assert "no bf16 instructions" in advice
    found["threads"] = {"torch": 2, "OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive"}
    assert not any("OMP" in line for line in doctor.advice(found))


@pytest.mark.slow
def test_a_forced_choice_that_cannot_run_is_one_message(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hymba_lab.doctor"],
        env=os.environ | {"HYMBA_LAB_SCAN": "fast", "PYTHONPATH": str(Path(__file__).parents[1])},
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "HYMBA_LAB_SCAN=fast" in done.stderr and "triton, cuda, cpp, torch" in done.stderr


# ------------------------------------------------------------------ what a run records


def test_the_choice_of_a_run_names_scan_build_and_attention(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HYMBA_LAB_SCAN", "torch")
    assert chosen()["scan_backend"] == "torch"
    monkeypatch.delenv("HYMBA_LAB_SCAN")
    status = backends()["selective_scan"]["chosen"]
    assert chosen()["scan_backend"].startswith(status)
    assert chosen()["attention_backend"].startswith(backends()["attention"]["chosen"])
    assert record_tags(chosen()) == {f"hymba_lab.{k}": v for k, v in chosen().items()}
