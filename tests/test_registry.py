"""The registry: what is entered once is found by its name, in the order of the layout, and in every table it fits."""

from __future__ import annotations

import functools

import pytest

from langevin import UserError, _registry
from langevin._registry import CATEGORIES, Table, classes, lookup, methods, name_of, register


class One:
    """A method."""


class Two(One):
    """Another."""


@pytest.fixture(autouse=True)
def empty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry without a row, which nothing fills."""
    monkeypatch.setattr(_registry, "_METHODS", {})
    monkeypatch.setattr(_registry.importlib, "import_module", lambda name: None)


def test_a_name_is_of_one_method() -> None:
    """The same may be entered again, as a module does that is imported again; another may not."""
    assert register("samplers", "one", title="One")(One) is One
    register("samplers", "one", title="One, again")(One)
    assert lookup("samplers", "one").title == "One, again"
    with pytest.raises(ValueError, match="samplers/one is entered twice"):
        register("samplers", "one", title="Two")(Two)
    register("grids", "one", title="In another category")(Two)
    with pytest.raises(UserError, match=r"Did you mean 'one'\?"):
        lookup("samplers", "on")


def test_one_method_under_two_categories() -> None:
    register("edit", "first", title="One")(One)
    register("inverse", "second", title="One")(One)
    assert (name_of("edit", One), name_of("inverse", One), name_of("nn", One)) == ("first", "second", None)


def test_rows_stand_in_the_order_of_the_layout() -> None:
    """Whichever was entered first; within a category in the order in which they were."""
    for category in reversed(CATEGORIES):
        for name in ("b", "a"):
            register(category, name, title=name)(One)
    assert [(row.category, row.name) for row in methods()] == [(c, name) for c in CATEGORIES for name in ("b", "a")]
    assert [row.name for row in methods("grids")] == ["b", "a"]


def test_a_table_sees_what_is_entered_later() -> None:
    table, ones = Table("nn", lambda row: row.about), classes("nn", One, but=(Two,))
    assert (len(table), list(ones)) == (0, [])
    register("nn", "one", title="One", about=1)(One)
    register("nn", "two", title="Two")(Two)
    register("nn", "function", title="No class")(lambda: One())
    register("nn", "other", title="Of another kind")(dict)
    register("data", "one", title="One of another category", about=2)(One)
    assert (dict(table), dict(ones)) == ({"one": 1}, {"one": One})
    assert list(table) == ["one"]
    assert dict(classes("nn", One)) == {"one": One, "two": Two}
    assert "two" not in table
    assert [] not in table
    with pytest.raises(KeyError, match="two"):
        table["two"]


def test_where_a_method_stands() -> None:
    """Of one with settings of its own, where what it sets stands."""
    register("nn", "one", title="One")(One)
    register("nn", "set", title="One")(functools.partial(One))
    assert lookup("nn", "one").where == lookup("nn", "set").where == f"{__name__}.One"
