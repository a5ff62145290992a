"""Commands about log files: show, flush, reopen, rotate."""
