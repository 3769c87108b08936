from rung.threads import yield_while_waiting


def test_idle_threads_sleep_unless_the_user_chose_otherwise():
    fresh: dict[str, str] = {}
    yield_while_waiting(fresh)
    assert fresh == {"OMP_WAIT_POLICY": "PASSIVE"}
    chosen = {"OMP_WAIT_POLICY": "ACTIVE"}
    yield_while_waiting(chosen)
    assert chosen == {"OMP_WAIT_POLICY": "ACTIVE"}
