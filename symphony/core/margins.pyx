# distutils: language = c++
"""Widen each model's margin by a high quantile of how much its batches overrun their profile, while serving.

Real batches take more or less than l(b): a deferred batch started at the last moment would be late every other time.
The margin that avoids it is a quantile of the overruns, found by stochastic approximation (Robbins and Monro, 1951):
up by much for each overrun beyond it, down by little for each within, in steps of the overruns' own spread. It follows
drift both ways, needs no history, and stays at nothing where batches take what the profile says.

An overrun of more than half of the profile's time says something of the GPU, not of the model, and is left out; a
margin never takes more than half of what the SLO leaves beside a batch of one, so that a model can always go on and
learn that it got better.
"""

from libc.math cimport fabs
from libc.stdint cimport INT64_MAX, int32_t, int64_t, uint64_t

from symphony.core.engine cimport Engine
from symphony.core.state cimport EVENT_OK, Flight, Gpu, Model

cdef double QUANTILE = 0.995
"""Half of the 1 % that may be bad is left to what only the load can tell."""
cdef double STEP = 0.25
"""Of the spread, per batch."""
cdef double SPREAD_SHARE = 1.0 / 16
cdef double OUTLIER_SHARE = 0.5
cdef double APPLY_SHARE = 1.0 / 16
"""A margin that moved by less than this share of itself is not worth placing candidates anew."""
cdef double APPLY_NS_MIN = 10_000.0


cdef class Margins:
    """Stand before an engine's `batch_finished`, and tell the engine of margins that changed."""

    def __init__(self, Engine engine not None):
        """Take the engine, with or without models."""
        cdef int32_t model
        self.engine = engine
        self.configured.assign(engine.model_count_max, 0)
        self.applied.assign(engine.model_count_max, 0)
        self.excess.assign(engine.model_count_max, 0.0)
        self.spread.assign(engine.model_count_max, 0.0)
        self.ended_at.assign(engine.gpu_count_max, 0)
        for model in range(engine.model_count_max):
            if engine.models[model].exists:
                self.configured[model] = engine.models[model].margin_ns

    cdef void configure(self, int32_t model, int64_t margin) noexcept nogil:
        """Note a model's margin as added or changed from outside; what was learnt begins anew."""
        self.configured[model] = margin
        self.applied[model] = 0
        self.excess[model] = 0.0
        self.spread[model] = 0.0

    cdef void forget(self, int32_t model) noexcept nogil:
        """Drop what was learnt about a model, because its profile is another: back to its configured margin."""
        if self.applied[model] != 0:
            self.engine.margin_changed(model, self.configured[model])
        self.configure(model, self.configured[model])

    cdef int batch_finished(self, uint64_t plan_id, int32_t gpu, int64_t finished) noexcept nogil:
        """Learn from the batch, then tell the engine of its end; return the engine's answer."""
        cdef Gpu* g
        cdef Flight flight
        cdef int64_t began
        cdef double overrun
        if 0 <= gpu < self.engine.gpu_count_max:
            g = &self.engine.gpus[gpu]
            if g.is_joined and g.flight_count > 0 and g.flights[0].plan_id == plan_id:
                flight = g.flights[0]
                began = max(flight.start_ns, self.ended_at[gpu])
                self.ended_at[gpu] = finished
                overrun = <double>(finished - began - flight.duration_ns)
                if self.engine.models[flight.model].exists and overrun <= OUTLIER_SHARE * <double>flight.duration_ns:
                    self.learn(flight.model, overrun)
        return self.engine.batch_finished(plan_id, gpu, finished)

    cdef void learn(self, int32_t model, double overrun) noexcept nogil:
        """Move the model's quantile towards one more overrun, in ns."""
        cdef Model* m = &self.engine.models[model]
        cdef double most = <double>(m.slo_ns - self.configured[model] - m.alone_ns - self.engine.control_ns) / 2
        cdef double moved
        if m.alone_ns == INT64_MAX:
            return
        self.spread[model] += (fabs(overrun) - self.spread[model]) * SPREAD_SHARE
        self.excess[model] += STEP * self.spread[model] * (
            QUANTILE if overrun > self.excess[model] else QUANTILE - 1.0)
        self.excess[model] = max(0.0, min(self.excess[model], most))
        moved = fabs(self.excess[model] - <double>self.applied[model])
        if moved > APPLY_SHARE * <double>self.applied[model] and moved >= APPLY_NS_MIN:
            self.applied[model] = <int64_t>self.excess[model]
            self.engine.margin_changed(model, self.configured[model] + self.applied[model])
