from symphony.core.engine cimport Engine


cdef class Scheduler:
    cdef readonly Engine engine
    cdef object _apply(self, object event)
    cdef list _decisions(self)
