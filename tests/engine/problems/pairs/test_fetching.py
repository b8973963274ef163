"""Images that are fetched: no server of a data set's choice holds a run up."""

import socket
import threading
import time

import pytest

from engine.problems.pairs import fetching
from engine.problems.pairs.fetching import Fetching, NotFetchedError

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nX-Slow: "
AGAIN = b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: /again\r\nX-Slow: x\r\n\r\n"


def letters(word, seconds):
    """Send a word letter by letter."""

    def answer(connection):
        for letter in word:
            connection.sendall(bytes([letter]))
            time.sleep(seconds)

    return answer


def never(connection):
    """Take the question, and say nothing."""
    connection.settimeout(5)
    while connection.recv(4096):
        pass


ANSWERS = {
    "a head that does not end": letters(HEAD + b"x" * 3000, 0.05),
    "a body that does not end": letters(
        HEAD.replace(b"9", b"99999") + b"\r\n\r\n" + b"x" * 3000, 0.01
    ),
    "nothing": never,
    "an answer that leads on": letters(AGAIN, 0.005),
}


@pytest.fixture
def serve(monkeypatch):
    """Answers each question by a function of the connection; all addresses count as public."""
    monkeypatch.setattr(fetching, "is_public", lambda address: True)
    monkeypatch.setattr(fetching, "SECONDS", 1.0)
    listening = socket.create_server(("127.0.0.1", 0))

    def start(answer):
        def each(connection):
            with connection:
                try:
                    connection.recv(4096)
                    answer(connection)
                except OSError:
                    return

        def accept():
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                threading.Thread(target=each, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        return f"http://127.0.0.1:{listening.getsockname()[1]}/x.png"

    yield start
    listening.close()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_a_server_that_answers_letter_by_letter_is_given_up(answer, serve, monkeypatch):
    """Each letter is an answer in time, and all of them would take days."""
    monkeypatch.setattr(fetching, "SECONDS", 0.3)
    with pytest.raises(NotFetchedError, match="took too long"):
        Fetching(allowed=True, protocol="file").fetch(serve(answer))


def test_an_answer_in_time_is_the_image(serve):
    """The control, by the same server."""
    whole = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nall of it"

    found = Fetching(allowed=True, protocol="file").fetch(serve(letters(whole, 0)))

    assert found == b"all of it"


@pytest.mark.parametrize("allowed", [False, True])
@pytest.mark.parametrize(
    "url", ["https://alice:S3CRETPW@host.example/a.png", "http://alice@host.example:80/a.png"]
)
def test_a_login_in_a_cell_is_neither_sent_nor_shown(url, allowed):
    """What fetches takes the password for a port, and says so with half of the address."""
    with pytest.raises(NotFetchedError, match="with a log-in in the URL") as refused:
        Fetching(allowed=allowed, protocol="file").fetch(url)

    assert "S3CRET" not in str(refused.value)
