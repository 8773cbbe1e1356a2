"""What is remembered of a device's addresses: an advert adds, and takes nothing away."""

from __future__ import annotations

from fleet.devices.addresses import MOST, Addresses
from protos.errors import Denied, Unavailable
from protos.link_failure import LinkFailure

AWAY = Unavailable("nobody listens")
ANOTHER = Denied("another device answers", link_failure=LinkFailure.ANOTHER_MEMBER)


def test_proven_before_named_before_advertised() -> None:
    book = Addresses().heard(["a:1", "b:1", "c:1"], "mdns").heard(["s:1"], "seed").worked("c:1")
    assert book.to_try == ("c:1", "s:1", "a:1", "b:1")
    assert (book.found_by("c:1"), book.found_by("s:1"), book.found_by("nowhere:1")) == ("mdns", "seed", "")


def test_what_failed_last_is_tried_last_and_kept() -> None:
    book = Addresses().heard(["a:1", "b:1"], "mdns").worked("a:1").failed({"a:1": AWAY})
    assert book.to_try == ("b:1", "a:1")
    assert book.worked("a:1").to_try == ("a:1", "b:1")
    assert book.heard(["b:1", "a:1"], "mdns").to_try == ("a:1", "b:1")  # it is back


def test_an_address_that_somebody_else_has_now_has_proven_nothing() -> None:
    book = Addresses().heard(["a:1", "b:1"], "mdns").worked("a:1").failed({"a:1": ANOTHER, "b:1": AWAY})
    assert book.heard(["b:1", "a:1"], "mdns").to_try == ("b:1", "a:1")


def test_a_new_lease_is_tried_beside_the_old_one() -> None:
    book = Addresses().heard(["old:1"], "mdns").worked("old:1").failed({"old:1": AWAY}).heard(["new:1"], "mdns")
    assert book.to_try == ("new:1", "old:1")


def test_forged_adverts_never_push_out_what_was_proven_or_named() -> None:
    book = Addresses().heard(["real:1"], "mdns").heard(["seed:1"], "seed").worked("real:1")
    for n in range(20 * MOST):
        book = book.heard([f"forged-{n}:1"], "mdns")
    assert len(book.known) == MOST
    assert book.to_try[:2] == ("real:1", "seed:1")


def test_a_board_with_another_port_at_each_start_is_found_each_time() -> None:
    """All that it proved before fails: the new one is kept, and the first to be tried."""
    book = Addresses().heard(["seed:1"], "seed")
    for n in range(3 * MOST):
        now = f"board:{5000 + n}"
        book = book.failed(dict.fromkeys(book.to_try, AWAY)).heard([now], "mdns")
        assert book.to_try[0] == now
        assert "seed:1" in book.to_try
        assert len(book.known) <= MOST
        book = book.worked(now)


def test_forged_adverts_before_anything_was_proven_fail_and_make_room() -> None:
    """The device was heard, then somebody else in its name: what is dialled in vain goes before what has not been dialled."""
    book = Addresses().heard(["real:1"], "mdns")
    for n in range(20 * MOST):
        book = book.heard([f"forged-{n}:1"], "mdns").failed({f"forged-{n}:1": AWAY})
    assert "real:1" in book.to_try


def test_zones_are_not_remembered() -> None:
    book = Addresses().heard(["[fe80::2]:1", "a:1"], "mdns").worked("[fe80::2%eth0]:1")
    assert book.to_try == ("[fe80::2]:1", "a:1")
    assert book.found_by("[fe80::2%eth0]:1") == "mdns"
    assert book.failed({"[fe80::2%eth0]:1": AWAY, "[fe80::2%wlan0]:1": ANOTHER}).to_try == ("a:1", "[fe80::2]:1")


def test_what_was_never_heard_and_works_is_remembered() -> None:
    assert Addresses().worked("a:1").to_try == ("a:1",)
