"""The routes, each a few lines over what answers them, and faults as responses."""

from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Match

from rung import __version__
from rung.errors import RungError
from rung.serve import completions, deciding, shapes
from rung.serve.answer import engine_faults
from rung.serve.decision_wire import DecisionRequest, SystemOneRequest
from rung.serve.faults import FORM, Fault, bad, forbidden, overloaded, unknown_model
from rung.serve.gateway import Gateway
from rung.serve.lanes import Full
from rung.serve.wire import ChatRequest, CompletionRequest, EmbeddingRequest, LoadRequest
from rung.web.page import page_routes

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"description": what, "content": {"application/json": {"schema": FORM}}}
    for status, what in {
        400: "The request can't be answered as it is.",
        401: "No API key, or one that isn't known.",
        403: "The caller may not do that.",
        404: "Nothing is served under that name.",
        413: "The body is too large.",
        429: "Too many requests wait; Retry-After says when to try again.",
        503: "The engine broke, or the server stops.",
        504: "The request's time is over.",
        # Without this FastAPI would add a 422 in a form of its own.
        "4XX": "The request can't be answered otherwise.",
    }.items()
}
STREAMED: dict[int | str, dict[str, Any]] = {
    200: {"description": "The answer, or its events.", "content": {"text/event-stream": {}}}
}


def make_app(gateway: Gateway) -> FastAPI:
    """The application over a gateway."""
    app = FastAPI(
        title="rung",
        version=__version__,
        summary="Systems behind an OpenAI-compatible endpoint.",
        responses=RESPONSES,
        # FastAPI's own pages load scripts from elsewhere; what they would show is at /openapi.json.
        docs_url=None,
        redoc_url=None,
    )
    app.add_exception_handler(Fault, _on_fault)
    app.add_exception_handler(RungError, _on_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Exception, _on_bug)
    _answers(app, gateway)
    _manages(app, gateway)
    _watches(app, gateway)
    app.routes.extend(page_routes())
    return app


def _answers(app: FastAPI, gateway: Gateway) -> None:
    @app.post("/v1/chat/completions", tags=["answers"], responses=STREAMED)
    async def chat_completions(request: Request, body: ChatRequest) -> Response:
        """Answer a chat."""
        return await completions.chat(gateway, request, body)

    @app.post("/v1/completions", tags=["answers"], responses=STREAMED)
    async def text_completions(request: Request, body: CompletionRequest) -> Response:
        """Answer a text, or several."""
        return await completions.complete(gateway, request, body)

    @app.post("/v1/embeddings", tags=["answers"])
    async def embeddings(request: Request, body: EmbeddingRequest) -> Response:
        """Sentence vectors of unit length."""
        if body.model not in gateway.systems.embedders:
            raise unknown_model(body.model, sorted(gateway.systems.embedders))
        return await gateway.whole(request, "embeddings", body.model, _embed(gateway, body))

    @app.post("/v1/decisions", tags=["answers"])
    async def decisions(request: Request, body: DecisionRequest) -> Response:
        """Typed questions about an input: a calibrated probability for every label of the System."""
        return await deciding.decide(gateway, request, body)

    @app.post("/v1/systemone", tags=["answers"])
    async def systemone(request: Request, body: SystemOneRequest) -> Response:
        """The same in the shape of System One."""
        return await deciding.systemone(gateway, request, body)


async def _embed(gateway: Gateway, body: EmbeddingRequest) -> dict[str, Any]:
    bench, embedder = gateway.systems.bench, gateway.systems.pool.embedder
    with engine_faults():
        vectors, tokens = await bench.run(
            lambda: (embedder.embed(body.texts), embedder.count_tokens(body.texts))
        )
    return {
        "object": "list",
        "model": body.model,
        "data": [shapes.embedding(i, vector, body.encoding_format) for i, vector in enumerate(vectors)],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def _manages(app: FastAPI, gateway: Gateway) -> None:
    @app.get("/v1/models", tags=["systems"])
    async def models() -> Response:
        """What requests may call, as OpenAI's clients list models."""
        known = [shapes.model(served.name, served.created) for served in gateway.systems]
        vectors = [shapes.model(name) for name in sorted(gateway.systems.embedders)]
        return JSONResponse({"object": "list", "data": [*known, *vectors]})

    @app.get("/v1/models/{name:path}", tags=["systems"])
    async def one_model(name: str) -> Response:
        """One of them."""
        if name in gateway.systems.embedders:
            return JSONResponse(shapes.model(name))
        served = gateway.find(name)
        return JSONResponse(shapes.model(served.name, served.created))

    @app.get("/v1/systems", tags=["systems"])
    async def systems() -> Response:
        """What is served, with what it is made of."""
        return JSONResponse({"object": "list", "data": [shapes.system(s) for s in gateway.systems]})

    @app.post("/v1/systems", tags=["systems"], status_code=201)
    async def load(request: Request, body: LoadRequest) -> Response:
        """Serve another System, while requests are answered."""
        _admin(request)
        try:
            made = await gateway.systems.add(body.system, body.name)
        except RungError as error:
            raise bad(str(error), "system", "system_not_loaded") from None
        except OSError as error:
            raise bad(f"can't read the System: {error.strerror}", "system", "system_not_loaded") from None
        except Full as full:
            raise overloaded(full.retry_after_s, full.waiting) from None
        return JSONResponse(shapes.system(made), status_code=201)

    @app.delete("/v1/systems/{name:path}", tags=["systems"])
    async def unload(request: Request, name: str) -> Response:
        """Serve it no more; what it is asked already is still answered."""
        _admin(request)
        if not await gateway.systems.remove(name):
            raise unknown_model(name, gateway.systems.names())
        return JSONResponse({"name": name, "object": "system", "deleted": True})


def _watches(app: FastAPI, gateway: Gateway) -> None:
    @app.get("/healthz", tags=["operations"])
    async def healthz() -> Response:
        """Whether the server is alive."""
        return JSONResponse({"status": "ok"})

    @app.get("/readyz", tags=["operations"])
    async def readyz() -> Response:
        """Whether every System can answer: not while an engine is down."""
        hosts = [(served.name, served.host) for served in gateway.systems if served.host is not None]
        down = [name for name, host in hosts if not host.ready and not host.asleep]
        found = {"status": "not ready" if down else "ready", "waiting_for": sorted(down)}
        return JSONResponse(found, status_code=503 if down else 200)

    @app.get("/metrics", tags=["operations"], response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Counters and gauges, as Prometheus reads them."""
        return Response(gateway.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _admin(request: Request) -> None:
    if not request.scope.get("state", {}).get("admin"):
        raise forbidden("loading and unloading takes an administrator's key", "admin_key_required")


async def _on_fault(request: Request, error: Exception) -> Response:
    assert isinstance(error, Fault), "registered for it"
    return JSONResponse(error.body(), status_code=error.status, headers=error.headers)


async def _on_error(request: Request, error: Exception) -> Response:
    return await _on_fault(request, Fault(status=503, message=str(error), kind="server_error"))


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError), "registered for it"
    if isinstance(error.body, bytes):
        said = request.headers.get("content-type", "none")[:100]
        message = f"the body is read as JSON alone: send Content-Type: application/json, not {said!r}"
        return await _on_fault(request, bad(message))
    found = list(error.errors())
    message = "; ".join(map(_in_words, found[:3]))
    place = [str(part) for part in found[0]["loc"][1:]] if found else []
    return await _on_fault(request, bad(message, ".".join(place) or None))


def _in_words(fault: "ErrorDetails") -> str:
    place = ".".join(str(part) for part in fault["loc"][1:])
    if fault["type"] == "extra_forbidden":
        return f"`{place}` isn't supported here; leave it out"
    said = fault["msg"].removeprefix("Value error, ")
    return f"{place}: {said}" if place else said


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException), "registered for it"
    headers = dict(error.headers or {})
    if error.status_code == 405:
        # Starlette names the methods of the first of the path's routes alone.
        routes = [r for r in request.app.routes if r.matches(request.scope)[0] is not Match.NONE]
        headers["Allow"] = ", ".join(sorted({method for r in routes for method in r.methods or ()}))
    return await _on_fault(
        request,
        Fault(
            status=error.status_code,
            message=f"{request.method} {request.url.path}: {error.detail}",
            headers=headers,
        ),
    )


async def _on_bug(request: Request, error: Exception) -> Response:
    fault = Fault(status=500, message="a fault of the server, which is in its log", kind="server_error")
    return await _on_fault(request, fault)
