import torch
from tokenizers import Tokenizer, models

from rung.engines.cores import available_cores
from rung.system import Pool
from rung.threads import yield_while_waiting


def test_idle_threads_sleep_soon_unless_the_user_chose_otherwise():
    fresh: dict[str, str] = {}
    yield_while_waiting(fresh)
    assert fresh == {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000"}
    for chosen in ({"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_WAIT_POLICY": "PASSIVE"}):
        before = dict(chosen)
        yield_while_waiting(chosen)
        assert chosen == before
    spins = {"GOMP_SPINCOUNT": "7"}
    yield_while_waiting(spins)
    assert spins["GOMP_SPINCOUNT"] == "7"


class Counting:
    """A network that notes how many threads torch has when it is asked."""

    width = 2

    def __init__(self):
        self.threads = []

    def mean(self, ids, sizes):
        self.threads.append(torch.get_num_threads())
        return torch.ones(len(ids), self.width)


def test_sentence_vectors_are_made_on_the_threads_of_the_pool_and_leave_torch_as_it_was():
    tokenizer = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        for threads, expected in ((1, 1), (0, available_cores())):
            pool = Pool(threads=threads)
            network = Counting()
            pool.embedder.__dict__ |= {"_network": network, "_tokenizer": tokenizer}
            assert pool.embedder.embed(["a", "a"]).shape == (2, 2)
            assert network.threads == [expected] and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
