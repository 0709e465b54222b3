"""From trained weights to a model that callers get, step by step."""

from bridgebench.findings import Finding, Report, Spread, Table
from bridgebench.scenarios.run import Run
from bridgebench.training.ways import Trained, pools
from bridgebench.training.works import Sizes, digits, synthetic

NAME = "go-live"
TITLE = "Export and going live"
STEPS = {
    "export_s": "export to ONNX",
    "compare_s": "compare with torch",
    "try_s": "load and try the candidate in Triton",
    "publish_s": "publish, serve, give the result",
}


async def measure(run: Run, sizes: Sizes) -> Report:
    """Trainings of one epoch; from the second on each takes the place of a version that serves."""
    works = [synthetic(1)] if run.options.quick else [digits(1), synthetic(1)]
    found: dict[str, list[Trained]] = {work.name: [] for work in works}
    async with pools(run, sizes, bench_live={}) as made:
        for _ in range(run.options.repetitions):
            for work in works:
                found[work.name].append(await made["bench_live"].train(work))
    report = Report(NAME, TITLE)
    rows = []
    for work in works:
        timings = [trained.timings or {} for trained in found[work.name]]
        steps = [Spread.of([each[key] for each in timings]).shown() for key in STEPS]
        all_s = Spread.of([sum(each[key] for key in STEPS) for each in timings])
        report.findings.append(Finding(f"{work.title}: trained to live", all_s, "s"))
        rows.append((work.title, *steps, all_s.shown()))
        report.data[work.name] = timings
    report.tables.append(Table("Seconds of each step", ("", *STEPS.values(), "all"), tuple(rows)))
    report.notes = [
        (
            "Steps are as the result's own `timings` have them; the last one is from when the "
            "version's card was written to when the caller had the result. Triton is the wheel's, "
            "whose Python-based backend starts a process for each model that it loads."
        )
    ]
    return report
