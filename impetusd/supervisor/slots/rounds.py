"""One inbox, run to completion: what one round has changed and asked for goes to the shim as one message, records
first.

So at whatever moment the supervisor dies, its successor finds either none of a round or all of it. While the inbox is
being emptied nothing else is handled, so there are no locks and no re-entrancy. What no start waits for comes once the
message is on its way: the ledger's record of a process that another has replaced (which is owed until then, see
`observers`), the slots' timers, and everybody who is to know of a change.
"""

from __future__ import annotations

import contextlib
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from impetusd.core.rules.lifecycle import Event, Exited, Restart, Stop
from impetusd.supervisor.faults import CONTAINED
from impetusd.supervisor.slots import record
from impetusd.supervisor.slots.entry import Entry

if TYPE_CHECKING:
    from impetusd.supervisor.observers import Publisher
    from impetusd.supervisor.slots.registry import Slots
    from impetusd.supervisor.start.link import Outbox

CIRCLES = 500  # steps of one source in a round; a reload of 100 workers takes some ten
LEAVES = (Restart, Stop, Exited)  # events that, once in the inbox, mean that a process is as good as gone


class Rounds:
    """The inbox, and when a round is over."""

    def __init__(self, slots: Slots, outbox: Outbox, changes: Publisher) -> None:
        self._slots = slots
        self._faults = slots.faults
        self._outbox = outbox
        self._changes = changes
        self.inbox: deque[tuple[Entry, Event]] = deque()  # `inbox += events` cannot raise
        self._unarmed: dict[str, Entry] = {}  # slots whose deadlines have changed in this round
        self._pumping = False
        self._gathering = False
        self._steps: Counter[str] = Counter()  # in this round
        # Set when all parts are made: who hears of the shim's events about processes and of others, what handles one event
        # (it raises nothing), what sets a slot's timer, who may go on when the inbox is empty and how (which may put events
        # into it), and what is called once it is sent.
        self.report: Callable[[dict[str, Any]], object]
        self.other: Callable[[dict[str, Any]], object]
        self.handle: Callable[[Entry, Event], None]
        self.arm: Callable[[Entry], None]
        self.steps: Iterable[tuple[Collection[str], Callable[[], None]]]
        self.over: Callable[[], None]

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Requests made within this context go to the shim as one round."""
        self._pumping = True
        try:
            yield
        finally:
            self._pumping = False
            self.wake()

    def receive(self, events: Iterable[dict[str, Any]]) -> None:
        """Decide one message's events one by one, and send all that follows to the shim as one message."""
        self._gathering = True
        try:
            for event in events:
                try:
                    (self.report if "process" in event else self.other)(event)
                except CONTAINED as error:  # it must not lose the others
                    self._faults.note("the shim", f"handling its event {event.get('event')}", error)
        finally:
            self._gathering = False
            self._end()

    def put(self, *events: tuple[Entry, Event]) -> None:
        """Put events into the inbox, for when it is run empty next."""
        self.inbox += events

    def post(self, entry: Entry, event: Event) -> None:
        """Put an event into the inbox and run the inbox empty, unless that is already under way."""
        self.inbox.append((entry, event))
        self.wake()

    def wake(self) -> None:
        """Run the inbox empty. What somebody waits for may have come, though no slot has changed; and send what was put."""
        if self._pumping:
            return
        self._pumping = True
        if self._steps:
            self._steps.clear()
        try:
            while self.inbox or self._more():
                while self.inbox:
                    self.handle(*self.inbox.popleft())
            for entry in list(self._slots.dirty.values()):
                self._slots.page.at(entry.name, "recording it")
                try:
                    self.write_down(entry)
                except CONTAINED as error:
                    self._faults.caught(entry.name, "recording it", error)
            self._slots.page.blank()
        except CONTAINED as error:
            self._faults.note("the engine", "processing events", error)  # which has it go round again
        finally:
            self._pumping = False
        if not self._gathering:
            self._end()

    def step(self, source: str) -> None:
        """Something follows for `source`. Raises AssertionError where nothing ends that in this round: the loop would hang."""
        self._steps[source] += 1
        if self._steps[source] > CIRCLES:
            raise AssertionError(f"{source} keeps triggering itself")

    def _more(self) -> bool:
        """Whether anything follows from what the last events have changed."""
        if self._slots.held.whole is None:
            for whom, step in self.steps:
                if whom:
                    step()
            self._slots.page.blank()
        return bool(self.inbox)

    def write_down(self, entry: Entry) -> None:
        """Put the slot's record into the round, and what is owed of it."""
        name, rec = entry.name, entry.rec
        owed = self._changes.owed.get(name)
        text, reasons, before = record.dump_all(rec, owed.before if owed is not None else None)
        self._outbox.put(f"slot:{name}", text)
        if reasons is not None or entry.explained:
            self._outbox.put(f"why:{name}", reasons)
            entry.explained = reasons is not None
        if before is not None:
            self._outbox.put(f"{record.OWED}{name}", before)
        self._slots.dirty.pop(name, None)
        if rec.slot.deadline != entry.armed:
            self._unarmed[name] = entry

    def _end(self) -> None:
        """Send the round. What this raises before that is as if the round were not over yet: see `Outbox.flush`."""
        try:
            self._outbox.flush()
            if self._changes.owed:
                self._pay()
        except CONTAINED as error:
            self._faults.note("the engine", "sending a round", error)
        for entry in list(self._unarmed.values()):
            if self._faults.contain(entry.name, "setting its timer", self.arm, entry):
                del self._unarmed[entry.name]
        self.over()

    def _pay(self) -> None:
        """The round is sent: what is owed of it follows."""
        for name in self._changes.pay():
            self._outbox.put(f"{record.OWED}{name}", None)
        self._outbox.flush()

    # Contents of the inbox.

    def concerns(self, entry: Entry) -> bool:
        """Whether an event is pending for this slot."""
        return any(each is entry for each, _ in self.inbox)

    def leaves(self, entry: Entry) -> bool:
        """Whether its process is as good as gone."""
        return any(each is entry and isinstance(event, LEAVES) for each, event in self.inbox)

    def stopping(self) -> Iterable[Entry]:
        """Slots to be stopped."""
        return [each for each, event in self.inbox if isinstance(event, Stop)]
