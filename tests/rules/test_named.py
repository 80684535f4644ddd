"""Rules by name: the library's, and one's own out of a module in the current folder."""

import pytest

import implicit_adam as ia
from implicit_adam.cli import main
from implicit_adam.rules import RULES, rule_named

MINE = """
import equinox as eqx
from jax import Array
from implicit_adam.rules import DECAY, POSITIVE, AbstractRule, average, delta, scalar


class FourthMoment(AbstractRule):
    h: Array = eqx.field(converter=scalar, metadata=POSITIVE)
    rho: Array = eqx.field(converter=scalar, metadata=DECAY, default=0.9)

    def features(self, g):
        return g, g**4

    def kernels(self, n):
        return delta(self.h), average(self.rho, n)

    def readout(self, s, theta, n):
        return s[0] / (s[1] + 1e-2) ** 0.25


number = 3
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "rules_of_mine.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)


def test_the_librarys_rules_have_names():
    assert {rule_named(name) for name in RULES} == set(RULES.values())
    assert rule_named("adam") is ia.Adam


@pytest.mark.usefixtures("here")
def test_a_rule_of_ones_own_is_verified_and_swept_from_the_command_line(capsys):
    own = "rules_of_mine:FourthMoment"
    assert issubclass(rule_named(own), ia.AbstractRule)
    options = ["--optimizer", own, "--problem", "bilinear", "--out", "out"]
    assert main(["verify", *options, "--steps", "100,200,400", "--horizon", "0.2"]) == 0
    printed = capsys.readouterr().out
    assert "FourthMoment  (rho 0.7" in printed
    assert "theory 2: holds" in printed
    assert main(["sweep", "--optimizer", own, "--rho", "0.1:0.5:3", "--out", "out"]) == 0


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("adamm", "known are adam"),
        ("rules_of_mine:Fourth", "has no attribute 'Fourth'"),
        ("rules_of_mine:number", "must be a class that inherits"),
        ("rules_of_mine:eqx", "must be a class that inherits"),
        ("rules_of_mine:Array", "must be a class that inherits"),
        ("rules_of_yours:Mine", "No module named"),
        (":Mine", "module:Class"),
    ],
)
def test_names_that_are_no_rule_are_refused(name, words, capsys):
    with pytest.raises(ValueError, match=words):
        rule_named(name)
    assert main(["verify", "--optimizer", name]) == 2
    assert words in capsys.readouterr().err
