"""The storage contract on a real gateway: every line of the suite that moto's server passes, over http and TLS."""

from tests.contracts.test_storage import *  # noqa: F403
