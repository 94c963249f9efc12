// What tch does not wrap of c10d and autograd, as C functions.
//
// No exception leaves: a function that can fail returns null, or its message as text that `acdit_free_text` frees. Tensors are tch's,
// pointers to at::Tensor. One thread at a time may use a group.

// libtorch has all of gloo's code and none of its headers, of which c10d needs the names of a few types.
#if !__has_include(<gloo/context.h>)
#error "gloo's headers are missing: apt-get install libgloo-dev, or name their folder in CPLUS_INCLUDE_PATH"
#endif

#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>

namespace {

using Store = c10::intrusive_ptr<c10d::Store>;
using Group = c10::intrusive_ptr<c10d::ProcessGroupGloo>;
using Work = c10::intrusive_ptr<c10d::Work>;
using Notify = void (*)(void* context, size_t index);

template <typename Body>
char* guarded(Body&& body) noexcept {
  try {
    body();
    return nullptr;
  } catch (const c10::Error& error) {
    return strdup(error.what_without_backtrace());
  } catch (const std::exception& error) {
    return strdup(error.what());
  } catch (...) {
    return strdup("an exception of unknown type");
  }
}

// Tells that a variable's gradient of this backward pass has been added.
struct GradientHook : torch::autograd::PostAccumulateGradHook {
  GradientHook(Notify notify, void* context, size_t index) : notify(notify), context(context), index(index) {}

  void operator()(const at::Tensor&) override { notify(context, index); }

  Notify notify;
  void* context;
  size_t index;
};

}  // namespace

extern "C" {

void acdit_free_text(char* text) { std::free(text); }

// Opens the store at `host`:`port`, which this process keeps if `serve`, and then waits at for `world` processes unless that is 0.
char* acdit_store_open(const char* host, uint16_t port, bool serve, size_t world, int64_t timeout_ms, Store** out) {
  return guarded([&] {
    c10d::TCPStoreOptions options;
    options.port = port;
    options.isServer = serve;
    options.timeout = std::chrono::milliseconds(timeout_ms);
    if (world > 0) options.numWorkers = world;
    *out = new Store(c10::make_intrusive<c10d::TCPStore>(host, options));
  });
}

void acdit_store_free(Store* store) { delete store; }

// Connects to the other processes that came to `store`. This one listens at `address`, or where `interface` is not null at that network
// interface.
char* acdit_group_connect(const Store* store, const char* address, const char* interface, int rank, int world,
                          int64_t timeout_ms, Group** out) {
  return guarded([&] {
    auto options = c10d::ProcessGroupGloo::Options::create(std::chrono::milliseconds(timeout_ms));
    options->devices.push_back(interface ? c10d::ProcessGroupGloo::createDeviceForInterface(interface)
                                         : c10d::ProcessGroupGloo::createDeviceForHostname(address));
    *out = new Group(c10::make_intrusive<c10d::ProcessGroupGloo>(*store, rank, world, options));
  });
}

void acdit_group_free(Group* group) { delete group; }

// Begins to replace `tensor` by its sum over all processes.
char* acdit_group_sum(Group* group, const at::Tensor* tensor, Work** out) {
  return guarded([&] {
    std::vector<at::Tensor> tensors{*tensor};
    *out = new Work((*group)->allreduce(tensors));
  });
}

// Begins to replace `tensor` by that of process `root`.
char* acdit_group_broadcast(Group* group, const at::Tensor* tensor, int root, Work** out) {
  return guarded([&] {
    std::vector<at::Tensor> tensors{*tensor};
    c10d::BroadcastOptions options;
    options.rootRank = root;
    *out = new Work((*group)->broadcast(tensors, options));
  });
}

char* acdit_work_wait(Work* work) {
  return guarded([&] { (*work)->wait(); });
}

void acdit_work_free(Work* work) { delete work; }

// Has `notify(context, index)` called after each backward pass's addition to the gradient of `variable`, on the thread that made it.
char* acdit_watch_gradient(const at::Tensor* variable, Notify notify, void* context, size_t index) {
  return guarded([&] {
    torch::autograd::impl::set_post_acc_grad_hooks(*variable, std::make_unique<GradientHook>(notify, context, index));
  });
}

void acdit_unwatch_gradient(const at::Tensor* variable) {
  std::free(guarded([&] { torch::autograd::impl::set_post_acc_grad_hooks(*variable, nullptr); }));
}

}  // extern "C"
