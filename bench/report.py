"""Results as text; computes nothing but differences."""

from collections.abc import Iterable

from bench.results import OURS, PEER, Results, Verdict

HEADINGS = {
    "cpu_us_per_request": "CPU us/req",
    "cpu_us_per_token": "CPU us/tok",
    "requests_per_s": "req/s",
    "tokens_per_s": "tok/s",
    "latency_p50_ms": "p50 ms",
    "latency_p99_ms": "p99 ms",
    "ttft_p50_ms": "TTFT p50 ms",
    "ttft_p99_ms": "TTFT p99 ms",
    "lag_p50_ms": "lag p50 ms",
    "lag_p99_ms": "lag p99 ms",
    "idle_mb": "idle PSS MB",
    "open_mb": "open PSS MB",
    "kb_per_stream": "KB/stream",
    "median_ms": "median ms",
    "max_ms": "max ms",
    "cores": "cores",
    **{
        f"{kind}_us_at_{depth}": f"{word} us at {depth}"
        for depth in (10, 100, 1000)
        for kind, word in (("cpu", "warm"), ("cold", "cold"))
    },
    "long_to_short": "longest to shortest",
}


def text(results: Results) -> str:
    measures = dict.fromkeys(sample.measure for sample in results.samples)
    parts = [_measure(results, measure) for measure in measures]
    return "\n\n".join([_heading(results), *parts, _goals(results.verdicts(), results.mode), *_problems(results)])


def _heading(results: Results) -> str:
    machine = ", ".join(f"{name} {value}" for name, value in results.machine.items())
    return f"{results.mode} run of {results.started}, medians of {results.rounds} round(s) ({machine})"


def _measure(results: Results, measure: str) -> str:
    medians = results.all_medians(measure)
    columns = [name for name in HEADINGS if any(name in figures for figures in medians.values())]
    rows = [[target, *(_number(figures.get(name)) for name in columns)] for target, figures in medians.items()]
    if versus := results.versus(measure):
        rows.append([f"{OURS} to {PEER}", *(_compared(name, versus.get(name)) for name in columns)])
    return _table([[measure, *(HEADINGS[name] for name in columns)], *rows])


def _compared(name: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"x{_number(value)}" if name.startswith("cpu_us") else f"{value:+.2f}"


def _goals(verdicts: Iterable[Verdict], mode: str) -> str:
    rows = [["goals" if mode == "full" else f"goals (a {mode} run decides nothing)", "figure", "rounds", "at most", ""]]
    for verdict in verdicts:
        goal = verdict.goal
        rounds = f"{_number(verdict.lowest)} to {_number(verdict.highest)}"
        at_most = f"{goal.bound:g} {goal.unit}"
        rows.append([goal.measure, _number(verdict.value), rounds, at_most, verdict.word])
    return _table(rows)


def _problems(results: Results) -> list[str]:
    return [f"PROBLEM round {it.round}, {it.measure}, {it.target}: {it.problem}" for it in results.problems()]


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _table(rows: list[list[str]]) -> str:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = [" | ".join(_aligned(row, widths)) for row in rows]
    lines.insert(1, "-|-".join("-" * width for width in widths))
    return "\n".join(lines)


def _aligned(row: list[str], widths: list[int]) -> list[str]:
    """Names to the left, numbers to the right."""
    first, *others = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
    return [row[0].ljust(len(first)), *others]
