"""`mcn doctor [PATH]`: are this machine, its GPUs and a shared folder fit for all stages? A line a check, with cure."""

from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict

from pipeline.core.reporting import RunSummary
from pipeline.tools.doctor.folder import shared_folder_checks, trial_folder
from pipeline.tools.doctor.machine import Check, Finding, examine, machine_checks
from pipeline.tools.settings import DoctorSettings


def run(settings: DoctorSettings) -> RunSummary:
    """Make all checks, print each as it ends. Complete when none found a problem; warnings are told and let pass.

    InputError when the folder is missing or can't be written to.
    """
    report = RunSummary("doctor", unit="check")
    findings: dict[str, Finding] = {}
    with ExitStack() as stack:
        checks = _gpu_checks() if settings.gpu else machine_checks() | {"gpu": _check_gpu}
        if settings.path is not None:
            checks |= shared_folder_checks(stack.enter_context(trial_folder(settings.path)))
        for name, check in checks.items():
            findings[name] = examine(check)
            print(findings[name].line(name), flush=True)
    report.failed = Counter(name for name, finding in findings.items() if finding.state == "problem")
    report.done = len(findings) - report.failed.total()
    report.complete = not report.failed
    warnings = sum(finding.state == "warning" for finding in findings.values())
    report.detail = {
        "path": str(settings.path) if settings.path is not None else None,
        "warnings": warnings,
        "findings": [{"check": name} | asdict(finding) for name, finding in findings.items()],
    }
    report.notes = [f"{warnings} of them with a warning"] if warnings else []
    report.finish().publish(settings.out)
    return report


def _gpu_checks() -> dict[str, Check]:
    from pipeline.tools.doctor import gpu

    return gpu.gpu_checks(gpu.visible_gpus())


def _check_gpu() -> Finding:
    from pipeline.tools.doctor import gpu  # loads PyTorch: where that fails, it is this check's finding

    return gpu.check_gpu()
