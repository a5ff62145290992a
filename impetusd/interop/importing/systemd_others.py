"""What stands here for the keys of systemd's timers and sockets, of which no reader makes an INI."""

from __future__ import annotations

from impetusd.interop.importing.model import Rule, lost, translated, unneeded

TIMER: dict[str, Rule] = {
    "OnCalendar": translated("cron", "five fields, like 0 3 * * *, or a name like @daily"),
    "OnUnitActiveSec": translated("every"),
    "OnUnitInactiveSec": translated(
        "every", "measured from start to start; overlap decides what happens if a run is still going"
    ),
    "OnBootSec": lost("a [program:NAME] with type = oneshot runs at each start of impetusd"),
    "OnStartupSec": lost("a [program:NAME] with type = oneshot runs at each start of impetusd"),
    "RandomizedDelaySec": translated("jitter"),
    "FixedRandomDelay": lost("the jitter is random for each run"),
    "AccuracySec": unneeded("impetusd starts runs at their exact time"),
    "Persistent": translated("catch_up"),
    "WakeSystem": lost("impetusd does not wake a sleeping host"),
    "Unit": translated("command", "[timer:NAME] contains the command itself"),
}
SOCKET: dict[str, Rule] = {
    "ListenStream": translated("listen"),
    "ListenDatagram": lost("the program binds it itself"),
    "ListenFIFO": lost("the program opens it itself"),
    "Accept": lost("one process serves all connections"),
    "Backlog": translated("backlog", "only for a pool"),
    "SocketMode": translated("listen", "unix:PATH mode=0660"),
    "SocketUser": translated("listen", "unix:PATH owner=USER"),
    "SocketGroup": translated("listen", "unix:PATH owner=:GROUP"),
    "BindIPv6Only": translated("listen", "[::]:PORT v6only=yes"),
    "ReusePort": unneeded("all processes of a unit share one socket"),
    "FileDescriptorName": unneeded("LISTEN_FDNAMES contains the unit's name"),
    "RemoveOnStop": unneeded("the file is removed with the socket"),
    "Service": unneeded("the socket belongs in the section of its unit"),
}
