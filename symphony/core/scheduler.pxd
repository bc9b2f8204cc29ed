from symphony.core.engine cimport Engine
from symphony.core.residency cimport Residency


cdef class Scheduler:
    cdef readonly Engine engine
    cdef readonly Residency residency
    cdef object _apply(self, object event)
    cdef list _decisions(self)
