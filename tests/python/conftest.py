import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # helpers, also under --import-mode=importlib


@pytest.fixture(scope="module")
def pool():
    """One pool for the tests of a module that do no harm to it."""
    import manyhands

    with manyhands.Pool(2) as made:
        yield made
