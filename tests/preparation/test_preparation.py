"""`hyper-meta prepare`: from the official files of Meta-VQA to features and a run on them."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import official_vqa
import pytest
from toy_sentence_encoder import write_sentence_encoder

from hyper_meta.cli.main import main
from hyper_meta.core.configuration import load_settings
from hyper_meta.core.types import UserError
from hyper_meta.data import datasets
from hyper_meta.data.features import read_store
from hyper_meta.data.images import decode
from hyper_meta.encoders.folder import (
    bundled_encoder_path,
    encode_images,
    encode_questions,
    load_encoder,
    preprocess,
    tokenize,
)
from hyper_meta.encoders.sentence_encoder import (
    encode_sentences,
    load_sentence_encoder,
    read_folder,
    tokenize_sentences,
)
from hyper_meta.encoders.tokenizer import train_tokenizer
from hyper_meta.models.sentences import take
from hyper_meta.preparation import encoding, stores
from hyper_meta.preparation import prepare as preparation

CONFIG = str(Path(__file__).parents[2] / "configs" / "meta_vqa.py")
SETTINGS = ("dataset=meta_vqa", "encoder=bundled", "image_resize=crop", "validation_share=0.25")
WITH_TOKENS = "--config.question_tokens=True"
DATA = tuple(f"--config.{setting}" for setting in SETTINGS)


@pytest.fixture(scope="module")
def registered():
    """Registers small files in place of the official ones."""
    with pytest.MonkeyPatch.context() as patch:
        yield lambda folder: official_vqa.register(patch, folder)


@pytest.fixture(scope="module")
def official(tmp_path_factory, registered):
    folder = official_vqa.write(tmp_path_factory.mktemp("official"))
    registered(folder)
    return folder


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, official, programs):
    """The data folder of a command that went well."""
    data_dir = tmp_path_factory.mktemp("prepared")
    assert main(_command(data_dir, official, programs)) == 0
    return data_dir


@pytest.fixture
def small_parts(monkeypatch):
    """Parts of 16 images, so that there are several."""
    monkeypatch.setattr(encoding, "MOST_IN_BATCH", 8)
    monkeypatch.setattr(encoding, "BATCHES_IN_PART", 2)


def _command(data_dir, manual_dir, programs, *overrides):
    folders = ("--data-dir", str(data_dir), "--manual-dir", str(manual_dir))
    programs = f"--config.compilation_cache={programs}"
    return ["prepare", "--config", CONFIG, *folders, *DATA, programs, *overrides]


def _store(data_dir):
    return read_store(next((data_dir / "features").glob("meta_vqa-????????????")))[1]


def _load(data_dir, *overrides):
    """(tasks, features, source)"""
    config = load_settings(CONFIG, Path(), [*DATA, "--config.question_tokens=False", *overrides])
    return preparation.load_and_encode(config, data_dir, preparation.open_encoders(config))


def test_every_image_has_its_features_whatever_it_is_encoded_with(prepared):
    features = _store(prepared)
    encoder = load_encoder(bundled_encoder_path())
    images = dict(datasets.iterate_images("meta_vqa", prepared))
    assert list(images) == list(features.image_ids) and len(images) == 80
    for name in features.image_ids[::13]:
        alone = encode_images(encoder, preprocess(encoder, [decode(name, images[name])]))[0]
        row = features.image_ids.index(name)
        np.testing.assert_allclose(features.image_features[row], alone, atol=1e-5)
    assert not list((prepared / "features").glob("*.parts"))
    assert "What color is the bowl?" in features.questions
    assert "the bowl is red" in features.prompts


def _refuse(*args, **kwargs):
    pytest.fail("it encodes again")


def test_preparing_again_encodes_nothing(prepared, official, programs, monkeypatch, capsys):
    monkeypatch.setattr(stores, "encode_data_set", _refuse)
    assert main(_command(prepared, official, programs)) == 0
    out = capsys.readouterr().out
    assert "meta_vqa is built in" in out
    assert "ready: 6 train, 4 test, 2 validation tasks, 80 images and" in out


def test_token_states_are_added_to_the_store_that_serves_runs_without_them(
    prepared, tmp_path, monkeypatch
):
    data_dir = shutil.copytree(prepared, tmp_path / "data")
    before = _store(data_dir)
    monkeypatch.setattr(stores, "encode_data_set", _refuse)
    _, with_tokens, _ = _load(data_dir, "--config.question_tokens=True")
    monkeypatch.setattr(stores, "with_tokens", _refuse)
    _, again, _ = _load(data_dir, "--config.question_tokens=True")
    _, without, _ = _load(data_dir)
    for features in (with_tokens, again, without, _store(data_dir)):
        assert features.questions == before.questions and features.prompts == before.prompts
        np.testing.assert_array_equal(features.image_features, before.image_features)
        np.testing.assert_array_equal(features.prompt_features, before.prompt_features)
        pooled = features.question_features.pooled
        np.testing.assert_array_equal(pooled, before.question_features.pooled)
    assert without.question_features.tokens is None
    encoder, row = load_encoder(bundled_encoder_path()), 3
    token_ids = tokenize(encoder, [before.questions[row]])
    alone = take(encode_questions(encoder, token_ids, with_tokens=True), 0)
    count = int(alone.mask.sum())
    for features in (with_tokens, again, _store(data_dir)):
        found = take(features.question_features, row)
        assert found.mask.sum() == count
        np.testing.assert_allclose(found.tokens[:count], alone.tokens[:count], atol=1e-4)
        np.testing.assert_allclose(alone.pooled, found.pooled, atol=1e-4)


def test_a_sentence_encoder_reads_the_questions_and_costs_no_image(
    prepared, tmp_path, monkeypatch, capsys
):
    """All else is as before. The store of another layer is another one; that of the encoder's own
    text tower stays."""
    data_dir, before = shutil.copytree(prepared, tmp_path / "data"), _store(prepared)
    folder = write_sentence_encoder(tmp_path / "toy", longest=12)
    chosen = f"--config.question_encoder={folder}"
    monkeypatch.setattr(stores, "encode_data_set", _refuse)
    _, whole, source = _load(data_dir, chosen)
    told = capsys.readouterr().err
    assert "questions have more tokens than the 12 that their encoder reads" in told
    _, first, other = _load(data_dir, chosen, "--config.question_layer=0", WITH_TOKENS)
    assert source["question_encoder"] != other["question_encoder"]
    assert source["encoder"] == other["encoder"] != source["question_encoder"]
    _, last, _ = _load(data_dir, chosen, WITH_TOKENS)
    for name in ("with_tokens", "with_questions"):
        monkeypatch.setattr(stores, name, _refuse)
    _, again, _ = _load(data_dir, chosen, WITH_TOKENS)
    _, own, _ = _load(data_dir)
    encoder = load_sentence_encoder(read_folder(folder), "toy")
    expected = encode_sentences(
        encoder, tokenize_sentences(encoder, before.questions), with_tokens=True
    )
    for features in (whole, first, last, again):
        np.testing.assert_array_equal(features.image_features, before.image_features)
        np.testing.assert_array_equal(features.prompt_features, before.prompt_features)
        assert features.questions == before.questions and features.prompts == before.prompts
        np.testing.assert_allclose(features.question_features.pooled, expected.pooled, atol=1e-5)
    for features in (last, again):
        np.testing.assert_allclose(features.question_features.tokens, expected.tokens, atol=1e-5)
        np.testing.assert_array_equal(features.question_features.mask, expected.mask)
    assert whole.question_features.tokens is None
    assert np.abs(first.question_features.tokens - expected.tokens).max() > 0.1
    np.testing.assert_array_equal(own.question_features.pooled, before.question_features.pooled)
    kept = [path for path in (data_dir / "features").iterdir() if path.is_dir()]
    assert len(kept) == 3


def test_the_papers_configuration_runs_on_it(prepared, small_settings, programs, tmp_path):
    """From zip archives to a table, a few steps of everything that it trains differently."""
    methods = "references,hvae_hyperldm,hnet_hyperclip"
    settings = [
        *small_settings,
        *("mnet.num_steps=2", "mnet.chunk_steps=1", "mnet.inner_steps=1"),
        *("hvae.num_steps=2", "hvae.chunk_steps=1", "hvae.weights.num_steps=1"),
        *("hyperclip.batch_size=4", "evaluate.shots="),
        *("network.hidden_dim=16", "num_seeds=1", f"methods={methods}"),
        f"data_dir={prepared}",
        f"compilation_cache={programs}",
    ]
    command = ["run", "--config", CONFIG, "--workdir", str(tmp_path / "run"), *DATA]
    assert main([*command, *(f"--config.{setting}" for setting in settings)]) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    titles = {row["title"] for row in results["rows"]}
    assert {"CLIP as base model", "HNet + HyperCLIP", "HVAE + HyperLDM"} <= titles
    assert results["summaries"]["test"]["hvae_hyperldm"]["all"]["all"]["tasks"] == 4
    assert (tmp_path / "run" / "report" / "report.md").exists()


def test_an_interrupted_encoding_goes_on(
    official, prepared, programs, tmp_path, monkeypatch, small_parts
):
    count = 0
    encode = encoding._next_batch

    def stop_at_the_sixth(*args, **kwargs):
        nonlocal count
        count += 1
        if count == 6:
            raise KeyboardInterrupt
        return encode(*args, **kwargs)

    monkeypatch.setattr(encoding, "_next_batch", stop_at_the_sixth)
    assert main(_command(tmp_path, official, programs)) == 130
    assert len(list((tmp_path / "features").glob("*.parts/images_*"))) == 2
    assert main(_command(tmp_path, official, programs)) == 0
    assert count == 6 + 80 // 8 - 4
    resumed, whole = _store(tmp_path), _store(prepared)
    assert resumed.image_ids == whole.image_ids
    np.testing.assert_allclose(resumed.image_features, whole.image_features, atol=1e-5)


@pytest.mark.parametrize("damage", ["cut", "other source", "gone"])
def test_parts_that_do_not_serve_are_encoded_again(
    official, prepared, programs, tmp_path, monkeypatch, small_parts, damage
):
    written = []
    write = encoding._write_part
    monkeypatch.setattr(
        encoding, "_write_part", lambda *args: (written.append(args[1]), write(*args))
    )
    monkeypatch.setattr(stores, "finished", lambda folder: None)
    assert main(_command(tmp_path, official, programs)) == 0
    assert written == [0, 16, 32, 48, 64]
    (folder,) = (tmp_path / "features").glob("*.parts")
    shutil.rmtree(folder.with_suffix(""))
    path = folder / "images_00000032.safetensors"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-9])
    elif damage == "gone":
        path.unlink()
    else:
        content = path.read_bytes()
        place = content.index(b'dataset\\": \\"') + len(b'dataset\\": \\"')
        path.write_bytes(content[:place] + b"0000" + content[place + 4 :])
    assert main(_command(tmp_path, official, programs)) == 0
    assert written[5:] == [32, 48, 64]
    np.testing.assert_allclose(
        _store(tmp_path).image_features, _store(prepared).image_features, atol=1e-5
    )


BAD_IMAGE = "COCO_val2014_000000000111"
BAD = {
    "empty": b"",
    "truncated": official_vqa.jpeg((9, 9, 9), size=(200, 200))[:600],
    "text": b"not found",
}


@pytest.fixture(params=BAD)
def corrupt(request, tmp_path, registered, official):
    """Official files of which one image is corrupt."""
    folder = official_vqa.write(
        tmp_path / "corrupt", images={f"{BAD_IMAGE}.jpg": BAD[request.param]}
    )
    registered(folder)
    yield folder
    registered(official)


def test_a_corrupt_image_is_named_and_refused(corrupt, programs, tmp_path, capsys):
    assert main(_command(tmp_path / "data", corrupt, programs)) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert BAD_IMAGE in error and "--config.skip_corrupt_images=True" in error


def test_corrupt_images_are_left_out_on_request(corrupt, programs, tmp_path, capsys):
    skip = "--config.skip_corrupt_images=True"
    data_dir = tmp_path / "data"
    assert main(_command(data_dir, corrupt, programs, skip)) == 0
    assert "79 images" in capsys.readouterr().out
    features = _store(data_dir)
    assert features.skipped == (BAD_IMAGE,) and BAD_IMAGE not in features.image_ids
    tasks, _, _ = _load(data_dir, skip)
    everyone = [task for part in tasks.values() for task in part]
    assert len(everyone) == 12
    for task in everyone:
        images = [image for image, _ in (*task.support, *task.query)]
        assert len(images) == 79 and BAD_IMAGE not in images
    with pytest.raises(UserError, match=f"lacks 1 corrupt images, the first {BAD_IMAGE}"):
        _load(data_dir)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_images_of_other_modes_are_encoded_in_rgb(registered, official, programs, tmp_path, mode):
    content = official_vqa.jpeg((200, 30, 90), mode=mode)
    folder = official_vqa.write(tmp_path / "other", images={f"{BAD_IMAGE}.jpg": content})
    registered(folder)
    assert main(_command(tmp_path / "data", folder, programs)) == 0
    registered(official)
    features = _store(tmp_path / "data")
    encoder = load_encoder(bundled_encoder_path())
    image = decode(BAD_IMAGE, content)
    assert image.mode == "RGB"
    alone = encode_images(encoder, preprocess(encoder, [image]))[0]
    row = features.image_ids.index(BAD_IMAGE)
    np.testing.assert_allclose(features.image_features[row], alone, atol=1e-5)


def test_what_it_takes_is_said_before(official, programs, tmp_path, monkeypatch, capsys):
    def stop(*args):
        raise UserError("enough")

    monkeypatch.setattr(datasets, "build", stop)
    (tmp_path / "some").mkdir()
    shutil.copy(official / "train2014.zip", tmp_path / "some")
    assert main(_command(tmp_path / "data", tmp_path / "some", programs)) == 2
    captured = capsys.readouterr()
    assert captured.out.count("to download: https://s3.amazonaws.com/cvmlp/vqa/") == 4
    assert "to download: http://images.cocodataset.org/zips/val2014.zip" in captured.out
    assert str(tmp_path / "some" / "train2014.zip") in captured.out
    assert "disk: " in captured.out and "GiB are free" in captured.out
    assert re.search(r"time: .* images/s, so 64,665 images take about \d+ h \d+ min", captured.out)
    for name in ("v2_Questions_Train", "v2_Questions_Val", "v2_Annotations_Train", "val2014.zip"):
        assert name in captured.err
    assert "--manual-dir" in captured.err and "train2014.zip" not in captured.err


def test_what_it_takes_is_said_without_the_encoder(tmp_path, capsys):
    command = ["prepare", "--config", CONFIG, "--data-dir", str(tmp_path / "data")]
    encoder = f"--config.encoder={tmp_path / 'none'}"
    assert main([*command, "--config.dataset=meta_vqa", encoder]) == 2
    captured = capsys.readouterr()
    assert captured.out.count("to download: ") == 6 and "disk: " in captured.out
    assert str(tmp_path / "none") in captured.err


def test_too_small_a_disk_is_refused_at_once(official, programs, tmp_path, monkeypatch, capsys):
    usage = shutil._ntuple_diskusage(10**12, 10**12, 10**9)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert main(_command(tmp_path / "data", official, programs)) == 2
    assert "10.9 GiB are needed in" in capsys.readouterr().err
    assert not list((tmp_path / "data").rglob("*.*"))


def test_a_run_on_data_that_are_not_prepared_says_what_to_do(tmp_path, capsys):
    command = ["run", "--config", CONFIG, "--workdir", str(tmp_path / "run"), *DATA]
    assert main([*command, f"--config.data_dir={tmp_path / 'data'}"]) == 2
    assert "run hyper-meta prepare with this configuration first" in capsys.readouterr().err


def test_features_of_ones_own_need_no_preparation(tmp_path, capsys):
    command = ["prepare", "--config", CONFIG, "--config.dataset=precomputed"]
    assert main([*command, "--data-dir", str(tmp_path)]) == 2
    assert "there is nothing to prepare" in capsys.readouterr().err


def test_a_checkpoint_that_transformers_wrote_gives_its_own_features(official, programs, tmp_path):
    """From zip archives and a checkpoint to the features that Hugging Face computes."""
    torch = pytest.importorskip("torch")
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

    tokenizer = train_tokenizer(official_vqa.QUESTIONS, vocab_size=550, max_length=77)
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    tower |= {"num_attention_heads": 4}
    vocabulary = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    config = CLIPConfig(
        text_config=tower | vocabulary,
        vision_config=tower | {"image_size": 32, "patch_size": 8},
        projection_dim=24,
    )
    torch.manual_seed(0)
    model = CLIPModel(config).eval()
    square = {"size": {"height": 32, "width": 32}, "do_center_crop": False}
    processor = CLIPImageProcessorPil(**square)
    folder = tmp_path / "checkpoint"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    ).save_pretrained(folder)
    choice = (f"--config.encoder={folder}", "--config.image_resize=square")
    assert main(_command(tmp_path / "data", official, programs, *choice)) == 0

    features = _store(tmp_path / "data")
    images = dict(datasets.iterate_images("meta_vqa", tmp_path / "data"))
    names = features.image_ids[::20]
    pixels = processor([decode(name, images[name]) for name in names], return_tensors="pt")
    sentences = [*features.questions, *features.prompts]
    tokens = tokenizer(sentences, padding=True, return_tensors="pt")
    with torch.no_grad():
        image = model.get_image_features(**pixels).pooler_output.numpy()
        text = model.get_text_features(**tokens).pooler_output.numpy()
    rows = [features.image_ids.index(name) for name in names]
    np.testing.assert_allclose(features.image_features[rows], image, atol=1e-5)
    ours = np.concatenate([features.question_features.pooled, features.prompt_features])
    np.testing.assert_allclose(ours, text, atol=1e-5)
