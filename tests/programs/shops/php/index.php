<?php
$pid = (string) getmypid();
header('Content-Length: ' . strlen($pid));
echo $pid;
