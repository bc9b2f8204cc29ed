from tests.server.conftest import run_node  # noqa: F401 - a node is what is scraped
