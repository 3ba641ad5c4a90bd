"""Where what comes in belongs: the subscriptions that a message matches, the offer that a call is for."""

from typing import Final

from busclient.queues import Inbox, Offer
from busproto.subjects import PatternTree, SubjectCache, specificity

__all__ = ["Routes"]

CACHED_SUBJECTS: Final = 16384
"""Subjects whose receivers here are remembered."""


class Routes:
    """The inboxes and offers that stand, by pattern; what was decided for a subject is kept until that changes."""

    __slots__ = ("_inbox_cache", "_inbox_tree", "_offer_cache", "_offer_tree", "inboxes", "offers")

    def __init__(self) -> None:
        self._inbox_tree: PatternTree[Inbox] = PatternTree()
        self._offer_tree: PatternTree[Offer] = PatternTree()
        self._inbox_cache: SubjectCache[tuple[Inbox, ...]] = SubjectCache(CACHED_SUBJECTS)
        self._offer_cache: SubjectCache[Offer] = SubjectCache(CACHED_SUBJECTS)
        self.inboxes = self._inbox_cache.decisions
        """The inboxes that a subject's messages go to, as far as known; else ask `find_inboxes`. Only to be read."""
        self.offers = self._offer_cache.decisions
        """The offer that a subject's calls are for, as far as known; else ask `find_offer`. Only to be read."""

    def add(self, target: Inbox | Offer) -> None:
        """``target`` stands."""
        if isinstance(target, Inbox):
            self._inbox_tree.add(target.pattern, target)
            self._inbox_cache.forget(target.pattern)
        else:
            self._offer_tree.add(target.pattern, target)
            self._offer_cache.forget(target.pattern)

    def remove(self, target: Inbox | Offer) -> None:
        """``target`` stands no more, or never did."""
        if isinstance(target, Inbox):
            if self._inbox_tree.remove(target.pattern, target):
                self._inbox_cache.forget(target.pattern)
        elif self._offer_tree.remove(target.pattern, target):
            self._offer_cache.forget(target.pattern)

    def find_inboxes(self, subject: str) -> tuple[Inbox, ...]:
        """Every inbox whose pattern matches; () if there is none."""
        inboxes = tuple(self._inbox_tree.match(subject))
        if inboxes:
            self._inbox_cache.put(subject, inboxes)
        return inboxes

    def find_offer(self, subject: str) -> Offer | None:
        """The offer with the most specific pattern that matches, which is the one that the broker meant."""
        offers = self._offer_tree.match(subject)
        if not offers:
            return None
        offer = max(offers, key=lambda offer: specificity(offer.pattern))
        self._offer_cache.put(subject, offer)
        return offer
