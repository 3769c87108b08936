"""What goes wrong with a request, as OpenAI's clients know it: a status and {"error": {…}}."""

from dataclasses import dataclass, field

FORM: dict[str, object] = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
            "required": ["message", "type", "param", "code"],
        }
    },
    "required": ["error"],
}
"""The JSON Schema of `Fault.body`."""


@dataclass(kw_only=True)
class Fault(Exception):
    """A request that isn't answered. `param` names the field at fault, `headers` go with the response."""

    status: int
    message: str
    kind: str = "invalid_request_error"
    param: str | None = None
    code: str | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def body(self) -> dict[str, object]:
        """The response's JSON."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


def bad(message: str, param: str | None = None, code: str | None = None) -> Fault:
    """400: the request can't be answered as it is."""
    return Fault(status=400, message=message, param=param, code=code)


def unknown_model(name: str, known: list[str]) -> Fault:
    """404: nothing is served under that name."""
    return Fault(
        status=404,
        message=f"no System {name!r} is served here; there are: {', '.join(known) or 'none'}",
        param="model",
        code="model_not_found",
    )


def unauthorised(message: str) -> Fault:
    """401: no key, or one that isn't known."""
    return Fault(
        status=401,
        message=message,
        code="invalid_api_key",
        headers={"WWW-Authenticate": "Bearer"},
    )


def forbidden(message: str, code: str) -> Fault:
    """403: the caller may not do that."""
    return Fault(status=403, message=message, kind="permission_error", code=code)


def overloaded(retry_after_s: float, waiting: int) -> Fault:
    """429: so many requests wait that another one isn't taken."""
    seconds = max(1, round(retry_after_s))
    return Fault(
        status=429,
        message=f"{waiting} requests are waiting already; try again in {seconds} s",
        kind="rate_limit_error",
        code="rate_limit_exceeded",
        headers={"Retry-After": f"{seconds}"},
    )


def too_slow(limit_s: float, *, again: bool) -> Fault:
    """504: the request's time is over. `again`: other work had a part in that, so it may end otherwise."""
    return Fault(
        status=504,
        message=f"no answer within {limit_s:g} s; ask for fewer tokens, or raise --request-limit",
        kind="timeout_error",
        code="timeout",
        headers={} if again else {"X-Should-Retry": "false"},
    )


def final(message: str) -> Fault:
    """422: there is no answer to this, and would be none if it were asked again, which may cost money."""
    return Fault(
        status=422,
        message=message,
        kind="server_error",
        code="no_answer",
        headers={"X-Should-Retry": "false"},
    )


def broken(message: str) -> Fault:
    """503: an engine broke twice over the request, or can't start."""
    return Fault(
        status=503,
        message=message,
        kind="server_error",
        code="engine_failed",
        headers={"Retry-After": "1"},
    )
