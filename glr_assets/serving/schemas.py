"""What the service answers, as JSON: one model an answer, which its OpenAPI, its client and its page share."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Document(BaseModel):
    """Part of an answer."""

    model_config = ConfigDict(frozen=True)


class Landmark(Document):
    """A landmark that the photograph may show."""

    landmark_id: int = Field(description="landmark in the numbering of the train images", examples=[6051])
    name: str = Field(description="readable name", examples=["Brandenburg Gate"])
    category: str | None = Field(
        None,
        description="URL of its Wikimedia Commons category",
        examples=["http://commons.wikimedia.org/wiki/Category:Brandenburg_Gate"],
    )
    kind: str | None = Field(None, description="coarse kind, as church or bridge", examples=["gate"])
    probability: float = Field(ge=0, le=1, description="that this is the landmark; all together at most 1")


class Similar(Document):
    """A photograph of the index that looks alike, with whom to credit for it."""

    id: str = Field(description="image id", examples=["0a1b2c3d4e5f6071"])
    landmark_id: int = Field(description="the landmark it shows", examples=[6051])
    name: str = Field(description="that landmark's name", examples=["Brandenburg Gate"])
    score: float = Field(
        description="cosine to the photograph; less its own likeness to non-landmarks where penalties are fixed"
    )
    licence: str | None = Field(
        None, description="licence it may be used under; null where it is not known", examples=["CC BY-SA 4.0"]
    )
    author: str | None = Field(None, description="who took it; null where it is not known", examples=["Ann Example"])
    title: str | None = Field(None, description="title of the file")
    source: str | None = Field(None, description="page of the photograph")
    image: str = Field(description="where this service shows it", examples=["/image/train/0a1b2c3d4e5f6071"])
    inliers: int | None = Field(None, description="local features that agree with one model; where they were matched")


class Matches(Document):
    """The look-alike with the most local features that agree, and a drawing of them."""

    id: str = Field(description="image id of the look-alike")
    inliers: int = Field(description="local features that agree with one model")
    picture: str = Field(description="JPEG as a data: URL: both photographs with lines between what agrees")


class Answer(Document):
    """What is recognised in one photograph."""

    is_landmark: bool = Field(description="whether the first landmark is more likely right than not")
    landmarks: list[Landmark] = Field(description="the likeliest first; told where is_landmark is false too")
    similar: list[Similar] = Field(description="the most alike first")
    matches: Matches | None = Field(None, description="where it was asked for and something agrees")
    timings: dict[str, float] = Field(
        description="seconds by step", examples=[{"decode": 0.004, "embed": 0.03, "search": 0.001, "total": 0.035}]
    )


class Problem(Document):
    """Why there is no answer."""

    code: str = Field(description="short name of the reason, as too_large", examples=["undecodable"])
    reason: str = Field(description="the reason in words", examples=["undecodable: Premature end of JPEG file"])
    status: int = Field(description="HTTP status", examples=[422])


class Failure(Document):
    """The one form of every refusal."""

    error: Problem


class BatchEntry(Document):
    """What became of one photograph of several: an answer or an error."""

    file: str = Field(description="its file name, as sent", examples=["gate.jpg"])
    answer: Answer | None = None
    error: Problem | None = None


class BatchAnswer(Document):
    """The photographs of a batch in their order."""

    answers: list[BatchEntry]


class Alive(Document):
    """The process answers."""

    status: Literal["alive"] = "alive"


class Ready(Document):
    """What is being searched."""

    status: Literal["ready"] = "ready"
    version: str = Field(description="digest of the index and all it is answered with", examples=["5c1f0e9b7a34"])
    images: int = Field(description="photographs that are searched")
    landmarks: int = Field(description="landmarks they show")
    stale: bool = Field(
        description="whether the store has changed and the change cannot be loaded; the log and the metric "
        "glr_index_load_failures_total give the reason, and answers are of the index that was loaded before"
    )
