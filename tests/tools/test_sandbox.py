"""The confinement, seen from inside."""

import asyncio
import dataclasses
import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest

from loomd.tools import ground, namespaces, places, process, profile, sandbox, scratch
from loomd.wire.errors import LoomError
from tests.tools.stand import git_repo, hosting

PROBE = '''
import os, socket
from pathlib import Path
from loomd.tools import Context, tool

def attempt(what):
    try:
        return f"yes {what()}"
    except OSError as error:
        return f"no {type(error).__name__}"

@tool
def look(path: str) -> str:
    """Reads a file or folder."""
    p = Path(path)
    return attempt(lambda: sorted(os.listdir(p)) if p.is_dir() else p.read_text())

@tool
def put(path: str) -> str:
    """Writes a file."""
    return attempt(lambda: Path(path).write_text("x"))

@tool
def dial(port: int) -> str:
    """Connects to a TCP port."""
    with socket.socket() as s:
        return attempt(lambda: s.connect(("127.0.0.1", port)))

@tool(access="network")
def dial_out(port: int) -> str:
    """Connects to a TCP port."""
    with socket.socket() as s:
        return attempt(lambda: s.connect(("127.0.0.1", port)))

@tool
def burn() -> str:
    """Never ends."""
    while True:
        pass

@tool(access="execute")
def serve() -> str:
    """A server on the loopback."""
    def talk():
        with socket.create_server(("127.0.0.1", 0)) as server:
            with socket.create_connection(server.getsockname()) as client:
                peer, _ = server.accept()
                with peer:
                    peer.sendall(b"hello")
                    return client.recv(5).decode()
    return attempt(talk)

@tool(access="execute")
def terminal() -> str:
    """A terminal."""
    def talk():
        master, slave = os.openpty()
        os.write(slave, b"hi")
        return os.read(master, 2).decode()
    return attempt(talk)

@tool(access="execute")
def run_it(path: str) -> str:
    """Writes a file."""
    return attempt(lambda: Path(path).write_text("x"))
'''


LANDLOCK = {"mode": "on-request", "sandbox_backend": "landlock"}
FACTS = sandbox.Facts(bwrap="/usr/bin/bwrap", landlock=7, namespaces=True, seccomp=True)


@pytest.fixture
def repo(instance):
    return git_repo(instance.base / "repo", {"a.txt": "one\n", ".envrc": "one\n", "b/c.txt": ""})


@pytest.fixture
def inside(instance, repo):
    folder = instance.config.parent / "tools"
    folder.mkdir()
    (folder / "probe.py").write_text(PROBE)
    instance.places.runtime.mkdir()

    def every(name, all_args, permissions=None, settings=None):
        settings = {"permissions": {**LANDLOCK, **(permissions or {})}, **(settings or {})}

        async def main():
            async with hosting(instance.places, repo, settings=settings) as host:
                await host.ready()
                return [(await host.result(name, **args)).text for args in all_args]

        return asyncio.run(main())

    def call(name, permissions=None, settings=None, **args):
        return every(name, [args], permissions, settings)[0]

    call.every = every
    return call


def test_the_checkout_can_be_read_and_not_written(inside, repo):
    assert inside("look", path=str(repo / "a.txt")) == "yes one\n"
    said = inside.every("put", [{"path": str(repo / name)} for name in ("a.txt", "new")])
    assert all(text.startswith("no ") for text in said), said
    assert (repo / "a.txt").read_text() == "one\n"


def test_with_landlock_alone_only_what_is_listed_can_be_read(inside, instance, tmp_path):
    secret = instance.places.state / "secret"
    secret.parent.mkdir(exist_ok=True)
    secret.write_text("x")
    paths = (os.path.expanduser("~"), secret, instance.config, "/", "/var/lib")
    said = inside.every("look", [{"path": str(path)} for path in paths])
    assert all(text.startswith("no ") for text in said), said


def test_the_profile_may_list_more(inside, tmp_path):
    more = Path(tempfile.mkdtemp(dir=ground.home_of_user()))
    try:
        told = {"sandbox_write": [str(more)], "sandbox_read": ["/var/lib"]}
        assert inside("look", path="/var/lib", permissions=told).startswith("yes ")
        assert inside("put", path=str(more / "new")).startswith("no ")
        assert inside("put", path=str(more / "new"), permissions=told) == "yes 1"
        told["sandbox"] = "read-only"
        assert inside("put", path=str(more / "new"), permissions=told).startswith("no ")
    finally:
        shutil.rmtree(more)


def test_tmp_is_a_folder_of_the_calls_own(inside, repo):
    outside = f"/tmp/{repo.parent.name}-seen"
    Path(outside).write_text("outside")
    try:
        assert inside("look", path=outside) == "no FileNotFoundError"
        assert inside("put", path=outside) == "yes 1"
        assert Path(outside).read_text() == "outside"
    finally:
        os.unlink(outside)


def test_nothing_is_written_anywhere_else(inside):
    said = inside.every("put", [{"path": f"{p}/loom-x"} for p in ("/etc", "/usr", "/opt")])
    assert set(said) == {"no PermissionError"}


def test_the_network_is_there_only_for_those_who_may(inside):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        assert inside("dial", port=port).startswith("no ")
        assert inside("dial", port=port, permissions={"network": True}).startswith("yes")
        assert inside("dial_out", port=port).startswith("yes")


@pytest.mark.parametrize("backend", ["landlock", "auto"])
def test_a_server_and_its_client_inside_find_each_other(inside, backend):
    assert inside("serve", permissions={"sandbox_backend": backend}) == "yes hello"


@pytest.mark.parametrize("backend", ["landlock", "auto"])
def test_a_new_terminal_can_be_had(inside, backend):
    assert inside("terminal", permissions={"sandbox_backend": backend}) == "yes hi"


def test_a_tool_that_executes_works_on_the_copy_while_review_is_required(inside, repo):
    assert inside("run_it", path=str(repo / "a.txt")).startswith("no ")


@pytest.mark.parametrize("backend", ["landlock", "auto"])
def test_without_review_it_writes_the_checkout_but_not_what_others_run(inside, repo, backend):
    kept = (".git/hooks/pre-commit", ".git/config", ".git/commondir", ".envrc", ".git/new")
    said = inside.every(
        "run_it",
        [{"path": str(repo / name)} for name in ("a.txt", "b/new", *kept)],
        permissions={"sandbox_backend": backend},
        settings={"review": {"required": False}},
    )
    assert said[:2] == ["yes 1", "yes 1"] and (repo / "a.txt").read_text() == "x"
    assert all(text.startswith("no ") for text in said[2:]), said
    assert not (repo / ".git/commondir").exists() and (repo / ".envrc").read_text() == "one\n"


UNSEEN = """
import os
os.mkdir(".vs" + "code")
for name in (".bash" + "rc", ".vs" + "code/tasks.json", "fine"):
    open(name, "w").write("x\\n")
"""
"""Nobody who judges the command can tell what it writes."""


@pytest.mark.parametrize("backend", ["landlock", "auto"])
def test_what_others_would_run_is_taken_away_again(inside, repo, backend):
    told = inside(
        "shell",
        command=f"python3 -c '{UNSEEN}'",
        permissions={"sandbox_backend": backend},
        settings={"review": {"required": False}},
    )
    assert "taken away again: .vscode, .bashrc" in told
    assert not (repo / ".bashrc").exists() and not (repo / ".vscode").exists()
    assert (repo / "fine").read_text() == "x\n"


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="there is no other file system")
def test_what_cannot_be_moved_away_loses_its_name_all_the_same(tmp_path):
    repo = tmp_path / "repo"
    (repo / ".vscode").mkdir(parents=True)
    os.mkfifo(repo / ".vscode/pipe")  # nobody copies that to another file system
    (repo / ".vscode/tasks.json").write_text("evil")
    aside = Path(tempfile.mkdtemp(prefix="loom-", dir="/dev/shm"))
    try:
        assert ground.take_away(repo, {".vscode": "", ".idea": ""}, aside) == [".vscode"]
    finally:
        shutil.rmtree(aside)
    assert ground.uncovered(repo) == dict.fromkeys(profile.PROTECTED, "")
    assert [path.name for path in repo.rglob("tasks.json")] == ["tasks.json"]


@pytest.mark.parametrize("backend", ["landlock", "auto"])
def test_a_command_that_fails_at_the_sandbox_is_told_so(inside, backend):
    seen = f"{ground.home_of_user()}/.ssh"
    commands = [
        "d=r; touch /us$d/loom-x",
        'python3 -c \'open("/us" + "r/loom-x", "w")\'',
        "getent hosts loom.invalid || echo 'curl: (6) Could not resolve host: x'; exit 1",
        f"test -e {seen} || echo 'cat: /run/nothing: No such file or directory'; exit 1",
    ]
    said = inside.every(
        "shell",
        [{"command": command} for command in commands],
        permissions={"sandbox_backend": backend},
    )
    for text in said[:2]:
        assert '`sandbox_write = ["/usr/loom-x"]`' in text, text
    assert "`network = true`" in said[2]
    assert "in the way" not in said[3]


@pytest.mark.parametrize("backend", ["landlock", "auto"])
def test_processor_time_is_limited(inside, backend):
    told = {"sandbox_backend": backend}
    limits = {"limits": {"cpu_s": 1}}
    assert "limits.cpu_s" in inside("burn", permissions=told, settings=limits)
    shell = "sh -c 'while :; do :; done'; echo status $?"
    told = inside("shell", command=shell, permissions=told, settings=limits)
    assert "status 152" in told  # of SIGXCPU


def test_in_read_only_nothing_is_changed_by_anybody(inside, repo):
    read_only = {"sandbox": "read-only"}
    free = {"review": {"required": False}}
    told = inside("run_it", path=str(repo / "a.txt"), permissions=read_only, settings=free)
    assert told.startswith("no ")
    told = inside("write", path="a.txt", content="x", permissions=read_only)
    assert "read-only" in told and "sandbox =" in told
    assert (repo / "a.txt").read_text() == "one\n"


def test_full_confines_nothing(inside, tmp_path):
    assert inside("put", path=str(tmp_path / "x"), permissions={"sandbox": "full"}) == "yes 1"
    assert (tmp_path / "x").read_text() == "x"


@pytest.mark.parametrize("wanted", ["auto", "bubblewrap", "landlock"])
def test_where_nothing_can_confine_no_call_is_made(inside, repo, monkeypatch, wanted):
    monkeypatch.setattr(process, "facts", lambda at: sandbox.Facts(bwrap_error="broken"))
    told = {"sandbox_backend": wanted}
    said = inside("look", path=str(repo / "a.txt"), permissions=told)
    assert "doctor" in said and 'sandbox = "full"' in said
    told["sandbox"] = "full"
    assert inside("look", path=str(repo / "a.txt"), permissions=told) == "yes one\n"


def test_a_sandbox_that_cannot_be_built_refuses_the_call(inside, repo, monkeypatch):
    facts = dataclasses.replace(FACTS, bwrap="/bin/false")
    monkeypatch.setattr(process, "facts", lambda at: facts)
    said = inside("look", path=str(repo / "a.txt"), permissions={"sandbox_backend": "auto"})
    assert said.startswith("the sandbox could not be built") and "apparmor" in said


def test_what_has_gone_before_it_is_covered_needs_no_cover(monkeypatch):
    rules = profile.Rules("workspace", hide_files=("/etc/passwd",), own="/tmp")
    plans = []

    def build(program, plan, *, network):
        plans.append(plan)
        if len(plans) == 1:
            monkeypatch.setattr(os.path, "lexists", lambda path: False)  # it goes meanwhile
            raise LoomError("failed", "Can't create file")
        return "cell"

    monkeypatch.setattr(sandbox.bubblewrap, "build", build)
    assert sandbox._cell("bwrap", rules) == "cell"
    assert [len(plan) for plan in plans] == [1, 0]


@pytest.mark.parametrize(
    ("wanted", "facts", "chosen"),
    [
        ("auto", {}, "bubblewrap"),
        ("auto", {"landlock": 0}, "bubblewrap"),
        ("auto", {"bwrap": ""}, "landlock"),
        ("auto", {"bwrap_error": "no permission"}, "landlock"),
        ("landlock", {}, "landlock"),
        ("bubblewrap", {}, "bubblewrap"),
        ("bubblewrap", {"bwrap_error": "no permission"}, None),
        ("bubblewrap", {"bwrap": ""}, None),
        ("landlock", {"landlock": 0}, None),
        ("auto", {"landlock": 0, "bwrap": ""}, None),
    ],
)
def test_the_back_end_is_chosen_by_what_works(wanted, facts, chosen):
    facts = dataclasses.replace(FACTS, **facts)
    if chosen is None:
        with pytest.raises(LoomError, match=r"cannot confine|no sandbox|no Landlock"):
            sandbox.choose(wanted, facts)
    else:
        assert sandbox.choose(wanted, facts) == chosen


@pytest.mark.parametrize(
    ("backend", "facts", "lacks"),
    [
        ("bubblewrap", {}, []),
        ("bubblewrap", {"landlock": 0}, ["one wall"]),
        ("landlock", {}, ["command lines"]),
        ("landlock", {"landlock": 5}, ["signalled", "command lines"]),
        ("landlock", {"namespaces": False}, ["root of a checkout", "/dev/shm", "command lines"]),
        (
            "landlock",
            {"namespaces": False, "seccomp": False, "landlock": 2},
            ["UDP", "TCP", "root of", "/dev/shm", "signalled", "cut", "command lines", "rare"],
        ),
    ],
)
def test_what_a_kernel_cannot_do_is_said(backend, facts, lacks):
    said = sandbox.lacking(backend, dataclasses.replace(FACTS, **facts))
    assert len(said) == len(lacks)
    assert all(part in text for part, text in zip(lacks, said, strict=True))


def test_the_result_of_a_call_says_it_too(instance, repo, inside):
    settings = {"permissions": LANDLOCK}

    async def main():
        async with hosting(instance.places, repo, settings=settings) as host:
            await host.ready()
            return await host.result("look", path="/"), await host.result("read", path="a.txt")

    foreign, ours = asyncio.run(main())
    assert foreign.data["sandbox"]["backend"] == "landlock"
    assert any("command lines" in text for text in foreign.data["sandbox"]["not_covered"])
    assert "sandbox" not in ours.data


def test_the_probe_is_made_once(instance, monkeypatch):
    instance.places.state.mkdir()
    asked = []
    monkeypatch.setattr(sandbox, "probe", lambda: asked.append(1) or FACTS)
    assert places.facts(instance.places) == places.facts(instance.places) == FACTS
    assert len(asked) == 1
    monkeypatch.setattr(places, "_circumstances", lambda: "another kernel")
    assert places.facts(instance.places) == FACTS
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("folders", "never", "kept"),
    [
        (["/usr", "/home/u/.local/bin"], ["/home/u"], ("/usr", "/home/u/.local/bin")),
        (["/home", "/home/u", "/"], ["/home/u"], ()),
        (["/home/user2"], ["/home/u"], ("/home/user2",)),
    ],
)
def test_a_folder_that_contains_what_is_hidden_is_never_allowed(folders, never, kept):
    assert ground.without(folders, never) == kept


@pytest.mark.parametrize("way", ["a link", "a file", "a link to a folder of git's"])
def test_a_checkout_does_not_say_what_of_the_hidden_is_shown(tmp_path, way):
    home, repo = tmp_path / "home", tmp_path / "repo"
    keys = home / ".ssh"
    keys.mkdir(parents=True)
    repo.mkdir()
    if way == "a file":
        (repo / ".git").write_text(f"gitdir: {keys}\n")
    else:
        (repo / ".git").symlink_to(keys)
    if "git's" in way:
        (keys / "objects").mkdir()
        (keys / "HEAD").write_text("ref: x\n")
    hide = ([str(keys)], [])
    programs = [str(keys), str(home / "bin")]
    made = ground.ground(repo, tmp_path / "s", [], programs, [], hide, {}, writes=False)
    assert made.git == () and made.programs == (str(home / "bin"),)
    inside = ground.ground(keys / "repo", tmp_path / "s", [],
                           [str(keys / "repo/x"), str(keys / "y")],
                           [], hide, {}, writes=False)  # fmt: skip
    assert inside.programs == (str(keys / "repo/x"), str(keys / "y"))


def test_programs_of_a_covered_folder_are_shown_unless_only_the_checkout_names_them(tmp_path):
    """A Python may lie in the home of another user; where it is, the session's PATH says."""
    repo, other = tmp_path / "repo", tmp_path / "other"
    for folder in (other / "python/bin", other / "venv/bin", other / "keys", repo):
        folder.mkdir(parents=True)
    (other / "python/bin/python3").touch()
    (other / "venv/bin/python3").symlink_to(other / "python/bin/python3")
    (repo / ".venv/bin").mkdir(parents=True)
    (repo / ".venv/pyvenv.cfg").write_text(f"home = {other}/keys/bin\n")
    (repo / "tools").symlink_to(other)
    alias = tmp_path / "alias"
    alias.symlink_to(repo)
    path = f"{other}/venv/bin:{repo}/.venv/bin:{alias}/tools/keys"
    env = {"PATH": path, "VIRTUAL_ENV": f"{repo}/.venv"}
    own, named = ground.interpreter_folders(env, str(repo))
    made = ground.ground(repo, tmp_path / "s", own, named, [], ([str(other)], []), {}, writes=False)
    assert {str(other / "venv"), str(other / "python")} <= set(made.programs)
    assert str(repo / ".venv/bin") in made.programs
    assert f"{other}/keys" in named and f"{alias}/tools/keys" in named
    assert f"{other}/keys" not in made.programs


def test_what_is_taken_away_lies_in_the_checkout(tmp_path):
    """A folder that a command has made a link leads to somebody else's repository."""
    other = git_repo(tmp_path / "other", {"a": "x"})
    repo = git_repo(tmp_path / "repo", {"a": "x"})
    (repo / ".gitmodules").write_text("path = new\n")
    before = ground.uncovered(repo)
    assert before["new/.git"] == ""
    (repo / "new").symlink_to(other)
    assert ground.take_away(repo, before, tmp_path / "aside") == []
    assert (other / ".git/HEAD").exists()


INTO = """
import os, shutil
def write(path):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    try:
        open(path, "w").write("evil")
    except OSError as error:
        print(path, error)
for path in ("sub/." + "git", "new/." + "git", "tools/hooks/pre-commit", "fine"):
    write("./" + path)
try:
    os.unlink("." + "claude")
except OSError as error:
    print(error)
write("." + "claude/settings.json")
"""


@pytest.mark.parametrize("backend", ["landlock", "auto"])
def test_submodules_hooks_elsewhere_and_links_are_protected_too(inside, repo, backend):
    def git(*args):
        subprocess.run(["git", "-C", str(repo), *args], check=True)

    for folder in ("sub", "new", "tools/hooks", "ai"):
        (repo / folder).mkdir(parents=True)
    (repo / "sub/.git").write_text("gitdir: ../.git/modules/sub\n")
    (repo / "tools/hooks/pre-commit").write_text("good")
    (repo / ".gitmodules").write_text(
        '[submodule "s"]\n\tpath = sub\n[submodule "n"]\n\tpath=new\n'
    )
    (repo / ".claude").symlink_to("ai")
    (repo / "into.py").write_text(INTO)
    git("config", "core.hooksPath", "tools/hooks")
    told = inside(
        "shell",
        command="python3 into.py",
        permissions={"sandbox_backend": backend},
        settings={"review": {"required": False}},
    )
    assert "taken away again: " in told and "new/.git" in told and ".claude" in told
    assert (repo / "sub/.git").read_text().startswith("gitdir: ")
    assert not (repo / "new/.git").exists()
    assert (repo / "tools/hooks/pre-commit").read_text() == "good"
    assert os.readlink(repo / ".claude") == "ai" and (repo / "fine").read_text() == "evil"


def test_a_linked_worktree_names_its_repository(tmp_path):
    repo = git_repo(tmp_path / "repo", {"a": "x"})
    tree = tmp_path / "tree"
    subprocess.run(["git", "-C", str(repo), "worktree", "add", "-q", str(tree)], check=True)
    git = f"{repo}/.git"
    assert ground.git_folders(tree) == [f"{git}/worktrees/tree", git]
    assert ground.git_folders(repo) == [git]


def test_a_mount_left_in_the_scratch_folder_is_not_emptied(tmp_path):
    (tmp_path / "scratch/tmp").mkdir(parents=True)
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/x").write_text("x")
    source = profile.Mount("write", str(tmp_path / "scratch/tmp"), str(tmp_path / "precious"))
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            if not namespaces.enter([source], network=False):
                os._exit(77)
            assert (tmp_path / "scratch/tmp/x").exists()
            scratch.remove(tmp_path / "scratch")
            status = 0 if not (tmp_path / "scratch").exists() else 2
        finally:
            os._exit(status)
    _, status = os.waitpid(pid, 0)
    if os.waitstatus_to_exitcode(status) == 77:
        pytest.skip("this user may make no namespaces here")
    assert os.waitstatus_to_exitcode(status) == 0
    assert (tmp_path / "precious/x").read_text() == "x"
