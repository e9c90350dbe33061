import socket
import threading

import pytest

from deploy.local import LocalError, ports


def listen(port: int = 0) -> socket.socket:
    return socket.create_server((ports.HOST, port))


def test_found_ports_differ_and_lie_below_the_range_of_outgoing_connections() -> None:
    found = ports.find(20)

    assert len(set(found)) == 20
    assert all(ports.LOWEST_FOUND <= port < 32768 for port in found)


def test_a_found_port_can_be_listened_on_at_once() -> None:
    listen(ports.find(1)[0]).close()


def test_a_free_port_is_accepted() -> None:
    ports.check(ports.find(1)[0], "WEB_PORT")


def test_a_used_port_is_refused_in_a_line_that_names_it_and_the_setting() -> None:
    port = ports.find(1)[0]
    with listen(port), pytest.raises(LocalError) as error:
        ports.check(port, "WEB_PORT")

    assert f"port {port} is not free" in str(error.value)
    assert "WEB_PORT=<port>" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_port_that_is_given_up_in_a_moment_is_waited_for() -> None:
    port = ports.find(1)[0]
    server = listen(port)
    threading.Timer(0.3, server.close).start()

    ports.check(port, "WEB_PORT")


def test_a_port_whose_former_connections_still_linger_is_free() -> None:
    port = ports.find(1)[0]
    with listen(port) as server, socket.create_connection((ports.HOST, port)):
        server.accept()[0].close()  # the server's side closes first and goes to TIME_WAIT

    ports.check(port, "WEB_PORT")


@pytest.mark.parametrize("port", [0, 80, 32768, 65536, -1])
def test_a_port_out_of_range_is_refused_with_the_range(port: int) -> None:
    with pytest.raises(LocalError, match=f"KAFKA_PORT={port}: choose a port from 1024 to 32767"):
        ports.check(port, "KAFKA_PORT")
