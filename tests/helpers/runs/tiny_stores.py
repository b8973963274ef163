"""Stores that hold what runs leave, without a run."""

import hashlib

from engine.runs.endings import Ending
from engine.stages.claims import claim
from engine.stages.lease import _content
from engine.storage.location import join
from engine.storage.records import write_bytes, write_record


def key(word):
    """Return a key as stages have them."""
    return hashlib.sha256(word.encode()).hexdigest()[:32]


def named(word):
    """Return the name of a run as the engine gives them."""
    return f"{word}-{key(word)[:8]}"


def add_stage(store, kind, word, **inputs):
    """Commit a stage whose result is ten bytes; inputs are the stages that it was made from."""
    name = kind, key(word)
    record = {"ref": ref(name), "inputs": {role: ref(each) for role, each in inputs.items()}}
    folder = join(store, "stages", *name)
    write_bytes(join(folder, "attempts", "00000001-0badcafe", "params", "c", "0", "0"), b"0" * 10)
    write_bytes(join(store, "results", "-".join(name)), b"{}")
    write_record(join(folder, "record.json"), record)
    return name


def ref(name):
    return {"stage": name[0], "key": name[1], "content": "c"}


def add_run(store, word, *used, keeps=None):
    """Write a run that has claimed stages; finished if it is said what its result keeps."""
    name = named(word)
    write_record(join(store, "runs", name, "recipe.json"), {"name": word})
    claims = [claim(store, name, *each, each[0], cached=False) for each in used]
    if keeps is not None:
        ending = Ending(
            claims=[each.token for each in claims], keeps=["/".join(each) for each in keeps]
        )
        record = {"ending": ending.model_dump(mode="json")}
        write_record(join(store, "runs", name, "run.json"), record)
    return name


def add_descent(store, word="done"):
    """Write a finished descent of one outer step, whose last iterate was chosen; name its parts."""
    z0 = add_stage(store, "initial", "z0")
    t0 = add_stage(store, "train", f"{word}-t0", value=z0)
    t1 = add_stage(store, "train", f"{word}-t1", value=z0, start=t0)
    seed = add_stage(store, "seed", f"{word}-seed", value=z0, final=t1)
    half = add_stage(store, "reverse", f"{word}-half", value=z0, start=t0, adjoint=seed)
    gradient = add_stage(store, "reverse", f"{word}-gradient", value=z0, adjoint=half)
    z1 = add_stage(store, "update", f"{word}-z1", value=z0, gradient=gradient)
    t2 = add_stage(store, "train", f"{word}-t2", value=z1)
    t3 = add_stage(store, "train", f"{word}-t3", value=z1, start=t2)
    scores = add_stage(store, "evaluate", f"{word}-scores", value=z1, final=t3)
    used = (z0, t0, t1, seed, half, gradient, z1, t2, t3, scores)
    kept = {z0, gradient, z1, t2, t3, scores}
    add_run(store, word, *used, keeps=kept)
    return {"spare": {t0, t1, seed, half}, "kept": kept}


def hold(store, name, *, owner=None, token=1):
    """Write the lease of a stage that is being made, by this process unless another owns it."""
    content = _content("0badcafe", 0, released=False)
    url = join(store, "stages", *name, "leases", f"{token:08d}.json")
    write_record(url, content | ({} if owner is None else {"owner": owner}))
    return url
