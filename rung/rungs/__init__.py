"""The adaptation ladder, cheapest rung first. This tuple is the only list of rungs."""

from rung.rungs.base import Rung
from rung.rungs.few_shot import FewShot
from rung.rungs.head import Head
from rung.rungs.preference import Preference
from rung.rungs.prompt import Prompt
from rung.rungs.sft import Sft

LADDER: tuple[Rung, ...] = (Head(), Prompt(), FewShot(), Sft(), Preference())
