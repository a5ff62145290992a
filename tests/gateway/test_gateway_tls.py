"""The certificate is read again when it was renewed; what does not fit changes nothing."""

from __future__ import annotations

import asyncio
import os
import shutil
import ssl

import pytest
from own_certificate import own_certificate

from impetusd.gateway.tls import Certificate


def der(path):
    with open(path, encoding="ascii") as file:
        return ssl.PEM_cert_to_DER_cert(file.read())


def test_is_renewed_without_a_restart(tmp_path, caplog):
    first, second = own_certificate(tmp_path, "first"), own_certificate(tmp_path, "second")
    cert, key = str(tmp_path / "cert"), str(tmp_path / "key")
    shutil.copy(first[0], cert)
    shutil.copy(first[1], key)
    for path in (cert, key):
        os.utime(path, (1, 1))  # two writes within a tick of the kernel's clock have one time

    async def shown(port):
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        found = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.transport.abort()
        return found

    async def scenario():
        certificate = Certificate(cert, key)
        server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=certificate.context)
        port = server.sockets[0].getsockname()[1]
        assert await shown(port) == der(first[0])
        await certificate.look()
        shutil.copy(second[0], cert)  # the key follows in a moment
        await certificate.look()
        await certificate.look()
        assert await shown(port) == der(first[0])
        assert [record.levelname for record in caplog.records] == ["WARNING"]  # once
        shutil.copy(second[1], key)
        await certificate.look()
        assert await shown(port) == der(second[0])
        server.close()
        await server.wait_closed()

    asyncio.run(scenario())


def test_files_that_cannot_be_used_are_refused(tmp_path):
    first, second = own_certificate(tmp_path, "first"), own_certificate(tmp_path, "second")
    with pytest.raises(ssl.SSLError):
        Certificate(first[0], second[1])
    with pytest.raises(OSError):
        Certificate(str(tmp_path / "none"), first[1])
