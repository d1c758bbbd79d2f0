"""Slurm's tree of switches and its nodes."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrate.errors import ConfigError
from orchestrate.topology.discover.slurm import Gres, Switch, parse_nodes, parse_topology
from orchestrate.topology.discover.tree import arrange
from tests.unit.discover_cases import capture


def tree(name: str) -> dict[str, Switch]:
    return parse_topology(capture(name), name)


def test_a_tree_as_scontrol_prints_it() -> None:
    switches = tree("slurm_three_levels.txt")
    assert switches["core"].switches == ("pod0", "pod1", "admin")
    assert switches["core"].hosts == ()  # all of them are below its switches
    assert switches["core"].link_speed == "400"
    assert switches["rack7"].hosts == tuple(f"node{n:03d}" for n in range(57, 65))


def test_a_topology_conf_with_comments_any_case_and_wrapped_lines() -> None:
    text = "# ours\nswitchname=s0 \\\n  nodes=a[1-2]\nSwitchName=s1 Nodes=a3 # spare\n"
    text += "SwitchName=top Switches=s[0-1]\n"
    switches = parse_topology(text, "topology.conf")
    assert switches["s0"].hosts == ("a1", "a2")
    assert switches["s1"].hosts == ("a3",)
    assert switches["top"].switches == ("s0", "s1")


def test_equal_racks_are_filled_in_order() -> None:
    nodes = {f"node{n:03d}" for n in range(1, 65)}
    found = arrange(tree("slurm_three_levels.txt"), nodes, "tree")
    assert found.hosts == tuple(sorted(nodes))
    assert [level.nodes for level in found.levels] == [8, 32]
    assert found.positions == ()


def test_a_leaf_beside_taller_branches_is_a_branch_of_its_own() -> None:
    found = arrange(tree("slurm_three_levels.txt"), None, "tree")
    assert found.hosts[-1] == "login1"
    assert [level.switches[-1] for level in found.levels] == ["admin", "admin"]
    assert found.positions == ()  # the last switch may be less full than the others


def test_unequal_leaves_leave_places_empty() -> None:
    found = arrange(tree("slurm_two_levels.txt"), None, "tree")
    (leaves,) = found.levels
    assert (leaves.nodes, leaves.hosts) == (39, (14, 39, 20, 16))
    assert found.hosts[14] == "bm087"
    assert found.positions[13:15] == (13, 39)


def test_hosts_of_one_leaf_need_no_switch() -> None:
    found = arrange(tree("slurm_two_levels.txt"), {"bm053", "bm054"}, "tree")
    assert (found.hosts, found.levels, found.positions) == (("bm053", "bm054"), (), ())


def test_blocks_are_leaves_that_nothing_describes_the_link_between() -> None:
    text = "".join(
        f"BlockName=b{n} BlockIndex={n} Nodes=n[{4 * n}-{4 * n + 3}] BlockSize=4\n" for n in range(2)
    )
    found = arrange(parse_topology(text, "tree"), None, "tree")
    assert [(level.nodes, level.switches) for level in found.levels] == [(4, ("b0", "b1"))]


def test_planes_share_their_leaves() -> None:
    text = "SwitchName=a Switches=l[0-1]\nSwitchName=b Switches=l[0-1]\n"
    text += "SwitchName=l0 Nodes=n0\nSwitchName=l1 Nodes=n1\n"
    assert arrange(parse_topology(text, "tree"), None, "tree").hosts == ("n0", "n1")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("No topology information available", "no SwitchName="),
        ("SwitchName=a Nodes=n1\nSwitchName=a Nodes=n2", "a is described twice"),
        ("SwitchName=a Switches=b", "a stands above b, which nothing describes"),
        ("SwitchName=a Switches=b\nSwitchName=b Switches=a", "stands above itself"),
        ("SwitchName=a Nodes=n[1-", "bracket"),
    ],
)
def test_a_damaged_tree_is_told_in_one_line(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        parse_topology(text, "topology.slurm=x")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "wanted", "says"),
    [
        ("SwitchName=a Nodes=n1\nSwitchName=b Nodes=n2", None, "nothing connects a and b"),
        ("SwitchName=a Nodes=n1", {"n9"}, "no switch has one of the hosts"),
        ("SwitchName=t Switches=a,b\nSwitchName=a Nodes=n1\nSwitchName=b Nodes=n1", None, "n1 is below more"),
    ],
)
def test_hosts_that_a_tree_cannot_arrange(text: str, wanted: set[str] | None, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        arrange(parse_topology(text, "tree"), wanted, "tree")


@given(st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=4), min_size=1, max_size=4))
def test_hosts_below_one_switch_have_its_places(pods: list[list[int]]) -> None:
    lines, above, owner = [], {}, {}
    for pod, racks in enumerate(pods):
        lines.append(f"SwitchName=pod{pod} Switches={','.join(f'rack{pod}x{r}' for r in range(len(racks)))}")
        for rack, count in enumerate(racks):
            name = f"rack{pod}x{rack}"
            hosts = [f"h{pod}x{rack}x{n}" for n in range(count)]
            lines.append(f"SwitchName={name} Nodes={','.join(hosts)}")
            above.update(dict.fromkeys(hosts, f"pod{pod}"))
            owner.update(dict.fromkeys(hosts, name))
    lines.append(f"SwitchName=core Switches={','.join(f'pod{p}' for p in range(len(pods)))}")
    found = arrange(parse_topology("\n".join(lines), "tree"), None, "tree")
    assert set(found.hosts) == set(owner)
    places = found.positions or tuple(range(len(found.hosts)))
    assert len(set(places)) == len(places)
    for level in found.levels:
        switch = owner if level.switches[0].startswith("rack") else above
        block = {host: place // level.nodes for host, place in zip(found.hosts, places, strict=True)}
        assert len({(switch[host], block[host]) for host in found.hosts}) == len(
            {switch[h] for h in found.hosts}
        )


def test_gpus_by_node() -> None:
    long = parse_nodes(capture("slurm_nodes.txt"), "nodes")
    assert long == {"bm001": Gres(4, "h100"), "bm125": Gres(4, "h100"), "cpu1": Gres(0, None)}
    short = parse_nodes(capture("slurm_nodes_oneline.txt"), "nodes")
    assert short == {"login1": Gres(0, None), "node001": Gres(8, "h100"), "node064": Gres(8, "h100")}


@pytest.mark.parametrize(
    ("gres", "gpus"),
    [
        ("gpu:8", Gres(8, None)),
        ("gpu", Gres(1, None)),
        ("gpu:h100:8(S:0-1),nic:2", Gres(8, "h100")),
        ("gpu:a100:7(S:0,1),gpu:a100_1g.5gb:7(S:1)", Gres(14, "a100+a100_1g.5gb")),
        ("shard:h100:64,gpu:h100:8", Gres(8, "h100")),
        ("(null)", Gres(0, None)),
    ],
)
def test_gres(gres: str, gpus: Gres) -> None:
    assert parse_nodes(f"NodeName=n1 Arch=x86_64 Gres={gres} NodeHostName=n1", "nodes") == {"n1": gpus}


def test_no_nodes() -> None:
    with pytest.raises(ConfigError, match=re.escape("no NodeName=")):
        parse_nodes("", "nodes")
