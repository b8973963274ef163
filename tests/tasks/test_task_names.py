"""Every task run is called something that people understand, in every list of Prefect's."""

import re
from pathlib import Path

import tasks

FOLDER = Path(tasks.__file__).parent


def test_every_task_has_a_name_in_words():
    """Prefect would make one of the function's name and a digest: ``check-6b7``."""
    bare = [
        f"{path.name}: {found}"
        for path in FOLDER.rglob("*.py")
        for found in re.findall(r"^@task(?!\(task_run_name=).*$", path.read_text(), re.MULTILINE)
    ]

    assert bare == []
