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
