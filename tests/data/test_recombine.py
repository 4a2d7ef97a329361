from hyper_meta.data.digits_vqa.questions import all_questions
from hyper_meta.data.recombine import recombined

KNOWN = ["Where is the one?", "Where is the seven?", "What colour is the one?", "Is it red?"]


def test_words_of_the_same_place_replace_each_other():
    assert recombined(KNOWN, most=9, seed=0) == [("What colour is the seven?", (2,))]


def test_a_sentence_may_come_from_several():
    known = ["a b", "a c", "x b", "x c", "a d"]
    assert recombined(known, most=9, seed=0) == [("x d", (2, 3, 4))]


def test_no_known_sentence_and_at_most_so_many_of_each():
    known = [question.text for question in all_questions() if question.split == "train"]
    few, again, other = (recombined(known, most=2, seed=seed) for seed in (0, 0, 1))
    assert few == again != other
    every = recombined(known, most=1000, seed=0)
    assert not {sentence for sentence, _ in every} & set(known)
    assert {sentence for sentence, _ in few} < {sentence for sentence, _ in every}
    counts = [sum(row in rows for _, rows in few) for row in range(len(known))]
    assert max(counts) == 2


def test_held_out_combinations_of_digits_vqa_are_among_them():
    """Without answers. So the accuracy on these is of sentences that were seen, as sentences."""
    questions = all_questions()
    known = [question.text for question in questions if question.split == "train"]
    new = {sentence for sentence, _ in recombined(known, most=1000, seed=0)}
    test = [question for question in questions if question.split == "test"]
    seen = {
        group: sum(question.text in new for question in test if question.group == group)
        for group in ("paraphrase", "composition")
    }
    assert seen["paraphrase"] == 0 and seen["composition"] >= 60


def test_single_sentences_and_none_make_nothing_new():
    assert recombined([], most=3, seed=0) == []
    assert recombined(["Is it?"], most=3, seed=0) == []
