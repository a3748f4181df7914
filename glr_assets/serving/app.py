"""The service over HTTP: routes, what they take and answer, and how an error looks."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from http import HTTPStatus
from importlib import resources
from typing import Any, Final, TypeVar

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from glr_assets.concurrency import single_threaded
from glr_assets.errors import GlrError
from glr_assets.images.pixels import StoredImage
from glr_assets.serving import page
from glr_assets.serving.answers import failure, problem
from glr_assets.serving.clients import Rate, client_of
from glr_assets.serving.connections import Connections
from glr_assets.serving.decoder_pool import DecoderPool
from glr_assets.serving.limits import Limits, RefusedError, listed
from glr_assets.serving.live import EVERY_SECONDS, Generation, Live
from glr_assets.serving.matches import Match
from glr_assets.serving.metrics import Metrics
from glr_assets.serving.recogniser import Timings
from glr_assets.serving.schemas import Alive, Answer, BatchAnswer, BatchEntry, Failure, Matches, Ready
from glr_assets.serving.security import Access, Guard
from glr_assets.serving.turns import Turns
from glr_assets.serving.uploads import FIELD, Arrivals, Form, Upload, read_form

TOP: Final = 5
#: Look-alikes whose features are compared, at most: each takes some milliseconds.
MOST_MATCHED: Final = 5
CONTENT_TYPE_METRICS: Final = "text/plain; version=0.0.4; charset=utf-8"
_REASONS: Final = {
    400: "The form is damaged or was cut off, or the request names another host",
    401: "The token is missing or wrong",
    403: "A form of another site",
    404: "No such thing",
    408: "The photograph did not arrive in time",
    413: "Too many bytes or pixels",
    415: "No photograph by its first bytes, or no multipart form",
    422: "No photograph in the field `image`, a damaged one, one too costly to decode, or a wrong value",
    429: "Too many requests of this client; `Retry-After` says when to come back",
    503: "Busy, or no index is loaded; `Retry-After` says when to come back",
}
_TOP_SCHEMA: Final = {"type": "integer", "minimum": 1, "maximum": 50, "default": TOP, "description": "at most listed"}
Result = TypeVar("Result")
Responses = dict[int | str, dict[str, Any]]
log = logging.getLogger(__name__)


class Service(FastAPI):
    """The application with all it holds.

    Attributes:
        live: the recogniser in use.
        limits: what is taken.
        decoders: what decodes photographs.
        connections: those that are open, where it is served by `server.config`.
        arriving: requests with bodies, until they are answered.
        computing: requests that compute or wait for it.
        metrics: what is counted.
    """

    def __init__(
        self,
        live: Live,
        limits: Limits,
        access: Access,
        decoders: DecoderPool | None = None,
        threads_each: int | None = None,
    ) -> None:
        self.live, self.limits = live, limits
        self.decoders = decoders or DecoderPool()
        self._owns_decoders = decoders is None
        self.connections = Connections(limits)
        self.arriving, self.computing = Arrivals(limits), Turns(limits)
        self.metrics = Metrics(live, self.decoders)
        self.metrics.busy.set_function(lambda: self.computing.held)
        self.metrics.arriving.set_function(lambda: self.arriving.held)
        self.metrics.upload_bytes.set_function(lambda: self.arriving.bytes)
        self.metrics.connections.set_function(lambda: len(self.connections))
        self._guard, self._rate = Guard(access), Rate(limits.rate)
        self._pool: ThreadPoolExecutor | None = None
        self._thread_starts = partial(_few_threads, threads_each) if threads_each else None
        super().__init__(
            title="glr: which landmark is it",
            version="1",
            description="A photograph in; landmarks with probabilities, look-alikes with their rights, or none, out.",
            # Their pages load scripts from elsewhere.
            docs_url=None,
            redoc_url=None,
            # It would lead to whatever host a request names.
            redirect_slashes=False,
            lifespan=_lifespan,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer; counters and headers are around all else, so that the answer to an unforeseen error has them too."""
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        await self.metrics(partial(self._guard, super().__call__), scope, receive, send)

    def client_of(self, request: Request) -> str:
        """Whom a request is counted for."""
        peer = request.client.host if request.client else None
        return client_of(peer, request.headers.getlist("x-forwarded-for"), self.limits.trusted_proxies)

    @asynccontextmanager
    async def form(self, request: Request, most: int = 1) -> AsyncIterator[Form]:
        """The photographs of a request, kept for as long as the block runs; errors are those of `read_form`.

        Raises:
            RefusedError: 429, the client asks too often.
        """
        client = self.client_of(request)
        self._rate.check(client)
        async with read_form(request, self.limits, self.arriving, client, most) as form:
            yield form

    async def run(self, request: Request, work: Callable[[Generation], Result]) -> Result:
        """Compute in a thread, when it is the request's turn; a place is held from then on, not while bytes arrive.

        Raises:
            RefusedError: 503, no more may wait, there is nothing to answer with, or the store cannot be read.
        """

        async def gone() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass

        self._pool = self._pool or ThreadPoolExecutor(
            self.limits.computing, "glr-serve", initializer=self._thread_starts
        )
        async with self.computing.one(self.client_of(request), gone):
            return await asyncio.get_running_loop().run_in_executor(self._pool, self._worked, work)

    def decoded(self, form: Form, upload: Upload, generation: Generation) -> StoredImage:
        """A photograph as ingest would store it; errors are those of `DecoderPool.decode`."""
        recipe = generation.recogniser.images
        return self.decoders.decode(form.file, upload.offset, upload.size, recipe, self.limits)

    def close(self) -> None:
        """End watching and computing, until it is started or asked again."""
        self.live.stop()
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(cancel_futures=True)
        if self._owns_decoders:
            self.decoders.close()

    def _worked(self, work: Callable[[Generation], Result]) -> Result:
        generation = self.live.current
        if generation is None:
            raise RefusedError(503, "not_ready", "not ready: no index is loaded yet", retry_after=5)
        try:
            return work(generation)
        except RefusedError:
            raise
        except (GlrError, OSError, MemoryError) as error:
            log.error("%s", str(error) or type(error).__name__)
            raise RefusedError(503, "unavailable", "what is searched cannot be read at the moment", 5) from error


def build_service(
    live: Live,
    limits: Limits | None = None,
    access: Access | None = None,
    *,
    every_seconds: float = EVERY_SECONDS,
    threads_each: int | None = None,
    decoders: DecoderPool | None = None,
) -> Service:
    """The service over a recogniser.

    Args:
        live: what answers; it is watched from when the service starts until it ends.
        limits: what is taken.
        access: who is let in; by default this machine.
        every_seconds: how often `live` looks for something new.
        threads_each: threads that the network may use for one photograph; by default what torch takes.
        decoders: what decodes photographs; by default the service starts its own.
    """
    service = Service(live, limits or Limits(), access or Access(), decoders, threads_each)
    service.state.every_seconds = every_seconds
    static = resources.files("glr_assets.serving") / "static"
    service.mount("/static", StaticFiles(directory=str(static)), name="static")
    service.add_exception_handler(RefusedError, _refused)
    service.add_exception_handler(HTTPException, _http_error)
    service.add_exception_handler(RequestValidationError, _invalid)
    service.add_exception_handler(Exception, _unforeseen)
    _add_recognition(service)
    _add_pictures(service)
    _add_page(service)
    _add_probes(service)
    return service


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    assert isinstance(app, Service)
    # Set once: requests that overlap change no limit of the process.
    with single_threaded("blas"):
        app.decoders.start()
        app.live.watch(app.state.every_seconds)
        yield
        app.close()


def _few_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


def _add_recognition(service: Service) -> None:
    @service.post(
        "/recognize",
        response_model=Answer,
        responses=_failures(400, 401, 403, 408, 413, 415, 422, 429, 503),
        openapi_extra=_form(
            {
                "top": _TOP_SCHEMA,
                "matches": {
                    "type": "boolean",
                    "default": False,
                    "description": "also compare local features with the look-alikes, and draw what agrees",
                },
            }
        ),
        summary="What a photograph shows",
    )
    async def recognize(request: Request) -> Answer:
        async with service.form(request) as form:
            top, wanted = listed(form.fields.get("top"), TOP), _flag(form.fields.get("matches"))
            answer, _ = await service.run(
                request, lambda generation: _answered(service, generation, form, form.photos[0], top, wanted)
            )
            return answer

    @service.post(
        "/recognize/batch",
        response_model=BatchAnswer,
        responses=_failures(400, 401, 403, 408, 413, 415, 422, 429, 503),
        openapi_extra=_form({"top": _TOP_SCHEMA}, most=service.limits.max_batch),
        summary="What each of a few photographs shows",
    )
    async def recognize_batch(request: Request) -> BatchAnswer:
        async with service.form(request, service.limits.max_batch) as form:
            top = listed(form.fields.get("top"), TOP)
            return await service.run(request, lambda generation: _all_answered(service, generation, form, top))


def _add_pictures(service: Service) -> None:
    pictures: Responses = {200: {"content": {"image/jpeg": {}}, "description": "A JPEG"}}

    @service.get(
        "/image/{split}/{image_id}",
        response_class=Response,
        responses=pictures | _failures(400, 401, 404, 422, 503) | {304: {"description": "As it was"}},
        summary="A photograph of the index, by the id of a look-alike",
    )
    async def image(split: str, image_id: str, request: Request) -> Response:
        def found(generation: Generation) -> Response:
            reader = generation.recogniser.reader
            if split != "train" or not generation.recogniser.shows(image_id):
                raise RefusedError(404, "unknown_image", "no image of that id is in the index")
            tag = f'"{reader.places.xxh3(reader.row(image_id)) or 0:016x}"'
            headers = {"ETag": tag, "Cache-Control": "private, max-age=3600"}
            if request.headers.get("if-none-match") == tag:
                return Response(status_code=304, headers=headers)
            return Response(reader.read(image_id), media_type="image/jpeg", headers=headers)

        return await service.run(request, found)

    @service.post(
        "/matches",
        response_class=Response,
        responses=pictures | _failures(400, 401, 403, 404, 408, 413, 415, 422, 429, 503),
        openapi_extra=_form({"id": {"type": "string", "description": "image id of a look-alike"}}, required=("id",)),
        summary="A drawing of the local features that a photograph and a look-alike have in common",
    )
    async def matches(request: Request) -> Response:
        def drawn(generation: Generation, form: Form) -> Response:
            image_id = form.fields.get("id", "")
            photo = service.decoded(form, form.photos[0], generation)
            if not generation.recogniser.shows(image_id):
                raise RefusedError(404, "unknown_image", "no image of that id is in the index")
            (match,) = generation.look_alikes.compare(photo.jpeg, [image_id])
            return Response(generation.look_alikes.drawing(photo.jpeg, match, image_id), media_type="image/jpeg")

        async with service.form(request) as form:
            return await service.run(request, lambda generation: drawn(generation, form))


def _add_page(service: Service) -> None:
    @service.get("/", include_in_schema=False)
    async def empty_page() -> HTMLResponse:
        return HTMLResponse(page.whole(service.limits))

    @service.post("/", include_in_schema=False)
    async def answered_page(request: Request) -> HTMLResponse:
        async with service.form(request) as form:
            answer, photo = await service.run(
                request, lambda generation: _answered(service, generation, form, form.photos[0], TOP, wanted=True)
            )
        return _page(service, request, page.Shown(answer, page.data_url(photo.jpeg)))


def _add_probes(service: Service) -> None:
    @service.get("/health", response_model=Alive, summary="The process answers")
    async def health() -> Alive:
        return Alive()

    @service.get("/ready", response_model=Ready, responses=_failures(503), summary="An index is loaded")
    async def ready() -> Ready:
        current = service.live.current
        if current is None:
            raise RefusedError(503, "not_ready", "not ready: no index is loaded yet", retry_after=5)
        of = current.recogniser
        return Ready(
            version=of.version, images=len(of), landmarks=of.landmarks, stale=service.live.stale_since is not None
        )

    @service.get(
        "/metrics",
        response_class=Response,
        responses=_failures(400, 401) | {200: {"content": {"text/plain": {}}}},
        summary="Counters in Prometheus' text format",
    )
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_METRICS)


def _answered(
    service: Service, generation: Generation, form: Form, upload: Upload, top: int, wanted: bool
) -> tuple[Answer, StoredImage]:
    """An answer and the photograph as it was understood."""
    timings = Timings({})
    with timings.of("total"):
        with timings.of("decode"):
            photo = service.decoded(form, upload, generation)
        (answer,) = generation.recogniser.recognise([photo], top, timings)
        if wanted:
            with timings.of("match"):
                answer = _with_matches(generation, answer, photo)
    return _counted(service, answer, timings), photo


def _all_answered(service: Service, generation: Generation, form: Form, top: int) -> BatchAnswer:
    """Each by itself: a bad photograph costs the others nothing, unless it takes the time of all."""
    entries = []
    until = time.monotonic() + service.limits.request_seconds
    for upload in form.photos:
        try:
            if time.monotonic() > until:
                raise RefusedError(503, "busy", "busy: the photographs before it took too long", retry_after=1)
            answer, _ = _answered(service, generation, form, upload, top, wanted=False)
            entries.append(BatchEntry(file=upload.name, answer=answer))
        except RefusedError as error:
            service.metrics.refused.labels(error.code).inc()
            entries.append(BatchEntry(file=upload.name, error=problem(error)))
    return BatchAnswer(answers=entries)


def _counted(service: Service, answer: Answer, timings: Timings) -> Answer:
    seconds = {step: round(value, 6) for step, value in timings.seconds.items()}
    service.metrics.took(seconds)
    service.metrics.recognised.labels(str(answer.is_landmark).lower()).inc()
    return answer.model_copy(update={"timings": seconds})


def _with_matches(generation: Generation, answer: Answer, photo: StoredImage) -> Answer:
    """The answer with what local features say of its first look-alikes."""
    ids = [similar.id for similar in answer.similar[:MOST_MATCHED]]
    found = {match.id: match for match in generation.look_alikes.compare(photo.jpeg, ids)}
    similar = [
        like.model_copy(update={"inliers": found[like.id].inliers if like.id in found else None})
        for like in answer.similar
    ]
    name_of = {like.id: like.name for like in similar}
    best = max((match for match in found.values() if match.right), key=_strength, default=None)
    drawn = None
    if best is not None:
        drawing = generation.look_alikes.drawing(photo.jpeg, best, name_of[best.id])
        drawn = Matches(id=best.id, inliers=best.inliers, picture=page.data_url(drawing))
    return answer.model_copy(update={"similar": similar, "matches": drawn})


def _strength(match: Match) -> int:
    return match.inliers


def _page(service: Service, request: Request, shown: page.Shown) -> HTMLResponse:
    """The whole page, or for its script the answer alone."""
    status = shown.problem.status if shown.problem else 200
    alone = request.headers.get("x-requested-with") == "fetch"
    return HTMLResponse(page.fragment(shown) if alone else page.whole(service.limits, shown), status)


def _flag(value: str | None) -> bool:
    if value is None or value.lower() in {"", "0", "false", "no", "off"}:
        return False
    if value.lower() in {"1", "true", "yes", "on"}:
        return True
    raise RefusedError(422, "wrong_matches", "matches: expected true or false")


def _told(request: Request, error: RefusedError) -> Response:
    service = request.app
    service.metrics.refused.labels(error.code).inc()
    if request.url.path == "/" and request.method == "POST":
        response: Response = _page(service, request, page.Shown(problem=problem(error)))
        if error.retry_after is not None:
            response.headers["Retry-After"] = str(error.retry_after)
        return response
    return failure(error)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, RefusedError)
    return _told(request, error)


async def _http_error(request: Request, error: Exception) -> Response:
    """What the framework itself refuses: no such route, another method, a damaged form."""
    assert isinstance(error, HTTPException)
    name = HTTPStatus(error.status_code).phrase
    told = error.detail if error.status_code == 400 else name
    response = _told(request, RefusedError(error.status_code, name.lower().replace(" ", "_"), told))
    response.headers.update(error.headers or {})
    return response


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return _told(request, RefusedError(422, "invalid", "a value of the request is not what it should be"))


async def _unforeseen(request: Request, error: Exception) -> Response:
    """An error of the service: its log has what it is, its answer does not."""
    return _told(request, RefusedError(500, "internal", "the service failed; its log says why"))


def _failures(*statuses: int) -> Responses:
    return {status: {"model": Failure, "description": _REASONS[status]} for status in statuses}


def _form(fields: Mapping[str, Any], most: int = 1, required: Sequence[str] = ()) -> dict[str, Any]:
    """A multipart body in OpenAPI's words; read by `read_form`, which bounds it as it arrives."""
    file = {"type": "string", "format": "binary", "description": "JPEG, PNG, WebP, AVIF, GIF, BMP, TIFF or PPM"}
    several = {"type": "array", "items": file, "minItems": 1, "maxItems": most}
    schema = {
        "type": "object",
        "properties": {FIELD: file if most == 1 else several, **fields},
        "required": [FIELD, *required],
    }
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}
