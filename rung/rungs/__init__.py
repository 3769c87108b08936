"""The adaptation ladder, cheapest rung first. This tuple is the only list of rungs."""

from rung.rungs.api import Api
from rung.rungs.base import Rung
from rung.rungs.distill import Distill
from rung.rungs.distill_head import DistillHead
from rung.rungs.few_shot import FewShot
from rung.rungs.head import Head
from rung.rungs.optimise import Optimise
from rung.rungs.preference import Preference
from rung.rungs.prompt import Prompt
from rung.rungs.reinforce import Reinforce
from rung.rungs.retrieval import Retrieval
from rung.rungs.sft import Sft
from rung.rungs.workflow import Workflow

LADDER: tuple[Rung, ...] = (
    Head(),
    Prompt(),
    FewShot(),
    Retrieval(),
    Optimise(),
    Workflow(),
    DistillHead(),
    Sft(),
    Distill(),
    Preference(),
    Reinforce(),
    Api(),
)
