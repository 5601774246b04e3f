"""What the node agent counts."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0)
"""From a claim that is prepared already to the kubelet's patience."""


class Metrics:
    """In a registry of its own, so that two node agents may live in one process (tests do so)."""

    def __init__(self, clock_seconds: Callable[[], float]) -> None:
        self._clock_seconds = clock_seconds
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "aios_node_requests_total", "Requests of kubelet and hook.", ("request", "outcome"), registry=self._registry
        )
        self._seconds = Histogram(
            "aios_node_request_seconds", "Time to their answer.", ("request",), buckets=SECONDS, registry=self._registry
        )
        self.claims = Gauge("aios_node_prepared_claims", "Claims that are prepared.", registry=self._registry)
        self.gpus = Gauge("aios_node_gpus", "GPUs that are offered in the ResourceSlice.", registry=self._registry)
        self.fresh = Gauge(
            "aios_node_fresh_seconds", "How long the gateway may still act on what it was told; 0 when it is mute.", registry=self._registry
        )
        self.publications = Counter("aios_node_slice_writes_total", "Writes of the ResourceSlice.", registry=self._registry)
        self.breaches = Counter("aios_node_fences_missing_total", "Fences that an inspection found missing.", registry=self._registry)
        self.probes = Counter("aios_node_fence_probes_total", "Probes of fences from inside.", ("outcome",), registry=self._registry)
        self.leftovers = Counter(
            "aios_node_leftovers_total", "Pods that ran on when they were gone from the API, and were killed.", registry=self._registry
        )
        self.erased_contexts = Counter(
            "aios_node_erased_contexts_total", "Contexts that were erased since their Agents are gone.", registry=self._registry
        )
        self.damaged = Counter("aios_node_damaged_state_files_total", "State files that were set aside.", registry=self._registry)

        self.monitored = self._of_gpus("aios_gpu_monitored", "1 while the use of the GPU is being read, 0 while it can't be.")
        self.listening = self._of_gpus("aios_gpu_errors_heard", "1 while the driver tells of the GPU's errors, 0 while it can't.")
        self.healthy = self._of_gpus("aios_gpu_healthy", "1 while the GPU is published without a taint.")
        self.faults = Counter("aios_gpu_faults_total", "Errors that the driver reported.", ("gpu", "group"), registry=self._registry)
        self.capacity = self._of_gpus("aios_gpu_capacity_bytes", "VRAM that can be booked.")
        self.booked = self._of_gpus("aios_gpu_booked_bytes", "VRAM that Agents have booked.")
        self.used = self._of_gpus("aios_gpu_used_bytes", "VRAM that is used, by whomever.")
        self.unattributed = self._of_gpus("aios_gpu_unattributed_bytes", "VRAM that is used by no Agent that booked a share.")
        self.context = self._of_gpus("aios_gpu_context_bytes", "VRAM that each process of an Agent may use beside its share.")
        self.calibrated = self._of_gpus("aios_gpu_context_calibrated", "1 when that was measured on the GPU, 0 when it is as set.")
        self.shots = self._of_gpus_total("aios_gpu_shares_exceeded", "Agents that were stopped for using more than their share.")

    def forget(self, gpu: str) -> None:
        """The GPU's health is not shown any more."""
        for gauge in (self.healthy, self.listening):
            with suppress(KeyError):
                gauge.remove(gpu)

    def _of_gpus(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, ("gpu",), registry=self._registry)

    def _of_gpus_total(self, name: str, text: str) -> Counter:
        return Counter(name, text, ("gpu",), registry=self._registry)

    @contextmanager
    def request(self, name: str) -> Iterator[None]:
        """Counts what happens inside as one request: `ok`, or the name of the exception that leaves it."""
        began = self._clock_seconds()
        outcome = "ok"
        try:
            yield
        except BaseException as error:
            outcome = type(error).__name__
            raise
        finally:
            self._requests.labels(name, outcome).inc()
            self._seconds.labels(name).observe(self._clock_seconds() - began)

    def text(self) -> bytes:
        return generate_latest(self._registry)
