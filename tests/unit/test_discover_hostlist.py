from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrate.errors import ConfigError
from orchestrate.topology.discover.hostlist import compress, expand

NAMES = st.one_of(
    st.from_regex(r"[a-z][a-z0-9-]{0,6}[0-9]{1,5}", fullmatch=True),
    st.from_regex(r"[a-z][a-z-]{0,6}", fullmatch=True),
    st.integers(0, 120).map("node{:03d}".format),
    st.integers(0, 120).map("node{}".format),
)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", ()),
        ("login", ("login",)),
        ("node[01-04,7]", ("node01", "node02", "node03", "node04", "node7")),
        ("a1,b[2-3]", ("a1", "b2", "b3")),
        ("n[8-11]", ("n8", "n9", "n10", "n11")),
        ("n[098-101]", ("n098", "n099", "n100", "n101")),
        ("rack[0-1]node[1-2]", ("rack0node1", "rack0node2", "rack1node1", "rack1node2")),
        ("gpu[1-2]-ib", ("gpu1-ib", "gpu2-ib")),
        ("bm[021-022],bm[039]", ("bm021", "bm022", "bm039")),
    ],
)
def test_expand(text: str, names: tuple[str, ...]) -> None:
    assert expand(text) == names


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("node[1-2", "bracket"),
        ("node1]", "bracket"),
        ("node[[1]]", "bracket"),
        ("node[4-1]", "4-1 runs backwards; write 1-4"),
        ("node[a-b]", "'a-b' is not a number"),
        ("node[]", "'' is not a number"),
        ("node[0-99999999]", "more than 1,000,000"),
        ("a[0-9999]b[0-9999]", "more than 1,000,000"),
    ],
)
def test_expand_says_what_is_wrong(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says.replace("[", r"\[")) as caught:
        expand(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ((), ""),
        (("node01", "node02", "node03"), "node[01-03]"),
        (("node9", "node10", "node12"), "node[9-10,12]"),
        (("node7",), "node7"),
        (("login", "node1", "node2"), "login,node[1-2]"),
        (("node2", "node1"), "node[2,1]"),
    ],
)
def test_compress(names: tuple[str, ...], text: str) -> None:
    assert compress(names) == text


def test_compress_refuses_what_no_list_can_hold() -> None:
    with pytest.raises(ConfigError, match="a,b"):
        compress(["a,b"])


@given(st.lists(NAMES, max_size=40))
def test_a_compressed_list_expands_to_itself(hosts: list[str]) -> None:
    assert expand(compress(hosts)) == tuple(hosts)


@given(st.lists(st.integers(0, 200), unique=True, max_size=60))
def test_a_sorted_list_is_compressed_to_its_runs(numbers: list[int]) -> None:
    ordered = sorted(numbers)
    text = compress([f"n{number}" for number in ordered])
    runs = sum(number - 1 not in ordered for number in ordered)
    assert text.count(",") == max(runs - 1, 0)
