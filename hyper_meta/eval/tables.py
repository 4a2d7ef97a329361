"""The tables of the report, for the terminal and in Markdown."""

from __future__ import annotations

from typing import Any

from hyper_meta.eval.metrics import (
    ADAPTED,
    CHOSEN,
    CLIP,
    CONDITIONAL,
    UNADAPTED,
    UNGUIDED,
    one_sample,
    scale_name,
)
from hyper_meta.eval.results import ALL, SPLITS, groups_of, scales_of

Table = list[list[str]]  # the first row is the header, the first column names


def main_table(results: dict[str, Any], split: str) -> Table:
    """Every method on all tasks, by group, pooled, and minus the unadapted generator."""
    groups = groups_of(results, split)[1:]
    table = [["method", "all [95%]", *groups, "pooled", "minus unadapted [95%]"]]
    for name in shown_methods(results):
        cells = results["summaries"][split][name][ALL]
        gaps = results["differences"][split].get(name, {}).get(UNADAPTED)
        table.append(
            [
                name,
                interval(cells[ALL]),
                *(f"{cells[group]['mean']:.1f}" for group in groups),
                f"{cells[ALL]['pooled']:.1f}",
                interval(gaps[ALL][ALL], sign="+") if gaps else "",
            ]
        )
    return table


def difference_table(results: dict[str, Any], split: str) -> Table:
    """The chosen scale of HyperLDM against each baseline, by group, with the verdict."""
    table = [["HyperLDM, chosen scale, against", *groups_of(results, split)]]
    for baseline, cells in results["differences"][split][CHOSEN].items():
        row = [f"{figures['verdict']}: {interval(figures, '+')}" for figures in cells[ALL].values()]
        table.append([baseline, *row])
    return table


def family_table(results: dict[str, Any], split: str) -> Table:
    """Accuracy by question family; the columns of groups are HyperLDM at the chosen scale."""
    summary = results["summaries"][split]
    groups = groups_of(results, split)[1:]
    methods = {"CLIP": CLIP, "not adapted": UNADAPTED, "conditional": CONDITIONAL}
    header = ["family", "tasks", *methods, "HyperLDM", *(f"HyperLDM: {group}" for group in groups)]
    table = [[*header, "adapted", "HyperLDM minus not adapted"]]
    for family, cells in summary[CHOSEN].items():
        gap = results["differences"][split][CHOSEN][UNADAPTED][family][ALL]
        table.append(
            [
                family,
                str(cells[ALL]["tasks"]),
                *(f"{summary[name][family][ALL]['mean']:.1f}" for name in methods.values()),
                f"{cells[ALL]['mean']:.1f}",
                *(f"{cells[group]['mean']:.1f}" if group in cells else "–" for group in groups),
                f"{summary[ADAPTED][family][ALL]['mean']:.1f}",
                interval(gap, sign="+"),
            ]
        )
    return table


def scale_table(results: dict[str, Any]) -> Table:
    """Accuracy by guidance scale: validation tasks by seed, the chosen one bold, and test tasks."""
    seeds = results["chosen_scale"]
    table = [["scale", *(f"validation, {seed}" for seed in seeds), "test, mean"]]
    for scale in scales_of(results):
        cells = {
            split: results["summaries"][split][scale_name(scale)][ALL][ALL] for split in SPLITS
        }
        texts = [f"{value:.1f}" for value in cells["validation"]["seeds"]["values"]]
        marked = [
            f"**{text}**" if scale_name(chosen) == scale_name(scale) else text
            for text, chosen in zip(texts, seeds.values(), strict=True)
        ]
        table.append([f"{scale:g}", *marked, f"{cells['test']['mean']:.1f}"])
    return table


def seed_table(results: dict[str, Any]) -> Table:
    """Mean over test tasks by seed, and its interval over seeds where there are several."""
    table = [["method", *results["seeds"], "mean [95% over seeds]"]]
    for name in shown_methods(results):
        seeds = results["summaries"]["test"][name][ALL][ALL]["seeds"]
        overall = interval(seeds) if "low" in seeds else f"{seeds['mean']:.1f}"
        table.append([name, *(f"{value:.1f}" for value in seeds["values"]), overall])
    return table


def shown_methods(results: dict[str, Any]) -> list[str]:
    """The rows of the table, in order."""
    scales = [scale_name(scale) for scale in scales_of(results)]
    first = [name for name in UNGUIDED if name != ADAPTED]
    return [*first, *scales, CHOSEN, one_sample(CHOSEN), ADAPTED]


def interval(figures: dict[str, float], sign: str = "") -> str:
    """mean [low, high], with a plus before positive figures if sign is "+"."""
    mean, low, high = (format(figures[key], f"{sign}.1f") for key in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def as_text(table: Table) -> str:
    """The table for a terminal, names to the left and figures to the right."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for name, *figures in table:
        padded = [figure.rjust(width) for figure, width in zip(figures, widths[1:], strict=True)]
        lines.append("  ".join([name.ljust(widths[0]), *padded]).rstrip())
    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    return "\n".join([lines[0], rule, *lines[1:]])


def as_markdown(table: Table) -> str:
    """The table in Markdown."""
    rule = ["---", *["---:"] * (len(table[0]) - 1)]
    rows = [table[0], rule, *table[1:]]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in rows
    )
