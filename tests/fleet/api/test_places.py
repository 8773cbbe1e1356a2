from __future__ import annotations

from fleet.api.places import Place, Places, _key

LAN, OTHER, THIRD = "192.168.7.9", "192.168.7.8", "192.168.7.7"


class House:
    """Places with a list of who was hung up on."""

    def __init__(self, of_all: int, of_one: int) -> None:
        self.places = Places(of_all, of_one)
        self.ended: list[str] = []

    def take(self, host: str, name: str) -> Place | None:
        def hang_up() -> None:
            self.ended.append(name)
            assert place is not None
            self.places.leave(place)

        place = self.places.take(host, hang_up)
        return place


def asked(house: House, host: str, name: str) -> Place:
    place = house.take(host, name)
    assert place is not None
    assert house.places.asked(place)
    assert not house.places.asked(place)
    return place


def test_one_address_has_its_share_and_no_more() -> None:
    house = House(6, 3)
    held = [asked(house, LAN, str(n)) for n in range(3)]
    assert house.take(LAN, "one too many") is None
    assert house.take(OTHER, "another")
    for one in held:
        house.places.leave(one)
    assert house.places.taken == 1


def test_of_one_address_the_oldest_that_has_asked_nothing_makes_way() -> None:
    house = House(6, 3)
    asked(house, LAN, "asked")
    for name in ("a", "b", "c", "d"):
        assert house.take(LAN, name)
    assert house.ended == ["a", "b"]
    assert house.places.taken == 3


def test_of_all_it_is_one_of_the_address_that_has_most_of_them() -> None:
    house = House(6, 6)
    assert house.take(OTHER, "newcomer")
    for n in range(5):
        assert house.take(LAN, f"flood {n}")
    assert house.take(THIRD, "next")
    assert house.take(LAN, "flood 5")
    assert house.ended == ["flood 0", "flood 1"]


def test_whoever_has_asked_is_not_hung_up_on() -> None:
    house = House(3, 3)
    for n in range(3):
        asked(house, "127.0.0.1", str(n))
    assert house.take("127.0.0.1", "one too many") is None
    assert house.ended == []


def test_an_ipv6_network_counts_as_one_and_loopback_as_this_machine() -> None:
    assert _key("fd00:7::1%eth0") == _key("fd00:7::ffff") != _key("fd00:8::1")
    assert (_key("::1")[1], _key("127.0.0.1")[1], _key("::ffff:127.0.0.1")[1], _key("10.0.0.1")[1]) == (True, True, True, False)
