"""The server's own process: requests that write at the same time wait for one another."""

import subprocess
import sys

import pytest

TURNS = """
import asyncio, sys
import sqlalchemy as sa
from prefect.server.database.configurations import AioSqliteConfiguration
from flows.cli.server.server_process import let_writers_wait

if sys.argv[2] == "waiting":
    let_writers_wait()

async def main():
    database = AioSqliteConfiguration(connection_url=f"sqlite+aiosqlite:///{sys.argv[1]}")
    engine = await database.engine()
    async with await database.session(engine) as session, database.begin_transaction(session):
        await session.execute(sa.text("create table counts (number integer)"))
        await session.execute(sa.text("insert into counts values (0)"))
    has_read = asyncio.Event()

    async def add(first):
        async with await database.session(engine) as session:
            async with database.begin_transaction(session):
                found = (await session.execute(sa.text("select number from counts"))).scalar()
                if first:
                    has_read.set()
                    await asyncio.sleep(0.3)  # in which the other one comes
                await session.execute(sa.text("update counts set number = :n"), {"n": found + 1})

    one = asyncio.create_task(add(True))
    await has_read.wait()
    await asyncio.gather(one, add(False))
    async with await database.session(engine) as session:
        print((await session.execute(sa.text("select number from counts"))).scalar())

asyncio.run(main())
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["waiting", "as Prefect"])
def test_two_requests_that_read_and_then_write_both_count(how, tmp_path):
    """Prefect's own way is tried as well: when it waits, too, ours is not needed any more."""
    done = subprocess.run(
        [sys.executable, "-c", TURNS, str(tmp_path / "prefect.db"), how],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    if how == "waiting":
        assert (done.returncode, done.stdout) == (0, "2\n"), done.stderr
    else:
        assert "database is locked" in done.stderr
