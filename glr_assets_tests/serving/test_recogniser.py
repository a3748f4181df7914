from __future__ import annotations

import csv
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from glr_assets.errors import DamagedFileError, MissingInputError
from glr_assets.images.pixels import StoredImage, downsize
from glr_assets.metadata.schemas import LANDMARK_LABELS, TRAIN_ATTRIBUTION
from glr_assets.receipts import receipt_path
from glr_assets.recipes import load_recipe
from glr_assets.retrieval.embeddings import Vectors
from glr_assets.retrieval.schemas import FAISS_INDEX, NON_LANDMARK_EMBEDDINGS
from glr_assets.retrieval.submission import SUBMISSION, make_submission
from glr_assets.serving.limits import Limits, photograph
from glr_assets.serving.live import Live
from glr_assets.serving.recogniser import MADE_FROM, Recogniser, Timings
from glr_assets.store import Store
from glr_assets.tables import read_table
from glr_assets.training.versions import embedder_folder
from glr_assets_tests.lineage import embed, index, write_recipe
from glr_assets_tests.serving.conftest import Served


@pytest.fixture(scope="module")
def recogniser(live: Live) -> Recogniser:
    assert live.current is not None
    return live.current.recogniser


def stored(recogniser: Recogniser, data: bytes) -> StoredImage:
    return photograph(data, recogniser.images, Limits())


def best(recogniser: Recogniser, photo: StoredImage) -> tuple[int, float]:
    """The best answer as a row of the submission has it."""
    ((first, *_),) = recogniser.ranked([photo], recogniser._embed([photo.jpeg]))
    return first.landmark_id, float(recogniser.model.calibration.confidence([first.score])[0])


def test_it_answers_each_stored_image_as_the_submission_does(recogniser: Recogniser, served_once: Served) -> None:
    answers_alike(recogniser, served_once)


def test_it_looks_and_asks_as_the_recipe_says(served: Served) -> None:
    ways = {
        "embedder": {"flip": True, "scales": [1.0, 1.5]},
        "retrieval": {"expansion": 2, "clip": True, "top_per_landmark": 2},
    }
    recipe = served.recipe.overridden(ways)
    plain = submitted(served.store)
    embed(served.source, served.store, recipe)
    index(served.source, served.store, recipe)
    make_submission(served.source, served.store, recipe)
    assert submitted(served.store) != plain
    answers_alike(Recogniser.open(served.store), served)


def test_class_logits_of_a_trained_embedder_count_as_in_the_submission(served: Served, tmp_path: Path) -> None:
    recipe = load_recipe(str(write_recipe(tmp_path / "trained.toml")))
    embed(served.source, served.store, recipe)
    index(served.source, served.store, recipe)
    make_submission(served.source, served.store, recipe)
    found = Recogniser.open(served.store)
    assert "classes" in found.model.weights
    answers_alike(found, served)


def submitted(store: Store) -> dict[str, str]:
    return {row["id"]: row["landmarks"] for row in csv.DictReader(io.StringIO(store.read(SUBMISSION).decode()))}


def answers_alike(recogniser: Recogniser, served: Served) -> None:
    answers = submitted(served.store)
    photos = served.photos()
    gallery = set(read_table(served.store, NON_LANDMARK_EMBEDDINGS, ["id"])["id"].to_pylist())
    assert 0 < len(gallery) < len(photos) == len(answers)
    for image_id, data in photos.items():
        landmark, confidence = best(recogniser, stored(recogniser, data))
        answer, sure = answers[image_id].split()
        # An embedding's last bits may depend on how many images went through the network together.
        assert (landmark, confidence) == (int(answer), pytest.approx(float(sure), abs=1e-5)), image_id


def test_a_non_landmark_of_the_gallery_is_not_compared_with_itself(recogniser: Recogniser, served_once: Served) -> None:
    known = recogniser.witness.non_landmarks
    photos = served_once.photos()
    (twin,) = recogniser.ranked(
        [photo := stored(recogniser, photos[known.images.ids[0]])], recogniser._embed([photo.jpeg])
    )
    own = Vectors(["another"], known.images.vectors[:1], known.images.digests[:1])
    assert known.known_as(own) == known.images.ids[:1]
    stranger = Vectors(["another"], known.images.vectors[:1], np.zeros(1, np.uint64))
    assert known.penalties(own, 3)[0] < known.penalties(stranger, 3)[0]
    assert twin


def test_the_photograph_as_it_was_published_gives_the_answer_of_what_is_stored_of_it(
    recogniser: Recogniser, served_once: Served, sharp_bucket: str
) -> None:
    photos, seen = served_once.photos(), 0
    for path in Path(sharp_bucket, "test").glob("*.tar"):
        with tarfile.open(path) as tar:
            for member in tar.getmembers():
                image_id = Path(member.name).stem
                source = tar.extractfile(member).read()  # type: ignore[union-attr]
                assert source != photos[image_id]
                assert stored(recogniser, source).jpeg == photos[image_id]
                seen += 1
    assert seen == len(photos)


def test_answers_tell_names_rights_and_the_order_asked_for(recogniser: Recogniser, served_once: Served) -> None:
    store = served_once.store
    names = {row["landmark_id"]: row for row in read_table(store, LANDMARK_LABELS).to_pylist()}
    rights = {row["id"]: row for row in read_table(store, TRAIN_ATTRIBUTION).to_pylist()}
    landmark_of = {row["id"]: row["landmark_id"] for row in read_table(store, FAISS_INDEX).to_pylist()}
    photos = [stored(recogniser, data) for data in list(served_once.photos().values())[:3]]
    for answer in recogniser.recognise(photos, 4, Timings({})):
        assert 0 < len(answer.landmarks) <= 4 == len(answer.similar)
        for landmark in answer.landmarks:
            assert landmark.name == names[landmark.landmark_id]["name"]
            assert landmark.category is None  # a collection of one's own has no page about it
        for like in answer.similar:
            assert like.landmark_id == landmark_of[like.id]
            assert (like.author or "", like.licence or "") == (rights[like.id]["author"], rights[like.id]["license"])
        scores = [like.score for like in answer.similar]
        assert scores == sorted(scores, reverse=True)
        assert answer.is_landmark == (answer.landmarks[0].probability > 0.5)


def test_several_photographs_together_are_answered_as_each_alone(recogniser: Recogniser, served_once: Served) -> None:
    photos = [stored(recogniser, data) for data in list(served_once.photos().values())[:4]]
    together = recogniser.recognise(photos, 5, Timings({}))
    for photo, answer in zip(photos, together, strict=True):
        (alone,) = recogniser.recognise([photo], 5, Timings({}))
        assert alone == answer


def test_ingests_own_recipe_is_used(recogniser: Recogniser, served_once: Served, photo: bytes) -> None:
    assert recogniser.images == served_once.recipe.images
    found = downsize(photo, served_once.recipe.images)
    assert isinstance(found, StoredImage)
    assert stored(recogniser, photo).jpeg == found.jpeg


@pytest.mark.parametrize("name", MADE_FROM)
def test_what_has_not_been_made_is_named(served: Served, name: str) -> None:
    Recogniser.open(served.store)
    served.store.remove(receipt_path(name))
    with pytest.raises(MissingInputError, match=name):
        Recogniser.open(served.store)


def damaged(store: Store, path: str) -> None:
    data = bytearray(store.read(path))
    data[len(data) // 2] ^= 1
    store.write(path, bytes(data))


def opened_files(store: Store) -> list[str]:
    """What a recogniser opens: a file or two of each thing that it is made from."""
    folder = embedder_folder(store)
    return [
        f"{folder}/embedder.pt",
        f"{folder}/config.json",
        "index/faiss_index.faiss",
        "index/faiss_index.parquet",
        "index/faiss_index.json",
        "index/recognition_model.json",
        "embeddings/non_landmark_embeddings.parquet",
        "embeddings/non_landmark_embeddings.npy",
        "metadata/landmark_labels.parquet",
        "metadata/train_attribution.parquet",
        "features/000.parquet",
    ]


def test_nothing_is_served_from_a_damaged_file(served: Served) -> None:
    """What is in use stays in use, and the service tells which file is damaged, what it should be and how to fix it."""
    store, told = served.store, []
    live = Live(store, told.append)
    assert live.refresh()
    first = live.current
    for path in opened_files(store):
        good = store.read(path)
        damaged(store, path)
        with pytest.raises(
            DamagedFileError, match=rf"{path}: expected SHA-256 \w+ by the receipt of .*, found SHA-256"
        ):
            Recogniser.open(store)
        found = Live(store, told.append)
        assert not found.refresh()
        assert found.current is None
        assert path in told[-1]
        assert "glr verify --repair" in told[-1]
        store.write(path, good)
    assert live.current is first
    assert Recogniser.open(store).version == first.recogniser.version if first is not None else False
