// A small pool of worker threads, shared by all calls of the process.
#pragma once

#include <cstdint>

namespace pw {

using TaskFunction = void (*)(void* context, int64_t task, int thread);

// Runs task(context, 0 .. tasks-1) on up to `threads` threads (the caller is one of them) and returns
// when all are done. Tasks are handed out dynamically; `thread` < threads names a scratch slot that no
// two running tasks share.
void parallel_for(int64_t tasks, int threads, TaskFunction task, void* context);

// Adapter for lambdas: parallel(tasks, threads, [&](int64_t task, int thread) { ... });
template <class Body>
void parallel(int64_t tasks, int threads, Body&& body) {
  parallel_for(
      tasks, threads,
      [](void* context, int64_t task, int thread) { (*static_cast<Body*>(context))(task, thread); },
      &body);
}

}  // namespace pw
