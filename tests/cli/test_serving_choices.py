"""What `rung serve` takes by default, stated once."""

from dataclasses import fields

from rung.cli.durations import seconds
from rung.cli.serving import ServeChoices
from rung.serve.limits import Limits


def test_the_command_has_the_servers_defaults():
    choices, limits = ServeChoices(), Limits()
    shared = {field.name for field in fields(Limits)} - {"request_s"}
    assert {name: getattr(choices, name) for name in shared} == {
        name: getattr(limits, name) for name in shared
    }
    assert seconds(choices.request_limit, "--request-limit") == limits.request_s
