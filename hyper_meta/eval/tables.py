"""The tables of the report, for the terminal and in Markdown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hyper_meta.eval.results import ALL, BASELINES, groups_of, is_number, settings_of, titles_of
from hyper_meta.eval.rows import CLIP, KINDS, MULTITASK, NEAREST
from hyper_meta.eval.trust import WARNINGS

# The first row is the header, the first column names; a row of one cell heads those below it.
Table = list[list[str]]
MISSING = "–"
TASKS = "number of tasks (of concepts)"  # the first line of the main table
# How a baseline is called at the head of a column.
SHORT = {MULTITASK: "multitask", NEAREST: "nearest", CLIP: "CLIP"}


def main_table(results: dict[str, Any], split: str) -> Table:
    """Every row on all tasks, by group, pooled, and minus two of BASELINES; first how many tasks
    these are."""
    groups = groups_of(results, split)[1:]
    differences = results["differences"][split]
    baselines = [row for row in (MULTITASK, NEAREST) if row in differences]
    minus = [f"minus {SHORT[row]} [95%]" for row in baselines]

    def cells(row: str) -> list[str]:
        figures = results["summaries"][split][row][ALL]
        gaps = [differences[row].get(baseline) for baseline in baselines]
        return [
            interval(figures[ALL]),
            *(f"{figures[group]['mean']:.1f}" for group in groups),
            f"{figures[ALL]['pooled']:.1f}",
            *(interval(gap[ALL][ALL], sign="+") if gap else MISSING for gap in gaps),
        ]

    first = next(iter(results["summaries"][split].values()))[ALL]
    sizes = [f"{first[part]['tasks']} ({first[part]['concepts']})" for part in (ALL, *groups)]
    return [
        ["method", "all [95%]", *groups, "pooled", *minus],
        [TASKS, *sizes, *[""] * (1 + len(minus))],
        *_by_kind(results, cells),
    ]


def _by_kind(results: dict[str, Any], cells: Callable[[str], list[str]]) -> Table:
    """A line for each row of the results, title first, under a heading for each kind.

    cells: id -> the other cells of the line.
    """
    table = []
    for kind, heading in KINDS.items():
        rows = [row for row in results["rows"] if row["kind"] == kind]
        table += [[heading]] if rows else []
        table += [[row["title"], *cells(row["id"])] for row in rows]
    return table


def short_titles(results: dict[str, Any]) -> dict[str, str]:
    """{id: what a row is called at the head of a column}."""
    return titles_of(results) | SHORT


def difference_table(results: dict[str, Any], split: str, group: str) -> Table:
    """Every row against each baseline on a group of tasks, with the verdict."""
    differences = results["differences"][split]
    best, called = results["best"].get("conditional"), short_titles(results)
    baselines = [row for row in (*BASELINES, best) if row in differences]

    def cells(row: str) -> list[str]:
        figures = [differences[row].get(baseline) for baseline in baselines]
        return [
            f"{cell[ALL][group]['verdict']}: {interval(cell[ALL][group], '+')}" if cell else MISSING
            for cell in figures
        ]

    header = ["method, against", *(called[row] for row in baselines)]
    return [header, *_by_kind(results, cells)]


def family_table(results: dict[str, Any], split: str) -> Table:
    """Accuracy by question family of the best language row, by group too, and of what it is held
    against; empty without a language row."""
    best = results["best"]
    if "language" not in best:
        return []
    summary, ours = results["summaries"][split], best["language"]
    groups = groups_of(results, split)[1:]
    gaps = results["differences"][split][ours]
    called, title = short_titles(results), titles_of(results)[ours]
    others = [*BASELINES, best.get("conditional"), best.get("few-shot")]
    others = [row for row in others if row in summary and row != ours]
    header = ["family", "tasks", "concepts", *(called[row] for row in others), title]
    header += [f"{title}: {group}" for group in groups]
    table = [header + [f"minus {called[row]}" for row in gaps]]
    for family, cells in summary[ours].items():
        columns = [summary[row][family][ALL] for row in (*others, ours)]
        columns += [cells.get(group) for group in groups]
        means = [f"{figures['mean']:.1f}" if figures else MISSING for figures in columns]
        minus = [interval(gap[family][ALL], sign="+") for gap in gaps.values()]
        sizes = [str(cells[ALL][what]) for what in ("tasks", "concepts")]
        table.append([family, *sizes, *means, *minus])
    return table


def curve_rows(results: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows that were tested at several settings, not only at the chosen one."""
    tested = results["settings"]["test"]
    return [row for row in results["rows"] if row["varies"] and len(tested[row["id"]]) > 1]


def setting_table(results: dict[str, Any], row: dict[str, Any]) -> Table:
    """Accuracy of a row by setting: validation tasks by seed, the chosen one bold, and test tasks
    by group."""
    groups = groups_of(results, "test")
    heads = ["test [95%]", *(f"test: {group}" for group in groups[1:])]
    table = [[row["varies"], *(f"validation, {seed}" for seed in row["chosen"]), *heads]]
    for setting in settings_of(results, "validation", row["id"]):
        figures = results["settings"]["validation"][row["id"]][setting][ALL]
        marked = [
            f"**{value:.1f}**" if chosen == setting else f"{value:.1f}"
            for value, chosen in zip(
                figures["seeds"]["values"], row["chosen"].values(), strict=True
            )
        ]
        test = results["settings"]["test"][row["id"]].get(setting)
        means = [f"{test[group]['mean']:.1f}" if test else MISSING for group in groups[1:]]
        table.append([setting, *marked, interval(test[ALL]) if test else MISSING, *means])
    return table


def chosen_table(results: dict[str, Any]) -> Table:
    """The setting that each seed chose, of the rows that had a choice, and of how many."""
    seeds = [f"chosen, {seed}" for seed in results["seeds"]]
    table = [["method", "what varies", "settings tried", *seeds]]
    for row in results["rows"]:
        tried = results["settings"]["validation"][row["id"]]
        if len(tried) > 1:
            varies = row["varies"] or MISSING
            table.append([row["title"], varies, str(len(tried)), *row["chosen"].values()])
    return table


def shots_of(results: dict[str, Any]) -> list[str]:
    """The numbers of examples per answer of all starts, ascending, what is no number last."""
    shots: dict[str, None] = dict.fromkeys(
        shot for row in results["shots"].values() for shot in row
    )
    numbers = sorted((shot for shot in shots if is_number(shot)), key=float)
    return numbers + [shot for shot in shots if not is_number(shot)]


def shot_table(results: dict[str, Any], group: str) -> Table:
    """Accuracy on a group of test tasks by start and number of examples per answer."""
    shots, titles = shots_of(results), titles_of(results)
    heads = ("zero-shot" if shot == "0" else f"{shot} per answer" for shot in shots)
    table = [["start", *(f"{head} [95%]" for head in heads)]]
    for start, row in results["shots"].items():
        cells = [interval(row[k]["groups"][group]) if k in row else MISSING for k in shots]
        table.append([titles[start], *cells])
    return table


def novelty_table(results: dict[str, Any], group: str) -> Table:
    """How new the networks of each guide with controls are, on a group of test tasks."""
    networks = ("generated", "nearest", "noise")
    accuracies = [f"accuracy: {name}" for name in networks]
    overlaps = [f"overlap: {name}" for name in (networks[0], networks[2])]
    distances = ["distance to the nearest", "between training networks"]
    table = [["guide", *distances, *accuracies, "generated minus nearest [95%]", *overlaps]]
    for row in results["rows"]:
        if row["id"] not in results["novelty"]:
            continue
        figures = results["novelty"][row["id"]][group]
        table.append(
            [
                row["title"],
                *(f"{figures[name]:.2f}" for name in ("distance", "between")),
                *(f"{value:.1f}" for value in figures["accuracy"].values()),
                interval(figures["minus_nearest"], "+"),
                *(f"{value:.0f}" for value in figures["overlap"].values()),
            ]
        )
    return table


def trust_table(results: dict[str, Any], group: str) -> Table:
    """How far each guide's expected accuracies hold, on a group of test tasks."""
    table = [
        [
            "guide",
            "rank correlation",
            "calibration error",
            "expected",
            "true",
            "warned: near no language",
            "accuracy: they, others",
            "warned: unseen words",
            "accuracy: they, others",
        ]
    ]
    for row in results["rows"]:
        if row["id"] not in results["trust"]:
            continue
        figures = results["trust"][row["id"]][group]
        correlation = figures["rank_correlation"]
        cells = [MISSING if correlation is None else f"{correlation:.2f}"]
        cells += [f"{figures[name]:.1f}" for name in ("error", "expected", "true")]
        for name in WARNINGS:
            warned = figures[name]
            cells.append(f"{warned['warned']:g} of {figures['tasks']:g}")
            shares = warned["warned_accuracy"], warned["other_accuracy"]
            cells.append(", ".join(MISSING if x is None else f"{x:.1f}" for x in shares))
        table.append([row["title"], *cells])
    return table


def seed_table(results: dict[str, Any]) -> Table:
    """Mean over test tasks by seed, and its interval over seeds where there are several."""

    def cells(row: str) -> list[str]:
        seeds = results["summaries"]["test"][row][ALL][ALL]["seeds"]
        overall = interval(seeds) if "low" in seeds else f"{seeds['mean']:.1f}"
        return [*(f"{value:.1f}" for value in seeds["values"]), overall]

    header = ["method", *results["seeds"], "mean [95% over seeds]"]
    return [header, *_by_kind(results, cells)]


def interval(figures: dict[str, float], sign: str = "") -> str:
    """mean [low, high], with a plus before positive figures if sign is "+"."""
    mean, low, high = (format(figures[key], f"{sign}.1f") for key in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def as_text(table: Table) -> str:
    """The table for a terminal, names to the left and figures to the right."""
    columns = zip(*(row for row in table if len(row) > 1), strict=True)
    widths = [max(map(len, column)) for column in columns]
    lines = []
    for name, *figures in table:
        if not figures:
            lines += [*([""] if len(lines) > 1 else []), f"{name}:"]
            continue
        padded = [figure.rjust(width) for figure, width in zip(figures, widths[1:], strict=True)]
        lines.append("  ".join([name.ljust(widths[0]), *padded]).rstrip())
    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    return "\n".join([lines[0], rule, *lines[1:]])


def as_markdown(table: Table) -> str:
    """The table in Markdown, headings bold."""
    width = len(table[0])
    rule = ["---", *["---:"] * (width - 1)]
    rows = [row if len(row) > 1 else [f"**{row[0]}**", *[""] * (width - 1)] for row in table[1:]]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |"
        for row in [table[0], rule, *rows]
    )
