import json

import pytest
from published import META_VQA

from hyper_meta.data.meta_vqa import templates
from hyper_meta.data.meta_vqa.templates import answer_sentence

SENTENCES = {
    "What color are the man's socks?": "the man's socks are {}",
    "What color shirt is he wearing?": "he is wearing {} shirt",
    "What color is the cutting board?": "the cutting board is {}",
    "What is the color of the grass?": "the color of the grass is {}",
    "What color is dominant?": "{} is dominant",
    "How many zebra are there?": "there are {} zebra",
    "How many people are there in the photo?": "there are {} people in the photo",
    "How many cars do you see?": "you see {} cars",
    "How many engines does the plane have?": "the plane has {} engines",
    "How many computers?": "{} computers",
    "How tall is the giraffe?": "the giraffe is {} tall",
    "How is the weather?": "the weather is {}",
    "What is this?": "this is {}",
    "What is the man holding in his right hand?": "the man is holding {} in his right hand",
    "What is the cat doing?": "the cat is {}",
    "What is hanging from the ceiling?": "{} is hanging from the ceiling",
    "What is the table made out of?": "the table is made out of {}",
    "What is the man on?": "the man is on {}",
    "What is on his head?": "{} is on his head",
    "What sport are they playing?": "they are playing {}",
    "What game system are they playing?": "they are playing {}",
    "What type of food is on the plate?": "{} is on the plate, a type of food",
    "What number is on the bus?": "number {} is on the bus",
    "Where are the cars parked?": "the cars are parked {}",
    "Where are the people at?": "the people are {}",
    "When was this picture taken?": "this picture was taken {}",
    "Who is holding the racket?": "{} is holding the racket",
    "What does the man have on his head?": "the man has {} on his head",
    "Whose birthday is it?": "Whose birthday is it? {}",
    "": "{}",
    "  Why\nso many   spaces ?": "Why so many spaces ? {}",
    "What is {} in {braces}?": "() in (braces) is {}",
    "¿Qué es esto?": "¿Qué es esto? {}",
}


@pytest.mark.parametrize("question", SENTENCES)
def test_answer_sentences(question):
    assert answer_sentence(question) == SENTENCES[question]


def test_the_table_of_the_documentation_is_true():
    rows = [line.split("|")[1:3] for line in templates.__doc__.splitlines() if line[:2] == "| "]
    assert len(rows) > 8
    for question, sentence in rows[1:]:
        assert answer_sentence(question.strip()) == sentence.strip()


def test_every_published_question_has_one_place_for_its_answer():
    if not META_VQA.exists():
        pytest.skip("the published Meta-VQA split is not beside this repository")
    prompts = json.loads((META_VQA / "prompt_meta.json").read_text())
    made = {question: answer_sentence(question) for question in prompts}
    assert len(made) == 5737
    assert all(
        text.count("{}") == text.count("{") == text.count("}") == 1 for text in made.values()
    )
    tasks = json.loads((META_VQA / "ques_ans_count.json").read_text())
    unknown = [question for question in tasks if made[question].startswith(question)]
    assert len(unknown) <= 0.01 * len(tasks)
