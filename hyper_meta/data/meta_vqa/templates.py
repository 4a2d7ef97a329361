"""Answer sentences: what a question becomes with {} in the place of the answer.

| question                        | answer sentence                  |
|---------------------------------|----------------------------------|
| How many dogs are in the water? | {} dogs are in the water         |
| What color is the bowl?         | the bowl is {}                   |
| What is the man holding?        | the man is holding {}            |
| What is the woman doing?        | the woman is {}                  |
| What are they standing on?      | they are standing on {}          |
| What room is pictured?          | {} is pictured                   |
| What kind of bird is that?      | that is {}, a kind of bird       |
| Where was the photo taken?      | the photo was taken {}           |
| How old is the boy?             | the boy is {} years old          |
| What does the sign say?         | the sign says {}                 |

A question of no known form keeps its words: "Whose birthday is it? {}".
"""

from __future__ import annotations

import re

BE = r"(?P<be>is|are|was|were)"
# Words that begin a predicate, or are one: the answer is then its subject.
PREDICATES = set(
    "in on at near behind under above below beside between next around inside outside over along "
    "through to of from with attached shown pictured visible depicted featured displayed seen "
    "written printed parked there mainly".split()
)
PARTICIPLES = set(
    "made covered filled used topped taken located called dressed decorated written parked".split()
)
NOT_VERBS = set(
    "thing something building clothing ceiling ring king string wing evening morning swing awning "
    "painting railing icing topping crossing frosting lighting ping spring wedding sling icing "
    "flooring siding filling".split()
)
DETERMINERS = set("the a an his her their its".split())
PRONOUNS = set("this that these those it he she they you".split())
PREPOSITIONS = set("in on at for with of from to by into under behind through about".split())
VERBS = "have|say|wear|hold|eat|need|use|see|mean|read|spell|ride|play|do|look"
THIRD_PERSON = {"have": "has", "do": "does"}


def answer_sentence(question: str) -> str:
    """A sentence that answers a question, with exactly one {} in the place of the answer."""
    # Braces of the question would be read as the place of the answer.
    asked = " ".join(question.replace("{", "(").replace("}", ")").split())
    text = asked.rstrip("?. ")
    text = text[:1].lower() + text[1:]
    for pattern, make in RULES:
        if match := re.fullmatch(pattern, text, re.IGNORECASE):
            return make(match)
    return f"{asked} {{}}".strip()


def _clause(be: str, rest: str, answer: str) -> str:
    """The sentence of "What <be> <rest>?": subject, be and verb, with the answer inserted."""
    words = rest.split()
    adjective = len(words) == 1 and words[0] not in PRONOUNS
    if adjective or words[0] in PREDICATES or _is_verb(words[0]):
        return f"{answer} {be} {rest}"
    verb = next((n for n in range(1, len(words)) if _is_verb(words[n], after=words[n - 1])), None)
    if verb is None:
        subject, last = (" ".join(part) for part in (words[:-1], words[-1:]))
        stands = last in PREPOSITIONS
        return f"{subject} {be} {last} {answer}" if stands else f"{rest} {be} {answer}"
    subject, tail = " ".join(words[:verb]), words[verb + 1 :]
    if words[verb] == "doing":
        return " ".join([subject, be, answer, *tail])
    if words[verb] in PARTICIPLES or (tail and tail[-1] in PREPOSITIONS):
        return " ".join([subject, be, words[verb], *tail, answer])
    return " ".join([subject, be, words[verb], answer, *tail])


def _is_verb(word: str, *, after: str = "") -> bool:
    named = word in PARTICIPLES or (word.endswith("ing") and word not in NOT_VERBS)
    return named and after not in DETERMINERS


def _kind(match: re.Match) -> str:
    kind, noun, be, rest = match.group("kind", "noun", "be", "rest")
    return f"{_clause(be, rest, '{}')}, a {kind} of {noun}"


def _does(match: re.Match) -> str:
    auxiliary, subject, verb, tail = match.group("does", "subject", "verb", "tail")
    if auxiliary == "does":
        verb = THIRD_PERSON.get(verb, f"{verb}s")
    counted = match.groupdict().get("counted")
    return f"{subject} {verb} {{}}{f' {counted}' if counted else ''}{tail}"


DOES = rf"(?P<does>do|does|did|can) (?P<subject>.+?) (?P<verb>{VERBS})(?P<tail>\b.*)"
# (pattern of a question without its question mark, match -> sentence). The first match counts.
RULES = (
    (rf"how many (?P<counted>.+?) {DOES}", _does),
    (
        rf"how many (?P<counted>.+?) {BE} there\b(?P<tail>.*)",
        lambda m: f"there {m['be']} {{}} {m['counted']}{m['tail']}",
    ),
    (r"how many (?P<rest>.+)", lambda m: f"{{}} {m['rest']}"),
    (rf"how old {BE} (?P<rest>.+)", lambda m: f"{m['rest']} {m['be']} {{}} years old"),
    (
        rf"how (?P<degree>tall|deep|big|high|long|wide|fast) {BE} (?P<rest>.+)",
        lambda m: f"{m['rest']} {m['be']} {{}} {m['degree']}",
    ),
    (rf"how {BE} (?P<rest>.+)", lambda m: _clause(m["be"], m["rest"], "{}")),
    (
        rf"(?:what|which) colou?rs? (?P<noun>\w+) {BE} (?P<rest>.+)",
        lambda m: _clause(m["be"], m["rest"], f"{{}} {m['noun']}"),
    ),
    (
        rf"(?:what|which) (?P<kind>kind|type|sort|style|breed|brand) of (?P<noun>.+?) {BE} "
        r"(?P<rest>.+)",
        _kind,
    ),
    (
        rf"(?:what|which) number {BE} (?P<rest>.+)",
        lambda m: _clause(m["be"], m["rest"], "number {}"),
    ),
    (rf"what {DOES}", _does),
    (
        rf"(?:where|when) {BE} (?P<rest>.+?)(?: at)?",
        lambda m: _clause(m["be"], m["rest"], "{}"),
    ),
    (
        rf"(?:what|which|who)(?: .+?)?? {BE} (?P<rest>.+)",
        lambda m: _clause(m["be"], m["rest"], "{}"),
    ),
)
