"""A bounded sample of the rows whose faults hit the store alone."""

import pytest

from tests.faults import chain, corruption, disk_full, store_away, two_flows


@pytest.mark.slow
def test_damage_is_repaired_and_named(tmp_path):
    """Whatever happens to a file, no number changes and nothing intact is made again."""
    done = list(corruption.trials(tmp_path, 8, seed=2))

    assert all(trial.holds for trial in done), done
    assert {"swap", "flip_bit"} <= {trial.damage for trial in done}
    assert any(trial.repaired for trial in done)


@pytest.mark.slow
def test_record_with_one_changed_value_is_damaged(tmp_path):
    """Inputs and seconds go into reports, and no digest of rows covers them."""
    store = tmp_path / "store"
    refs = chain.run(store)
    (record,) = store.glob(f"stages/{refs[-2].stage}/{refs[-2].key}/record.json")
    record.write_text(record.read_text().replace('"outer_step": 0', '"outer_step": 1'))

    with chain.counted() as computed, chain.warnings() as said:
        again = chain.run(store)

    assert again == refs
    assert computed == [chain.stage_of(refs[-2])]
    assert "damaged: it has the digest" in said[0]


@pytest.mark.slow
def test_full_disk_stops_a_run_that_then_goes_on(tmp_path):
    """What was committed counts, what was torn does not."""
    if reason := disk_full.why_not(tmp_path):
        pytest.skip(reason)

    done = list(disk_full.trials(tmp_path, 2, seed=1))

    assert all(trial.holds for trial in done), done


@pytest.mark.servers
@pytest.mark.timeout(1800)
def test_two_runs_share_the_work(tmp_path):
    """Two people start the same command."""
    done = list(two_flows.trials(tmp_path, 3, seed=1))

    assert all(trial.holds for trial in done), done


@pytest.mark.servers
@pytest.mark.timeout(1800)
def test_run_outlives_its_store_being_away(tmp_path):
    """An object store has a bad minute more often than a run of hours ends."""
    pytest.importorskip("moto.server", reason="S3 tests need moto[server]")

    done = list(store_away.trials(tmp_path, 2, seed=4))

    assert all(trial.holds for trial in done), done
