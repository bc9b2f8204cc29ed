#pragma once

#include <dlfcn.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace symphony {

// What a GPU can be told. A stream, event, graph or address is the driver's handle as a number.
enum class CudaOp : int32_t {
  kCopyIn,   // bytes from `source` on the host to `target` on the device, on `stream`
  kCopy,     // bytes from `source` to `target`, both on the device, on `stream`
  kCopyOut,  // bytes from `source` on the device to `target` on the host, on `stream`
  kRecord,   // event `target` when all before it on `stream` has ended
  kWait,     // `stream` goes on when event `source` has happened
  kReplay,   // graph `source` on `stream`
};

struct CudaCommand {
  CudaOp op;
  uint64_t target;
  uint64_t source;
  size_t bytes;
  uint64_t stream;
};

// The calls of NVIDIA's driver library that a launch needs, found when it is loaded: nothing of CUDA is needed to
// build. A result is the driver's error number, 0 for success. No call needs the GIL or allocates memory of the host.
class CudaDriver {
 public:
  // Load the library; returns what is wrong, "" when nothing is.
  std::string load(const char* path) {
    void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
      return dlerror();
    }
    std::string missing;
    find(library, "cuMemcpyHtoDAsync_v2", copy_in_, missing);
    find(library, "cuMemcpyDtoDAsync_v2", copy_, missing);
    find(library, "cuMemcpyDtoHAsync_v2", copy_out_, missing);
    find(library, "cuEventCreate", create_event_, missing);
    find(library, "cuEventDestroy_v2", destroy_event_, missing);
    find(library, "cuEventRecord", record_, missing);
    find(library, "cuEventSynchronize", synchronize_, missing);
    find(library, "cuEventElapsedTime", elapsed_, missing);
    find(library, "cuStreamWaitEvent", wait_, missing);
    find(library, "cuGraphInstantiateWithFlags", instantiate_, missing);
    find(library, "cuGraphExecDestroy", destroy_graph_, missing);
    find(library, "cuGraphLaunch", replay_, missing);
    find(library, "cuGetErrorName", error_name_, missing);
    return missing;
  }

  // Do the commands in order, up to the first that fails; `done` is how many succeeded.
  int run(const std::vector<CudaCommand>& commands, size_t& done) const {
    for (done = 0; done < commands.size(); ++done) {
      const int error = run(commands[done]);
      if (error != 0) {
        return error;
      }
    }
    return 0;
  }

  int create_event(uint64_t& event, bool blocks) const {
    void* made = nullptr;
    const int error = create_event_(&made, blocks ? kBlockingSync : 0);
    event = reinterpret_cast<uint64_t>(made);
    return error;
  }

  int destroy_event(uint64_t event) const { return destroy_event_(handle(event)); }

  int synchronize(uint64_t event) const { return synchronize_(handle(event)); }

  // Milliseconds between two events that have happened.
  int elapsed(float& ms, uint64_t begin, uint64_t end) const { return elapsed_(&ms, handle(begin), handle(end)); }

  int instantiate(uint64_t& executable, uint64_t graph) const {
    void* made = nullptr;
    const int error = instantiate_(&made, handle(graph), 0);
    executable = reinterpret_cast<uint64_t>(made);
    return error;
  }

  int destroy_graph(uint64_t executable) const { return destroy_graph_(handle(executable)); }

  std::string error_name(int error) const {
    const char* name = nullptr;
    return error_name_(error, &name) == 0 && name != nullptr ? name : "error " + std::to_string(error);
  }

 private:
  static constexpr unsigned kBlockingSync = 1;  // CU_EVENT_BLOCKING_SYNC: who waits sleeps

  static void* handle(uint64_t value) { return reinterpret_cast<void*>(value); }

  template <typename Function>
  static void find(void* library, const char* name, Function& function, std::string& missing) {
    function = reinterpret_cast<Function>(dlsym(library, name));
    if (function == nullptr) {
      missing += (missing.empty() ? "it has no " : ", ") + std::string(name);
    }
  }

  int run(const CudaCommand& command) const {
    void* const stream = handle(command.stream);
    switch (command.op) {
      case CudaOp::kCopyIn:
        return copy_in_(command.target, handle(command.source), command.bytes, stream);
      case CudaOp::kCopy:
        return copy_(command.target, command.source, command.bytes, stream);
      case CudaOp::kCopyOut:
        return copy_out_(handle(command.target), command.source, command.bytes, stream);
      case CudaOp::kRecord:
        return record_(handle(command.target), stream);
      case CudaOp::kWait:
        return wait_(stream, handle(command.source), 0);
      case CudaOp::kReplay:
        return replay_(handle(command.source), stream);
    }
    return 1;  // CUDA_ERROR_INVALID_VALUE
  }

  int (*copy_in_)(uint64_t, const void*, size_t, void*) = nullptr;
  int (*copy_)(uint64_t, uint64_t, size_t, void*) = nullptr;
  int (*copy_out_)(void*, uint64_t, size_t, void*) = nullptr;
  int (*create_event_)(void**, unsigned) = nullptr;
  int (*destroy_event_)(void*) = nullptr;
  int (*record_)(void*, void*) = nullptr;
  int (*synchronize_)(void*) = nullptr;
  int (*elapsed_)(float*, void*, void*) = nullptr;
  int (*wait_)(void*, void*, unsigned) = nullptr;
  int (*instantiate_)(void**, void*, unsigned long long) = nullptr;
  int (*destroy_graph_)(void*) = nullptr;
  int (*replay_)(void*, void*) = nullptr;
  int (*error_name_)(int, const char**) = nullptr;
};

}  // namespace symphony
