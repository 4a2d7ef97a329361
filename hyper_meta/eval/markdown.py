"""The report in words: the main result, what is mere memory, and the whole in Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hyper_meta.eval.calibration import NUM_BINS
from hyper_meta.eval.pictures import Scene
from hyper_meta.eval.results import ALL, GROUPS, groups_of, titles_of
from hyper_meta.eval.rows import CLIP, MULTITASK, NEAREST
from hyper_meta.eval.tables import (
    Table,
    as_markdown,
    chosen_table,
    curve_rows,
    difference_table,
    family_table,
    interval,
    main_table,
    novelty_table,
    seed_table,
    setting_table,
    shot_table,
    trust_table,
)

NOTES = """\
* Accuracy is the mean over tasks, each counted once; *pooled* counts each example once.
* Brackets are 95% bootstrap intervals over concepts: one question in several wordings is several \
tasks of one concept, which are drawn together. Right answers are averaged over seeds first, so \
intervals say nothing about another seed. With the few concepts of one family they are a rough \
guide, and there are many families, so none is given a verdict.
* A method *beats* another where the interval of the paired difference lies above zero. With many \
methods some do so by chance: of 40 that are no better, one.
* *multitask* is the unconditional network of all tasks; *nearest* the network of the training \
task with the nearest sentence, which is what memory alone gives: what does not beat it does no \
more than remember.
* A row is each seed's setting with the highest accuracy on validation tasks.
* Rows that saw the support set have labelled examples of the test task: an upper reference, not \
zero-shot. The most common answer uses the support set as well."""
NOVELTY = """\
How a guide's networks differ from those of the training tasks, on the test tasks. *Distance* is \
that of the generated weights to the nearest training network's, relative to the norm of the \
latter; beside it, that of a training network to the nearest one of another task. *Overlap* is \
that of errors: of the examples that either network gets wrong, those that both do. *Noise* is the \
nearest training network with noise of that same distance.

**How to read it.** A guide that repeats what it was trained on is much nearer to a training \
network than these are to each other, and errs where that one errs (overlap near 100). One that \
only strays from it does no better than noise. What is generated is new and useful where it is \
right more often than the nearest network and errs elsewhere. The networks of a guide without a \
latent space are compared with its own for the training sentences. Of networks that vote, each is \
compared by itself."""
TRUST = f"""\
What a sentence's networks let expect before any label is seen, by ridge regression on the \
validation tasks, against what is true of the test tasks. *Rank correlation* is Spearman's, over \
tasks; *calibration error* the difference between expected and true accuracy in {NUM_BINS} bins of \
equally many tasks, on average, which is above zero by chance alone where a bin holds few. A \
sentence is warned of where its expected accuracy is near that of a network without language, or \
where one of its words is in no training and no validation sentence."""
REMEMBERS = (
    "does not beat the nearest training sentence: on these tasks it does no more than remember"
)
# How the headline calls a baseline; others by their title, with an article.
CALLED = {
    MULTITASK: "the unconditional multitask network",
    NEAREST: "the latent of the nearest training sentence",
    CLIP: "CLIP as base model",
}
Sections = list[str]


def headline(results: dict[str, Any]) -> str:
    """The main result in one sentence a group, verdicts and intervals included: that of the
    language row which is best on validation tasks."""
    best, titles = results["best"].get("language"), titles_of(results)
    if best is None:
        return "No method here answers from the sentence alone."
    groups = groups_of(results, "test")
    sentences = [
        f"From the sentence alone, {titles[best]} (the best such method on validation tasks):"
    ]
    for group in groups[1:] or groups:
        figures = results["summaries"]["test"][best][ALL][group]
        name = "test" if group == ALL else group
        meaning = f" ({GROUPS[group]})" if group in GROUPS else ""
        claims = [
            f"{cells[ALL][group]['verdict']} {CALLED.get(baseline, f'the {titles[baseline]}')} "
            f"({interval(cells[ALL][group], '+')} points)"
            for baseline, cells in results["differences"]["test"][best].items()
        ]
        share = interval(figures).replace(" ", "% ", 1)
        told = f": it {_listed(claims)}" if claims else ""
        sentences.append(
            f"on {figures['tasks']} {name} tasks of {figures['concepts']} concepts{meaning} it is "
            f"right in {share}{told};"
        )
    return " ".join(sentences).removesuffix(";") + "."


def _listed(claims: Sequence[str]) -> str:
    *others, last = claims
    return f"{', '.join(others)}, and {last}" if others else last


def memory(results: dict[str, Any]) -> list[str]:
    """A sentence for each language row and group of test tasks on which it does not beat the
    nearest training sentence."""
    sentences = []
    groups = groups_of(results, "test")
    for row in results["rows"]:
        gaps = results["differences"]["test"][row["id"]].get(NEAREST)
        if row["kind"] != "language" or gaps is None:
            continue
        for group in groups:
            figures = gaps[ALL][group]
            if figures["low"] <= 0:
                where = "" if len(groups) == 1 else f" on {group} tasks"
                minus = f"({interval(figures, '+')} points)"
                sentences.append(f"{row['title']}{where} {minus} {REMEMBERS}.")
    return sentences


def compose(results: dict[str, Any], scenes: Sequence[Scene], shown: Sequence[str]) -> str:
    """The whole report. shown: the file names of its pictures."""
    config, seeds = results["config"], results["seeds"]
    sections = [
        "# From a sentence to weights: results",
        f"**{headline(results)}**",
        f"Data set `{config.get('dataset')}`, {len(seeds)} seed{'s' * (len(seeds) > 1)} "
        f"({', '.join(seeds)}). Every figure, and the accuracy on every task, is in "
        "`../results.json`; the configuration is in `../config.json`.",
        "## Test tasks",
        as_markdown(main_table(results, "test")),
        NOTES,
        *_memory(results),
        *_novelty(results),
        *_trust(results, shown),
        "## Differences on test tasks",
        *_by_group(results, lambda group: difference_table(results, "test", group)),
        *_families(results),
        *_settings(results, shown),
        *_shots(results),
        "## Validation tasks",
        "Early stopping and settings were chosen on these, so they flatter the methods that were "
        "trained.",
        as_markdown(main_table(results, "validation")),
        "## Seeds",
        as_markdown(seed_table(results)),
        *_training(results),
        *_latents(results, shown),
        *_examples(results, scenes),
    ]
    return "\n\n".join(sections) + "\n"


def _by_group(results: dict[str, Any], table: Callable[[str], Table]) -> Sections:
    """A table for each group of test tasks, with its name above where there are several."""
    sections = []
    groups = groups_of(results, "test")
    for group in groups:
        if len(groups) > 1:
            sections.append(f"### {'All test tasks' if group == ALL else group.capitalize()}")
        sections.append(as_markdown(table(group)))
    return sections


def _memory(results: dict[str, Any]) -> Sections:
    if NEAREST not in results["summaries"]["test"] or "language" not in results["best"]:
        return []
    sentences = memory(results)
    told = "\n".join(f"* {sentence}" for sentence in sentences)
    everyone = "Every method that answers from the sentence beats the nearest training sentence."
    return ["## Guided or remembered", told or everyone]


def _novelty(results: dict[str, Any]) -> Sections:
    if not results["novelty"]:
        return []
    tables = _by_group(results, lambda group: novelty_table(results, group))
    return ["## New networks or remembered ones", NOVELTY, *tables]


def _trust(results: dict[str, Any], shown: Sequence[str]) -> Sections:
    if not results["trust"]:
        return []
    tables = _by_group(results, lambda group: trust_table(results, group))
    picture = "![Expected and true accuracy](expected_accuracy.png)"
    drawn = [picture] if "expected_accuracy.png" in shown else []
    return ["## Expected accuracy", TRUST, *tables, *drawn]


def _families(results: dict[str, Any]) -> Sections:
    table = family_table(results, "test")
    return ["## By question family, test tasks", as_markdown(table)] if table else []


def _settings(results: dict[str, Any], shown: Sequence[str]) -> Sections:
    table, curves = chosen_table(results), curve_rows(results)
    if len(table) == 1 and not curves:
        return []
    sections = [
        "## Settings",
        "Chosen in every seed anew, by the mean accuracy on validation tasks.",
    ]
    sections += [as_markdown(table)] if len(table) > 1 else []
    for row in curves:
        sections += [f"### {row['title']}", as_markdown(setting_table(results, row))]
    if "accuracy_by_scale.png" in shown:
        sections.append("![Accuracy by guidance scale](accuracy_by_scale.png)")
    return sections


def _shots(results: dict[str, Any]) -> Sections:
    if not results["shots"]:
        return []
    return [
        "## From zero-shot to few-shot",
        "Adapted with so many labelled examples per answer of each test task, from the start that "
        "the line names; 0 is zero-shot.",
        *_by_group(results, lambda group: shot_table(results, group)),
        "![Accuracy by examples per answer](accuracy_by_shots.png)",
    ]


def _training(results: dict[str, Any]) -> Sections:
    evaluated = [
        f"* {seed}, {stage}: {phrase}"
        for seed, stages in results["evaluated"].items()
        for stage, phrase in stages.items()
    ]
    chosen = [
        f"* {seed}, {name}: learning rate {choice['learning_rate']:g} of "
        f"{', '.join(f'{rate:g}' for rate in choice['of'])}"
        for seed, choices in results["choices"].items()
        for name, choice in choices.items()
    ]
    if not evaluated:
        return []
    picture = "![Training curves](training_curves.png)"
    return ["## Training", "Evaluated were:", "\n".join(evaluated + chosen), picture]


def _latents(results: dict[str, Any], shown: Sequence[str]) -> Sections:
    if "latents.png" not in shown:
        return []
    return [
        "## Latents",
        f"Those of {results['seeds'][0]}, in the plane of the largest variance of the adapted "
        "ones.",
        "![Latents in two dimensions](latents.png)",
    ]


def _examples(results: dict[str, Any], scenes: Sequence[Scene]) -> Sections:
    if not scenes:
        return []
    right = sum(scene.answer == scene.right for scene in scenes)
    return [
        "## Examples",
        f"Test scenes, chosen by a rule that does not look at the answers: {right} of "
        f"{len(scenes)} right ({results['seeds'][0]}).",
        "![Examples](examples.png)",
    ]
