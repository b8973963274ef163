"""Where stages and runs lie in a store."""

from engine.storage.location import join


def stage_record_url(store: str, stage: str, key: str) -> str:
    """Return where the record lies that commits a stage."""
    return join(store, "stages", stage, key, "record.json")


def run_folder(store: str, run: str) -> str:
    """Return the URL of a run's folder."""
    return join(store, "runs", run)
