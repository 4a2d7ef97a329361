"""The tables of the report, for the terminal and in Markdown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hyper_meta.eval.metrics import CLIP, KINDS, MULTITASK, NEAREST
from hyper_meta.eval.results import ALL, BASELINES, groups_of, is_number, settings_of

# The first row is the header, the first column names; a row of one cell heads those below it.
Table = list[list[str]]
MISSING = "–"
# How a baseline is called at the head of a column.
SHORT = {MULTITASK: "multitask", NEAREST: "nearest", CLIP: "CLIP"}


def main_table(results: dict[str, Any], split: str) -> Table:
    """Every row on all tasks, by group, pooled, and minus two of BASELINES."""
    groups = groups_of(results, split)[1:]
    differences = results["differences"][split]
    baselines = [title for title in (MULTITASK, NEAREST) if title in differences]
    minus = [f"minus {SHORT[title]} [95%]" for title in baselines]

    def cells(title: str) -> list[str]:
        figures = results["summaries"][split][title][ALL]
        gaps = [differences[title].get(baseline) for baseline in baselines]
        return [
            interval(figures[ALL]),
            *(f"{figures[group]['mean']:.1f}" for group in groups),
            f"{figures[ALL]['pooled']:.1f}",
            *(interval(gap[ALL][ALL], sign="+") if gap else MISSING for gap in gaps),
        ]

    return [["method", "all [95%]", *groups, "pooled", *minus], *_by_kind(results, cells)]


def _by_kind(results: dict[str, Any], cells: Callable[[str], list[str]]) -> Table:
    """A line for each row of the results, title first, under a heading for each kind."""
    table = []
    for kind, heading in KINDS.items():
        titles = [row["title"] for row in results["rows"] if row["kind"] == kind]
        table += [[heading]] if titles else []
        table += [[title, *cells(title)] for title in titles]
    return table


def difference_table(results: dict[str, Any], split: str, group: str) -> Table:
    """Every row against each baseline on a group of tasks, with the verdict."""
    differences = results["differences"][split]
    best = results["best"].get("conditional")
    baselines = [title for title in (*BASELINES, best) if title in differences]

    def cells(title: str) -> list[str]:
        figures = [differences[title].get(baseline) for baseline in baselines]
        return [
            f"{cell[ALL][group]['verdict']}: {interval(cell[ALL][group], '+')}" if cell else MISSING
            for cell in figures
        ]

    header = ["method, against", *(SHORT.get(title, title) for title in baselines)]
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
    titles = [*BASELINES, best.get("conditional"), best.get("few-shot")]
    titles = [title for title in titles if title in summary and title != ours]
    header = ["family", "tasks", *(SHORT.get(title, title) for title in titles), ours]
    header += [f"{ours}: {group}" for group in groups]
    table = [header + [f"minus {SHORT.get(title, title)}" for title in gaps]]
    for family, cells in summary[ours].items():
        columns = [summary[title][family][ALL] for title in (*titles, ours)]
        columns += [cells.get(group) for group in groups]
        means = [f"{figures['mean']:.1f}" if figures else MISSING for figures in columns]
        minus = [interval(gap[family][ALL], sign="+") for gap in gaps.values()]
        table.append([family, str(cells[ALL]["tasks"]), *means, *minus])
    return table


def curve_titles(results: dict[str, Any]) -> list[str]:
    """The rows that were tested at several settings, not only at the chosen one."""
    tested = results["settings"]["test"]
    varied = [row["title"] for row in results["rows"] if row["varies"]]
    return [title for title in varied if len(tested[title]) > 1]


def setting_table(results: dict[str, Any], title: str) -> Table:
    """Accuracy of a row by setting: validation tasks by seed, the chosen one bold, and test tasks
    by group."""
    row = next(row for row in results["rows"] if row["title"] == title)
    groups = groups_of(results, "test")
    heads = ["test [95%]", *(f"test: {group}" for group in groups[1:])]
    table = [[row["varies"], *(f"validation, {seed}" for seed in row["chosen"]), *heads]]
    for setting in settings_of(results, "validation", title):
        figures = results["settings"]["validation"][title][setting][ALL]
        marked = [
            f"**{value:.1f}**" if chosen == setting else f"{value:.1f}"
            for value, chosen in zip(
                figures["seeds"]["values"], row["chosen"].values(), strict=True
            )
        ]
        test = results["settings"]["test"][title].get(setting)
        means = [f"{test[group]['mean']:.1f}" if test else MISSING for group in groups[1:]]
        table.append([setting, *marked, interval(test[ALL]) if test else MISSING, *means])
    return table


def chosen_table(results: dict[str, Any]) -> Table:
    """The setting that each seed chose, of the rows that had a choice, and of how many."""
    seeds = [f"chosen, {seed}" for seed in results["seeds"]]
    table = [["method", "what varies", "settings tried", *seeds]]
    for row in results["rows"]:
        tried = results["settings"]["validation"][row["title"]]
        if len(tried) > 1:
            varies = row["varies"] or MISSING
            table.append([row["title"], varies, str(len(tried)), *row["chosen"].values()])
    return table


def shots_of(results: dict[str, Any]) -> list[str]:
    """The numbers of examples per answer of all starts, ascending, what is no number last."""
    shots = dict.fromkeys(shot for row in results["shots"].values() for shot in row)
    numbers = sorted((shot for shot in shots if is_number(shot)), key=float)
    return numbers + [shot for shot in shots if not is_number(shot)]


def shot_table(results: dict[str, Any], group: str) -> Table:
    """Accuracy on a group of test tasks by start and number of examples per answer."""
    shots = shots_of(results)
    heads = ("zero-shot" if shot == "0" else f"{shot} per answer" for shot in shots)
    table = [["start", *(f"{head} [95%]" for head in heads)]]
    for start, row in results["shots"].items():
        cells = [interval(row[k]["groups"][group]) if k in row else MISSING for k in shots]
        table.append([start, *cells])
    return table


def seed_table(results: dict[str, Any]) -> Table:
    """Mean over test tasks by seed, and its interval over seeds where there are several."""

    def cells(title: str) -> list[str]:
        seeds = results["summaries"]["test"][title][ALL][ALL]["seeds"]
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
