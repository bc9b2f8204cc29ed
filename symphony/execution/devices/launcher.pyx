# distutils: language = c++
"""Tell a GPU everything about a batch in one call without the GIL.

torch lets go of the GIL in every call and then waits for it again, up to a switch interval each time while another
thread is busy: twenty calls for a launch cost milliseconds on a busy node. Here Python writes down the commands of a
batch (a microsecond or two), one call hands all of them to NVIDIA's driver, and one call waits for the batch's end and
reads its times. The streams, graphs and memory are torch's own; csrc/symphony/cuda_driver.h has the calls.
"""

cimport cython
from libc.stdint cimport int32_t, uint64_t
from libcpp cimport bool as cbool
from libcpp.string cimport string
from libcpp.vector cimport vector

cdef extern from "symphony/cuda_driver.h" namespace "symphony" nogil:
    cdef enum class CudaOp(int32_t):
        kCopyIn
        kCopy
        kCopyOut
        kRecord
        kWait
        kReplay

    cdef struct CudaCommand:
        CudaOp op
        uint64_t target
        uint64_t source
        size_t bytes
        uint64_t stream

    cdef cppclass CudaDriver:
        string load(const char* path)
        int run(const vector[CudaCommand]& commands, size_t& done)
        int create_event(uint64_t& event, cbool blocks)
        int destroy_event(uint64_t event)
        int synchronize(uint64_t event)
        int elapsed(float& ms, uint64_t begin, uint64_t end)
        int instantiate(uint64_t& executable, uint64_t graph)
        int destroy_graph(uint64_t executable)
        string error_name(int error)

LIBRARY = "libcuda.so.1"
_OP_NAMES = ("copy in", "copy", "copy out", "record", "wait", "replay")


class LaunchError(RuntimeError):
    """Report what NVIDIA's driver refused: the command, and the driver's name of the error."""


cdef class Driver:
    """The driver's library, loaded."""

    cdef CudaDriver native

    def __init__(self, path: str = LIBRARY):
        """Load the library; raise LaunchError when it is missing or too old."""
        cdef bytes encoded = path.encode()
        fault = self.native.load(encoded)
        if not fault.empty():
            raise LaunchError(f"{path} cannot be used: {fault.decode()}")

    def instantiate(self, graph: int) -> Executable:
        """Return the executable form of a captured graph, by the graph's handle."""
        return Executable(self, graph)

    cdef raise_for(self, int error, doing):
        raise LaunchError(f"{doing} failed: {self.native.error_name(error).decode()}")


@cython.no_gc  # __dealloc__ needs the driver, which is in no cycle
cdef class Executable:
    """A graph ready to be replayed."""

    cdef Driver driver
    cdef readonly uint64_t handle

    def __init__(self, driver: Driver, graph: int):
        cdef uint64_t source = graph
        cdef int error
        self.driver = driver
        with nogil:
            error = self.driver.native.instantiate(self.handle, source)
        if error != 0:
            self.handle = 0
            driver.raise_for(error, "making a graph executable")

    def __dealloc__(self):
        if self.handle != 0:
            self.driver.native.destroy_graph(self.handle)


@cython.no_gc  # __dealloc__ needs the driver, which is in no cycle
cdef class Events:
    """The six events of one batch, in the order in which they happen."""

    cdef Driver driver
    cdef vector[uint64_t] handles

    COPYING, COPIED, BEGAN, COMPUTED, RETURNING, ENDED = range(6)

    def __init__(self, driver: Driver):
        cdef uint64_t event = 0
        cdef int place, error
        self.driver = driver
        for place in range(6):
            error = driver.native.create_event(event, place == 5)
            if error != 0:
                driver.raise_for(error, "making an event")
            self.handles.push_back(event)

    def __dealloc__(self):
        for event in self.handles:
            self.driver.native.destroy_event(event)

    def handle(self, place: int) -> int:
        """Return the driver's handle of the event at this place."""
        return self.handles[place]

    def wait(self, Events after=None):
        """Sleep until the batch has ended; return (input, duration, output, gap) in nanoseconds.

        The gap is between the computing of the batch `after` and this one's. Raise LaunchError for what the GPU
        reports.
        """
        cdef float input_ms = 0, duration_ms = 0, output_ms = 0, gap_ms = 0
        cdef int error
        with nogil:
            error = self.driver.native.synchronize(self.handles[5])
            if error == 0:
                error = self.driver.native.elapsed(input_ms, self.handles[0], self.handles[1])
            if error == 0:
                error = self.driver.native.elapsed(duration_ms, self.handles[2], self.handles[3])
            if error == 0:
                error = self.driver.native.elapsed(output_ms, self.handles[4], self.handles[5])
            if error == 0 and after is not None:
                error = self.driver.native.elapsed(gap_ms, after.handles[3], self.handles[2])
        if error != 0:
            self.driver.raise_for(error, "waiting for a batch")
        return tuple([max(0, round(ms * 1e6)) for ms in (input_ms, duration_ms, output_ms, gap_ms)])


@cython.no_gc  # __dealloc__ needs the driver, which is in no cycle
cdef class Commands:
    """What a GPU is to do for one batch, in order. Addresses, streams and events are numbers."""

    cdef Driver driver
    cdef vector[CudaCommand] commands

    def __init__(self, driver: Driver):
        self.driver = driver
        self.commands.reserve(32)

    def __len__(self) -> int:
        return self.commands.size()

    cdef void add(self, CudaOp op, uint64_t target, uint64_t source, size_t size, uint64_t stream):
        cdef CudaCommand command
        command.op = op
        command.target = target
        command.source = source
        command.bytes = size
        command.stream = stream
        self.commands.push_back(command)

    def copy_in(self, uint64_t target, uint64_t source, size_t size, uint64_t stream):
        """Copy `size` bytes from pinned memory to the device."""
        self.add(CudaOp.kCopyIn, target, source, size, stream)

    def copy(self, uint64_t target, uint64_t source, size_t size, uint64_t stream):
        """Copy `size` bytes on the device."""
        self.add(CudaOp.kCopy, target, source, size, stream)

    def copy_out(self, uint64_t target, uint64_t source, size_t size, uint64_t stream):
        """Copy `size` bytes from the device to pinned memory."""
        self.add(CudaOp.kCopyOut, target, source, size, stream)

    def record(self, uint64_t event, uint64_t stream):
        """Let the event happen when all before it on the stream has ended."""
        self.add(CudaOp.kRecord, event, 0, 0, stream)

    def wait(self, uint64_t event, uint64_t stream):
        """Let the stream wait for the event."""
        self.add(CudaOp.kWait, 0, event, 0, stream)

    def replay(self, Executable graph, uint64_t stream):
        """Replay the graph on the stream."""
        self.add(CudaOp.kReplay, 0, graph.handle, 0, stream)

    def run(self) -> None:
        """Hand all commands to the GPU; raise LaunchError naming the first that the driver refused."""
        cdef size_t done = 0
        cdef int error
        with nogil:
            error = self.driver.native.run(self.commands, done)
        if error != 0:
            name = _OP_NAMES[<int>self.commands[done].op]
            self.driver.raise_for(error, f"command {done + 1} of {self.commands.size()} ({name})")
