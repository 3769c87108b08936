"""Two servers that the tests share: one on a language model of 60,000 weights, one on a real small model."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from rung.system import Pool, System
from tests.fixtures_climb import make_tiny_gguf
from tests.fixtures_serve import Server, make_head, make_systems

REAL = "smollm2-135m"


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture(scope="session")
def tiny_systems(tmp_path_factory: pytest.TempPathFactory, tiny_gguf: Path) -> dict[str, System]:
    folder = tmp_path_factory.mktemp("systems")
    return {**make_systems(folder, str(tiny_gguf)), "desk": make_head(folder / "desk")}


@pytest.fixture(scope="session")
def tiny(
    tmp_path_factory: pytest.TempPathFactory, tiny_gguf: Path, tiny_systems: dict[str, System]
) -> Iterator[Server]:
    """Every form of answer, and the base model as `base`. Tests leave it as it is."""
    home = tmp_path_factory.mktemp("home")
    systems = [f"{name}={system.folder}" for name, system in tiny_systems.items()]
    with Server(*systems, f"base={tiny_gguf}", home=home) as server:
        yield server


@pytest.fixture(scope="session")
def pool() -> Iterator[Pool]:
    """Engines by which Systems answer without a server, with as many threads as the servers here."""
    with Pool(threads=1, parallel=1) as pool:
        yield pool


@pytest.fixture(scope="session")
def real_systems(tmp_path_factory: pytest.TempPathFactory) -> dict[str, System]:
    return make_systems(tmp_path_factory.mktemp("systems"), REAL)


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory, real_systems: dict[str, System]) -> Iterator[Server]:
    """The same on SmolLM2-135M, as `base`, and sentence vectors."""
    home = tmp_path_factory.mktemp("home")
    systems = [f"{name}={system.folder}" for name, system in real_systems.items()]
    with Server(*systems, f"base={REAL}", "minilm-l6", "--slots", "4", home=home) as server:
        yield server
