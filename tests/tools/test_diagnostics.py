"""Diagnostics: what linters say, real ones and small programs that speak like one."""

import asyncio
import os
import shutil
import sys

import pytest

from loomd.tools import Context, ToolError
from loomd.tools.builtin.diagnostics import diagnostics
from loomd.tools.findings import of_mypy, of_pyright, of_ruff, unparsed
from tests.tools.stand import git_repo, hosting

FILES = {
    "bad.py": "def f(:\n",
    "unused.py": "import os\n",
    "fine.py": "x = 1\n",
    "a.json": '{"a": 1,}\n',
    "a.toml": "a = \n",
    "a.sh": "if true; then\n",
}


def ctx_of(repo, *folders):
    return Context(
        repo=repo, env={"PATH": os.pathsep.join([*map(str, folders), "/usr/bin", "/bin"])}
    )


def program(folder, name, text):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


def test_without_linters_it_is_compiled(tmp_path):
    repo = git_repo(tmp_path / "repo", FILES)
    lines = diagnostics(ctx_of(repo)).split("\n")
    assert [line.partition(": error: ")[0] for line in lines[:-1]] == [
        "a.json:1:9", "a.sh:2", "a.toml:1:5", "bad.py:1:7",
    ]  # fmt: skip
    assert lines[-1] == "[4 problems in 6 files; looked at by json, toml, compile, bash]"
    assert diagnostics(ctx_of(repo), "fine.py") == "[no problems in 1 files; looked at by compile]"
    for path, code in (("zz.py", "not_found"), ("../x", "denied")):
        with pytest.raises(ToolError) as caught:
            diagnostics(ctx_of(repo), path)
        assert caught.value.code == code


def test_the_linters_of_the_project_come_first(tmp_path):
    repo = git_repo(tmp_path / "repo", FILES)
    program(repo / ".venv/bin", "ruff", f"""
        [ "$1" = check ] || exit 2
        echo '[{{"code": "F401", "message": "unused  import", "filename": "{repo}/unused.py",
                "location": {{"row": 1, "column": 8}}}}]'; exit 1""")  # fmt: skip
    program(tmp_path / "bin", "ruff", "exit 9")
    program(tmp_path / "bin", "pyright", f"""
        echo '{{"generalDiagnostics": [{{"file": "{repo}/fine.py", "severity": "error",
          "message": "no", "rule": "reportX",
          "range": {{"start": {{"line": 4, "character": 2}}}}}}]}}'
        exit 1""")  # fmt: skip
    said = diagnostics(ctx_of(repo, tmp_path / "bin"))
    assert "unused.py:1:8: warning: unused import [F401] (ruff)" in said
    assert "fine.py:5:3: error: no [reportX] (pyright)" in said
    assert said.endswith("[5 problems in 6 files; looked at by ruff, pyright, json, toml, bash]")


def test_a_linter_that_fails_is_said_and_what_it_should_have_seen_is_compiled(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("loomd.tools.builtin.diagnostics.EACH_S", 0.2)
    repo = git_repo(tmp_path / "repo", {"bad.py": "def f(:\n", "mypy.ini": "[mypy]\n"})
    program(tmp_path / "bin", "ruff", "echo 'no such option' >&2; exit 2")
    program(tmp_path / "bin", "pyright", "echo nonsense; exit 0")
    program(tmp_path / "bin", "mypy", "exec sleep 100")
    said = diagnostics(ctx_of(repo, tmp_path / "bin"))
    assert "bad.py:1:7: error: invalid syntax (compile)" in said
    assert "[ruff failed: no such option]" in said and "[pyright failed: " in said
    assert "[mypy did not end within 0.2 s]" in said


def test_mypy_where_the_project_has_set_it_up(tmp_path):
    repo = git_repo(tmp_path / "repo", {"fine.py": "x = 1\n"})
    program(tmp_path / "bin", "mypy", "echo 'fine.py:1:5: error: Wrong type  [assignment]'; exit 1")
    assert "mypy" not in diagnostics(ctx_of(repo, tmp_path / "bin"))
    (repo / "pyproject.toml").write_text("[tool.mypy]\n")
    said = diagnostics(ctx_of(repo, tmp_path / "bin"))
    assert "fine.py:1:5: error: Wrong type [assignment] (mypy)" in said
    (repo / "pyproject.toml").write_text('[tool.mypy]\nplugins = ["mine"]\n')
    assert "mypy" not in diagnostics(ctx_of(repo, tmp_path / "bin"))


def test_shapes():
    for read in (of_ruff, of_pyright):
        for output in (b"", b"{", b"3", b"[1]"):
            with pytest.raises(ValueError):  # noqa: PT011 - whichever
                read(output, "/r")
    assert of_mypy(b"Success: no issues\n", "/r") == []
    assert unparsed("a.py", b"x\0") is not None and unparsed("a.txt", b"(") is None
    assert unparsed("a.json", b"\xff").severity == "error"


@pytest.mark.skipif(shutil.which("ruff", path=f"{sys.prefix}/bin") is None, reason="needs ruff")
def test_ruff_runs_inside_a_call(instance):
    repo = git_repo(instance.base / "repo", FILES)

    async def main():
        async with hosting(instance.places, repo, yes=False) as host:
            await host.ready()
            return await host.result("diagnostics", path="unused.py")

    result = asyncio.run(main())
    assert "unused.py:1:8: warning: `os` imported but unused [F401] (ruff)" in result.text, result
    assert not (repo / ".ruff_cache").exists()
