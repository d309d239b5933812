"""`make run`, without its processes: ports, environments, what is printed."""

import errno
import os
import sys
from pathlib import Path

import pytest

from dev import run

ALL = {"aws": 4566, "auxiliary": 3001, "gateway": 3000}
REAL = {"auxiliary": 3001, "gateway": 3000}


def chosen(*argv):
    return run.chosen_ports(run.arguments(argv))


def test_ports_by_default_and_by_flag():
    assert chosen() == ALL
    assert chosen("--gateway-port", "1", "--auxiliary-port", "2", "--aws-port", "65535") == {
        "aws": 65535,
        "auxiliary": 2,
        "gateway": 1,
    }


def test_the_real_aws_is_no_process_of_ours():
    assert chosen("--aws", "real") == REAL


@pytest.mark.parametrize("text", ["0", "65536", "-1", "http", ""])
def test_a_port_that_is_none_is_refused(text, capsys):
    with pytest.raises(SystemExit):
        run.arguments([f"--gateway-port={text}"])
    assert "--gateway-port" in capsys.readouterr().err


def test_the_procfile_starts_exactly_what_has_a_port():
    assert set(run.environ.parse_procfile((run.ROOT / "Procfile").read_text()).processes) == set(ALL)


def test_free_ports_are_no_problem():
    assert run.ports_problem(ALL, lambda number: 0) is None


def test_a_port_in_use_is_named_with_who_needs_it_and_what_to_type():
    problem = run.ports_problem(ALL, {4566: 0, 3001: 0, 3000: errno.EADDRINUSE}.__getitem__)
    assert problem == (
        "port 3000, which gateway needs, is in use; "
        "end what holds it, or choose another: make run GATEWAY_PORT=3100"
    )


def test_all_ports_in_use_is_still_one_line():
    problem = run.ports_problem(ALL, lambda number: errno.EADDRINUSE)
    assert "\n" not in problem
    assert problem.endswith("make run AWS_PORT=4666 AUXILIARY_PORT=3101 GATEWAY_PORT=3100")


def test_a_privileged_port_is_told_apart_from_one_in_use():
    problem = run.ports_problem({**ALL, "gateway": 80}, lambda number: errno.EACCES if number == 80 else 0)
    assert "port 80, which gateway needs, cannot be opened (permission denied)" in problem
    assert problem.endswith("GATEWAY_PORT=8080")


def test_one_port_for_two_is_refused():
    problem = run.ports_problem({**ALL, "gateway": 3001}, lambda number: 0)
    assert problem == "each process needs a port of its own: aws 4566, auxiliary 3001, gateway 3001"


def test_a_port_in_use_ends_the_run_before_anything_is_read_or_started(monkeypatch, capsys):
    monkeypatch.setattr(run, "bind_error", lambda number: errno.EADDRINUSE)
    monkeypatch.setattr(run, "Processes", None)
    assert run.main([]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("make run: port 4566, which aws needs, is in use")
    assert said.err.count("\n") == 1


class TestEnvironments:
    def test_each_process_has_its_own_port_whatever_the_shell_says(self):
        made = run.environments({"PORT": "8000"}, {"PORT": "9000"}, ALL)
        assert {name: made[name]["PORT"] for name in made} == {
            "aws": "4566",
            "auxiliary": "3001",
            "gateway": "3000",
        }

    def test_only_this_machine_is_listened_on_and_asked(self):
        given = {"HOST": "0.0.0.0", "AUXILIARY_SERVICE_URL": "http://aux.example:80"}
        made = run.environments(given, given, {**ALL, "auxiliary": 3101})
        for variables in made.values():
            assert variables["HOST"] == "127.0.0.1"
            assert variables["AUXILIARY_SERVICE_URL"] == "http://127.0.0.1:3101"

    def test_the_shell_goes_over_the_file_and_both_over_the_defaults(self):
        made = run.environments(
            {"LOG_LEVEL": "debug", "PROJECT_NAME": "file"}, {"PROJECT_NAME": "shell"}, ALL
        )
        gateway = made["gateway"]
        assert (gateway["APP_ENV"], gateway["LOG_LEVEL"], gateway["PROJECT_NAME"]) == (
            "development",
            "debug",
            "shell",
        )

    @pytest.mark.parametrize("name", ["CONSUL_HTTP_ADDR", "CONSUL_HTTP_TOKEN", "ETCD_ENDPOINTS"])
    def test_a_registry_is_joined_for_the_file_and_not_for_the_shell(self, name):
        given = {name: "http://registry.example"}
        assert run.environments(given, {}, ALL)["auxiliary"][name] == "http://registry.example"
        assert run.environments({}, given, ALL)["auxiliary"].get(name) is None

    def test_an_empty_variable_counts_as_unset(self):
        made = run.environments({"PROJECT_NAME": "file"}, {"PROJECT_NAME": "", "APP_ENV": ""}, ALL)
        assert made["aws"]["PROJECT_NAME"] == "file"
        assert made["aws"]["APP_ENV"] == "development"

    def test_the_emulator_gets_no_real_credential_and_nobody_else_gets_a_request(self):
        shell = {
            "AWS_ACCESS_KEY_ID": "AKIAREAL",
            "AWS_SECRET_ACCESS_KEY": "real",
            "AWS_SESSION_TOKEN": "real",
            "AWS_PROFILE": "work",
            "AWS_ENDPOINT_URL_S3": "https://elsewhere.example",
            "AWS_REGION": "eu-central-2",
            "HTTPS_PROXY": "http://proxy.example:3128",
            "http_proxy": "http://proxy.example:3128",
        }
        variables = run.environments({}, shell, {**ALL, "aws": 4666})["auxiliary"]
        assert {name: value for name, value in variables.items() if name.startswith("AWS_")} == {
            "AWS_REGION": "eu-central-2",
            "AWS_ENDPOINT_URL": "http://127.0.0.1:4666",
            "AWS_ACCESS_KEY_ID": "local",
            "AWS_SECRET_ACCESS_KEY": "demonstration",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        assert not [name for name in variables if name.lower().endswith("_proxy")]

    def test_the_real_aws_is_reached_as_the_user_reaches_it(self):
        shell = {"AWS_PROFILE": "work", "AWS_REGION": "eu-west-1", "HTTPS_PROXY": "http://proxy.example:3128"}
        variables = run.environments({"AWS_ENDPOINT_URL": "http://127.0.0.1:4566"}, shell, REAL)["auxiliary"]
        assert {name: value for name, value in variables.items() if name.startswith("AWS_")} == {
            "AWS_PROFILE": "work",
            "AWS_REGION": "eu-west-1",
        }
        assert variables["HTTPS_PROXY"] == "http://proxy.example:3128"

    def test_python_is_the_one_that_runs_us(self):
        path = run.environments({}, {"PATH": "/usr/bin"}, ALL)["aws"]["PATH"]
        assert path.split(os.pathsep) == [str(Path(sys.executable).parent), "/usr/bin"]


class TestDotenv:
    def test_an_absent_file_is_empty(self, tmp_path):
        assert run.dotenv(tmp_path / ".env") == {}

    def test_values_comments_and_quotes(self, tmp_path):
        file = tmp_path / ".env"
        file.write_text(
            "# a comment\nLOG_LEVEL=debug\nRATE_LIMIT='100 per 15 minutes'\nREDIS_URL=\n", encoding="utf-8"
        )
        assert run.dotenv(file) == {"LOG_LEVEL": "debug", "RATE_LIMIT": "100 per 15 minutes"}

    def test_a_broken_line_names_the_file(self, tmp_path):
        file = tmp_path / ".env"
        file.write_text("A='b\n", encoding="utf-8")
        with pytest.raises(ValueError, match=r"\.env cannot be read: No closing quotation"):
            run.dotenv(file)


class TestBanner:
    def test_addresses_and_three_lines_to_try(self):
        lines = run.banner({**ALL, "gateway": 3100}, "myproject", 3100).splitlines()
        assert [line.strip() for line in lines if "curl" in line] == [
            "curl http://127.0.0.1:3100/api/s3/buckets",
            "curl http://127.0.0.1:3100/api/parameters/list",
            "curl 'http://127.0.0.1:3100/api/parameters?name=database/host'",
        ]
        text = "\n".join(lines)
        for address in (":3100/\n", ":3100/docs\n", "http://127.0.0.1:3001\n", "http://127.0.0.1:4566 "):
            assert address in text

    def test_the_operations_endpoints_are_one_line_with_their_own_port(self):
        lines = run.banner(ALL, "myproject", "9000").splitlines()
        [line] = [line.split() for line in lines if "/circuit-breakers" in line]
        assert line[:2] == ["operations", "http://127.0.0.1:9000"]
        assert {"/health", "/services", "/routes", "/gateway/stats", "/metrics"} < set(line)

    @pytest.mark.parametrize(("given", "port"), [({}, "3000"), ({"OPERATIONS_PORT": "9000"}, "9000")])
    def test_the_port_is_the_one_that_is_set_else_the_gateways(self, given, port, monkeypatch, tmp_path):
        seen = []

        class Finished:
            failed = None

            def add_process(self, name, command, env, cwd):
                pass

            def say(self, text, **how):
                seen.append(text)

            def loop(self, started):
                started()
                started.__self__.join(10)

        procfile = run.ROOT / "Procfile"
        monkeypatch.setattr(run, "ROOT", tmp_path)  # whatever .env the checkout has
        for name, value in {"OPERATIONS_PORT": "", **given}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(run, "bind_error", lambda number: 0)
        monkeypatch.setattr(run, "not_ready", lambda ports: None)
        monkeypatch.setattr(run, "Processes", Finished)
        assert run.main(["--procfile", str(procfile)]) == 0
        assert f"operations     http://127.0.0.1:{port} /health" in seen[0]

    def test_the_real_aws_has_no_address_and_no_demonstration_data(self):
        text = run.banner(REAL, "orders", 3000)
        assert "4566" not in text
        assert "database/host" not in text
        assert "/orders/" in text
        assert text.count("curl ") == 3


class TestWatch:
    @pytest.fixture
    def said(self, monkeypatch):
        """Run the watcher against prepared obstacles, a second apart, and collect what it says."""

        def watch(*obstacles):
            clock = iter(range(1000))
            remaining = iter(obstacles)
            monkeypatch.setattr(run.time, "monotonic", lambda: float(next(clock)))
            monkeypatch.setattr(run.time, "sleep", lambda seconds: None)
            monkeypatch.setattr(run, "not_ready", lambda ports: next(remaining))
            lines = []
            run.watch(ALL, "myproject", 9000, lambda text, **how: lines.append(text))
            return lines

        return watch

    def test_the_banner_comes_when_all_are_ready(self, said):
        assert said("aws does not answer", None) == [run.banner(ALL, "myproject", 9000)]

    def test_a_long_wait_is_said_once_and_the_banner_still_comes(self, said):
        obstacles = ["gateway answers 503"] * 50
        notice, banner = said(*obstacles, None)
        assert notice.startswith("not ready after 30 s: gateway answers 503")
        assert banner == run.banner(ALL, "myproject", 9000)


class TestOutcome:
    @pytest.fixture
    def outcome(self, monkeypatch):
        def make(failed):
            class Finished:
                def __init__(self):
                    self.failed = failed

                def add_process(self, name, command, env, cwd):
                    pass

                def say(self, text, **how):
                    pass

                def loop(self, started):
                    pass

            monkeypatch.setattr(run, "bind_error", lambda number: 0)
            monkeypatch.setattr(run, "Processes", Finished)
            return run.main([])

        return make

    def test_ended_by_a_signal_is_success(self, outcome, capsys):
        assert outcome(None) == 0
        assert capsys.readouterr().err == ""

    @pytest.mark.parametrize(
        ("returncode", "text"), [(3, "exit code 3"), (0, "exit code 0"), (-9, "killed by SIGKILL")]
    )
    def test_ended_by_itself_is_one_line_and_a_failure(self, outcome, capsys, returncode, text):
        assert outcome(("auxiliary", returncode)) == 1
        said = capsys.readouterr().err
        assert said.startswith(f"make run: auxiliary ended by itself ({text})")
        assert said.count("\n") == 1
