"""Fixtures of deploy's tests."""

from tests.deploy.host_gpu import host_gpu as host_gpu
