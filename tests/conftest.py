"""Tests run in two processes on two cores: their idle threads sleep soon, as those of the command do."""

from rung.threads import yield_while_waiting

yield_while_waiting()
