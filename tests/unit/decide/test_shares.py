"""What an Agent's status says of how its share is enforced: the node's word, and nothing better than that."""

from unit.decide.world import World, agent

WATCHED = {"EnforcementVerified": ("True", "Watched", "read"), "WithinShare": ("True", "WithinShare", "within")}
EXCEEDED = {**WATCHED, "WithinShare": ("False", "ShareExceeded", "by 1Gi")}
UNREAD = {"EnforcementVerified": ("False", "CannotMonitor", "hangs"), "WithinShare": ("Unknown", "CannotMonitor", "hangs")}


def a_world() -> World:
    return World().node("n1", {"GPU-a": "80Gi"}).apply(agent("a", "16Gi"))


def saying(world: World, said: dict[str, tuple[str, str, str]]) -> World:
    world.of_shares["a"] = said
    return world.settle()


def test_without_a_word_of_the_node_nothing_is_said_to_enforce_the_share():
    world = a_world().settle()
    assert world.condition("a", "EnforcementVerified") == ("Unknown", "WaitingForNode")
    assert "enforcement" not in world.status("a")["gpu"]


def test_a_watched_share_is_said_to_be_watched_until_it_can_not_be():
    world = saying(a_world(), WATCHED)
    assert world.status("a")["gpu"]["enforcement"] == "Watch"
    assert world.condition("a", "WithinShare") == ("True", "WithinShare")
    saying(world, UNREAD)
    assert world.condition("a", "EnforcementVerified") == ("False", "CannotMonitor")
    assert world.condition("a", "WithinShare") == ("Unknown", "CannotMonitor")
    assert "enforcement" not in world.status("a")["gpu"]


def test_an_excess_is_on_the_agent_with_the_words_of_the_node():
    world = saying(a_world(), EXCEEDED)
    assert world.condition("a", "WithinShare") == ("False", "ShareExceeded")
    said = next(c for c in world.status("a")["conditions"] if c["type"] == "WithinShare")
    assert said["message"] == "by 1Gi"
    assert world.ready("a"), "its container is started again in the same place"


def test_an_agent_without_vram_has_no_conditions_of_a_share():
    world = World().node("n1", {}).apply(agent("a")).settle()
    assert world.ready("a")
    assert world.condition("a", "EnforcementVerified") == ("", "")
    assert world.condition("a", "WithinShare") == ("", "")
