import pytest
from openai_server import Server

from vrm import load_encoder


@pytest.fixture
def server():
    server = Server()
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def sim_encoder():
    return load_encoder("vrm-sim")
