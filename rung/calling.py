"""The schema that holds an answer to the functions of its own question, as far as engines can enforce it."""

from functools import lru_cache

from rung.engines.schema import check_schema
from rung.records import Json
from rung.task.calls import call_schema, functions_in


@lru_cache(maxsize=512)
def schema_of(context: str | None, most: int | None = None) -> Json:
    """The JSON Schema of the calls that a question with this context can be answered with, `most` at most.

    Arguments are left open where a function's own schema is more than an engine can hold an answer to.
    """
    functions = functions_in(context)
    schema = call_schema(functions, most=most)
    return call_schema(functions, loose=True, most=most) if check_schema(schema) else schema
