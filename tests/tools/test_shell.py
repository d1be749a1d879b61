"""The shell tool on real processes: how commands end, what stays of them, what is shown."""

import asyncio
import os
import re

import pytest

from loomd.tools import outputs
from loomd.wire.bodies import CancelCall, Propose
from tests.support import eventually, patiently, processes_naming
from tests.tools.stand import Table, git_repo, hosting


@pytest.fixture
def repo(instance):
    return git_repo(instance.base / "repo", {"a.txt": "one\n", "pkg/b.txt": "two\n"})


def drive(instance, repo, script, **args):
    """Runs the coroutine function `script(host)` on a host of its own; no review unless asked."""

    async def main():
        async with hosting(instance.places, repo, **{"review": False, **args}) as host:
            await host.ready()
            return await script(host)

    return asyncio.run(main())


def shell(instance, repo, command, **args):
    async def script(host):
        return await host.result("shell", command=command, **args)

    return drive(instance, repo, script)


# --- ends ----------------------------------------------------------------------------------------


def test_a_time_out_and_an_idle_time_out_are_told_apart_each_with_what_was_printed(instance, repo):
    def attempt(seconds):
        async def script(host):
            late = host.begin(
                "shell",
                command="echo early; while :; do echo on; sleep 0.05; done",
                timeout_s=seconds,
            )
            idle = host.begin(
                "shell", command="echo hello; sleep 1000", timeout_s=100, idle_s=seconds
            )
            busy = host.begin(
                "shell", command="for i in 1 2 3; do echo $i; sleep 0.2; done", idle_s=30
            )
            ids = (late, idle, busy)
            return seconds, *[await host.until(lambda id=id: host.answer(id)) for id in ids]

        return drive(instance, repo, script)

    seconds, late, idle, busy = patiently(
        attempt, lambda found: "early\non\n" in found[1].text and "hello\n" in found[2].text
    )
    assert late.error == "timeout" and late.text.startswith("early\non\n"), late
    assert f"[killed after {seconds:g} s; it had not ended]" in late.text
    assert idle.error == "idle" and idle.text.startswith("hello\n["), idle
    assert f"it had printed nothing for {seconds:g} s" in idle.text
    assert busy.ok and busy.text.startswith("1\n2\n3\n[exit code 0")


def test_a_child_that_ignores_term_and_a_daemonised_grandchild_end_with_the_call(instance, repo):
    mark = f"mark-{os.getpid()}-stubborn"
    command = (
        f"trap '' TERM; (setsid sh -c \"trap '' TERM HUP; : {mark}; while :; do sleep 1; done\" &) "
        "; echo up; while :; do sleep 1; done"
    )
    result = patiently(
        lambda seconds: shell(instance, repo, command, timeout_s=seconds),
        lambda result: "up\n" in result.text,
    )
    assert result.error == "timeout" and result.text.startswith("up\n")
    assert processes_naming(mark) == []


def test_one_that_is_left_behind_and_prints_for_ever_does_not_hold_the_call(instance, repo):
    flood = "setsid sh -c 'seq 100000; touch flooded; exec yes' &"
    command = f"{flood} while ! test -e flooded; do sleep 0.01; done; exit 3"
    result = shell(instance, repo, command, timeout_s=60)
    assert result.error == "failed" and "[exit code 3" in result.text
    assert "bytes left out" in result.text


def test_a_cancelled_command_says_what_it_had_printed(instance, repo):
    async def script(host):
        id = host.begin("shell", command="echo so far; sleep 1000")
        await host.until(lambda: host.said("so far"))
        host.mail(CancelCall(id=id))
        return await host.until(lambda: host.answer(id))

    result = drive(instance, repo, script)
    assert result.error == "cancelled" and "so far" in result.text


# --- output --------------------------------------------------------------------------------------


def test_a_million_lines_are_shown_by_their_ends_and_kept_whole_for_later_commands(instance, repo):
    async def script(host):
        result = await host.result("shell", command="seq 1000000")
        path = re.search(r"for your commands: (\S+)\]", result.text)[1]
        again = await host.result("shell", command=f"wc -l <{path}; sed -n 654321p {path}")
        blob = host.table.blob(result.data["output"])
        return result, again, blob

    result, again, blob = drive(instance, repo, script)
    assert result.ok and result.text.startswith("1\n2\n3\n")
    assert "\n999999\n1000000\n[exit code 0" in result.text and len(result.text) < 40_000
    assert again.text.startswith("1000000\n654321\n"), again.text
    assert blob == b"".join(b"%d\n" % n for n in range(1, 1_000_001))


def test_of_many_long_outputs_the_last_are_kept(instance, repo, monkeypatch):
    monkeypatch.setattr(outputs, "KEPT", 2)

    async def script(host):
        paths = []
        for n in range(3):
            result = await host.result("shell", command=f"seq {n} 20000")
            paths.append(re.search(r"for your commands: \S+/(\S+)\]", result.text)[1])
        return [(outputs.folder(host.performer.places.scratch) / name).exists() for name in paths]

    assert drive(instance, repo, script) == [False, True, True]


def test_binary_output_is_named_not_shown_and_kept(instance, repo):
    async def script(host):
        result = await host.result("shell", command="head -c 5000 /dev/urandom | tee x; exit 0")
        return result, host.table.blob(result.data["output"])

    result, blob = drive(instance, repo, script)
    assert result.text.startswith("[binary output, 5000 bytes]\n[exit code 0")
    assert blob == (repo / "x").read_bytes()


def test_a_command_that_closes_its_streams_or_reads_them_ends_all_the_same(instance, repo):
    result = shell(instance, repo, "cat; exec <&- >&- 2>&-; cd pkg; exit 4")
    assert result.text.startswith("[exit code 4") and result.data["exit"] == 4
    assert "now in pkg" in result.text


def test_output_is_said_while_the_command_runs(instance, repo):
    async def script(host):
        id = host.begin("shell", command="echo first; while ! test -e go; do sleep 0.01; done")
        said = await host.until(lambda: host.said("first"))
        assert host.answer(id) is None
        (repo / "go").touch()
        assert (await host.until(lambda: host.answer(id))).ok
        return id, said

    id, said = drive(instance, repo, script)
    assert said["call"] == id and said["kind"] == "output" and said["tool"] == "shell"
    assert said["offset"] == 0 and said["agent"].endswith("/coder-1")


def test_a_flood_is_said_in_part_and_in_few_pieces(instance, repo):
    async def script(host):
        result = await host.result("shell", command="seq 1000000")
        return result, [said for _, said in host.published]

    result, said = drive(instance, repo, script)
    assert result.ok and 0 < len(said) < 200
    assert all(len(one["text"]) <= 16 << 10 for one in said)
    assert said[-1]["text"].endswith("999999\n1000000\n")
    assert said[-1]["offset"] + len(said[-1]["text"]) == 6_888_896


# --- what stays ----------------------------------------------------------------------------------


def test_the_folder_and_exported_variables_stay_for_the_agents_next_command(instance, repo):
    table = Table(instance.places.blobs)

    async def first(host):
        done = await host.result(
            "shell", command="cd pkg; export GREETING='hi  there' MY_API_KEY=s3cret; PLAIN=1"
        )
        assert "now in pkg" in done.text
        seen = await host.result("shell", command='echo "$GREETING|$MY_API_KEY|$PLAIN"; cat b.txt')
        assert seen.text.startswith("hi  there|s3cret|\ntwo\n"), seen.text
        host.mail_as("other", "shell", command='pwd; echo "[$GREETING]"')
        other = await host.until(lambda: host.answer("other"))
        assert other.text.startswith(f"{repo}\n[]\n"), other.text

    async def second(host):
        return await host.result(
            "shell", command='pwd; echo "$GREETING|$MY_API_KEY|"; unset GREETING; cd "$OLDPWD"/..'
        )

    async def third(host):
        return await host.result("shell", command='pwd; echo "[${GREETING-unset}]"')

    drive(instance, repo, first, table=table)
    assert "s3cret" not in str(table.rows_)
    seen = drive(instance, repo, second, table=table)
    assert seen.text.startswith(f"{repo}/pkg\nhi  there||\n"), seen.text
    assert "[unset]" in drive(instance, repo, third, table=table).text


def test_a_folder_that_is_gone_is_told_and_the_command_runs_in_the_root(instance, repo):
    async def script(host):
        await host.result("shell", command="mkdir new; cd new")
        (repo / "new").rmdir()
        first = await host.result("shell", command="pwd")
        return first, await host.result("shell", command="pwd")

    first, second = drive(instance, repo, script)
    assert first.ok and first.text.startswith(f"{repo}\n")
    assert "new is not there (any more): run in the root" in first.text
    assert "not there" not in second.text


def test_commands_side_by_side_do_not_undo_each_others_variables(instance, repo):
    async def script(host):
        slow = host.begin(
            "shell", command="while ! test -e go; do sleep 0.01; done; export A=1; cd pkg"
        )
        await host.result("shell", command="export B=2; touch go")
        await host.until(lambda: host.answer(slow))
        return await host.result("shell", command='echo "$A$B"; pwd')

    assert drive(instance, repo, script).text.startswith(f"12\n{repo}/pkg\n")


def test_under_review_each_command_has_its_own_copy_and_still_the_same_folder(instance, repo):
    async def script(host):
        first = await host.result("shell", command='cd pkg; export HERE="$PWD/x"')
        second = await host.call("shell", command='basename "$PWD"; echo "$HERE"; echo 3 > c.txt')
        third = await host.result("shell", command="pwd; echo 4 > d.txt; exit 1")
        return first, second, third

    first, second, third = drive(instance, repo, script, review=True)
    assert first.ok and "now in pkg" in first.text
    assert isinstance(second, Propose) and [file.path for file in second.files] == ["pkg/c.txt"]
    lines = second.note.splitlines()
    assert lines[0] == "pkg" and lines[1].endswith("/checkout/pkg/x")
    assert third.error == "failed" and "what it changed was not kept: pkg/d.txt" in third.text
    assert not (repo / "pkg/c.txt").exists()


def test_a_command_of_its_own_traps_options_and_comments_is_run_as_it_stands(instance, repo):
    async def script(host):
        lines = [
            "trap 'echo mine' EXIT; echo body",
            "set -eux; echo body; false; echo no",
            "# nothing but a comment",
            "echo 'unfinished",
            "cat <<X\nbody\nX",
            "kill -9 $$",
        ]
        return [await host.result("shell", command=line) for line in lines]

    trap, options, comment, wrong, here, killed = drive(instance, repo, script)
    assert trap.text.startswith("body\nmine\n[exit code 0")
    assert options.text.startswith("+ echo body\nbody\n+ false\n[exit code 1"), options.text
    assert comment.text.startswith("[exit code 0")
    assert wrong.error == "failed" and "ntermin" in wrong.text
    assert here.text.startswith("body\n[exit code 0")
    assert "killed by SIGKILL" in killed.text


# --- a terminal ----------------------------------------------------------------------------------

TTY = "python3 -c 'import os; print(os.isatty(0), os.isatty(1), *os.get_terminal_size(1))'"


def test_no_terminal_by_default_and_one_on_request(instance, repo):
    async def script(host):
        plain = await host.result("shell", command="test -t 0 || test -t 1 || echo none")
        shown = await host.result("shell", command=TTY, pty=True, rows=40, cols=132)
        painted = await host.result(
            "shell", command="printf '\\033[31mred\\033[0m 10%%\\r100%%\\n'; cat", pty=True
        )
        control = await host.result("shell", command="echo x >/dev/tty", pty=True)
        return plain, shown, painted, control, host.table.blob(painted.data["output"])

    plain, shown, painted, control, raw = drive(instance, repo, script)
    assert plain.text.startswith("none\n")
    assert shown.text.startswith("True True 132 40\n"), shown.text
    assert painted.text.startswith("100%10%\n[exit code 0"), painted.text
    assert raw == b"\x1b[31mred\x1b[0m 10%\r100%\r\n"
    assert control.ok and control.text.startswith("x\n")


def test_nothing_is_left_of_a_terminals_processes(instance, repo):
    mark = f"mark-{os.getpid()}-pty"
    result = shell(
        instance, repo, f"sh -c 'trap \"\" HUP; sleep 1000; : {mark}' & echo up", pty=True
    )
    assert result.ok and result.text.startswith("up\n")
    eventually(lambda: processes_naming(mark) == [])
