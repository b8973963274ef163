"""A person with a browser, from ``mgd ui`` to a report: in both of Prefect's UIs where both can.

What is asserted of the form are counts and pixels, never times.
"""

import base64
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from engine.applications.descent.record import read_run
from engine.recipes.files import load_recipe
from engine.recipes.forms.fields import filled_in
from engine.recipes.names import run_name
from flows.descent import descent
from tests.deployments.browser import (
    UIS,
    choose,
    clicked,
    document,
    open_browser,
    picture,
    press,
    settled_height,
    write,
)
from tests.deployments.site import Api
from tests.helpers.machine.servers import PATIENCE, process, wait_for

expect = pytest.importorskip("playwright.sync_api", reason="pip install playwright").expect

pytestmark = [pytest.mark.servers, pytest.mark.timeout(1800)]

RECIPE = "digits-selection"
MOST_FIELDS = 12
MOST_PIXELS = 2 * 900
"""Two screens, in either UI."""
MOST_ROWS = 40
"""Of the log of twelve outer steps: 751 of 764 said nothing."""

MOST_CLICKS = 3  # from the form that mgd ui opens to the report, counted by the page

LONG = 40
"""Outer steps of a small run that is killed in its middle."""

FEW = {
    "Training examples": ("arguments.num_train", 60),
    "Objective examples, whose loss is differentiated": ("arguments.num_objective", 40),
    "Validation examples, which choose the iterate": ("arguments.num_validation", 40),
}
REPORTED = re.compile("Settings of the run|was chosen")
"""On the page of a report: while its run goes on, and at its end, which may come meanwhile."""

OUTER_STEPS = "Outer steps, each a training and its reversal"

SETTINGS = [
    "arguments.num_test=50",
    "training.num_steps=12",
    "training.batch_size=10",
    "baselines=[]",
]


def small(outer_steps, *settings):
    """Return the recipe that the form, filled in by ``fill``, is about."""
    given = [f"{key}={value}" for key, value in FEW.values()]
    return load_recipe(
        RECIPE, [*given, *SETTINGS, *settings, f"outer.num_steps={outer_steps}"]
    )  # fmt: skip


class Served:
    """What ``mgd ui`` has said, and the processes that it has started."""

    def __init__(self, child, log, store, environment):
        self.child, self.log, self.store, self.environment = child, log, store, environment
        said = log.read_text()
        self.file = re.search(r"Without being asked: (file://\S+)", said)[1]
        self.secret = re.search(r"It asks for: (\S+)", said)[1]
        self.root = re.search(r"UI: (http://[^/]+)", said)[1]
        self.api = Api(f"{self.root}/api")
        self.api._http.auth = tuple(self.secret.split(":", 1))
        self.deployment = self.api.get(f"/deployments/name/descent/{RECIPE}")["id"]
        path = Path(f"/proc/{child.pid}/task/{child.pid}/children")
        self.children = [int(each) for each in path.read_text().split()]

    def address(self, path, ui="v2"):
        """Return the address of a page."""
        return f"{self.root}{UIS[ui]}{path}"

    def form(self, ui="v2"):
        """Return the address of the form."""
        return self.address(f"/deployments/deployment/{self.deployment}/run", ui)

    def shown(self, artifact):
        """Return the text of an artifact."""
        return self.api.get(f"/artifacts/{artifact}")["data"]

    def claimed(self, run):
        """Count the stages that a run has asked for, by its name."""
        return sum(1 for _ in self.store.glob(f"runs/{run}/stages/*.json"))

    def runs(self):
        """Return the ids of the runs that are there."""
        return {each["id"] for each in self.api.post("/flow_runs/filter", limit=200)}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The command, as a person has typed it."""
    folder = tmp_path_factory.mktemp("ui")
    ours = ("PREFECT_API_", "PREFECT_LOGGING_")  # the other tests are quiet
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith(ours)},
        "PREFECT_HOME": str(folder / "home"),
        # The scheduler looks at the schedules every minute otherwise.
        "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "5",
    }
    log, store = folder / "ui.log", folder / "store"
    log.touch(mode=0o600)  # the secret is in no file that others may read
    command = [sys.executable, "-m", "flows.cli.app", "ui", RECIPE, "check", "--no-browser"]
    with process(log, *command, "--store", str(store), env=environment) as child:
        wait_for("the UI", lambda: "mgd ui --stop" in log.read_text() or child.poll())
        assert child.poll() is None, log.read_text()
        yield Served(child, log, store, environment)


@pytest.fixture(scope="module")
def page(served):
    """A browser that was let in as by a person's click on the file."""
    with open_browser() as page:
        page.goto(served.file)
        page.wait_for_url(served.form())
        page.get_by_text("Outer steps").first.wait_for()
        # Prefect forgets the secret if its page is left while it asks whether that is right, and
        # every test leaves pages: on a busy machine the next one was that of the login.
        secret = base64.b64encode(served.secret.encode()).decode()
        page.context.add_init_script(f"localStorage.setItem('prefect-password', '{secret}')")
        yield page


def field(page, title):
    """Return the input of a field by its title; the first UI does not say which label is whose."""
    label = page.get_by_text(re.compile(rf"^\s*{title} \(Optional\)")).last
    return label.locator("xpath=following::*[self::input or self::textarea][1]")


def fill(page, outer_steps):
    """Fill the form in for a small run."""
    write(field(page, OUTER_STEPS), outer_steps)
    for title, (_, value) in FEW.items():
        write(field(page, title), value)


def add_settings(page, *settings):
    """Add items to the list of other settings."""
    boxes = page.locator("textarea")
    for each in settings:
        before = boxes.count()
        page.get_by_role("button", name="Add item").click()
        expect(boxes).to_have_count(before + 1)
        # Device and store are texts too; the items stand between them.
        write(boxes.nth(-2), each)


def submit(page, served):
    """Submit the form; return the id of the run that was made."""
    before = served.runs()
    (made,) = press(page, "Submit", lambda: served.runs() - before)
    return made


def visit(page, address, text):
    """Open a page until it shows a text; V2 may stay empty where it is left while it loads."""

    def there():
        page.goto(address)
        for _ in range(60):
            if page.get_by_text(text).count():
                return True
            page.wait_for_timeout(500)
        return False

    wait_for(f"{text} on {address}", there)


def by_clicks(page, run):
    """Click from where the form has led to the report: on the run, and on the link in its log."""
    page.locator(f"a[href*='/runs/flow-run/{run}']").first.click()
    link = page.locator("a[href*='/artifacts/artifact/']")

    def there():
        page.wait_for_timeout(5000)
        return link.count() or page.reload() and 0

    wait_for("a link to the report", there)
    with page.context.expect_page() as opened:
        link.first.click()
    opened.value.get_by_text(REPORTED).first.wait_for()
    address = opened.value.url.split("?")[0]
    opened.value.close()
    return address


def test_a_second_command_puts_what_it_is_asked_for_to_the_first(served):
    """Two servers on one database kept each other from writing: the second was told 503."""
    command = [sys.executable, "-m", "flows.cli.app", "ui", "digits-schedule", "--no-browser"]

    done = subprocess.run(
        [*command, "--store", str(served.store)],
        env=served.environment, capture_output=True, text=True, check=False, timeout=PATIENCE,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr
    assert f"at work already, as process {served.child.pid}" in done.stdout
    made = served.api.get("/deployments/name/descent/digits-schedule")["id"]
    assert f"UI: {served.root}/v2/deployments/deployment/{made}/run" in done.stdout
    assert served.secret in done.stdout
    assert served.child.poll() is None


@pytest.mark.parametrize("ui", UIS)
def test_form_is_short(served, page, ui):
    """It had 115 fields on 16 screens."""
    page.goto(served.form(ui))
    expect(field(page, OUTER_STEPS)).to_have_value("8")
    inputs = page.locator("textarea, input[type=number]").count()

    picture(page, f"form-{ui}")
    assert inputs + 1 <= MOST_FIELDS  # and the list of other settings
    assert settled_height(page) <= MOST_PIXELS


@pytest.mark.parametrize("ui", UIS)
def test_wrong_values_are_refused_in_words(served, page, ui):
    """Nothing starts, and the page says what was expected."""
    page.goto(served.form(ui))
    before = served.runs()

    expect(field(page, OUTER_STEPS)).to_have_value("8")
    write(field(page, "Device, cpu or cuda"), "gpu")
    refused = page.get_by_text(re.compile(r"cpu, cuda or cuda:N\..? was expected"))
    press(page, "Submit", lambda: refused.count())

    picture(page, f"refused-{ui}")
    assert served.runs() == before


def test_misspelt_setting_is_refused_in_words(served, page):
    """The keys that it may have meant are named."""
    page.goto(served.form())
    before = served.runs()

    expect(field(page, OUTER_STEPS)).to_have_value("8")
    add_settings(page, "outer.num_step=3")
    refused = page.get_by_text(re.compile(r"one of outer\.num_steps=.* was expected"))
    press(page, "Submit", lambda: refused.count())

    assert served.runs() == before


def test_run_from_the_form_to_its_report(served, page):
    """The recipe as it ships, with twelve outer steps: the report grows while the run goes on.

    That is the page that ``mgd ui --start`` opens.
    """
    clicks = clicked(page)
    page.goto(served.form())
    expect(field(page, OUTER_STEPS)).to_have_value("8")
    write(field(page, OUTER_STEPS), 12)
    document(page, "form")
    run = submit(page, served)

    found = wait_for("a report", lambda: served.api.artifacts(run).get(f"report-{RECIPE}"))
    wait_for("a report that grows", lambda: "After outer step" in served.shown(found))
    # Asked after the report: its pages may take longer than what is left of the run.
    assert served.api.state(run) == "Running"
    led_to = by_clicks(page, run)
    assert led_to == served.address(f"/artifacts/artifact/{found}")
    assert len(clicks) == MOST_CLICKS, clicks
    visit(page, served.address(f"/runs/flow-run/{run}?tab=Artifacts"), f"report-{RECIPE}")
    picture(page, "artifacts")
    report = served.address(f"/artifacts/artifact/{found}")
    visit(page, report, REPORTED)
    picture(page, "growing")

    served.api.ends(run)
    visit(page, served.address(f"/runs/flow-run/{run}?tab=Artifacts"), "Finished: ")
    # V2 draws the first rows of a log only.
    visit(page, served.address(f"/runs/flow-run/{run}"), "outer step 0 of 12")
    page.get_by_text("Completed").first.wait_for()
    picture(page, "run")
    document(page, "run")
    recipe = load_recipe(RECIPE, ["outer.num_steps=12"])
    record = read_run(str(served.store), run_name(recipe))
    assert record.recipe == recipe
    assert served.api.get(f"/flow_runs/{run}")["name"].startswith(run_name(recipe))
    rows = served.api.logs(run, level=0)
    assert len(rows) <= MOST_ROWS
    assert all(row.strip() for row in rows)

    visit(page, report, record.headline()[:40])
    page.locator("img[src^='data:image']").nth(1).wait_for(state="attached")
    picture(page, "report")
    page.goto(Path(record.url(str(served.store), "report.html")).as_uri())
    picture(page, "page")
    document(page, "report", width=820)


def test_killed_run_goes_on_by_retry(served, page):
    """From the menu of its page, and to the end."""
    page.goto(served.form())
    expect(field(page, OUTER_STEPS)).to_have_value("8")
    fill(page, LONG)
    add_settings(page, *SETTINGS)
    run = submit(page, served)

    # The store is asked: task runs reach the database some time after they have ended.
    wait_for("stages", lambda: served.claimed(run_name(small(LONG))) > 10)
    assert served.api.state(run) == "Running"
    os.kill(int(served.api.get(f"/flow_runs/{run}")["infrastructure_pid"]), signal.SIGKILL)
    page.goto(served.address(f"/runs/flow-run/{run}"))
    served.api.ends(run, "Crashed")
    wait_for("the worker's last word", lambda: served.api.is_put_away(run))
    page.get_by_text("Crashed").first.wait_for()
    picture(page, "crashed")

    choose(
        page,
        lambda: served.api.state(run) != "Crashed",
        page.get_by_role("button", name="Open menu"),
        page.get_by_role("menuitem", name="Retry"),
        page.get_by_role("alertdialog").get_by_role("button", name="Retry"),
    )
    served.api.ends(run)
    page.get_by_text("Completed").first.wait_for()

    assert served.api.get(f"/flow_runs/{run}")["run_count"] == 2
    wait_for("what was found done", lambda: served.api.task_runs(run, "Cached"))


def test_schedule_with_one_field_overridden_makes_runs_that_change_that_field(served, page):
    """Everything else stays what the deployment has."""
    page.goto(served.address(f"/deployments/deployment/{served.deployment}"))
    page.get_by_role("button", name="Schedule", exact=True).last.click()
    dialog = page.get_by_role("dialog")
    write(dialog.get_by_label(re.compile(r"^Outer steps")), 2)
    picture(page, "schedule")
    path = f"/deployments/{served.deployment}"

    def made():
        return [each for each in served.api.get(path)["schedules"] if each["active"]]

    (schedule,) = press(page, "Save", made)
    scheduled = wait_for(
        "a scheduled run",
        lambda: [
            each
            for each in served.api.post("/flow_runs/filter", limit=200)
            if each["auto_scheduled"]
        ],
    )
    served.api.delete(f"{path}/schedules/{schedule['id']}")

    assert schedule["parameters"].keys() - {"arguments"} == {"outer_steps"}
    # The scheduler takes no marks of the form away: what it hands over is what the flow is given.
    given = descent.validate_parameters(scheduled[0]["parameters"])
    recipe, _ = given.pop("recipe"), given.pop("store")
    assert filled_in(recipe, **given) == load_recipe(RECIPE, ["outer.num_steps=2"])


def test_nobody_is_let_in_without_the_secret(served):
    """Every user of a machine reaches its loopback address, and may list all arguments."""
    with httpx.Client(trust_env=False) as stranger:
        answer = stranger.post(f"{served.root}/api/flow_runs/filter", json={})
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    place = Path(served.file.removeprefix("file://"))

    assert answer.status_code == httpx.codes.UNAUTHORIZED
    assert served.secret not in listed.stdout
    assert place.stat().st_mode & 0o077 == 0
    assert place.parent.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("path", ["//example.org/", "/%5Cexample.org/", "https://example.org/"])
def test_page_that_lets_in_leads_to_its_own_server_only(served, page, path):
    """Whoever knows the port could send people elsewhere in its name."""
    with page.context.browser.new_context() as of_a_stranger:
        stranger = of_a_stranger.new_page()
        stranger.goto(f"{served.root}/v2/mgd.html#mgd:x&{path}")
        stranger.wait_for_function("!location.pathname.endsWith('mgd.html')")
        assert stranger.url.startswith(f"{served.root}/")


@pytest.mark.parametrize("ui", UIS)
def test_page_asks_its_own_server_only(served, page, ui):
    """Prefect's second UI would ask a service on the internet for settings of its statistics."""
    page.goto(served.form(ui))
    field(page, OUTER_STEPS).wait_for()

    refused = page.evaluate(
        """() => new Promise(answer => {
            document.addEventListener("securitypolicyviolation",
                each => answer(`${each.effectiveDirective} ${each.blockedURI}`));
            fetch("http://127.0.0.2:9/asked").then(() => answer("let out"), () => {});
            setTimeout(() => answer("not refused"), 20000);
        })"""
    )

    assert refused.startswith("connect-src")


def test_no_other_page_shows_the_ui_in_itself(served):
    """A stranger's page with the UI unseen in it would have its visitor press the UI's buttons."""
    answer = httpx.get(served.root, follow_redirects=True, timeout=PATIENCE)

    assert "frame-ancestors 'self'" in answer.headers["content-security-policy"]


def test_ctrl_c_ends_all_that_it_started(served):
    """Server and worker, and nothing of anybody else's. The last test: nothing is left."""
    assert len(served.children) == 2

    served.child.send_signal(signal.SIGINT)
    served.child.wait(PATIENCE)

    assert served.child.returncode == 130
    assert not [each for each in served.children if Path(f"/proc/{each}").exists()]
    assert "Finished stages are kept" in served.log.read_text()
