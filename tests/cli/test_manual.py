"""Help, man pages and completion come from one table: they are whole, and their readers take them without a word."""

import shutil
import subprocess
from pathlib import Path

import pytest

from clusters import COMMAND, Home

COMMANDS = ["start", "stop", "list", "status", "top", "logs", "controller", "engine", "engines", "clean", "info", "completion", "version"]
WITH_JSON = ["start", "stop", "list", "status", "top", "logs", "clean", "info"]


def say(*arguments: str) -> str:
    return subprocess.run([COMMAND, *arguments], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_help(name: str) -> None:
    text = say(name, "--help")
    assert text == say("help", name) == say(name, "-h")
    assert f"\nexample:\n" in text and f"manyhands {name}" in text.split("\nexample:\n")[1]
    assert ("--json" in text) == (name in WITH_JSON)
    assert max(map(len, text.splitlines())) < 190


def needs(program: str) -> None:
    if not shutil.which(program):
        pytest.skip(f"{program} is not installed")


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_man_page(name: str, tmp_path: Path) -> None:
    needs("man")
    page = tmp_path / "page.1"
    page.write_text(say("help", "--man", *filter(None, [name])))
    run = subprocess.run(["man", "--warnings", "-l", page], capture_output=True, text=True, env={"PATH": "/usr/bin:/bin", "MANWIDTH": "100", "LC_ALL": "C.UTF-8"})
    assert (run.returncode, run.stderr) == (0, "")
    for section in ("NAME", "DESCRIPTION", "EXAMPLES", "EXIT STATUS", "FILES"):
        assert f"\n{section}\n" in run.stdout
    if name:
        for word in say(name, "--help").split("options:")[-1].split("\nexample")[0].split():
            if word.startswith("--") and "=" in word:
                assert word.split("=")[0] in run.stdout


BASH = """
source <("$0" completion bash)
complete_line() {
    COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
    _manyhands
    printf '%s\\n' "${COMPREPLY[@]}" | sort | tr '\\n' ' '; echo
}
PATH=$(dirname "$0"):$PATH
complete_line manyhands st
complete_line manyhands start --d
complete_line manyhands start --shell = p
complete_line manyhands start --shell p
complete_line manyhands stop ''
complete_line manyhands status --profile ''
complete_line manyhands completion ''
"""


def test_bash(home: Home) -> None:
    home.start("--cluster-id=night", "-n", "0")
    (home.ipython / "profile_other").mkdir()
    run = subprocess.run(["bash", "-c", BASH, COMMAND], env=home.environment, capture_output=True, text=True)
    assert run.stderr == ""
    assert run.stdout.splitlines() == [
        "start status stop ", "--daemonize --durable ", "plain ", "plain ", "night ", "default other ", "bash fish zsh "]


def test_zsh(tmp_path: Path, home: Home) -> None:
    needs("zsh")
    (tmp_path / "_manyhands").write_text(say("completion", "zsh"))
    script = r"""
zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell "PS1= ; fpath=($1 \$fpath); autoload -Uz compinit; compinit -u -d $1/dump; zstyle ':completion:*' list-rows-first true; echo rea''dy"
zpty -r shell seen '*ready*'
zpty -w -n shell $'manyhands sta\t\t'
zpty -r -m shell seen '*start *status*'
print -r -- $seen
"""
    run = subprocess.run(["zsh", "-f", "-c", script, "zsh", str(tmp_path)], capture_output=True, text=True, timeout=60, env=home.environment)
    assert "start a cluster: a controller and engines" in run.stdout


def test_fish(tmp_path: Path, home: Home) -> None:
    needs("fish")
    (tmp_path / "manyhands.fish").write_text(say("completion", "fish"))
    run = subprocess.run(["fish", "-c", f"source {tmp_path}/manyhands.fish; complete -C 'manyhands sto'; complete -C 'manyhands start --shell pl'"],
                         capture_output=True, text=True, env=home.environment)
    assert run.stderr == ""
    assert [line.split("\t")[0] for line in run.stdout.splitlines()] == ["stop", "plain"]
